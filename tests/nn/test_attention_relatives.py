"""Composed, spatial and mixed attention against timm, and against the papers' equations written out."""

from __future__ import annotations

import math
from itertools import product

import pytest
import timm.layers
import torch
import torch.nn.functional as F
from parity_inputs import C, picture, randomise
from timm.layers.coord_attn import CoordAttn, EfficientLocalAttn, StripAttn
from timm.layers.grn import GlobalResponseNorm as GlobalResponseNormOfTimm
from torch import Tensor, nn

import senet.nn as senet_nn
from senet.errors import SenetError, UnknownNameError
from senet.nn import (
    CECA,
    COMPOSITIONS,
    FCA,
    GCT,
    LC0,
    SRM,
    SUMMARIES,
    ChannelAttention,
    CoordinateAttention,
    EfficientLocalAttention,
    GlobalContext,
    GlobalResponseNorm,
    GroupwiseEnhance,
    MultiScaleAttention,
    ShuffleAttention,
    SimpleAttention,
    SplitAttention,
    StripAttention,
    TripletAttention,
)
from senet.nn.frequencies import Frequencies, lowest_frequencies

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-9}


@pytest.fixture(params=TOLERANCE, ids=str)
def dtype(request) -> torch.dtype:
    return request.param


def copy_in_order(source: list[nn.Module], target: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Copy all tensors of the source's layers, in this order, into the other library's layer."""
    given = [t for m in source for t in (*m.parameters(), *m.buffers())]
    taken = [t for m in target.to(dtype).eval().modules() for t in (*m._parameters.values(), *m._buffers.values())]
    taken = [t for t in taken if t is not None]
    assert len(given) == len(taken)
    for a, b in zip(given, taken, strict=True):
        assert a.numel() == b.numel()
        b.data.copy_(a.view_as(b))
    return target


def agree(mine: nn.Module, other, dtype: torch.dtype, *size: int) -> None:
    x = picture(dtype, *size)
    torch.testing.assert_close(mine(x), other(x), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    assert not torch.allclose(mine(x), x, atol=1e-2)


def normed(x: Tensor, norm: nn.Module) -> Tensor:
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)


def over(s: Tensor) -> Tensor:
    return s[..., None, None]


# --- against timm -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
def test_coordinate_attention_is_timms(bias, dtype):
    layer = randomise(CoordinateAttention(C, 4, bias=bias), dtype)
    other = CoordAttn(C, rd_channels=8, bias=bias)
    agree(layer, copy_in_order([layer.reduce, layer.norm, *layer.expand], other, dtype), dtype)


def test_local_attention_is_timms_without_its_silu(dtype):
    layer = randomise(EfficientLocalAttention(C, kernel_size=5, norm_groups=4), dtype)
    other = EfficientLocalAttn(C, 5, act_layer=nn.Identity, norm_layer=lambda c, **_: nn.GroupNorm(4, c))
    agree(layer, copy_in_order([*layer.convs, *layer.norms], other, dtype), dtype)


def test_minimal_strip_attention_is_timms(dtype):
    layer = randomise(StripAttention(C, depthwise=True, pointwise=False), dtype)
    agree(layer, copy_in_order([*layer.convs], StripAttn(C), dtype), dtype)


@pytest.mark.parametrize("fusion", ["add", "scale"])
def test_global_context_is_timms(fusion, dtype):
    layer = randomise(GlobalContext(C, 4, fusion=fusion), dtype)
    other = timm.layers.GlobalContext(C, rd_ratio=1 / 4, fuse_add=fusion == "add", fuse_scale=fusion == "scale")
    copy_in_order([layer.attend, layer.fc1, layer.norm, layer.fc2], other, dtype)
    mlp = other.mlp_add if fusion == "add" else other.mlp_scale
    mlp.norm.eps = layer.norm.eps
    agree(layer, other, dtype)


def test_response_norm_is_timms(dtype):
    layer = randomise(GlobalResponseNorm(C), dtype)
    agree(layer, copy_in_order([layer], GlobalResponseNormOfTimm(C, channels_last=False), dtype), dtype)


@pytest.mark.parametrize(("radix", "groups"), [(2, 1), (2, 2), (4, 4)])
def test_split_attention_is_timms(radix, groups, dtype):
    layer = randomise(SplitAttention(C, radix, groups=groups), dtype)
    other = timm.layers.SplitAttn(C, radix=radix, groups=groups, norm_layer=nn.BatchNorm2d, rd_ratio=1 / 4)
    copy_in_order([layer.conv, layer.norm, layer.fc1, layer.norm1, layer.fc2], other, dtype)
    agree(layer, other, dtype)


@pytest.mark.parametrize("kernel_size", [3, 7])
def test_circular_eca_is_timms(kernel_size, dtype):
    layer = randomise(CECA(kernel_size=kernel_size).build(C), dtype)
    agree(layer, copy_in_order([layer], timm.layers.CecaModule(kernel_size=kernel_size), dtype), dtype)


@pytest.mark.parametrize("kind", ["se", "eca", "ese"])
def test_rows_of_the_table_are_the_layers_of_their_own(kind, dtype):
    layer = randomise(ChannelAttention(C, **COMPOSITIONS[kind]), dtype)
    agree(layer, copy_in_order([layer], senet_nn.ATTENTIONS[kind]().build(C), dtype), dtype)


# --- against the papers' equations ------------------------------------------------------------------------------------


def test_style_recalibration_is_its_equations(dtype):
    layer = randomise(SRM().build(C), dtype)

    def other(x):
        mu = x.sum((2, 3)) / 63
        sigma = ((x - over(mu)) ** 2).sum((2, 3)).div(63).sqrt()
        rows = zip(layer.excitation.weight[0], mu.T, sigma.T, strict=True)
        z = torch.stack([w[0] * m + w[1] * s for w, m, s in rows], 1)
        return x * over(normed(z, layer.excitation.norm).sigmoid())

    agree(layer, other, dtype)


def test_gated_channel_transformation_is_its_equations(dtype):
    layer = randomise(GCT().build(C), dtype)
    alpha, gamma, beta = layer.excitation.embedding[:, 0], layer.excitation.weight[0, :, 0], layer.excitation.bias[0]

    def other(x):
        s = alpha * (x**2).sum((2, 3)).sqrt()
        s = math.sqrt(C) * s / (s**2).sum(1, keepdim=True).sqrt()
        return x * over(1 + torch.tanh(gamma * s + beta))

    agree(layer, other, dtype)


def test_frequency_attention_is_its_equations(dtype):
    layer = randomise(FCA(reduction=4, frequencies=4).build(C), dtype)
    fc1, fc2 = layer.excitation.fc1, layer.excitation.fc2

    def other(x):
        height, width = x.shape[2:]
        basis = torch.stack([
            torch.tensor([[math.cos(math.pi * h / height * (i + 0.5)) * math.cos(math.pi * w / width * (j + 0.5))
                           for j in range(width)] for i in range(height)], dtype=dtype)
            for h, w in [(0, 0), (0, 1), (1, 0), (0, 2)]
        ])  # fmt: skip
        s = torch.cat([(part * b).sum((2, 3)) for part, b in zip(x.chunk(4, 1), basis, strict=True)], 1)
        z = F.linear(F.linear(s / (height * width), fc1.weight).relu(), fc2.weight)
        return x * over(z.sigmoid())

    assert fc1.bias is fc2.bias is None
    agree(layer, other, dtype)


def test_one_frequency_is_the_mean_in_every_dimension():
    for ndim in (1, 2, 3):
        x = torch.randn(2, 5, *range(3, 3 + ndim), dtype=torch.float64)
        torch.testing.assert_close(Frequencies(5, 1, ndim)(x), x.flatten(2).mean(2), rtol=1e-12, atol=1e-12)


def test_frequencies_are_the_lowest():
    for ndim, count in product((1, 2, 3), (1, 2, 7, 16, 40)):
        found = lowest_frequencies(count, ndim)
        sums = sorted(sum(f) for f in product(range(count), repeat=ndim))[:count]
        assert [sum(f) for f in found] == sums
        assert len(set(found)) == count


def test_scale_and_shift_is_its_equation(dtype):
    layer = randomise(LC0(reduction=4).build(C), dtype)
    fc1, fc2 = layer.excitation.fc1, layer.excitation.fc2

    def other(x):
        hidden = F.linear(x.mean((2, 3)), fc1.weight, fc1.bias).relu()
        z, b = F.linear(hidden, fc2.weight, fc2.bias).chunk(2, 1)
        return x * over(z.sigmoid()) + over(b)

    agree(layer, other, dtype)
    x = picture(dtype)
    assert torch.equal(layer(x), x * layer.gate(x) + layer.shift(x))


def test_grouped_excitation_is_a_bottleneck_in_each_group(dtype):
    layer = randomise(
        ChannelAttention(C, excitation="grouped", squeeze="max", groups=4, reduction=2, shift=True), dtype
    )
    fc1, fc2 = layer.excitation.fc1, layer.excitation.fc2

    def other(x):
        parts = []
        for g, part in enumerate(x.chunk(4, 1)):
            w1, b1, w2, b2 = (t.chunk(4)[g].squeeze(-1) for t in (fc1.weight, fc1.bias, fc2.weight, fc2.bias))
            z = F.linear(F.linear(part.amax((2, 3)), w1, b1).relu(), w2, b2).unflatten(1, (8, 2))
            parts.append(part * over(z[..., 0].sigmoid()) + over(z[..., 1]))
        return torch.cat(parts, 1)

    agree(layer, other, dtype)


@pytest.mark.parametrize(
    ("squeeze", "pool"),
    [
        ("std", lambda x: x.var((2, 3), unbiased=False).sqrt()),
        ("rms", lambda x: (x**2).mean((2, 3)).sqrt()),
        ("max", lambda x: x.amax((2, 3))),
        ("mean+max", lambda x: (x.mean((2, 3)) + x.amax((2, 3))) / 2),
    ],
)
def test_squeezes_without_excitation(squeeze, pool, dtype):
    layer = ChannelAttention(C, squeeze=squeeze, excitation="none", gate="softmax").to(dtype)
    agree(layer, lambda x: x * over(pool(x).softmax(1)), dtype)


def test_strip_attention_is_its_equations(dtype):
    layer = randomise(StripAttention(C), dtype)
    rows, columns = layer.convs

    def other(x):
        y_h = F.conv1d(x.mean(3), rows.weight, padding=1)[..., None].expand_as(x)
        y_v = F.conv1d(x.mean(2), columns.weight, padding=1)[:, :, None].expand_as(x)
        return x * F.conv2d(y_h + y_v, layer.pointwise.weight[..., None], layer.pointwise.bias).sigmoid()

    agree(layer, other, dtype)


def test_simam_is_its_equations(dtype):
    def other(x):
        mu = x.mean((2, 3), keepdim=True)
        variance = ((x - mu) ** 2).mean((2, 3), keepdim=True)
        energy = 4 * (variance + 1e-4) / ((x - mu) ** 2 + 2 * variance + 2e-4)
        return x * (1 / energy).sigmoid()

    agree(SimpleAttention(C), other, dtype)


def test_triplet_attention_is_its_equations(dtype):
    layer = randomise(TripletAttention(C), dtype)

    def branch(x, k):  # on a rotated feature map whose second axis is summarized
        pooled = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
        return x * normed(F.conv2d(pooled, layer.convs[k].weight, padding=3), layer.norms[k]).sigmoid()

    def other(x):
        height = branch(x.permute(0, 2, 1, 3), 1).permute(0, 2, 1, 3)
        width = branch(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        return (branch(x, 0) + height + width) / 3

    agree(layer, other, dtype)


def test_multiscale_attention_is_its_figure(dtype):
    layer = randomise(MultiScaleAttention(C, groups=4), dtype)
    mix, conv = layer.mix, layer.conv

    def weigh(by, part):
        return torch.einsum("nc,nchw->nhw", by.mean((2, 3)).softmax(1), part)[:, None]

    def other(x):
        found = []
        for part in x.chunk(4, 1):
            y = F.conv1d(torch.cat([part.mean(3), part.mean(2)], 2), mix.weight, mix.bias).sigmoid()
            gated = part * y[:, :, :9, None] * y[:, :, None, 9:]
            one = F.instance_norm(gated, weight=layer.norm.weight, bias=layer.norm.bias)
            two = F.conv2d(part, conv.weight, conv.bias, padding=1)
            found.append(part * (weigh(one, two) + weigh(two, one)).sigmoid())
        return torch.cat(found, 1)

    agree(layer, other, dtype)


@pytest.mark.parametrize("shuffle", [True, False])
def test_shuffle_attention_is_its_equations(shuffle, dtype):
    layer = randomise(ShuffleAttention(C, groups=4, shuffle=shuffle), dtype)

    def column(p):
        return p[:, None, None]

    def other(x):
        found = []
        for part in x.chunk(4, 1):
            one, two = part.chunk(2, 1)
            s = one.mean((2, 3), keepdim=True)
            found.append(one * (column(layer.channel_weight) * s + column(layer.channel_bias)).sigmoid())
            n = F.instance_norm(two, weight=layer.norm.weight, bias=layer.norm.bias)
            found.append(two * (column(layer.spatial_weight) * n + column(layer.spatial_bias)).sigmoid())
        y = torch.cat(found, 1)
        return y[:, [c // 2 + (c % 2) * C // 2 for c in range(C)]] if shuffle else y

    agree(layer, other, dtype)


def test_groupwise_enhancement_is_its_equations(dtype):
    layer = randomise(GroupwiseEnhance(C, groups=4), dtype)

    def other(x):
        found = []
        for g, part in enumerate(x.chunk(4, 1)):
            c = torch.einsum("nchw,nc->nhw", part, part.mean((2, 3)))
            mu = c.mean((1, 2), keepdim=True)
            sigma = ((c - mu) ** 2).mean((1, 2), keepdim=True).sqrt()
            a = layer.weight[g] * (c - mu) / (sigma + 1e-5) + layer.bias[g]
            found.append(part * a.sigmoid()[:, None])
        return torch.cat(found, 1)

    agree(layer, other, dtype)


def test_axes_of_a_volume_are_treated_alike():
    """A volume that is constant along one axis has the result of the image without it."""
    torch.manual_seed(0)
    for kind in (CoordinateAttention, EfficientLocalAttention, StripAttention, TripletAttention):
        deep, flat = kind(8, ndim=3).double().eval(), kind(8, ndim=2).double().eval()
        x = torch.randn(2, 8, 4, 5, 6, dtype=torch.float64)
        assert deep(x).shape == x.shape
        assert deep.gate(x.transpose(2, 4)).shape == (2, 8, 6, 5, 4)
        assert flat.gate(x[:, :, 0]).shape == (2, 8, 5, 6)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ChannelAttention(8, excitation="affine", reduction=4), "excitation='affine' has no reduction"),
        (lambda: ChannelAttention(8, excitation="conv", bias=True), "excitation='conv' has no bias"),
        (lambda: ChannelAttention(8, frequencies=4), "squeeze='mean' has no frequencies"),
        (lambda: ChannelAttention(8, squeeze="dct", frequencies=9), r"frequencies=9 is out of range; use 1\.\.8"),
        (lambda: ChannelAttention(8, excitation="none", shift=True), "needs one summary and no shift"),
        (lambda: ChannelAttention(8, excitation="none", init="identity"), "init='identity' needs parameters"),
        (lambda: ChannelAttention(8, excitation="grouped", groups=3), "groups=3 doesn't divide channels=8"),
        (lambda: ChannelAttention(2, excitation="conv", kernel_size=7), r"kernel_size=7 is out of range"),
        (lambda: MultiScaleAttention(12), "groups=8 doesn't divide channels=12; use a divisor of 12"),
        (lambda: ShuffleAttention(24), "groups=8 doesn't divide channels=24; use a divisor of 12"),
        (lambda: ShuffleAttention(7), "the channels must be a multiple of 2"),
        (lambda: ShuffleAttention(32, init="identity"), "use shuffle=False"),
        (lambda: SplitAttention(16, 1), "radix=1 is out of range; use 2 or more"),
        (lambda: SplitAttention(12, groups=4), "groups=4 doesn't divide channels=12; use a divisor of 6"),
        (lambda: CoordinateAttention(16, 0), "reduction=0"),
    ],
)
def test_refuses_in_one_line(make, message):
    with pytest.raises(SenetError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_unknown_names_come_with_the_nearest():
    with pytest.raises(UnknownNameError, match="unknown squeeze 'men'; did you mean 'mean'"):
        ChannelAttention(8, squeeze="men")
    with pytest.raises(UnknownNameError, match="unknown fusion 'sum'"):
        GlobalContext(16, fusion="sum")
    assert "none" not in SUMMARIES
