"""The kernel's functions for inference compute what plain PyTorch does in float64, for any shape."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import senet
from senet.fusion.convolutions import DenseConv, Geometry, PackedConv, TiledConv
from senet.gates.excitation import excitation
from senet.nn.precomputed import PrecomputedGate
from senet.ops import choose
from senet.ops.activation_functions import ACTIVATIONS
from senet.ops.depthwise_convolution import definition, depthwise_convolution
from senet.ops.excitation import Excitation, excite, rescale
from senet.ops.gate_functions import GATE_FUNCTIONS
from senet.ops.packed_convolution import definition as packed_definition
from senet.ops.packed_convolution import pack, packed_convolution
from senet.ops.tiled_convolution import available, pack_tiles, unpack_tiles

LAST = torch.channels_last
CHANNELS = st.sampled_from((1, 3, 8, 15, 16, 17, 24, 40, 72, 100, 128, 130))
KERNELS = st.sampled_from((1, 3, 5))
ACTS = st.integers(0, len(ACTIVATIONS) - 1)
GATES = st.integers(0, len(GATE_FUNCTIONS) - 1)
SIZES = st.integers(1, 20)


def some(seed: int, *shape: int) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=LAST) if x.ndim == 4 else x


def assert_near(found: Tensor, exact: Tensor, tolerance: float = 1e-5) -> None:
    assert found.shape == exact.shape
    assert (found.double() - exact).abs().max() <= tolerance * max(1.0, float(exact.abs().max()))


def layers_of(channels: int, hidden: int, activation: int, gate: int, *, bias: bool) -> tuple[Excitation, Excitation]:
    """In float32 and in float64."""
    w1, w2 = some(1, hidden, channels) / channels**0.5, some(2, channels, hidden)
    b1, b2 = (some(3, hidden), some(4, channels)) if bias else (None, None)
    exact = (None if t is None else t.double() for t in (w1, b1, w2, b2))
    return Excitation(w1, b1, w2, b2, activation, gate), Excitation(*exact, activation, gate)  # type: ignore[arg-type]


@given(
    n=st.integers(1, 3), c=CHANNELS, height=SIZES, width=SIZES, kernel=KERNELS, stride=st.integers(1, 3),
    padding=st.integers(0, 4), dilation=st.integers(1, 2), act=ACTS, means=st.booleans(),
)  # fmt: skip
def test_depthwise(
    n: int, c: int, height: int, width: int, kernel: int, stride: int, padding: int, dilation: int, act: int,
    means: bool,
) -> None:  # fmt: skip
    least = max(1, dilation * (kernel - 1) + 1 - 2 * padding)
    x, taps, bias = some(0, n, c, max(height, least), max(width, least)), some(1, kernel, kernel, c), some(2, c)
    options = ((stride,) * 2, (padding,) * 2, (dilation,) * 2, act)
    y, z = depthwise_convolution(x, taps, bias, *options, means=means)
    exact, exact_means = definition(x.double(), taps.double(), bias.double(), *options, means=means)
    assert_near(y, exact)
    assert (z is not None) == (exact_means is not None) == means
    if z is not None and exact_means is not None:
        assert_near(z, exact_means)


@given(n=st.integers(1, 3), c=CHANNELS, hidden=st.integers(1, 20), size=SIZES, act=ACTS, gate=GATES, bias=st.booleans())
def test_excitation(n: int, c: int, hidden: int, size: int, act: int, gate: int, bias: bool) -> None:
    x = some(0, n, c, size, size + 1)
    layers, exact = layers_of(c, hidden, act, gate, bias=bias)
    expected = exact.computed(x.double().mean((2, 3)))
    assert_near(excite(x, layers), expected, 1e-4)
    assert_near(excite(x, layers, x.mean((2, 3))), expected, 1e-4)
    scaled = rescale(x, layers)
    assert_near(scaled, x * expected[:, :, None, None], 1e-4)
    kept = x.clone(memory_format=torch.preserve_format)
    assert rescale(kept, layers, in_place=True) is kept or choose().library is None
    if choose().library is not None:
        assert torch.equal(kept, scaled)


@given(n=st.integers(1, 3), c=CHANNELS, out=CHANNELS, size=SIZES, kernel=KERNELS, stride=st.integers(1, 2), act=ACTS)
def test_factors_of_the_input(n: int, c: int, out: int, size: int, kernel: int, stride: int, act: int) -> None:
    x, weight, bias, factors = some(0, n, c, size, size), some(1, out, c, kernel, kernel), some(2, out), some(3, n, c)
    tensors, options = (x, pack(weight), bias, None, None, None, None, None), ((stride,) * 2, (2, 2), (1, 1), act, 0)
    found = packed_convolution(*tensors, *options, factors)
    exact = packed_definition(*(None if t is None else t.double() for t in tensors), *options, factors.double())
    assert_near(found, exact, 1e-4)
    if choose().library is not None:
        with pytest.raises(ValueError, match="factors has shape"):
            packed_convolution(*tensors, *options, factors[:, :-1])


@given(
    n=st.integers(1, 3), c=CHANNELS, out=CHANNELS, size=SIZES, kernel=KERNELS, act=ACTS, inner=ACTS, gate=GATES,
    added=st.booleans(), large=st.booleans(),
)  # fmt: skip
def test_a_gate_of_the_result(
    n: int, c: int, out: int, size: int, kernel: int, act: int, inner: int, gate: int, added: bool, large: bool
) -> None:
    if large:  # sample by sample
        c, out, size, kernel = 8, 24, 75, 1
    weight, bias = some(1, out, c, kernel, kernel) / (c * kernel**2) ** 0.5, some(2, out)
    geometry = Geometry((kernel,) * 2, (1, 1), (kernel // 2,) * 2, (1, 1), 1)
    x = some(0, n, c, size, size)
    other = some(3, n, out, size, size) if added else None
    layers, exact = layers_of(out, 5, inner, gate, bias=True)
    conv = PackedConv(weight, bias, geometry, activation=act)
    plain = DenseConv(weight.double(), bias.double(), geometry, activation=act)
    expected = plain.self_gated(x.double(), exact, None if other is None else other.double())
    assert_near(conv.self_gated(x, layers, other), expected, 1e-4)


@pytest.mark.skipif(not available(), reason="no tile instructions")
@given(
    n=st.integers(1, 3), c=CHANNELS, out=CHANNELS, height=SIZES, width=SIZES, kernel=KERNELS, stride=st.integers(1, 2),
    padding=st.integers(0, 3), act=ACTS, added=st.booleans(),
)  # fmt: skip
def test_tiles(
    n: int, c: int, out: int, height: int, width: int, kernel: int, stride: int, padding: int, act: int, added: bool
) -> None:
    """Also maps one pixel wide at stride 2, where PyTorch's own convolution is wrong."""
    half = torch.bfloat16
    least = max(1, kernel - 2 * padding)
    x = some(0, n, c, max(height, least), max(width, least)).to(half)
    weight, bias = (some(1, out, c, kernel, kernel) / (c * kernel**2) ** 0.5).to(half), some(2, out).to(half)
    geometry = Geometry((kernel,) * 2, (stride,) * 2, (padding,) * 2, (1, 1), 1)
    plain = DenseConv(weight.double(), bias.double(), geometry, activation=act)
    other = some(3, *plain(x.double()).shape).to(half) if added else None
    expected = plain(x.double(), None if other is None else other.double())
    assert_near(TiledConv(weight, bias, geometry, activation=act)(x, other), expected, 8e-3)


@pytest.mark.skipif(not available(), reason="no tile instructions")
@given(n=st.integers(1, 3), c=CHANNELS, out=CHANNELS, size=SIZES, hidden=st.integers(1, 40))
def test_tiles_with_a_gate(n: int, c: int, out: int, size: int, hidden: int) -> None:
    half = torch.bfloat16
    torch.manual_seed(0)
    weight, bias = (some(1, out, c, 1, 1) / c**0.5).to(half), some(2, out).to(half)
    x, other = some(0, n, c, size, size).to(half), some(3, n, out, size, size).to(half)
    conv = TiledConv(weight, bias, Geometry((1, 1), (1, 1), (0, 0), (1, 1), 1), activation=0)
    gate = PrecomputedGate(senet.SqueezeExcite(out, hidden_channels=hidden).to(half), weight, bias)
    layers = excitation(gate)
    assert layers is not None
    found = conv.rescaled(x, excite(x, layers), other)
    y = torch.nn.functional.conv2d(x.double(), weight.double(), bias.double())
    assert_near(found, torch.relu(y * gate.double()(x.double()) + other), 8e-3)


@given(shape=st.tuples(st.integers(1, 70), st.integers(1, 70), st.integers(1, 3), st.integers(1, 3)))
def test_tiles_are_the_weight(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape)
    assert torch.equal(unpack_tiles(pack_tiles(weight), *shape[:2]), weight)


@pytest.mark.skipif(choose().library is None, reason=choose().reason)
def test_threads_give_the_same_bits() -> None:
    x, taps, bias = some(0, 2, 40, 33, 31), some(1, 3, 3, 40), some(2, 40)
    weight, out = some(3, 70, 40, 3, 3), some(4, 70)
    layers, _ = layers_of(70, 9, 1, 0, bias=True)
    conv = PackedConv(weight, out, Geometry((3, 3), (1, 1), (1, 1), (1, 1), 1), activation=1)
    before, results = torch.get_num_threads(), list[list[Tensor]]()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            y, means = depthwise_convolution(x, taps, bias, (1, 1), (1, 1), (1, 1), 3, means=True)
            assert means is not None
            results.append([y, means, conv.self_gated(x, layers, None)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
