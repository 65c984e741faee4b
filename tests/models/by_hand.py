"""For families whose peers have no attention: ours gives the peer its weights, and hooks weigh the peer's maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from peers import (
    FLOAT32_TOLERANCE,
    FLOAT64_TOLERANCE,
    assert_gates_vary,
    deviation,
    pictures,
    randomise,
)
from torch import Tensor, nn

import senet
from senet.models import ConvNet

Translate = Callable[[str], str]


def on_meta(name: str, **options: object) -> ConvNet:
    return senet.create_model(name, device="meta", **options)


def torchvision_model(name: str, **options: object) -> nn.Module:
    models = pytest.importorskip("torchvision").models
    with torch.device("meta"):
        return models.get_model(name, weights=None, **options)


def pytorchcv_model(name: str, *, any_size: bool) -> nn.Module:
    """Its last pool takes 7x7 maps only; with `any_size` it is made to take others."""
    provider = pytest.importorskip("pytorchcv.model_provider")
    with torch.device("meta"):
        model = provider.get_model(name, pretrained=False)
    if any_size:
        model.features.final_pool = nn.AdaptiveAvgPool2d(1)
    return model


def units_of(model: ConvNet) -> list[nn.Module]:
    return [unit for stage in model.stages.values() for unit in stage]


def give(ours: ConvNet, peer: nn.Module, translate: Translate) -> None:
    """Our weights to the peer, made on the meta device: each of ours but the attention's used once."""
    own = ours.state_dict()
    names = {key: translate(key) for key in peer.state_dict()}
    plain = {key for key in own if ".se." not in key}
    assert sorted(names.values()) == sorted(plain), sorted(set(names.values()) ^ plain)[:6]
    for key, tensor in peer.state_dict().items():
        assert tensor.shape == own[names[key]].shape, key
    peer.load_state_dict({key: own[name].clone() for key, name in names.items()}, strict=True, assign=True)
    peer.eval()


def weigh(sites: Sequence[nn.Module], model: ConvNet) -> None:
    """Multiply what each site of the peer gives by the gate that our block's weights make of it (eqs. 2 to 4)."""
    for site, unit in zip(sites, units_of(model), strict=True):
        site.register_forward_hook(partial(_weighed, unit.se))


def _weighed(block: nn.Module, site: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
    squeezed = out.flatten(2).sum(2) / out[0, 0].numel()
    hidden = (squeezed @ block.fc1.weight.T + block.fc1.bias).clamp(min=0)
    excited = hidden @ block.fc2.weight.T + block.fc2.bias
    return out * (1 / (1 + torch.exp(-excited)))[:, :, None, None]


def paired(
    ours: ConvNet, peer: nn.Module, translate: Translate, images: Tensor, sites: Sequence[nn.Module] = ()
) -> None:
    """Random weights, statistics and gates for ours, the same for the peer; both were made on the meta device."""
    randomise(ours, images)
    give(ours, peer, translate)
    if ours.spec.attention is not None:
        weigh(sites, ours)


def assert_equal(
    ours: ConvNet,
    peer: nn.Module,
    translate: Translate,
    size: tuple[int, int],
    record: Callable[[str, object], None],
    sites: Sequence[nn.Module] = (),
    *,
    double: bool = True,
) -> None:
    """Both give the same logits, in float32 and float64, and the gates matter."""
    images = pictures(3, size)
    paired(ours, peer, translate, images, sites)
    if sites:
        assert_gates_vary(ours, images, blocks=len(units_of(ours)))
    single = deviation(ours, peer, images)
    record("float32", single)
    assert single < FLOAT32_TOLERANCE
    if double:
        precise = deviation(ours.double(), peer.double(), images[:2].double())
        record("float64", precise)
        assert precise < FLOAT64_TOLERANCE


def assert_differ(
    ours: ConvNet, peer: nn.Module, translate: Translate, size: tuple[int, int], sites: Sequence[nn.Module] = ()
) -> None:
    """Were a wrong convention equal too, the equalities would prove nothing."""
    images = pictures(2, size)
    paired(ours, peer, translate, images, sites)
    assert deviation(ours, peer, images) > 10 * FLOAT32_TOLERANCE


def assert_refused(monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, object], message: str) -> None:
    """The message comes before any weight is made."""

    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("a layer was made")

    monkeypatch.setattr(nn.Conv2d, "__init__", forbidden)
    with pytest.raises(senet.SenetError) as error:
        senet.create_model(name, **options)
    assert message in str(error.value)


def attending(model: ConvNet) -> set[int]:
    """Numbers of the stages whose blocks have attention; in each of them all have it."""
    found = set()
    for number, stage in model.stages.items():
        kinds = {isinstance(unit.se, nn.Identity) for unit in stage}
        assert len(kinds) == 1
        if kinds == {False}:
            found.add(int(number))
    return found


def rescaling_macs(model: ConvNet, size: int = 224) -> int:
    """Products of maps and gates, which the counter of convolutions and matrices leaves out."""
    found: list[int] = []
    for unit in units_of(model):
        unit.se.register_forward_pre_hook(lambda _, args: found.append(args[0][0].numel()))
    model.eval()(torch.empty(1, 3, size, size, device="meta"))
    return sum(found)


def added_weights(widths: Sequence[int], reduction: int = 16) -> tuple[int, int]:
    """Weights and biases of one SE block at each of these widths."""
    hidden = [c // reduction for c in widths]
    return sum(2 * c * h for c, h in zip(widths, hidden, strict=True)), sum(widths) + sum(hidden)
