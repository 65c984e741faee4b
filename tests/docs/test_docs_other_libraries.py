"""The programs of the guide "With other libraries" run as written, where the library is installed."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from page_fences import DOCS, fences
from PIL import Image

import senet
from senet.gates import gated_layers

pytestmark = pytest.mark.slow

CLASSES = ("rose", "tulip")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))  # read at the import
    torch.manual_seed(0)


def run_section(library: str) -> list[dict[str, object]]:
    """Run the blocks that need a library, and return the names that exist after each."""
    names: dict[str, object] = {"__name__": "__main__"}
    found = []
    for fence in fences("guides/other-libraries.md"):
        if fence.no_run == f"needs {library}":
            exec(compile(fence.code, library, "exec"), names)
            found.append(dict(names))
    return found


def draw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((64, 64), 80).convert("RGB").save(path)


def weights_of_gates(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p for layer in gated_layers(model).values() for p in layer.parameters()]


def randomize(model: torch.nn.Module) -> None:
    """Give gates and normalisation values that no other ones can stand for."""
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.running_mean.normal_(std=0.1)
                layer.running_var.uniform_(0.5, 1.5)
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.normal_(std=0.1)
        for parameter in weights_of_gates(model):
            parameter.normal_(std=0.5)


def test_fastai(capsys):
    fastai = pytest.importorskip("fastai.vision.all", reason="fastai isn't installed (pip install fastai)")
    for name in CLASSES:
        for number in range(4):
            draw(Path("flowers", name, f"{number}.png"))
    by_name, whole = (names["learner"] for names in run_section("fastai"))
    assert "8 gates" in capsys.readouterr().out
    assert [len(learner.opt.param_groups) for learner in (by_name, whole)] == [2, 1]
    for learner in (by_name, whole):
        moments = [learner.opt.state[p]["sqr_avg"] for p in weights_of_gates(learner.model)]
        assert len(moments) == 8 * 4
        assert all(moment.max() > 0 for moment in moments), "each gate got a gradient"
    network = senet.create_model("se_resnet18")
    with pytest.raises(StopIteration, match="No weight layer"):
        fastai.vision_learner(whole.dls, lambda pretrained: network, pretrained=False)


def test_ultralytics(tmp_path, capsys):
    pytest.importorskip("ultralytics", reason="ultralytics isn't installed (pip install ultralytics)")
    for number in range(2):
        draw(Path("blood", "images", f"{number}.png"))
        path = Path("blood", "labels", f"{number}.txt")
        path.parent.mkdir(exist_ok=True)
        path.write_text("0 0.5 0.5 0.4 0.4\n")
    Path("blood.yaml").write_text(f"path: {tmp_path}/blood\ntrain: images\nval: images\nnames: [cell]\n")
    [names] = run_section("ultralytics")
    trained = names["trained"].model.eval()
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("10 gates, ")
    assert float(line.split()[-1]) > 0, "the gates learned"

    randomize(trained.double())
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    fused = copy.deepcopy(trained).fuse()
    assert not [name for name, layer in fused.named_modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        expected = trained(image)[0]
        torch.testing.assert_close(fused(image)[0], expected, atol=1e-9, rtol=1e-9)
        for parameter in weights_of_gates(fused):
            parameter.zero_()
        assert (fused(image)[0] - expected).abs().max() > 1e-4, "the gates count"


def test_mmengine(capsys):
    pytest.importorskip("mmengine", reason="mmengine isn't installed (pip install mmengine)")
    run_section("mmengine")
    printed = capsys.readouterr().out.strip()
    assert printed.startswith("[(1, 256, 16, 16)")
    assert f"The output is `{printed}`" in (DOCS / "guides/other-libraries.md").read_text(encoding="utf-8")
