"""Nothing needs float64 on the device of the network, and the results are those of the CPU."""

from __future__ import annotations

import copy
import re
import tokenize
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from no_float64 import OnDevice, without_float64
from torch import Tensor, nn

import senet
from senet.comparison.sizes import Moments
from senet.data import Subset, open_data
from senet.gates import GateStatistics
from senet.inference import evaluate
from senet.inspection import inspect
from senet.profiling import cost, time_interleaved
from senet.tasks import task_named
from senet.weights import CheckpointMetadata
from senet.weights.rules import Translation
from senet.zoo import LoadedModel

IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def randomised(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.ndim == 1:
            tensor.data.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith("fc2.weight"):
            tensor.data.normal_(0, 0.5, generator=generator)
    return model.eval()


def network(name: str = "se_cifar_resnet20", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return randomised(senet.create_model(name, num_classes=3, **options))


def test_the_device_refuses_float64():
    with without_float64() as device:
        x = IMAGES.to(device)
        assert (type(x), x.device) == (OnDevice, device)
        assert torch.equal((x + 1).cpu(), IMAGES + 1)
        for refused in (
            lambda: x.double(),
            lambda: x.to("cpu", torch.float64),
            lambda: IMAGES.double().to(device),
            lambda: torch.zeros(2, dtype=torch.float64, device=device),
            lambda: x.sum(dtype=torch.float64),
        ):
            with pytest.raises(TypeError, match="no float64"):
                refused()


def frozen(model: nn.Module, x: Tensor) -> Any:
    report = senet.freeze(model, [x])
    return [gate.mean for gate in report.gates], report.drift, model(x)


def pruned(budget: str, limit: float) -> Callable[[nn.Module, Tensor], Any]:
    def run(model: nn.Module, x: Tensor) -> Any:
        report = senet.prune(model, [x], {budget: limit})
        return [gate.frozen for gate in report.gates], report.drift, model(x)

    return run


def inspected(model: nn.Module, x: Tensor) -> Any:
    result = inspect(model, [(x, torch.tensor([0, 1, 2, 0]))], ["a", "b", "c"], examples=2)
    blocks = [(block.mean, block.spread, block.specificity, block.drift) for block in result.blocks]
    return blocks, result.freezing.steps[-1].drift


def optimized(model: nn.Module, x: Tensor) -> Any:
    fast, _ = senet.optimize(model)
    return fast(x)


def retrofitted(model: nn.Module, x: Tensor) -> Any:
    senet.remove(model)
    senet.retrofit(model, example_inputs=[x])
    return model(x)


def counted(model: nn.Module, x: Tensor) -> Any:
    return cost(model, (3, 16, 16)).macs, cost(model, example_inputs=[x]).macs


def recorded(model: nn.Module, x: Tensor) -> Any:
    with senet.record_gates(model) as gates:
        y = model(x)
    return y, *(gates[path] for path in gates)


def accelerated(model: nn.Module, x: Tensor) -> Any:
    senet.accelerate(model, [x])
    return model(x)


def learned(model: nn.Module, x: Tensor) -> Any:
    model.train()
    model(x).square().sum().backward()
    return [p.grad for p in model.parameters()]


def timed(model: nn.Module, x: Tensor) -> Any:
    time_interleaved({"model": lambda: model(x)}, seconds=0, device=x.device)


USES = {
    "freeze": frozen,
    "prune-drift": pruned("drift", 0.1),
    "prune-params": pruned("params", 500),
    "inspect": inspected,
    "optimize": optimized,
    "retrofit": retrofitted,
    "cost": counted,
    "record": recorded,
    "accelerate": accelerated,
    "train": learned,
    "time": timed,
}


@pytest.mark.parametrize("name", ["se_cifar_resnet20", "se_mobilenet_v1_025", "se_resnet50"])
@pytest.mark.parametrize("use", USES)
def test_a_network_on_the_device(use, name):
    options = {"se_cifar_resnet20": {"depth": 1}, "se_resnet50": {"depths": (1, 1)}}.get(name, {})
    expected = USES[use](network(name, **options), IMAGES)
    with without_float64() as device:
        found = USES[use](network(name, **options).to(device), IMAGES.to(device))
        found = torch.utils._pytree.tree_map_only(Tensor, lambda t: t.detach().cpu(), found)
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("spec", ["ECA", "ESE", "GE", "CBAM", "BAM", "ScSE", "SpatialSE", "SK"])
def test_layers_on_the_device(spec):
    torch.manual_seed(0)
    layer = getattr(senet, spec, None) or getattr(__import__("senet.nn", fromlist=[spec]), spec)
    layer = randomised(layer().build(16))
    x = torch.rand(2, 16, 16, 16)
    with without_float64() as device:
        found = copy.deepcopy(layer).to(device)(x.to(device)).cpu()
    torch.testing.assert_close(found, layer(x))


def test_statistics():
    gate, labels = torch.rand(6, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0, 2, 2])
    expected, found = (GateStatistics(5, 3) for _ in range(2))
    expected.add(gate, 6, labels)
    moments = Moments()
    with without_float64() as device:
        found.add(gate.to(device), 6, labels.to(device))
        moments.add(gate.to(device))
    assert torch.equal(found.mean, expected.mean)
    assert torch.equal(found.variance, expected.variance)
    torch.testing.assert_close(moments.mean, gate.double().mean(0), rtol=1e-12, atol=0)


def test_weights_from_the_device(tmp_path):
    """A checkpoint's tensors may lie on the device, as `state_dict()` of a network there."""
    model = network(depth=1)
    with without_float64() as device:
        state = copy.deepcopy(model).to(device).state_dict()
        target = senet.create_model("se_cifar_resnet20", num_classes=3, depth=1).to(device)
        senet.load_weights(target, state)
        found = {name: tensor.cpu() for name, tensor in target.state_dict().items()}
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


def test_a_bias_before_a_norm():
    mean, bias = torch.rand(5), torch.rand(5)
    with without_float64() as device:
        found = Translation({"mean": mean.to(device)}, {}, [], {"mean": ("bias", bias.to(device))}).fold("mean")
    assert torch.equal(found, mean.double() - bias.double())


HOST = {
    "deploy/parity.py": "detections on the CPU, where files run",
    "gates/statistics.py": "its sums, and counts of labels, which are on the CPU",
    "nn/precision.py": "`in_float64` itself",
    "profiling/count.py": "a copy on the CPU",
    "tasks/distillation.py": "a few numbers of a preprocessing",
    "tasks/label_metrics.py": "copies on the CPU",
    "training/batch_norm_kernels.py": "keeps the type of its input",
    "weights/average.py": "tensors of files",
    "weights/from_caffe.py": "tensors of a file",
    "weights/values.py": "types in files",
}
"""Files that name float64, and why that needs no device."""


def test_float64_has_its_places():
    """A new use goes through `in_float64`, or its tensors are on the CPU and its file is listed here."""
    source = Path(senet.__file__).parent
    use = re.compile(r"\. double \( \)|(?<!np \. )\bfloat64\b|torch \. double\b")
    found = {file.relative_to(source).as_posix() for file in source.rglob("*.py") if use.search(code_of(file))}
    assert found <= HOST.keys()
    assert "nn/precision.py" in found


def code_of(file: Path) -> str:
    """The code with spaces between its tokens, without comments and strings."""
    text = (tokenize.COMMENT, tokenize.STRING)
    with tokenize.open(file) as lines:
        return " ".join(t.string for t in tokenize.generate_tokens(lines.readline) if t.type not in text)


@pytest.fixture(scope="module")
def digits():
    data = open_data("digits")
    return replace(data, val=Subset(data.val, np.arange(30)))


def test_evaluation_and_prediction(digits):
    model = randomised(senet.create_model("se_cifar_resnet20", depth=1, in_channels=1, num_classes=10))
    images = digits.default_preprocessing
    metadata = CheckpointMetadata(model="se_cifar_resnet20", classes=digits.classes, preprocessing=images)

    def evaluated() -> dict[str, Any]:
        loaded = LoadedModel(copy.deepcopy(model), digits.classes, images, metadata)
        result = asdict(evaluate(loaded, digits.val, digits.classes, workers=0))
        del result["seconds"]
        return result

    expected = evaluated()
    with without_float64():
        found = evaluated()
    assert found["confusion"] == expected["confusion"]
    assert found["loss"] == pytest.approx(expected["loss"])


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_metrics_of_dense_tasks(task):
    torch.manual_seed(0)
    classes = ("sky", "bird", "tree")
    images = [torch.rand(3, 32, 48), torch.rand(3, 40, 32)]
    if task == "segmentation":
        targets = [{"mask": torch.randint(0, 3, image.shape[1:], dtype=torch.uint8)} for image in images]
    else:
        targets = [
            {
                "boxes": torch.tensor([[2.0, 3.0, 20.0, 24.0], [1.0, 1.0, 9.0, 9.0]]),
                "labels": torch.tensor([0, 2]),
                "crowd": torch.tensor([False, False]),
                "difficult": torch.tensor([False, True]),
            }
            for _ in images
        ]

    class Fixed(nn.Module):
        """Answers the truth, with one mistake."""

        def forward(self, x: Any, _: Any = None) -> Any:
            if task == "segmentation":
                return torch.sin(torch.arange(3.0).to(x.device)[None, :, None, None] * x.mean(1, keepdim=True) * 40)
            boxes = targets[0]["boxes"].to(x[0].device)
            return [{"boxes": boxes + 1, "labels": torch.tensor([1, 2]).to(boxes.device),
                     "scores": torch.tensor([0.9, 0.8]).to(boxes.device)} for _ in x]  # fmt: skip

    def measured(device: torch.device) -> dict[str, float]:
        objective = task_named(task).objective(classes, alone=True).to(device)
        batch = SimpleNamespace(
            images=[image.to(device) for image in images],
            targets=[{key: value.to(device) for key, value in target.items()} for target in targets],
            valid=torch.tensor([True, True]),
        )
        objective.validation_step(Fixed(), batch)
        return {name: float(value) for name, value in objective.val_metrics().items()}

    expected = measured(torch.device("cpu"))
    with without_float64() as device:
        assert measured(device) == pytest.approx(expected)
    assert 0 < min(expected.values()) < 1
