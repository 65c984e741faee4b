"""Shake-Shake: what goes forward, what comes back, and what stays when evaluating."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import senet
from senet.models.resnet_cifar import ShakeBranch


class Constant(nn.Module):
    """A branch that gives its one number everywhere."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x: Tensor, inner: object = None) -> Tensor:
        return torch.zeros_like(x) + self.value


IMAGES = torch.zeros(512, 2, 3, 3)


def _branch(*, even: bool) -> ShakeBranch:
    torch.manual_seed(0)
    return ShakeBranch(Constant(0.0), Constant(1.0), even=even)


@pytest.mark.parametrize("even", [False, True])
def test_forward_mixes_by_one_number_an_image(even: bool) -> None:
    mixed = _branch(even=even)(IMAGES)
    an_image = mixed[:, 0, 0, 0]
    torch.testing.assert_close(mixed, an_image[:, None, None, None].expand_as(mixed))
    assert an_image.min() >= 0
    assert an_image.max() <= 1
    # Uniform in 0..1: mean 1/2, variance 1/12.
    assert an_image.mean().item() == pytest.approx(0.5, abs=0.05)
    assert an_image.var().item() == pytest.approx(1 / 12, abs=0.015)


def _shares(branch: ShakeBranch) -> tuple[Tensor, Tensor]:
    """An image's gradient share in each branch."""
    seen: list[Tensor] = []
    for part in (branch.first, branch.second):
        part.register_forward_hook(lambda _, args, out: (out.retain_grad(), seen.append(out))[0])
    branch(IMAGES).sum().backward()
    first, second = (out.grad[:, 0, 0, 0] for out in seen)
    for out, share in zip(seen, (first, second), strict=True):
        assert torch.equal(out.grad, share[:, None, None, None].expand_as(out))
    return first, second


def test_shake_even_halves_the_gradient() -> None:
    first, second = _shares(_branch(even=True))
    assert (first == 0.5).all()
    assert (second == 0.5).all()


def test_shake_shake_draws_the_gradient_anew() -> None:
    branch = _branch(even=False)
    torch.manual_seed(4)
    alpha = 1 - branch(IMAGES)[:, 0, 0, 0].detach()
    torch.manual_seed(4)
    first, second = _shares(branch)
    torch.testing.assert_close(first + second, torch.ones(len(IMAGES)))
    assert first.var().item() == pytest.approx(1 / 12, abs=0.015)
    assert torch.corrcoef(torch.stack([alpha, first]))[0, 1].abs() < 0.15


@pytest.mark.parametrize("even", [False, True])
def test_evaluating_takes_the_mean(even: bool) -> None:
    branch = _branch(even=even).eval()
    assert (branch(IMAGES) == 0.5).all()
    assert all((share == 0.5).all() for share in _shares(branch))


@pytest.mark.parametrize("name", ["se_shake_shake26_2x96d", "se_shake_even29_2x4x64d"])
def test_the_network_is_random_only_in_training(name: str) -> None:
    torch.manual_seed(0)
    model = senet.create_model(name, depth=1, widths=(16, 32))
    images = torch.randn(3, 3, 16, 16)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_the_variants_differ_as_their_names_say() -> None:
    shake, even = (senet.create_model(n, device="meta") for n in ("shake_shake26_2x96d", "shake_even29_2x4x64d"))
    assert {m.even for m in shake.modules() if isinstance(m, ShakeBranch)} == {False}
    assert {m.even for m in even.modules() if isinstance(m, ShakeBranch)} == {True}
    convs = [m for m in even.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)][1:]
    assert {m.groups for m in convs} == {4}
    assert [m.out_channels for m in convs[::6]] == [256, 512, 1024]
