"""An operator checks all that it assumes: whoever calls it gets right numbers or an error, never a crash."""

from __future__ import annotations

import copy
import ctypes
import mmap
import sys
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ops.odd import FORMS, in_form, outcome
from torch import Tensor, nn

import senet.nn.epilogue as home
from senet.nn import SqueezeExcite
from senet.nn.epilogue import residual_epilogue
from senet.ops import arguments, bn_se_add_relu, choose, packed_convolution, scale_add_relu_
from senet.ops.bn_se_add_relu import definition as bn_definition
from senet.ops.packed_convolution import definition as conv_definition
from senet.ops.packed_convolution import pack
from senet.ops.scale_add_relu import definition as scale_definition

needs_kernel = pytest.mark.skipif(choose().library is None, reason=choose().reason)


def _scaled(x: Tensor, gate: Tensor, shortcut: Tensor) -> Tensor:
    x = x.clone()  # in the form that it has
    scale_add_relu_(x, gate, shortcut)
    return x


OPERATORS: dict[str, tuple[Any, Any, tuple[tuple[int, ...], ...], tuple[Any, ...]]] = {
    "bn_se_add_relu": (
        lambda *a: bn_se_add_relu(*a)[0],
        bn_definition,
        ((2, 12, 4, 3), (2, 12, 4, 3), (12,), (12,), (12,), (12,), (5, 12), (5,), (12, 5), (12,)),
        (False, 1e-5, 0),
    ),
    "scale_add_relu_": (_scaled, scale_definition, ((2, 12, 4, 3), (2, 12), (2, 12, 4, 3)), ()),
    "packed_convolution": (
        packed_convolution,
        conv_definition,
        ((2, 6, 4, 3), (1, 1, 1, 6, 32), (12,), (2, 12, 4, 3), (5, 6), (5,), (12, 5), (12,)),
        ((1, 1), (0, 0), (1, 1), True, 0),
    ),
}


def tensors_of(shapes: tuple[tuple[int, ...], ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(shape, generator=generator) + 0.1 for shape in shapes]


@pytest.mark.parametrize("name", OPERATORS)
@settings(derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_one_odd_argument(name: str, data: st.DataObject) -> None:
    """Another size, type, form or nothing in one place: the definition's numbers, or a ValueError."""
    compute, definition, shapes, options = OPERATORS[name]
    tensors: list[Any] = tensors_of(shapes)
    which = data.draw(st.integers(0, len(tensors) - 1))
    change = data.draw(st.sampled_from(("size", "rank", "type", "form", "none", "empty", "meta")))
    if change == "size":
        shape = list(shapes[which])
        shape[data.draw(st.integers(0, len(shape) - 1))] += data.draw(st.sampled_from((-1, 1, 7)))
        tensors[which] = torch.rand(shape)
    elif change == "rank":
        tensors[which] = tensors[which][None] if data.draw(st.booleans()) else tensors[which][0]
    elif change == "type":
        kinds = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.complex64)
        tensors[which] = tensors[which].to(data.draw(st.sampled_from(kinds)))
    elif change == "form":
        for i, tensor in enumerate(tensors):
            tensors[i] = in_form(tensor, data.draw(st.sampled_from([f for f in FORMS if i or f != "expanded"])))
    elif change == "empty":
        tensors[which] = tensors[which][:0]
    elif change == "meta":
        tensors[which] = tensors[which].to("meta")
    else:
        tensors[which] = None
    found = outcome(lambda: compute(*tensors, *options))
    if isinstance(found, type):
        assert change != "form"
        # A missing map, or one without a memory, may be the error of what looks at it first.
        assert found is ValueError or change in ("none", "meta", "rank")
    else:
        torch.testing.assert_close(found, definition(*tensors, *options))


@needs_kernel
def test_nothing_is_read_beyond_a_parameter() -> None:
    """The pages behind the first linear layer can't be read: a kernel that trusted its width would die here."""
    size = 1 << 20
    memory = mmap.mmap(-1, size)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    if sys.platform != "linux" or libc.mprotect(ctypes.c_void_p(start + size // 2), size // 2, 0) != 0:
        pytest.skip("no page protection here")
    weight = torch.frombuffer(memory, dtype=torch.float32, count=256, offset=size // 2 - 1024).view(16, 16).normal_()
    se = SqueezeExcite(16, 1)
    se.fc1.weight = nn.Parameter(weight)
    layers = (se.fc1.weight, se.fc1.bias, se.fc2.weight, se.fc2.bias)
    x, norm = torch.randn(2, 256, 4, 4), nn.BatchNorm2d(256).eval()
    with torch.no_grad():
        with pytest.raises(ValueError, match="expects"):
            residual_epilogue(x, norm, se, x)
        with pytest.raises(ValueError, match=r"w1 has shape \(16, 16\); it must be \(K=16, C=256\)"):
            bn_se_add_relu(x, x, norm.weight, norm.bias, norm.running_mean, norm.running_var, *layers, False, 1e-5, 0)


class Wrapped(Tensor):
    """A parameter that knows a few operations and has no memory of its own, as quantised weights have."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> Wrapped:
        return Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, strides=inner.stride())

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        bare = [a.inner if isinstance(a, Wrapped) else a for a in args]
        result = func(*bare, **(kwargs or {}))
        views = (torch.ops.aten.t.default, torch.ops.aten.detach.default)
        return Wrapped(result) if func in views else result


def test_tensor_subclasses_as_parameters() -> None:
    x, shortcut = torch.randn(2, 32, 8, 8), torch.randn(2, 32, 8, 8)
    norm, se = nn.BatchNorm2d(32).eval(), SqueezeExcite(32, 4)
    expected = torch.relu(shortcut + se(norm(x)))
    for layer in (se.fc1, se.fc2):
        layer.weight = nn.Parameter(Wrapped(layer.weight.data), requires_grad=False)
    with torch.no_grad():
        torch.testing.assert_close(residual_epilogue(x, norm, se, shortcut), expected)


@needs_kernel
@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FC00001, 0x7FC001FF, 0xFFC00000, 0x7F800001])
def test_any_nan_is_one_gate_of_none(bits: int) -> None:
    """Whatever its payload, a gate that is no number stays none."""
    norm, se, x = nn.BatchNorm2d(24).eval(), SqueezeExcite(24, 2), torch.randn(1, 24, 2, 2)
    nan = torch.tensor([bits], dtype=torch.int64).to(torch.int32).view(torch.float32)
    with torch.no_grad():
        for channel in (0, 15, 23):  # in the vectors and behind them
            bias = torch.zeros(24)
            bias[channel : channel + 1] = nan
            se.fc2.bias.data = bias
            y = residual_epilogue(x, norm, se, x)
            assert y[0, channel].isnan().all()
            assert int(y.isnan().sum()) == 4


def test_sizes_of_packed_convolutions() -> None:
    x, weight, bias = torch.randn(1, 6, 4, 3), torch.randn(12, 6, 3, 3), torch.zeros(12)
    none = [None] * 5
    for stride, padding, dilation in (((0, 1), (1, 1), (1, 1)), ((1, 1), (-1, 0), (1, 1)), ((1, 1), (1, 1), (1,))):
        with pytest.raises(ValueError, match="are invalid"):
            packed_convolution(x, pack(weight), bias, *none, stride, padding, dilation, True, 0)
    with pytest.raises(RuntimeError, match="Kernel size can't be greater"):
        packed_convolution(x, pack(weight), bias, *none, (1, 1), (0, 0), (2, 2), True, 0)
    with pytest.raises(ValueError, match="gate=8 is out of range"):
        packed_convolution(x, pack(weight), bias, *none, (1, 1), (1, 1), (1, 1), True, 8)
    layers = tensors_of(((5, 6), (5,), (12, 5), (12,)))
    with pytest.raises(ValueError, match="a gate requires a 1x1 kernel"):
        packed_convolution(x, pack(weight), bias, None, *layers, (1, 1), (1, 1), (1, 1), True, 0)


def test_in_place_over_memory_that_is_read() -> None:
    memory = torch.randn(2 * 4 * 5 * 5 + 1)
    for x, shortcut in ((memory[:-1], memory[1:]), (memory[:-1], memory[:-1]), (memory[1:], memory[:-1])):
        x, shortcut = x.clone().view(2, 4, 5, 5), shortcut.clone().view(2, 4, 5, 5)
        gate = torch.rand(2, 4)
        expected = scale_definition(x, gate, shortcut)
        both = torch.cat([x.flatten(), shortcut.flatten()])
        shared = both[: x.numel()].view_as(x)
        scale_add_relu_(shared, gate, both[x.numel() :].view_as(x))
        torch.testing.assert_close(shared, expected)
    shared = torch.randn(201)
    x, shortcut = shared[:-1].view(2, 4, 5, 5), shared[1:].view(2, 4, 5, 5)
    expected = scale_definition(x, gate, shortcut)
    scale_add_relu_(x, gate, shortcut)
    torch.testing.assert_close(x, expected)


def test_without_torchs_private_names_the_modules_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    norm, se, x = nn.BatchNorm2d(16), SqueezeExcite(16, 4), torch.randn(4, 16, 6, 5)
    expected = torch.relu(x + se(copy.deepcopy(norm)(x)))
    called: list[int] = []
    monkeypatch.setattr(home, "bn_se_add_relu", lambda *_: called.append(1))
    monkeypatch.setattr(arguments, "_PRIVATE", None)
    torch.testing.assert_close(residual_epilogue(x, norm, se, x), expected)
    assert not called
    # Who calls the operator itself still gets its numbers.
    y, *_ = bn_se_add_relu(x, x, norm.weight, norm.bias, None, None, None, None, None, None, True, 1e-5, 0)
    torch.testing.assert_close(y, torch.relu(x + nn.BatchNorm2d(16)(x)))
