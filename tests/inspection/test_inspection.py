"""What an inspection finds, against the same computed by hand, and what its files hold."""

from __future__ import annotations

import base64
import csv
import json
import re
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from inspection_helpers import CLASSES, batches, network
from torch import nn

import senet
from senet.errors import SenetError, UnknownNameError
from senet.gates.statistics import GateStatistics
from senet.inspection import inspect, page
from senet.inspection.blocks import findings
from senet.inspection.curves import curves_of
from senet.inspection.freezing import try_freezing
from senet.inspection.sampling import evenly
from senet.nn import CBAM


def test_statistics_are_those_of_recorded_gates() -> None:
    model = network()
    result = inspect(model, batches(), CLASSES, examples=0)
    with senet.record_gates(model) as gates, torch.no_grad():
        for images, _ in batches():
            model(images)
    labels = torch.cat([labels for _, labels in batches()])
    assert [b.path for b in result.blocks] == list(gates)
    assert result.class_images == tuple(torch.bincount(labels, minlength=3).tolist())
    for block in result.blocks:
        gate = gates[block.path].double().flatten(1)
        assert block.mean == pytest.approx(float(gate.mean()), rel=1e-5)
        assert block.spread == pytest.approx(float(gate.var(0, correction=0).mean().sqrt()), rel=1e-4)
        means = torch.stack([gate[labels == k].mean(0) for k in labels.tolist()])
        share = float((means - gate.mean(0)).square().sum() / (gate - gate.mean(0)).square().sum())
        assert block.specificity == pytest.approx(share, rel=1e-4)
        assert block.channels == gate.shape[1]
        assert 0 < block.latency_share < 1


def test_costs_and_drift_are_those_of_freezing() -> None:
    model = network()
    few = batches(2)
    result = inspect(model, few, CLASSES, examples=2)
    report = senet.freeze(model, few)
    assert [(b.path, b.params, b.macs) for b in result.blocks] == [(g.path, g.params, g.macs) for g in report.gates]
    assert [b.drift for b in result.blocks] == pytest.approx([g.drift for g in report.gates], rel=1e-3)
    assert result.freezing.steps[-1].drift == pytest.approx(report.drift, rel=1e-3)
    assert result.freezing.steps[-1].params == report.params_saved
    assert result.freezing.images == report.images


def test_the_network_is_left_as_it_was() -> None:
    model = network().train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    inspect(model, batches(1), CLASSES, examples=2)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_alarms_in_words(inspected) -> None:
    texts = [finding.text for finding in inspected.findings if finding.level == "alarm"]
    assert "stages.2.1: all gates 0.5, so this block never learned" in texts
    assert "stages.4.2: all gates 0.98, so it rescales all channels alike; freezing it saves 2.13k parameters" in texts
    roles = {block.name: block.role for block in inspected.blocks}
    assert roles["stages.2.1"] == roles["stages.4.2"] == "constant"


def test_a_still_block_is_reported_with_its_cost() -> None:
    model = network()
    layer = model.get_submodule("stages.4.1.se")
    nn.init.zeros_(layer.fc2.weight)  # the channels differ, the images don't
    result = inspect(model, batches(1), CLASSES, examples=0)
    assert "stages.4.1 hardly varies: freezing it saves 2.13k parameters" in [f.text for f in result.findings]


def test_many_alarms_of_a_kind_share_one(inspected) -> None:
    varying = next(b for b in inspected.blocks if b.role != "constant")
    blocks = [replace(varying, path=f"{i}.se", name=str(i), role="still", params=i + 1) for i in range(50)]
    texts = [finding.text for finding in findings(blocks) if finding.level == "alarm"]
    assert texts[:-1] == [f"{i} hardly varies: freezing it saves {i + 1} parameters" for i in range(45, 50)]
    assert texts[-1] == "45 more blocks hardly vary; they have 1.03k parameters"  # 1 + ... + 45 = 1035
    assert len(findings(blocks[:6])) >= 6


def test_chance_is_not_taken_for_specificity() -> None:
    statistics = GateStatistics(50, classes=10)
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 10
    statistics.add(torch.rand(40, 50, generator=draw), 40, labels)
    from senet.inspection.blocks import corrected, role_of

    raw = float(statistics.between.sum() / statistics.variance.sum())
    assert raw > 0.2  # four images a class
    assert corrected(statistics, raw) < 0.05
    assert role_of(statistics, corrected(statistics, raw)) == "class-agnostic"


def test_others_layers_and_selective_kernels() -> None:
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.mobilenet_v3_small(num_classes=3)
    images = [(torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 0]))]
    result = inspect(model, images, CLASSES, outputs=CLASSES, examples=1)
    assert result.blocks[0].kind == "SqueezeExcitation"
    assert len(result.freezing.steps) == len(result.blocks) == 9
    assert result.examples[0].heat is not None
    kernels = network(attention=senet.SK(), placement="conv3x3")
    result = inspect(kernels, batches(1), CLASSES, examples=1)
    assert result.blocks[0].channels == 32  # 16 for each of two branches
    assert result.blocks[0].drift is None
    assert result.freezing.steps == ()


def test_errors_are_reported() -> None:
    with pytest.raises(SenetError, match="no attention layer"):
        inspect(nn.Conv2d(3, 3, 1), batches(1), CLASSES)
    with pytest.raises(SenetError, match="no images"):
        inspect(network(), [], CLASSES)
    with pytest.raises(UnknownNameError, match="cat"):
        inspect(network(), batches(1), CLASSES, chosen=["cut"])


def unpacked(text: str) -> tuple[dict, np.ndarray]:
    """The data of a page, and its class curves as numbers."""
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    planes = base64.b64decode(re.search(r'id="curves">(.*?)</script>', text, re.S)[1])
    if not data["plain_curves"]:
        planes = zlib.decompress(planes)
    return data, np.frombuffer(planes, np.uint8).reshape(2, -1).T.copy().view("<i2").ravel()


def test_the_pages_values_are_the_jsons(folder) -> None:
    text = (folder / "index.html").read_text()
    report = json.loads((folder / "report.json").read_text())
    data, numbers = unpacked(text)
    for key in ("blocks", "findings", "classes", "freezing", "images"):
        assert data[key] == report[key]
    at = 0
    for path, curve in data["curves"].items():
        expected = report["curves"][path]
        shape = (len(data["shown"]), len(curve["channels"]))
        size = shape[0] * shape[1]
        means, spreads = numbers[at : at + size].reshape(shape), numbers[at + size : at + 2 * size].reshape(shape)
        at += 2 * size
        mean = np.array(curve["mean"])
        np.testing.assert_array_equal((means + mean) / 1000, expected["class_mean"])
        np.testing.assert_array_equal(spreads / 1000, expected["class_spread"])
        np.testing.assert_array_equal(mean / 1000, expected["mean"])
    assert at == len(numbers)


def test_the_page_needs_nothing_and_escapes_names(folder) -> None:
    text = (folder / "index.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert text.count("</script>") == 3  # none of a class's name
    assert unpacked(text)[0]["classes"][2]["name"] == CLASSES[2]


def test_tables(folder, inspected) -> None:
    with open(folder / "blocks.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [block.name for block in inspected.blocks]
    assert float(rows[0]["spread"]) == pytest.approx(inspected.blocks[0].spread, rel=1e-5)
    with open(folder / "channels.csv", newline="") as file:
        channels = list(csv.DictReader(file))
    assert len(channels) == sum(block.channels for block in inspected.blocks)
    assert float(channels[0]["mean"]) == pytest.approx(float(inspected.channels[rows[0]["path"]][0][0]), rel=1e-5)


@pytest.mark.slow
def test_a_thousand_classes_and_fifty_blocks_fit(inspected) -> None:
    draw = torch.Generator().manual_seed(0)
    statistics = {}
    for number in range(50):
        found = statistics[f"layer{number}.se"] = GateStatistics(64, classes=1000)
        for _ in range(2):
            found.add(torch.rand(1000, 64, generator=draw), 1000, torch.arange(1000))
    big = replace(
        inspected,
        classes=tuple(f"class {k}" for k in range(1000)),
        class_images=(2,) * 1000,
        blocks=tuple(replace(inspected.blocks[0], path=path, name=path) for path in statistics),
        curves=curves_of(statistics, [3, 700]),
    )
    text = page(big)
    assert len(text) < 10_000_000
    data, numbers = unpacked(text)
    assert len(data["shown"]) == 1000
    assert all(len(curve["channels"]) == 50 for curve in data["curves"].values())
    assert len(numbers) == 2 * 1000 * 50 * 50


def test_numbers_are_drawn_evenly() -> None:
    assert evenly(10, 4) == [0, 3, 6, 9]
    assert evenly(3, 50) == [0, 1, 2]
    assert evenly(2048, 50)[-1] == 2047
    assert evenly(5, 0) == []


def test_freezing_is_tried_where_the_network_calls_attention_by_keyword() -> None:
    class ByKeyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.se = senet.SE(reduction=2).build(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.se(x=x)

    model, images = ByKeyword().eval(), torch.rand(3, 4, 5, 5)
    statistics = GateStatistics(4)
    statistics.add(model.se.gate(images), 3)
    _, alone = try_freezing(model, {"se": model.se}, {"se": statistics}, {"se": (1, 1)}, images)
    constant = images * statistics.mean.float()[:, None, None]
    expected = (constant - model(images)).square().sum().sqrt() / model(images).square().sum().sqrt()
    assert alone["se"] == pytest.approx(float(expected), rel=1e-4)


def test_a_gate_over_positions_is_a_picture() -> None:
    model = network(attention=CBAM(reduction=4), depth=1)
    images, labels = batches(1)[0]
    found = inspect(model, [(images, labels)], CLASSES, examples=2)
    [path, *_] = [block.path for block in found.blocks]
    with senet.record_gates(model) as gates:
        model(images)
    first = next(i for i, label in enumerate(labels.tolist()) if CLASSES[label] == found.examples[0].label)
    small = F.adaptive_avg_pool2d(gates[path][first].mean(0, keepdim=True), 16)[0]
    shown = found.examples[0].spatial[path]
    assert shown.heat.size == (16, 16)
    assert (shown.least, shown.largest) == pytest.approx((float(small.min()), float(small.max())), abs=1e-3)
    assert shown.least < shown.largest
    pixels = np.frombuffer(base64.b64decode(shown.heat.values), np.uint8).reshape(16, 16)
    want = (255 * (small - small.min()) / (small.max() - small.min())).numpy()
    assert np.abs(pixels - want).max() <= 1
    assert '"spatial":{"' in page(found)


def test_a_gate_by_channel_is_no_picture(inspected) -> None:
    assert all(example.spatial == {} for example in inspected.examples)
