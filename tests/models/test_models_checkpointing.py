"""Gradient checkpointing changes the memory a training step takes, and nothing else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import senet

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "residual": ("se_resnet50", {"depths": (2, 1), "dropout": 0.4}),
    "preact": ("se_cifar_preresnet20", {"depth": 2}),
    "shake-shake": ("se_shake_shake26_2x96d", {"depth": 2, "widths": (16, 32)}),
    "shake-even": ("se_shake_even29_2x4x64d", {"depth": 2, "widths": (16, 32), "groups": 2}),
}
IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2, 1])


def _network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    name, options = NETWORKS[kind]
    return senet.create_model(name, num_classes=3, **options)


def _step(model: nn.Module, seed: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of one training step, and the next random number: the generator must be as far on as without."""
    torch.manual_seed(seed)
    loss = F.cross_entropy(model(IMAGES), LABELS)
    after_forward = torch.rand(3)
    loss.backward()
    return loss.detach(), torch.cat([after_forward, torch.rand(3)])


def _assert_the_same(first: nn.Module, second: nn.Module) -> None:
    for (name, a), (_, b) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    for (name, a), (_, b) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name


@pytest.mark.parametrize("kind", NETWORKS)
def test_bit_for_bit(kind: str) -> None:
    kept = _network(kind)
    recomputed = copy.deepcopy(kept)
    recomputed.grad_checkpointing = True
    initial = {key: value.clone() for key, value in kept.state_dict().items()}
    for seed in (9, 10):
        (loss, random), (loss_again, random_again) = _step(kept, seed), _step(recomputed, seed)
        assert torch.equal(loss, loss_again)
        assert torch.equal(random, random_again)
        _assert_the_same(kept, recomputed)
    counts = [v for k, v in recomputed.state_dict().items() if k.endswith("num_batches_tracked")]
    assert counts
    assert all(count == 2 for count in counts)
    means = [k for k in initial if k.endswith("running_mean")]
    assert all(not torch.equal(recomputed.state_dict()[k], initial[k]) for k in means)


def test_units_are_indeed_recomputed() -> None:
    model = _network("residual")
    model.grad_checkpointing = True
    calls: list[int] = []
    model.stages["2"][0].branch.conv1.register_forward_pre_hook(lambda *_: calls.append(1))
    _step(model)
    assert len(calls) == 2
    calls.clear()
    model.eval()(IMAGES).sum().backward()
    assert len(calls) == 1


def test_statistics_stand_during_and_after_a_failing_backward() -> None:
    model = _network("residual")
    model.grad_checkpointing = True
    model(IMAGES).sum()
    block = model.stages["2"][1].branch
    loss = model(IMAGES).sum()
    before = {key: value.clone() for key, value in model.state_dict().items()}

    def fail(*_: object) -> None:
        raise RuntimeError("in the middle of recomputing")

    handle = block.conv2.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        loss.backward()
    handle.remove()
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_frozen_norms_stay_frozen() -> None:
    kept = _network("residual")
    for norm in kept.stages["2"].modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_()
            norm.eval()
    recomputed = copy.deepcopy(kept)
    recomputed.grad_checkpointing = True
    assert torch.equal(_step(kept)[0], _step(recomputed)[0])
    _assert_the_same(kept, recomputed)
