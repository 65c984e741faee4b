"""Frozen parts of a network: what stays, what learns at which rate, and that a resumed run repeats."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from equality import assert_equal
from safetensors.torch import load_file
from torch import nn

from senet.cli import main
from senet.errors import SenetError
from senet.fusion import accelerate
from senet.nn import SqueezeExcite
from senet.ops import choose
from senet.training.freezing import Freezing, trained_part
from senet.training.layers import find_layers
from senet.training.module import TrainingModule
from senet.training.optim import make_optimizer, make_schedule
from senet.training.recipe import Recipe, RunOptions
from senet.zoo import create_model

IMAGE = [torch.zeros(1, 3, 32, 32)]


class Own(nn.Module):
    """A user's network: the classifier is registered first, and one module takes no part in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(8, 5)
        self.body = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), nn.Conv2d(4, 8, 3))
        self.auxiliary = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.body(x).mean((2, 3)))


@pytest.mark.parametrize("freeze", ["backbone", "stages.2"])
def test_frozen_parts_keep_weights_and_running_statistics(train, freeze):
    _, folder = train(freeze=freeze, ema_decay=0.9, epochs=1)
    torch.manual_seed(0)
    options = {"depth": 1, "widths": [16, 32], "attention": {"kind": "se", "reduction": 4}}
    before = create_model("cifar_resnet20", in_channels=1, num_classes=10, **options).state_dict()
    after = load_file(folder / "last.safetensors")
    changed = {key for key, tensor in before.items() if not torch.equal(tensor, after[key])}
    assert {"head.fc.weight", "head.fc.bias"} <= changed
    frozen = ("stem.", "stages.2.", "stages.3.") if freeze == "backbone" else ("stem.", "stages.2.")
    assert not [key for key in changed if key.startswith(frozen)]
    free = {key for key in before if not key.startswith(frozen)}
    assert changed == free, "all others learn, and their statistics follow"


def test_frozen_norms_of_a_classifier(train):
    _, folder = train(freeze_bn=True, epochs=1)
    after = load_file(folder / "last.safetensors")
    assert float(after["stem.1.running_var"].sub(1).abs().max()) == 0
    assert float(after["stem.1.weight"].sub(1).abs().max()) == 0


@pytest.mark.parametrize("epoch", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_resumed_unfreezing_is_the_same_to_the_bit(train, monkeypatch, epoch):
    changes = {"freeze": "backbone", "unfreeze_after": 1, "epochs": 2, "ema_decay": 0.9, "optimizer": "adamw",
               "backbone_lr_factor": 0.5, "layer_decay": 0.9, "lr": 1e-3}  # fmt: skip
    _, whole = train(how=RunOptions(workers=0), **changes)
    original = TrainingModule.training_step

    def killed(self, images, number):
        if (self.current_epoch, number) == (epoch, 3):  # a state is saved after two steps of an epoch
            raise RuntimeError("killed")
        return original(self, images, number)

    monkeypatch.setattr(TrainingModule, "training_step", killed)
    folder = whole.parent / "killed"
    folder.mkdir()
    with pytest.raises(RuntimeError, match="killed"):
        train(how=RunOptions(workers=0, save_every="2"), resume=folder, **changes)
    monkeypatch.setattr(TrainingModule, "training_step", original)
    train(how=RunOptions(workers=0), resume=folder, **changes)
    assert_equal(folder, whole)


def test_a_user_s_network_is_ordered_by_its_computation():
    model = Own()
    layers = find_layers(model, IMAGE)
    assert {name.split(".")[0] for name in layers.head} == {"classifier", "auxiliary"}
    assert [layers.number[name] for name in ("body.0.0.weight", "body.1.weight", "classifier.weight")] == [0, 1, 2]
    assert layers.up_to("body.0") == {"body.0.0.weight", "body.0.0.bias", "body.0.1.weight", "body.0.1.bias"}
    assert trained_part(model, layers, Recipe(freeze="backbone")) == "head only: 90 of 506 parameters"
    with pytest.raises(SenetError, match=r"freeze='layer9' is no part of this network; use backbone, body\.0, body\.1"):
        Freezing(model, layers, Recipe(freeze="layer9"))
    assert not model.classifier._forward_pre_hooks
    assert model.training


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "mobilenetv3_small_050"])
def test_layer_decay_is_timm_s(name):
    timm, optim = pytest.importorskip("timm"), pytest.importorskip("timm.optim")
    model = timm.create_model(name, num_classes=7)
    scales = find_layers(model, [torch.zeros(1, 3, 64, 64)]).scales(backbone=1.0, decay=0.7)
    names = {id(p): key for key, p in model.named_parameters()}
    for group in optim.param_groups_layer_decay(model, layer_decay=0.7):
        for p in group["params"]:
            assert scales[names[id(p)]] == pytest.approx(group["lr_scale"], rel=1e-9), names[id(p)]


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine"])
def test_rates_keep_their_ratio_and_the_first_is_the_largest(schedule):
    model = Own()
    recipe = Recipe(schedule=schedule, backbone_lr_factor=0.1, layer_decay=0.5)
    layers = find_layers(model, IMAGE)
    optimizer = make_optimizer(model, recipe, scales=layers.scales(backbone=0.1, decay=0.5))
    make_schedule(optimizer, recipe, 100)
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    top = rates["classifier.weight"]
    assert optimizer.param_groups[0]["lr"] == top
    assert rates["body.1.weight"] == pytest.approx(top * 0.1 * 0.5)
    assert rates["body.0.0.weight"] == pytest.approx(top * 0.1 * 0.25)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)


def random_network(seed: int = 0) -> nn.Module:
    """An SE network whose norms and gates are random too."""
    torch.manual_seed(seed)
    model = create_model("se_mobilenet_v1_025", num_classes=5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
        elif isinstance(module, SqueezeExcite):
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=0.3)
    return model


def largest_error(found: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> float:
    """Largest relative error of a gradient."""
    return max(float((found[n] - g).norm() / g.norm().clamp_min(1e-12)) for n, g in exact.items())


@pytest.mark.skipif(choose().library is None, reason="no compiled kernel")
@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(freeze="stages.3"),
        Recipe(freeze_bn=True),
        pytest.param(Recipe(freeze="backbone"), marks=pytest.mark.slow),
    ],
)
def test_fused_operators_have_the_gradients_of_a_frozen_network(recipe):
    model = random_network()
    images, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 3])
    found = []
    for fused, dtype in ((False, torch.float64), (False, torch.float32), (True, torch.float32)):
        one = copy.deepcopy(model).to(dtype)
        Freezing(one, find_layers(one, [images[:1]]), recipe).apply(0)
        report = accelerate(one, [images[:1]]) if fused else None
        assert report is None or report.fused
        nn.functional.cross_entropy(one(images.to(dtype)), labels).backward()
        found.append(({n: p.grad for n, p in one.named_parameters() if p.grad is not None}, dict(one.named_buffers())))
    (exact, _), (plain, statistics), (fused, others) = found
    assert exact.keys() == plain.keys() == fused.keys()
    # Eval-mode norms in front make rounding grow.
    assert largest_error(fused, exact) <= 4 * largest_error(plain, exact) + 1e-5
    before = dict(model.named_buffers())
    for name, buffer in others.items():
        assert torch.allclose(buffer.double(), statistics[name].double(), rtol=1e-3, atol=1e-4), name
        if recipe.freeze != "stages.3":
            assert torch.equal(buffer, before[name]), name


@pytest.mark.slow
@pytest.mark.skipif(choose().library is None, reason="no compiled kernel")
@pytest.mark.parametrize("seed", [0, 1])
def test_each_fused_block_behind_frozen_stages_has_float64s_gradients(seed):
    """The whole network can't show a fault at 160 px: there most channels of the trained norms vary by less than eps.

    Rounding the activations to float32 then changes whole gradients by 20 %. So each block gets the same input and the
    same gradient of its output.
    """
    model, images, labels = random_network(seed), torch.randn(8, 3, 160, 160), torch.arange(8) % 5
    networks, passed = {}, {}
    for name, dtype in (("exact", torch.float64), ("plain", torch.float32), ("fused", torch.float32)):
        networks[name] = one = copy.deepcopy(model).to(dtype, memory_format=torch.channels_last)
        Freezing(one, find_layers(one, [images[:1].to(dtype)]), Recipe(freeze="stages.3")).apply(0)
    assert len(accelerate(networks["fused"], [images[:1].contiguous(memory_format=torch.channels_last)]).fused) == 13
    paths = [path for path, _ in model.named_modules() if path.startswith(("stages.4.", "stages.5."))]
    blocks = [path for path in paths if path.count(".") == 2]

    def keep(path, given, output):
        passed[path] = [given.detach().float()]
        output.register_hook(lambda gradient: passed[path].append(gradient.float()))

    hooks = [
        networks["exact"]
        .get_submodule(path)
        .register_forward_hook(lambda _, given, output, path=path: keep(path, given[0], output))
        for path in blocks
    ]
    nn.functional.cross_entropy(networks["exact"](images.double()), labels).backward()
    for hook in hooks:
        hook.remove()
    differ = 0
    for path in blocks:
        given, gradient = passed[path]
        gradients, outputs = {}, {}
        for name, network in networks.items():
            block, dtype = network.get_submodule(path), next(network.parameters()).dtype
            block.zero_grad()
            x = given.to(dtype).clone(memory_format=torch.channels_last).requires_grad_()
            outputs[name] = block(x)
            outputs[name].backward(gradient.to(dtype))
            gradients[name] = {"": x.grad} | {n: p.grad for n, p in block.named_parameters()}
        differ += not torch.equal(outputs["plain"], outputs["fused"])
        plain, fused = (largest_error(gradients[name], gradients["exact"]) for name in ("plain", "fused"))
        assert fused <= 4 * plain + 1e-5, path
        assert fused < 2e-3, path
    assert differ, "the operator rounds otherwise: it has run"


def test_contradictions_are_refused():
    for changes, message in (
        ({"freeze": "backbone", "train": "attention"}, "both choose what trains"),
        ({"unfreeze_after": 2}, "no effect without freeze"),
        ({"freeze": "backbone", "unfreeze_after": 30}, "less than epochs=30"),
        ({"layer_decay": 0.0}, "layer_decay"),
        ({"backbone_lr_factor": 0.0}, "backbone_lr_factor"),
    ):
        with pytest.raises(SenetError, match=message):
            replace(Recipe(epochs=30), **changes)


def test_sharded_networks_do_not_unfreeze(train):
    with pytest.raises(SenetError, match="not possible under fsdp"):
        train(how=RunOptions(workers=0, strategy="fsdp"), freeze="backbone", unfreeze_after=1)


def test_trained_weights_select_the_recipe_and_the_plan_says_what_trains(plain, capsys, tmp_path):
    given = ["train", "--checkpoint", str(plain[1]), "--data", "digits", "--dry-run", "--out", str(tmp_path / "new")]
    assert main([*given, "--freeze", "backbone"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "optimizer adamw" in said
    assert "backbone-lr-factor 0.1" in said
    assert "training head only: 330 of" in said
    assert main([*given, "--recipe", "digits"]) == 0
    assert "optimizer sgd" in " ".join(capsys.readouterr().out.split()), "an explicit recipe is kept"
