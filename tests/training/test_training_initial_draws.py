"""Initial weights of a training: each parameter depends on the seed and its name, whatever other layers there are."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

import senet
from senet.data import open_data
from senet.data.randomness import derive_seed
from senet.surgery import plan
from senet.training.initial_draws import InitialDraws
from senet.training.job import DataOptions, Job
from senet.training.model_initialization import ModelInitialization
from senet.training.recipe import Recipe, RunOptions
from senet.weights import CheckpointMetadata, write_checkpoint
from senet.zoo import build_model


@pytest.fixture(scope="module")
def digits():
    return open_data("digits")


def start(init: ModelInitialization, digits, seed: int = 0) -> dict[str, torch.Tensor]:
    """The weights that `senet train` begins with."""
    job = Job(source=DataOptions(data="digits"), network=init, recipe=Recipe(seed=seed), run=RunOptions())
    return job.build(digits).model.state_dict()


def scratch(model: str, **options: object) -> ModelInitialization:
    return ModelInitialization.from_scratch(model, options)


def with_surgery(model: str) -> ModelInitialization:
    report = plan(build_model(model, num_classes=10))
    return ModelInitialization(model=model, inserted=[point.to_dict() for point in report.inserted])


SE_HERE = {"kind": "se", "reduction": 4, "init": "identity"}
PAIRS = {
    "resnet": lambda: (scratch("cifar_resnet20"), scratch("se_cifar_resnet20")),
    "reduction": lambda: (scratch("cifar_resnet20", attention=SE_HERE), scratch("se_cifar_resnet20")),
    "other attention": lambda: (scratch("cifar_resnet20"), scratch("cifar_resnet20", attention={"kind": "cbam"})),
    "placement": lambda: (scratch("se_cifar_resnet20", placement="pre"), scratch("se_cifar_resnet20")),
    "depthwise": lambda: (scratch("mobilenet_v1"), scratch("se_mobilenet_v1")),
    "timm": lambda: (scratch("timm:resnet18"), scratch("timm:legacy_seresnet18")),
    "torchvision": lambda: (scratch("torchvision:shufflenet_v2_x0_5"), with_surgery("torchvision:shufflenet_v2_x0_5")),
}  # fmt: skip


def is_random(values: torch.Tensor) -> bool:
    return len(values.unique()) > 1


@pytest.mark.parametrize("pair", PAIRS)
def test_layers_that_both_networks_have_begin_alike(pair, digits):
    plain, other = (start(init, digits) for init in PAIRS[pair]())
    common = [key for key in plain if key in other and other[key].shape == plain[key].shape]
    random = [key for key in common if is_random(plain[key]) and is_random(other[key])]
    assert len(random) >= 18
    assert [key for key in random if not torch.equal(plain[key], other[key])] == []


def test_each_parameter_and_each_seed_has_weights_of_its_own(digits):
    weights = start(scratch("se_cifar_resnet20"), digits)
    blocks = [weights[f"stages.2.{block}.branch.conv{number}.weight"] for block in range(3) for number in (1, 2)]
    assert not any(torch.equal(one, other) for one, other in pairwise(blocks))
    others = start(scratch("se_cifar_resnet20"), digits, seed=1)
    assert not torch.equal(weights["head.fc.weight"], others["head.fc.weight"])


def test_they_are_the_network_s_own_draws_with_the_parameter_s_generator(digits):
    weights = start(scratch("se_cifar_resnet20"), digits, seed=3)
    for name, weight in weights.items():
        if weight.ndim != 4:
            continue
        torch.manual_seed(derive_seed("initial", 3, name))
        expected = nn.init.kaiming_normal_(torch.empty_like(weight), mode="fan_out", nonlinearity="relu")
        assert torch.equal(weight, expected), name


@pytest.mark.parametrize("name", ["se_cifar_resnet20", "se_mobilenet_v1", "timm:test_efficientnet", "timm:test_vit"])
def test_the_distribution_stays_the_network_s(name):
    torch.manual_seed(0)
    with InitialDraws() as draws:
        model = build_model(name, num_classes=10)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    draws.repeat(model, 0)
    changed = 0
    for key, value in model.state_dict().items():
        was, now = before[key].flatten(), value.flatten()
        if not is_random(was):
            assert len(was) == 1 or torch.equal(now, was), key
            continue
        assert not torch.equal(now, was), key
        changed += 1
        if (count := now.numel()) >= 64:  # six standard errors; a kurtosis of 3 bounds that of the variance
            scale = was.double().std()
            assert abs(now.double().mean() - was.double().mean()) < 6 * scale * math.sqrt(2 / count), key
            assert abs(now.double().std() / scale - 1) < 6 * math.sqrt(1 / count), key
            assert now.abs().max() < 2.5 * was.abs().max(), key
    assert changed > 15


class Odd(nn.Module):
    """Initialized in ways that can be repeated, and in ways that can't."""

    def __init__(self) -> None:
        super().__init__()
        self.truncated = nn.Parameter(nn.init.trunc_normal_(torch.empty(64), std=0.02))
        self.two_parts = nn.Parameter(torch.zeros(64))
        self.scaled = nn.Linear(8, 8)
        self.tied = self.scaled
        self.orthogonal = nn.Parameter(nn.init.orthogonal_(torch.empty(8, 8)))
        self.own = nn.Parameter(torch.empty(64).normal_(generator=torch.Generator().manual_seed(5)))
        self.read = nn.Linear(8, 8)
        self.normed = nn.Parameter(torch.randn(64))
        with torch.no_grad():
            self.two_parts[:32].normal_()
            self.two_parts[32:].uniform_(2, 3)
            self.scaled.weight.mul_(100)
            self.read.load_state_dict({"weight": torch.eye(8), "bias": torch.ones(8)})
            self.normed.normal_()
            self.normed.div_(self.normed.norm())


def test_what_a_users_network_does_is_kept():
    torch.manual_seed(0)
    with InitialDraws() as draws:
        model = Odd()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    draws.repeat(model, 0)
    now = model.state_dict()
    kept = {key for key in now if torch.equal(now[key], before[key])}
    assert kept == {"orthogonal", "own", "read.weight", "read.bias", "normed"}
    assert now["truncated"].abs().max() <= 2
    assert 0.01 < now["truncated"].std() < 0.04
    assert now["two_parts"][:32].mean() < 1
    assert 2 <= now["two_parts"][32:].min() <= now["two_parts"].max() <= 3
    assert 10 < now["scaled.weight"].abs().max() <= 100 / math.sqrt(8)
    assert torch.equal(now["tied.weight"], now["scaled.weight"])
    after = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(3)), "later draws don't depend on how many there were"


def test_layers_whose_shape_the_first_image_tells_draw_later():
    def first_weights(*names: str) -> torch.Tensor:
        with InitialDraws() as draws:
            model = nn.ModuleDict({name: nn.Linear(4, 4) for name in names} | {"lazy": nn.LazyLinear(4)})
        draws.repeat(model, 0)
        model["lazy"](torch.zeros(2, 4))
        return model["lazy"].weight

    assert torch.equal(first_weights(), first_weights("se"))


BUILDS = {
    "scripted": lambda: torch.jit.script(nn.Linear(4, 4)),
    "parametrized": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
    "inference": torch.inference_mode()(lambda: nn.Linear(4, 4)),
}


@pytest.mark.parametrize("build", BUILDS)
def test_networks_of_other_kinds_are_built_too(build):
    with InitialDraws() as draws:
        model = BUILDS[build]()
    draws.repeat(model, 0)
    assert model(torch.rand(2, 4)).shape == (2, 4)


def test_weights_of_a_checkpoint_are_kept_and_its_new_head_is_the_same_with_attention(tmp_path, digits):
    trained = senet.create_model("cifar_resnet20", depth=1, num_classes=3)
    metadata = CheckpointMetadata(
        model="cifar_resnet20",
        options={"depth": 1},
        classes=("a", "b", "c"),
        preprocessing=trained.spec.preprocessing,
    )
    write_checkpoint(tmp_path / "x.safetensors", trained.state_dict(), metadata)
    init = ModelInitialization.from_checkpoint(str(tmp_path / "x.safetensors"))
    points = plan(trained).inserted
    plain = start(init, digits)
    tuned = start(ModelInitialization(**vars(init) | {"inserted": [point.to_dict() for point in points]}), digits)
    assert plain["head.fc.weight"].shape == (10, 64)
    for key, value in plain.items():
        assert torch.equal(value, tuned[key]), key
        assert key.startswith("head.fc") or torch.equal(value, trained.state_dict()[key]), key
