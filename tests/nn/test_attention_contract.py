"""What every attention layer promises, run on each of them through its spec."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
from contextlib import contextmanager
from dataclasses import fields, replace

import pytest
import torch
from torch import nn
from torch.export import Dim, export

from senet.nn import (
    ATTENTIONS,
    BAM,
    CBAM,
    CECA,
    COMPOSITIONS,
    ECA,
    ELA,
    EMA,
    ESE,
    FCA,
    GC,
    GCT,
    GE,
    GRN,
    LC0,
    SE,
    SGE,
    SK,
    SRM,
    Attention,
    AttentionSpec,
    Channel,
    Coord,
    ScSE,
    Shuffle,
    SpatialSE,
    Split,
    Strip,
    Triplet,
)
from senet.nn import attention_from_dict as from_dict

C = 16  # 16 // 16 leaves one hidden unit: the narrowest bottleneck a default can have

SPECS: dict[str, AttentionSpec] = {
    **{kind: spec() for kind, spec in ATTENTIONS.items()},
    "se-nosqueeze": SE(reduction=4, squeeze="none", bias=False),
    "se-mean+max": SE(reduction=4, squeeze="mean+max", gate="tanh"),
    "ge-global": GE(extent=0, learned_gather=False),
    "ge-average": GE(extent=2, learned_gather=False, reduction=None),
    "ge-convs": GE(extent=4, reduction=None),
    "scse-max": ScSE(combine="max"),
    "sk-grouped": SK(branches=3, groups=2, min_hidden=4),
    "channel-grouped-shift": Channel(squeeze="mean-std", excitation="grouped", gate="tanh", shift=True, reduction=2),
    "channel-affine-softmax": Channel(squeeze="rms", excitation="affine", gate="softmax"),
    "channel-none": Channel(squeeze="std", excitation="none"),
    "gc-scale": GC(fusion="scale"),
    "shuffle-insertable": Shuffle(shuffle=False),
    "strip-minimal": Strip(depthwise=True, pointwise=False),
    "split-grouped": Split(groups=2, reduction=8),
}
ADDING = {LC0(), GRN(), GC(), Shuffle(), SPECS["channel-grouped-shift"]}
"""Layers that compute more than `x * gate(x)`."""
NEW_FEATURES = {"sk", "split"}
"""Layers whose gate weighs their own branches."""
# reduction=4 where there is one: a single hidden unit may be dead by chance, and then hides a missing gradient
IDENTITY: dict[str, AttentionSpec] = {
    "se": SE(reduction=4, init="identity"),
    "se-nobias": SE(reduction=2, bias=False, init="identity"),
    "se-nosqueeze": SE(reduction=4, squeeze="none", init="identity"),
    "se-hard-sigmoid": SE(reduction=4, gate="hard-sigmoid", init="identity"),
    "se-tanh": SE(reduction=4, gate="tanh", init="identity"),
    "se-relu": SE(reduction=4, gate="relu", init="identity"),
    "eca": ECA(init="identity"),
    "ese": ESE(init="identity"),
    "ge": GE(reduction=4, init="identity"),
    "ge-convs": GE(reduction=None, init="identity"),
    "ge-average": GE(extent=2, learned_gather=False, reduction=4, init="identity"),
    "sse": SpatialSE(init="identity"),
    "scse-add": ScSE(init="identity"),
    "scse-max": ScSE(combine="max", init="identity"),
    "cbam": CBAM(reduction=4, init="identity"),
    "cbam-bias": CBAM(reduction=4, bias=True, init="identity"),
    "bam": BAM(reduction=4, init="identity"),
    **{
        f"channel-{excitation}": Channel(
            excitation=excitation, init="identity", shift=shift, squeeze=squeeze, gate=gate
        )
        for excitation, squeeze, gate, shift in [
            ("linear", "std", "softmax", False),
            ("conv", "rms", "1+tanh", True),
            ("affine", "mean-std", "relu", True),
            ("affine-norm", "max", "hard-sigmoid", True),
            ("norm-affine", "mean+max", "tanh", False),
        ]
    },
    "channel-bottleneck": Channel(reduction=4, squeeze="dct", frequencies=3, init="identity"),
    "channel-grouped": Channel(excitation="grouped", reduction=2, groups=2, init="identity"),
    "ceca": CECA(init="identity"),
    "srm": SRM(init="identity"),
    "gct": GCT(init="identity"),
    "fca": FCA(reduction=2, init="identity"),
    "lc0": LC0(reduction=4, init="identity"),
    "coord": Coord(init="identity"),
    "coord-nobias": Coord(bias=False, init="identity"),
    "ela": ELA(norm_groups=4, init="identity"),
    "ema": EMA(groups=4, init="identity"),
    "triplet": Triplet(init="identity"),
    "shuffle": Shuffle(groups=2, shuffle=False, init="identity"),
    "sge": SGE(init="identity"),
    "gc": GC(reduction=4, init="identity"),
    "gc-scale": GC(reduction=4, fusion="scale", init="identity"),
    "grn": GRN(init="identity"),
    "strip": Strip(init="identity"),
    "strip-minimal": Strip(depthwise=True, pointwise=False, init="identity"),
}


def randomise(layer: nn.Module) -> nn.Module:
    """Give every parameter and every running statistic a value that no initialisation has."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
        if tensor.is_floating_point():
            value = torch.empty_like(tensor).normal_(0, 0.4, generator=generator)
            tensor.data.copy_(value.abs() + 0.5 if name.endswith("running_var") else value)
    return layer


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@contextmanager
def deterministic():
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@pytest.fixture(params=SPECS.values(), ids=SPECS.keys())
def spec(request) -> AttentionSpec:
    return request.param


@pytest.fixture
def layer(spec) -> Attention:
    return randomise(spec.build(C)).eval()


COMPILED = {"se", "eca", "ese", "ge", "sse", "scse", "cbam", "bam", "sk", "lc0", "coord", "ema"}
ONE_OF_EACH_KIND = pytest.mark.parametrize(
    "spec",
    [pytest.param(spec, id=name, marks=[pytest.mark.slow] * (name not in COMPILED)) for name, spec in SPECS.items()],
)
"""What takes a compiler: other layers are left to the slow tests."""

LARGE = [
    pytest.param(spec, space, dtype, id=f"{name}-{len(space)}d-{dtype}", marks=[pytest.mark.slow] * (not quick))
    for name, spec in SPECS.items()
    for space in ((90_000,), (300, 300), (40, 40, 40))
    for dtype in (torch.float16, torch.bfloat16)
    for quick in [name in ATTENTIONS and name != "sk" and len(space) == 2 and dtype == torch.float16]
]
"""Large feature maps: float16 overflows first, so the quick tests take an image of it for each kind."""


class TestContract:
    @pytest.mark.parametrize("space", [(7,), (7, 5), (4, 5, 3), (1,), (1, 1), (1, 1, 1)], ids=str)
    def test_keeps_the_shape_and_is_the_product_with_its_gate(self, spec, space):
        layer = randomise(spec.build(C, ndim=len(space))).eval()
        x = noise(2, C, *space)
        out, gate = layer(x), layer.gate(x)
        assert out.shape == x.shape
        assert out.isfinite().all()
        if spec.kind in NEW_FEATURES:
            branches = spec.branches if spec.kind == "sk" else spec.radix
            assert gate.shape == (2, branches, C, *[1] * len(space))
            torch.testing.assert_close(gate.sum(1), torch.ones_like(gate[:, 0]))
            return
        assert gate.broadcast_to(x.shape).shape == x.shape
        # What more is computed than the product: test_attention_relatives.py.
        assert torch.equal(out, x * gate) is layer.rescales is (spec not in ADDING)

    def test_gradient_is_right_in_training(self, spec):
        layer = randomise(spec.build(C).double().train())
        x = noise(2, C, 3, 4, dtype=torch.float64).requires_grad_()
        names, parameters = zip(*layer.named_parameters(), strict=True) if list(layer.parameters()) else ((), ())

        def run(x, *values):
            return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

        assert torch.autograd.gradcheck(run, (x, *parameters), fast_mode=True)

    @pytest.mark.parametrize(
        ("shape", "message"),
        [((2, C + 1, 5, 5), "got (2, 17, 5, 5)"), ((2, C, 5), "got (2, 16, 5)"), ((C,), "got (16,)")],
        ids=str,
    )
    def test_refuses_other_channels_and_ranks_in_one_line(self, layer, shape, message):
        with pytest.raises(ValueError, match="expects") as caught:
            layer(torch.zeros(shape))
        assert str(caught.value) == f"{type(layer).__name__} expects (N, 16, H, W), {message}"

    @pytest.mark.parametrize(("ndim", "pattern"), [(1, "(N, 16, L)"), (3, "(N, 16, D, H, W)")])
    def test_refusal_shows_the_pattern_of_its_rank(self, spec, ndim, pattern):
        with pytest.raises(ValueError, match="expects") as caught:
            spec.build(C, ndim=ndim)(torch.zeros(2, C, 5, 5))
        assert pattern in str(caught.value)

    @pytest.mark.parametrize(("channels", "ndim"), [(0, 2), (C, 0), (C, 4)])
    def test_refuses_impossible_channels_and_dimensions(self, spec, channels, ndim):
        with pytest.raises(ValueError, match=r"channels=0|ndim="):
            spec.check(channels, ndim=ndim)

    def test_memory_format_changes_nothing_and_is_kept(self, layer):
        x = noise(2, C, 6, 5)
        last = x.to(memory_format=torch.channels_last)
        torch.testing.assert_close(layer(last), layer(x), rtol=1e-5, atol=1e-6)
        assert layer(x).is_contiguous()
        assert layer(last).is_contiguous(memory_format=torch.channels_last)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_half_precision_is_finite_and_close(self, layer, dtype):
        x = noise(2, C, 9, 8)
        out = copy.deepcopy(layer).to(dtype)(x.to(dtype))
        assert out.dtype == dtype
        torch.testing.assert_close(out.float(), layer(x), rtol=0.05, atol=0.05)

    @pytest.mark.parametrize(("spec", "space", "dtype"), LARGE)
    def test_half_precision_of_large_maps_is_finite(self, spec, space, dtype):
        """The sum of such a map is beyond half precision, its mean isn't."""
        torch.manual_seed(0)
        layer = spec.build(C, ndim=len(space)).eval()
        x = torch.full((1, C, *space), 20_000.0)
        assert layer.to(dtype)(x.to(dtype)).isfinite().all()

    def test_autocast_runs_and_keeps_the_type_of_the_map(self, layer):
        x = noise(2, C, 9, 8)
        with torch.autocast("cpu", torch.bfloat16):
            half, full = layer(x.bfloat16()), layer(x)
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), layer(x), rtol=0.05, atol=0.05)
        torch.testing.assert_close(full.float(), layer(x), rtol=0.05, atol=0.05)

    def test_is_deterministic(self, spec):
        layer = randomise(spec.build(C).train())

        def run():
            x = noise(4, C, 9, 8).requires_grad_()
            trained = copy.deepcopy(layer)
            trained(x).square().sum().backward()
            return [x.grad, *(p.grad for p in trained.parameters())]

        with deterministic():
            assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))

    @ONE_OF_EACH_KIND
    def test_compiles_to_one_graph_for_any_size(self, layer):
        torch.compiler.reset()
        compiled = torch.compile(layer, fullgraph=True, backend="eager", dynamic=True)
        for shape in ((2, C, 9, 8), (3, C, 12, 17)):
            torch.testing.assert_close(compiled(noise(*shape)), layer(noise(*shape)), rtol=1e-5, atol=1e-6)

    @ONE_OF_EACH_KIND
    def test_compiles_with_its_backward_pass(self, layer):
        # Of one size: with open ones the backward graph of strided convolutions takes a minute to make.
        torch.compiler.reset()
        results = []
        for run in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager")):
            layer.zero_grad()
            x = noise(2, C, 9, 8).requires_grad_()
            out = run(x)
            out.square().sum().backward()
            results.append([out, x.grad, *(p.grad.clone() for p in layer.parameters() if p.grad is not None)])
        for want, got in zip(*results, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)

    @ONE_OF_EACH_KIND
    def test_exports_with_batch_and_size_left_open(self, layer):
        # 9 is the least size that gather-excite's extent of 8 doesn't shrink to one
        sizes = {0: Dim("n", min=1, max=64), 2: Dim("h", min=9, max=512), 3: Dim("w", min=9, max=512)}
        exported = export(layer, (noise(2, C, 10, 12),), dynamic_shapes=(sizes,)).module()
        for shape in ((1, C, 20, 13), (5, C, 9, 32)):
            torch.testing.assert_close(exported(noise(*shape)), layer(noise(*shape)), rtol=1e-5, atol=1e-6)

    def test_copies_and_pickles(self, layer):
        x = noise(2, C, 9, 8)
        for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert torch.equal(twin(x), layer(x))

    def test_state_dict_carries_everything(self, spec, layer):
        other = spec.build(C).eval()
        other.load_state_dict(layer.state_dict())
        assert torch.equal(other(noise(2, C, 9, 8)), layer(noise(2, C, 9, 8)))

    def test_takes_an_empty_batch(self, layer):
        assert layer(torch.zeros(0, C, 5, 5)).shape == (0, C, 5, 5)


class TestSpecOfEachLayer:
    def test_survives_json(self, spec):
        assert from_dict(json.loads(json.dumps(spec.to_dict()))) == spec

    def test_fields_are_the_arguments_of_the_layer(self, spec):
        arguments = dict(inspect.signature(type(spec.build(C))).parameters)
        del arguments["channels"], arguments["ndim"]
        defaults = type(spec)().options()
        if spec.kind in COMPOSITIONS and spec.kind not in ("se", "eca", "ese"):
            assert set(defaults) <= set(arguments) - set(COMPOSITIONS[spec.kind])
        else:
            assert defaults == {name: argument.default for name, argument in arguments.items()}

    def test_check_needs_no_memory_and_no_random_numbers(self, spec):
        before = torch.get_rng_state()
        spec.check(2**14)  # eSE of that width would take a gigabyte
        assert torch.equal(before, torch.get_rng_state())

    @pytest.mark.parametrize("spec", [SE(), SE(init="identity"), GE(), ScSE(), CBAM(), BAM()], ids=str)
    def test_check_raises_what_build_raises(self, spec):
        too_large = replace(spec, reduction=C + 1)
        with pytest.raises(ValueError, match=r"reduction=17 leaves no hidden unit for channels=16; use 1\.\.16"):
            too_large.check(C)
        with pytest.raises(ValueError, match="reduction=17 leaves no hidden unit"):
            too_large.build(C)


class TestIdentityStart:
    def test_is_offered_wherever_a_spec_has_the_field(self):
        offered = {kind for kind, spec in ATTENTIONS.items() if "init" in {f.name for f in fields(spec)}}
        assert offered == {spec.kind for spec in IDENTITY.values()} == set(ATTENTIONS) - {"sk", "split", "simam"}

    @pytest.mark.parametrize("mode", ["train", "eval"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
    @pytest.mark.parametrize("spec", IDENTITY.values(), ids=IDENTITY.keys())
    def test_output_is_the_input_bit_for_bit(self, spec, dtype, mode):
        layer = getattr(spec.build(C).to(dtype), mode)()
        x = 100 * noise(3, C, 9, 8, dtype=dtype)
        assert torch.equal(layer(x), x)

    @pytest.mark.parametrize("spec", IDENTITY.values(), ids=IDENTITY.keys())
    def test_learns_from_the_first_step_and_everywhere_from_the_second(self, spec):
        torch.manual_seed(0)
        layer = spec.build(C).train()
        x, target = noise(8, C, 20, 20) + 0.5, noise(8, C, 20, 20, seed=1)
        step = torch.optim.SGD(layer.parameters(), lr=0.1)
        for first in (True, False):
            step.zero_grad()
            (layer(x) * target.cumsum(2)).mean().backward()
            moving = {name: bool(p.grad.abs().sum() > 0) for name, p in layer.named_parameters()}
            assert all(p.grad.isfinite().all() for p in layer.parameters())
            assert any(moving.values()) if first else all(moving.values()), moving
            step.step()


def test_se_compiles_forwards_and_backwards_for_any_size():
    torch.compiler.reset()
    layer = randomise(SE(reduction=4).build(C))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for shape in ((2, C, 9, 8), (3, C, 12, 17)):
        gradients = []
        for run in (layer, compiled):
            x = noise(*shape).requires_grad_()
            run(x).square().sum().backward()
            gradients.append(x.grad)
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_se_compiles_with_the_default_backend():
    layer = randomise(SE(reduction=4).build(C)).eval()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    torch.testing.assert_close(compiled(noise(2, C, 9, 8)), layer(noise(2, C, 9, 8)), rtol=1e-5, atol=1e-6)
