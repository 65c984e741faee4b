"""The block itself: its parts, its precision, its parameters, and what it refuses."""

from __future__ import annotations

import math

import pytest
import timm.layers
import torch
from hypothesis import given
from hypothesis import strategies as st

from senet.errors import UnknownNameError
from senet.nn import (
    GATES,
    ROUNDINGS,
    SE,
    SQUEEZES,
    EfficientChannelAttention,
    GatherExcite,
    SqueezeExcite,
    hidden_width,
)
from senet.nn.channel import adaptive_kernel_size
from senet.nn.squeeze import TINY


def count(layer) -> int:
    return sum(p.numel() for p in layer.parameters())


class TestSqueeze:
    @pytest.mark.parametrize("name", ["mean", "max", "mean+max", "rms"])
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_a_large_map_of_large_values_doesnt_overflow(self, name, dtype):
        # 65,536 values of 60,000: their sum is 3.9e9, and float16 ends at 65,504.
        x = torch.full((1, 2, 256, 256), 60_000.0).to(dtype)
        squeezed = SQUEEZES[name](x)
        assert squeezed.dtype == dtype
        assert torch.equal(squeezed, x[:, :, 0, 0])

    def test_bfloat16_averages_to_its_own_precision(self):
        # A running sum in bfloat16 stands still at 256 when ones are added: it can't tell 256 from 257.
        x = 1 + torch.rand(2, 4, 256, 256, generator=torch.Generator().manual_seed(0))
        exact = x.bfloat16().double().mean((2, 3))
        error = (SQUEEZES["mean"](x.bfloat16()).double() - exact).abs() / exact
        assert error.max() <= 2**-9  # half a unit in the last place

    def test_the_graph_itself_says_that_the_sum_is_float32(self):
        # A runtime other than PyTorch sees only this.
        layer, x = SqueezeExcite(16, 4).half().eval(), torch.zeros(2, 16, 5, 5, dtype=torch.float16)
        nodes = torch.export.export(layer, (x,)).graph.nodes
        assert [n.kwargs["dtype"] for n in nodes if n.target is torch.ops.aten.mean.dim] == [torch.float32]

    def test_float64_stays_float64(self):
        one = 1 + 2**-40
        x = torch.full((1, 1, 3, 3), one, dtype=torch.float64)
        roots = {"std", "rms"}
        assert all(torch.equal(SQUEEZES[name](x).flatten()[:1], x[0, 0, 0, :1]) for name in set(SQUEEZES) - roots)
        both = torch.stack([x, -x], 2).flatten(2)  # of deviation and root mean square `one`
        want = torch.full((1, 1), math.sqrt(one**2 + TINY), dtype=torch.float64)
        for name in roots:
            torch.testing.assert_close(SQUEEZES[name](both), want, rtol=1e-15, atol=0)

    def test_max_shares_the_gradient_among_ties(self):
        x = torch.zeros(1, 1, 2, 2, requires_grad=True)
        SQUEEZES["max"](x).sum().backward()
        assert torch.equal(x.grad, torch.full_like(x, 0.25))

    def test_none_is_the_map_itself(self):
        x = torch.zeros(1, 1, 2, 2)
        assert SQUEEZES["none"](x) is x


class TestGate:
    @pytest.mark.parametrize("name", GATES)
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
    def test_centred_form_is_exactly_one_at_zero_with_a_slope(self, name, dtype):
        z = torch.zeros(40, 3, dtype=dtype, requires_grad=True)
        value = GATES[name].centred(z)
        assert torch.equal(value, torch.ones_like(z))
        value[:, 0].sum().backward()  # the sum over the channels of a softmax is constant
        assert (z.grad[:, 0] > 0.3).all()

    def test_forms_are_the_published_and_the_moved_ones(self):
        z = torch.linspace(-4, 4, 33, dtype=torch.float64).view(3, 11)
        zero, one = torch.zeros_like(z), torch.ones_like(z)
        published = {
            "sigmoid": 1 / (1 + (-z).exp()),
            "hard-sigmoid": torch.minimum(one, torch.maximum(zero, z / 6 + 0.5)),
            "tanh": (z.exp() - (-z).exp()) / (z.exp() + (-z).exp()),
            "relu": torch.maximum(zero, z),
            "softmax": z.exp() / z.exp().sum(1, keepdim=True),
        }
        published["1+tanh"] = 1 + published["tanh"]
        moved = {
            "sigmoid": 2 * published["sigmoid"],
            "hard-sigmoid": 2 * published["hard-sigmoid"],
            "tanh": 1 + published["tanh"],
            "relu": torch.maximum(zero, 1 + z),
            "1+tanh": published["1+tanh"],
            "softmax": 11 * published["softmax"],
        }
        assert set(GATES) == set(published)
        for name, gate in GATES.items():
            torch.testing.assert_close(gate.plain(z), published[name])
            torch.testing.assert_close(gate.centred(z), moved[name])


class TestHiddenWidth:
    @given(channels=st.integers(1, 4096), reduction=st.integers(1, 64))
    def test_rules(self, channels, reduction):
        assert hidden_width(channels, reduction, "timm") == timm.layers.make_divisible(channels / reduction)
        if reduction <= channels:
            assert hidden_width(channels, reduction) == channels // reduction
        else:
            with pytest.raises(ValueError, match=f"use 1..{channels}$"):
                hidden_width(channels, reduction)

    def test_timms_own_block_leaves_the_ninety_percent_rule_out(self):
        assert hidden_width(176, 16, "timm") == 16
        assert timm.layers.SEModule(176).fc1.out_channels == 8

    def test_refuses_what_makes_no_bottleneck(self):
        with pytest.raises(ValueError, match=r"^reduction=64 leaves no hidden unit for channels=32; use 1\.\.32$"):
            SqueezeExcite(32, 64)
        with pytest.raises(ValueError, match="reduction=0 is out of range"):
            SqueezeExcite(32, 0)
        with pytest.raises(ValueError, match="hidden_channels=0 is out of range"):
            SqueezeExcite(32, hidden_channels=0)


class TestBlock:
    @pytest.mark.parametrize(("channels", "reduction"), [(256, 16), (512, 8), (64, 2), (2048, 16)])
    def test_parameters_are_the_papers(self, channels, reduction):
        weights = 2 * channels**2 // reduction
        assert count(SqueezeExcite(channels, reduction)) == weights + channels + channels // reduction
        assert count(SqueezeExcite(channels, reduction, bias=False)) == weights

    def test_adds_to_resnet50_what_the_released_network_has(self):
        blocks = [(c, n) for c, n in zip((256, 512, 1024, 2048), (3, 4, 6, 3), strict=True)]
        assert sum(n * count(SqueezeExcite(c)) for c, n in blocks) == 2_514_944 + 16_048

    def test_state_dict_names_and_shapes_dont_depend_on_the_rank(self):
        shapes = {"fc1.weight": (4, 64), "fc1.bias": (4,), "fc2.weight": (64, 4), "fc2.bias": (64,)}
        for ndim in (1, 2, 3):
            state = SqueezeExcite(64, ndim=ndim).state_dict()
            assert {name: tuple(tensor.shape) for name, tensor in state.items()} == shapes

    def test_given_hidden_channels_win(self):
        layer = SqueezeExcite(32, 64, hidden_channels=3)  # a reduction of 64 alone would be refused
        assert layer.fc1.out_features == 3

    @pytest.mark.parametrize(
        ("option", "wrong", "nearest"),
        [
            ("squeeze", "avg", "mean"),
            ("gate", "sigmod", "'sigmoid'"),
            ("rounding", "flor", "'floor'"),
            ("init", "identiy", "'identity'"),
        ],
    )
    def test_unknown_names_are_refused_with_the_nearest(self, option, wrong, nearest):
        for build in (lambda **options: SqueezeExcite(32, 4, **options), SE):
            with pytest.raises(UnknownNameError, match=f"unknown {option}.*{wrong}.*{nearest}"):
                build(**{option: wrong})

    @given(
        channels=st.integers(1, 40),
        space=st.lists(st.integers(1, 6), min_size=1, max_size=3),
        batch=st.integers(0, 3),
        data=st.data(),
    )
    def test_any_shape_and_option(self, channels, space, batch, data):
        layer = SqueezeExcite(
            channels,
            data.draw(st.integers(1, channels)),
            rounding=data.draw(st.sampled_from(sorted(ROUNDINGS))),
            squeeze=data.draw(st.sampled_from(sorted(SQUEEZES))),
            gate=data.draw(st.sampled_from(sorted(GATES))),
            bias=data.draw(st.booleans()),
            init="identity",
            ndim=len(space),
        )
        x = torch.randn(batch, channels, *space)
        assert torch.equal(layer(x), x)
        torch.nn.init.normal_(layer.fc2.weight)
        assert layer(x).shape == x.shape
        assert torch.equal(layer(x), x * layer.gate(x))

    def test_identity_start_leaves_no_hidden_unit_dead(self):
        layer = SqueezeExcite(64, 4, init="identity")
        assert (layer.fc1(SQUEEZES["mean"](torch.randn(16, 64, 8, 8))) > 0).all()

    def test_a_sigmoid_gate_is_between_zero_and_its_ends(self):
        x = 100 * torch.randn(4, 32, 5, 5)
        plain, wide = SqueezeExcite(32, 4), SqueezeExcite(32, 4, init="identity")
        wide.load_state_dict(plain.state_dict())
        assert plain.gate(x).max() <= 1
        torch.testing.assert_close(wide.gate(x), 2 * plain.gate(x))

    def test_export_of_a_signal_and_a_volume(self):
        for ndim in (1, 3):
            layer = SqueezeExcite(16, 4, ndim=ndim).eval()
            x = torch.randn(2, 16, *[6] * ndim)
            assert torch.equal(torch.export.export(layer, (x,)).module()(x), layer(x))


class TestRelatives:
    @pytest.mark.parametrize("size", [0, 2, -3])
    def test_eca_refuses_a_kernel_without_a_middle(self, size):
        with pytest.raises(ValueError, match=f"kernel_size={size} must be odd"):
            EfficientChannelAttention(16, kernel_size=size)

    def test_eca_kernels_of_the_resnets(self):
        # Wang et al. 2020: k is 5 for 256 channels and up to 1024, where it is 5 too, and 7 for 2048.
        assert [adaptive_kernel_size(c) for c in (64, 128, 256, 512, 1024, 2048)] == [3, 5, 5, 5, 5, 7]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"extent": 3}, "extent=3 is not supported; use one of 0, 2, 4, 8"),
            ({"extent": 0}, r"extent=0 can't have a learned gather"),
            ({"learned_gather": False, "reduction": None, "init": "identity"}, "init='identity' needs parameters"),
        ],
    )
    def test_gather_excite_refuses_what_has_no_meaning(self, options, message):
        with pytest.raises(ValueError, match=message):
            GatherExcite(16, **options)

    def test_gather_excite_of_the_whole_map_is_squeeze_excite(self):
        ge, se = GatherExcite(32, extent=0, learned_gather=False, reduction=4), SqueezeExcite(32, 4)
        se.load_state_dict(ge.state_dict())
        x = torch.randn(2, 32, 5, 7)
        torch.testing.assert_close(ge(x), se(x))
