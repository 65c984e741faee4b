"""The layers against independent implementations: timm, torchvision, and the papers' equations written out."""

from __future__ import annotations

import pytest
import timm.layers
import torch
import torch.nn.functional as F
import torchvision.ops
from parity_inputs import C, picture, randomise
from timm.layers.cbam import CbamModule
from torch import nn

from senet.nn import (
    BottleneckAttention,
    BranchAttention,
    ChannelSpatialSqueezeExcite,
    ConvolutionalBlockAttention,
    EffectiveSqueezeExcite,
    EfficientChannelAttention,
    GatherExcite,
    SelectiveKernel,
    SqueezeExcite,
)

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}


@pytest.fixture(params=TOLERANCE, ids=str)
def dtype(request) -> torch.dtype:
    return request.param


def copy_in_order(source: list[nn.Module], target: list[nn.Module], dtype: torch.dtype) -> None:
    """Copy all tensors, which come in the same order but with or without spatial dimensions of size one."""
    given = [t for m in source for t in (*m.parameters(), *m.buffers())]
    taken = [t for m in target for t in (*m.to(dtype).eval().parameters(), *m.buffers())]
    assert len(given) == len(taken)
    for a, b in zip(given, taken, strict=True):
        assert a.numel() == b.numel()
        b.data.copy_(a.view_as(b))


def agree(mine: nn.Module, other: nn.Module, dtype: torch.dtype, *size: int) -> None:
    x = picture(dtype, *size)
    torch.testing.assert_close(mine(x), other(x), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    # the copied weights matter: a layer that ignored them would agree with a constant gate only
    assert not torch.allclose(mine(x), x, atol=1e-2)


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ({"reduction": 4}, {"rd_ratio": 1 / 4}),
        ({"reduction": 16, "rounding": "timm"}, {"rd_ratio": 1 / 16}),
        ({"reduction": 4, "squeeze": "mean+max"}, {"rd_ratio": 1 / 4, "add_maxpool": True}),
        ({"reduction": 4, "gate": "hard-sigmoid"}, {"rd_ratio": 1 / 4, "gate_layer": "hard_sigmoid"}),
        ({"hidden_channels": 5, "bias": False}, {"rd_channels": 5, "bias": False}),
        ({"reduction": 4, "gate": "tanh"}, {"rd_ratio": 1 / 4, "gate_layer": "tanh"}),
    ],
    ids=str,
)
def test_se_is_timms(mine, theirs, dtype):
    layer = randomise(SqueezeExcite(C, **mine), dtype)
    other = timm.layers.SEModule(C, **theirs)
    copy_in_order([layer], [other], dtype)
    agree(layer, other, dtype)


def test_se_is_torchvisions(dtype):
    layer = randomise(SqueezeExcite(C, 4), dtype)
    other = torchvision.ops.SqueezeExcitation(C, C // 4)
    copy_in_order([layer], [other], dtype)
    agree(layer, other, dtype)


@pytest.mark.parametrize(("squeeze", "pool"), [("max", torch.amax), ("none", lambda x, _dims, keepdim: x)])
def test_other_squeezes_are_a_pair_of_convolutions(squeeze, pool, dtype):
    layer = randomise(SqueezeExcite(C, 4, squeeze=squeeze, gate="relu"), dtype)

    def other(x):
        s = pool(x, (2, 3), keepdim=True)
        s = F.conv2d(s, layer.fc1.weight[..., None, None], layer.fc1.bias).clamp(min=0)
        return x * F.conv2d(s, layer.fc2.weight[..., None, None], layer.fc2.bias).clamp(min=0)

    agree(layer, other, dtype)


@pytest.mark.parametrize("kernel_size", [None, 3, 7])
def test_eca_is_timms(kernel_size, dtype):
    layer = randomise(EfficientChannelAttention(C, kernel_size=kernel_size), dtype)
    sizes = {"channels": C} if kernel_size is None else {"kernel_size": kernel_size}
    other = timm.layers.EcaModule(**sizes)
    copy_in_order([layer], [other], dtype)
    agree(layer, other, dtype)


def test_eca_kernel_grows_as_timms():
    # below 8 channels timm looks at 3 where the paper's rule gives 1
    for channels in range(8, 4097):
        mine = EfficientChannelAttention(channels).conv.kernel_size
        if channels & (channels - 1) == 0 or channels % 97 == 0:
            assert mine == timm.layers.EcaModule(channels).conv.kernel_size


def test_ese_is_timms(dtype):
    layer = randomise(EffectiveSqueezeExcite(C), dtype)
    other = timm.layers.EffectiveSEModule(C)
    copy_in_order([layer], [other], dtype)
    agree(layer, other, dtype)


@pytest.mark.parametrize("size", [(16, 8), (9, 7), (3, 1)], ids=str)
@pytest.mark.parametrize("extent", [0, 2, 4, 8])
def test_average_gather_is_timms(extent, size, dtype):
    layer = GatherExcite(C, extent=extent, learned_gather=False, reduction=None)
    agree(layer, timm.layers.GatherExcite(C, extent=extent, use_mlp=False), dtype, *size)


def test_average_gather_of_a_volume_is_that_of_pytorch():
    layer = GatherExcite(C, extent=2, learned_gather=False, reduction=None, ndim=3)

    def other(x):
        pooled = F.avg_pool3d(x, 3, 2, 1, count_include_pad=False)
        return x * F.interpolate(pooled.sigmoid(), size=x.shape[2:])

    agree(layer, other, torch.float64, 5, 8, 3)


@pytest.mark.parametrize("reduction", [None, 4])
def test_learned_gather_is_the_papers(reduction, dtype):
    # timm's version of this one can't be built: it hands its keyword arguments on by position.
    layer = randomise(GatherExcite(C, extent=4, reduction=reduction), dtype)

    def normed(x, norm):
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)

    def other(x):
        first, norm1, _, second, norm2 = layer.gather
        s = normed(F.conv2d(x, first.weight, stride=2, padding=1, groups=C), norm1).relu()
        s = normed(F.conv2d(s, second.weight, stride=2, padding=1, groups=C), norm2)
        if reduction:
            s = F.conv2d(s, layer.fc1.weight[..., None, None], layer.fc1.bias).relu()
            s = F.conv2d(s, layer.fc2.weight[..., None, None], layer.fc2.bias)
        return x * F.interpolate(s, size=x.shape[2:], mode="nearest").sigmoid()

    agree(layer, other, dtype)


@pytest.mark.parametrize("bias", [False, True])
def test_cbam_is_timms(bias, dtype):
    layer = randomise(ConvolutionalBlockAttention(C, 8, bias=bias), dtype)
    other = CbamModule(C, rd_ratio=1 / 8, mlp_bias=bias)
    copy_in_order([layer], [other], dtype)
    agree(layer, other, dtype)


@pytest.mark.parametrize("combine", ["add", "max"])
def test_scse_joins_the_two_rescaled_maps(combine, dtype):
    layer = randomise(ChannelSpatialSqueezeExcite(C, combine=combine), dtype)

    def other(x):
        s = layer.channel.fc2(layer.channel.fc1(x.mean((2, 3))).relu()).sigmoid()
        by_channel = x * s[..., None, None]
        by_position = x * F.conv2d(x, layer.spatial.conv.weight, layer.spatial.conv.bias).sigmoid()
        return by_channel + by_position if combine == "add" else torch.maximum(by_channel, by_position)

    agree(layer, other, dtype)


def test_bam_is_the_papers(dtype):
    layer = randomise(BottleneckAttention(C, 8), dtype)

    def other(x):
        m_c = layer.norm(layer.fc2(layer.fc1(x.mean((2, 3))).relu()))
        conv0, norm0, _, conv1, norm1, _, conv2, norm2, _, conv3, norm3 = layer.spatial
        m_s = norm0(F.conv2d(x, conv0.weight)).relu()
        m_s = norm1(F.conv2d(m_s, conv1.weight, padding=4, dilation=4)).relu()
        m_s = norm2(F.conv2d(m_s, conv2.weight, padding=4, dilation=4)).relu()
        m_s = norm3(F.conv2d(m_s, conv3.weight))
        m = (m_c[..., None, None].expand_as(x) + m_s.expand_as(x)).sigmoid()
        return x + x * m

    agree(layer, other, dtype)


@pytest.mark.parametrize("groups", [1, 4])
def test_selective_kernel_is_timms(groups, dtype):
    layer = randomise(SelectiveKernel(C, groups=groups), dtype)
    other = timm.layers.SelectiveKernel(C, groups=groups, split_input=False, rd_channels=32)
    copy_in_order([*layer.convs, layer.attend], [*other.paths, other.attn], dtype)
    agree(layer, other, dtype)


def test_branch_attention_joins_any_maps():
    attend = randomise(BranchAttention(C, 3), torch.float64)
    maps = [k + picture(torch.float64) for k in range(3)]
    weights = attend.gate(maps)
    torch.testing.assert_close(attend(maps), sum(w * m for w, m in zip(weights.unbind(1), maps, strict=True)))
    with pytest.raises(ValueError, match="expects 3 feature maps, got 2"):
        attend(maps[:2])
    with pytest.raises(ValueError, match="branches=1 is out of range; use 2 or more"):
        BranchAttention(C, 1)
