"""Packed convolutions compute what the layers do, for any shape, of one weight in one layout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from senet.ops import choose
from senet.ops.gate_functions import GATE_FUNCTIONS
from senet.ops.packed_convolution import definition, pack, packed_convolution, unpack

needs_kernel = pytest.mark.skipif(choose().library is None, reason=choose().reason)


def case(
    n: int, inner: int, channels: int, size: tuple[int, int], *, kernel: tuple[int, int] = (1, 1), gate: bool = False,
    added: bool = True, stride: int = 1, padding: int = 0, dilation: int = 1,
) -> list[Tensor | None]:  # fmt: skip
    """Tensors of one call, float64."""
    generator = torch.Generator().manual_seed(n + inner + channels + size[0])

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, weight = some(n, inner, *size), some(channels, inner, *kernel)
    out = torch.nn.functional.conv2d(x, weight, None, stride, padding, dilation).shape
    hidden = max(1, channels // 4)
    layers = [some(hidden, inner), some(hidden), some(channels, hidden), some(channels)] if gate else [None] * 4
    return [x, pack(weight), some(channels), some(*out) if added else None, *layers]


def single(tensors: list[Tensor | None]) -> list[Tensor | None]:
    return [None if t is None else t.float() for t in tensors]


def assert_right(tensors: list[Tensor | None], *options: Any) -> None:
    exact = definition(*tensors, *options)
    found = packed_convolution(*single(tensors), *options)
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    scale = 1e-5 * max(1.0, float(exact.abs().max()))
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=scale)


@given(
    n=st.integers(1, 3), inner=st.integers(1, 40), channels=st.integers(1, 300), height=st.integers(1, 17),
    width=st.integers(1, 17), kernel=st.sampled_from(((1, 1), (3, 3), (1, 3), (5, 2))), stride=st.integers(1, 3),
    padding=st.integers(0, 3), dilation=st.integers(1, 2), added=st.booleans(), relu=st.booleans(),
)  # fmt: skip
def test_any_shape(
    n: int, inner: int, channels: int, height: int, width: int, kernel: tuple[int, int], stride: int, padding: int,
    dilation: int, added: bool, relu: bool,
) -> None:  # fmt: skip
    size = (max(height, dilation * (kernel[0] - 1) + 1), max(width, dilation * (kernel[1] - 1) + 1))
    shape = {"stride": stride, "padding": padding, "dilation": dilation}
    tensors = case(n, inner, channels, size, kernel=kernel, added=added, **shape)
    assert_right(tensors, *((v, v) for v in shape.values()), relu, 0)


@given(
    n=st.integers(1, 3), inner=st.integers(1, 40), channels=st.integers(1, 300), height=st.integers(1, 17),
    width=st.integers(1, 17), gate=st.integers(0, len(GATE_FUNCTIONS) - 1),
)  # fmt: skip
def test_any_gate(n: int, inner: int, channels: int, height: int, width: int, gate: int) -> None:
    tensors = case(n, inner, channels, (height, width), gate=True)
    assert_right(tensors, (1, 1), (0, 0), (1, 1), True, gate)


@given(shape=st.tuples(st.integers(1, 70), st.integers(1, 9), st.integers(1, 3), st.integers(1, 3)))
def test_a_packed_weight_is_the_weight(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape)
    assert torch.equal(unpack(pack(weight), shape[0]), weight)
    assert torch.equal(unpack(3 * pack(weight), shape[0]), 3 * weight)


@needs_kernel
def test_threads_give_the_same_bits() -> None:
    tensors = single(case(2, 33, 300, (17, 15), gate=True))
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(packed_convolution(*tensors, (1, 1), (0, 0), (1, 1), True, 0))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_a_nan_stays_one() -> None:
    tensors = single(case(1, 16, 64, (12, 12), gate=True))
    assert tensors[0] is not None
    tensors[0][0, 3, 5, 5] = float("nan")
    assert packed_convolution(*tensors, (1, 1), (0, 0), (1, 1), True, 0).isnan().any()


def test_no_library_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENET_KERNELS", "reference")
    choose.cache_clear()
    try:
        assert choose().library is None
        assert_right(case(2, 16, 64, (12, 12), gate=True), (1, 1), (0, 0), (1, 1), True, 0)
    finally:
        monkeypatch.undo()
        choose.cache_clear()


def test_compiled_and_mapped() -> None:
    tensors = single(case(2, 16, 40, (6, 5), kernel=(3, 3), padding=1))
    options = ((1, 1), (1, 1), (1, 1), True, 0)
    expected = packed_convolution(*tensors, *options)
    compiled = torch.compile(lambda *t: packed_convolution(*t, *options), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*tensors), expected)
    x, panels, bias, added, *_ = tensors
    assert x is not None
    assert added is not None
    many = torch.vmap(lambda x, added: packed_convolution(x, panels, bias, added, *[None] * 4, *options))(
        torch.stack([x, 2 * x]), torch.stack([added, added])
    )
    torch.testing.assert_close(many[0], expected)
    torch.library.opcheck(
        torch.ops.senet.packed_convolution, (*tensors, *options), test_utils=("test_schema", "test_faketensor")
    )
