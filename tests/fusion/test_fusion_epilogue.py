"""The end of a unit in inference: the compiled kernel computes what the layers do."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import senet
from senet.fusion import epilogue as early
from senet.fusion.epilogue import Convolved, rescaled
from senet.nn import GATES, SqueezeExcite
from senet.ops import Pointwise, choose

needs_kernel = pytest.mark.skipif(choose().library is None, reason=choose().reason)


def case(n: int, inner: int, channels: int, height: int, width: int, **options: Any) -> tuple[Any, ...]:
    """Random input, convolution, shortcut, merged first layer and block, float64."""
    generator = torch.Generator().manual_seed(n + inner + channels + height)

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def channels_last(x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)

    se = SqueezeExcite(channels, hidden_channels=max(1, channels // 4), **options).double()
    conv = nn.Conv2d(inner, channels, 1).double()
    first = nn.Linear(inner, se.fc1.out_features).double()
    for layer in (se.fc1, se.fc2, conv, first):
        for parameter in layer.parameters():
            parameter.data.copy_(some(*parameter.shape))
    x, shortcut = channels_last(some(n, inner, height, width)), channels_last(some(n, channels, height, width))
    return x, conv, shortcut, first, se


def run(x: Tensor, conv: nn.Conv2d, shortcut: Tensor, first: nn.Linear, se: SqueezeExcite) -> Tensor:
    with torch.no_grad():
        return Convolved(conv, first, se)(x, shortcut)


def truth(x: Tensor, conv: nn.Conv2d, shortcut: Tensor, first: nn.Linear, se: SqueezeExcite) -> Tensor:
    with torch.no_grad():
        gate = se.activate(se.fc2(torch.relu(first(x.mean((2, 3))))))
        return torch.relu(gate[:, :, None, None] * conv(x) + shortcut)


def single(*parts: Any) -> tuple[Any, ...]:
    """The same in float32."""
    return tuple(copy.deepcopy(part).float() for part in parts)


@needs_kernel
@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 3), inner=st.integers(1, 40), channels=st.integers(1, 300), height=st.integers(1, 17),
    width=st.integers(1, 17), gate=st.sampled_from(list(GATES)), bias=st.booleans(),
)  # fmt: skip
def test_any_shape(n: int, inner: int, channels: int, height: int, width: int, gate: str, bias: bool) -> None:
    parts = case(n, inner, channels, height, width, gate=gate, bias=bias)
    expected = truth(*parts)
    found = run(*single(*parts))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@needs_kernel
def test_it_is_the_kernel_that_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Size] = []

    class Spy(Pointwise):  # type: ignore[misc] # final for everyone else
        def __call__(self, x: Tensor, shortcut: Tensor) -> Tensor:
            seen.append(x.shape)
            return super().__call__(x, shortcut)

    monkeypatch.setattr(early, "Pointwise", Spy)
    parts = case(2, 16, 64, 12, 12)
    torch.testing.assert_close(run(*single(*parts)).double(), truth(*parts), rtol=1e-4, atol=1e-4)
    assert len(seen) == 1
    torch.testing.assert_close(run(*parts), truth(*parts), rtol=1e-9, atol=1e-9)  # float64: the layers
    assert len(seen) == 1


@needs_kernel
def test_weights_that_change_or_move_are_seen() -> None:
    parts = single(*case(2, 16, 64, 12, 12))
    x, conv, shortcut, first, se = parts
    end = Convolved(conv, first, se)
    with torch.no_grad():
        before = end(x, shortcut)
        conv.weight.mul_(2)  # in place
        torch.testing.assert_close(end(x, shortcut), truth(*parts), rtol=1e-4, atol=1e-4)
        se.fc2.bias.add_(0.5)
        torch.testing.assert_close(end(x, shortcut), truth(*parts), rtol=1e-4, atol=1e-4)
        conv.bias.data = conv.bias.data + 1  # elsewhere
        se.fc2.weight = nn.Parameter(se.fc2.weight * 0.5)
        torch.testing.assert_close(end(x, shortcut), truth(*parts), rtol=1e-4, atol=1e-4)
    assert not torch.equal(before, end(x, shortcut))


@needs_kernel
def test_threads_give_the_same_bits() -> None:
    x, conv, shortcut, first, se = single(*case(2, 33, 300, 17, 15))
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(run(x, conv, shortcut, first, se))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


@needs_kernel
def test_a_nan_stays_one() -> None:
    x, *rest = single(*case(1, 16, 64, 12, 12))
    x[0, 3, 5, 5] = float("nan")
    assert run(x, *rest).isnan().any()


def test_multiplications_are_counted_where_someone_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    parts = single(*case(2, 16, 64, 12, 12))
    with FlopCounterMode(display=False) as counter:
        run(*parts)
    assert counter.get_total_flops() >= 2 * 2 * 16 * 64 * 144


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_rescaled(dtype: torch.dtype) -> None:
    x, shortcut = torch.randn(2, 5, 3, 3).to(dtype), torch.randn(2, 5, 3, 3).to(dtype)
    gate = torch.rand(2, 5).to(dtype)
    expected = torch.relu(gate[:, :, None, None].double() * x.double() + shortcut.double())
    with torch.no_grad():
        found = rescaled(x.clone(), gate, shortcut)
    torch.testing.assert_close(found.double(), expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-6, atol=1e-2)


def test_no_library_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENET_KERNELS", "reference")
    choose.cache_clear()
    try:
        parts = single(*case(2, 16, 64, 12, 12))
        torch.testing.assert_close(run(*parts), truth(*parts), rtol=1e-4, atol=1e-4)
    finally:
        monkeypatch.undo()
        choose.cache_clear()
    assert senet.optimize(senet.create_model("se_resnet50", depths=(1,), num_classes=2))[1].gates_early == 1
