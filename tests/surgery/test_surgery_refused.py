"""Example inputs, and networks that surgery refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from user_networks import (
    IMAGES,
    ByName,
    InSpace,
    Quantizable,
    Recurrent,
    Residuals,
    WithTable,
    conv,
    gates,
)

import senet

# Example inputs


def test_example_inputs_are_positional_or_by_name() -> None:
    for model in (WithTable(), ByName()):
        with pytest.raises(senet.SenetError, match="or a dict of arguments by name"):
            senet.plan(model)
    table = torch.ones(2, 7)
    by_name = senet.plan(WithTable(), example_inputs={"table": table, "image": IMAGES})
    assert by_name.inserted == senet.plan(WithTable(), example_inputs=[IMAGES, table, 2.0]).inserted
    assert by_name.inserted == senet.plan(WithTable(), example_inputs=(IMAGES, table)).inserted
    assert len(senet.plan(Residuals(), example_inputs=IMAGES).inserted) == 2
    for wrong in ("image", 3, {1: IMAGES}, iter([IMAGES])):
        with pytest.raises(senet.SenetError, match="must be a tensor, a tuple of all positional arguments, or a dict"):
            senet.plan(Residuals(), example_inputs=wrong)
    with pytest.raises(senet.SenetError, match=r"can't run on no tensor"):
        senet.plan(Residuals(), example_inputs=())


# Networks without a place


def test_a_narrow_network_is_told_what_would_fit() -> None:
    model = InSpace(3, 1, width=8)
    with pytest.raises(
        senet.SenetError, match=r"InSpace has no block .*reduction=16 leaves no hidden unit.*reduction=4 fits"
    ):
        senet.retrofit(model)
    assert not gates(model)
    assert len(senet.retrofit(model, senet.SE(reduction=4)).inserted) == 1
    assert not senet.retrofit(model).inserted  # it already has attention, so there is nothing to tell
    with pytest.raises(senet.SenetError, match="without a module; choose another placement="):
        senet.retrofit(Recurrent(), placement="identity")


def test_a_part_that_is_too_narrow_is_skipped() -> None:
    model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 32), nn.ReLU(), conv(32, 8), nn.ReLU())
    first, second = senet.retrofit(model), senet.retrofit(model)
    assert ([site.path for site in first.inserted], len(first.skipped)) == (["3"], 1)
    assert not second.inserted
    assert len(second.skipped) == 2


# Networks that surgery can't work on


def traced() -> nn.Module:
    return torch.jit.trace(Residuals().eval(), IMAGES)


def int8() -> nn.Module:
    model = Quantizable().eval()
    model.qconfig = torch.ao.quantization.get_default_qconfig("x86")
    prepared = torch.ao.quantization.prepare(model)
    prepared(IMAGES)
    return torch.ao.quantization.convert(prepared)


def int8_graph() -> nn.Module:
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    prepared = prepare_fx(Residuals().eval(), get_default_qconfig_mapping("x86"), (IMAGES,))
    prepared(IMAGES)
    return convert_fx(prepared)


def int8_linear() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(Residuals(), {nn.Linear})


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "scripted": (lambda: torch.jit.script(Residuals()), "scripted or traced.* retrofit the network, then script it"),
    "traced": (traced, "scripted or traced"),
    "int8": (int8, r"is quantized .* retrofit the floating-point network"),
    "int8 graph": (int8_graph, "is quantized"),
    "int8 layer": (int8_linear, "Residuals's head is quantized"),
    "data parallel": (lambda: nn.DataParallel(Residuals()), "retrofit the network first, then wrap it"),
    "wrapped part": (lambda: nn.Sequential(nn.DataParallel(Residuals())), "Sequential's 0 .*, then wrap it"),
    "no module": (lambda: Residuals().forward, "is method, not a torch.nn.Module"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", REFUSED)
def test_scripted_quantized_and_wrapped_networks_are_refused(kind: str) -> None:
    build, reason = REFUSED[kind]
    for function in (senet.plan, senet.retrofit):
        with pytest.raises(senet.SenetError, match=reason):
            function(build(), example_inputs=IMAGES)


@pytest.mark.filterwarnings("ignore")
def test_networks_that_are_still_in_floating_point_are_taken() -> None:
    model = Quantizable().train()
    model.qconfig = torch.ao.quantization.get_default_qat_qconfig("x86")
    model = torch.ao.quantization.prepare_qat(model)
    assert len(senet.retrofit(model, example_inputs=IMAGES).inserted) == 1
    scripted_part = nn.Sequential(torch.jit.script(nn.Sequential(nn.ReLU())), Residuals())
    assert len(senet.retrofit(scripted_part, example_inputs=IMAGES).inserted) == 2
