"""`senet retrofit`: surgery on trained networks, fine-tuned, evaluated before and after, stopped and gone on with."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import senet as package
from senet.cli import main
from senet.data import Subset, hold_out, open_data, write_images
from senet.inference import evaluate
from senet.nn import SqueezeExcite
from senet.training.module import TrainingModule

SHORT = ("--epochs", "1", "--batch-size", "64", "--workers", "0")
DIGITS = ("--data", "digits", "--size", "8")


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a plain network on digits."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    assert main(["train", "--model", "cifar_resnet20", *DIGITS, *SHORT, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def operated(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of its retrofit."""
    folder = tmp_path_factory.mktemp("operated") / "run"
    arguments = ["retrofit", "--checkpoint", str(begun), "--attention", "se:reduction=8", *DIGITS[:2], *SHORT]
    assert main([*arguments, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """`train/` and `val/` of the digits 0 to 4, under names of their own."""
    digits = open_data("digits")
    for part, source, count in (("train", digits.train, 160), ("val", digits.val, 60)):
        chosen = np.flatnonzero(source.labels < 5)[:count]
        write_images(Subset(source, chosen), tmp_path / "few" / part, classes=["a", "b", "c", "d", "e"])
    return tmp_path / "few"


def weights(folder: Path, name: str = "best") -> dict[str, torch.Tensor]:
    return load_file(folder / f"{name}.safetensors")


def test_the_network_is_kept_and_then_learns(begun: Path, operated: Path) -> None:
    surgery = json.loads((operated / "surgery.json").read_text())
    before, after = surgery["results"]["before surgery"], surgery["results"]["right after surgery"]
    assert before == after
    assert surgery["difference"] == 0
    digits = hold_out(open_data("digits"))
    assert before["images"] == len(digits.test), "images that don't choose the best epoch"
    plain = package.load_model(begun)
    assert before["top1"] == pytest.approx(evaluate(plain, digits.test, digits.classes, workers=0).top1)
    told = json.loads((operated / "best.json").read_text())
    assert told["data"]["val"] == len(digits.val), "those that choose it are others"
    assert told["data"]["held_out"] is True
    assert len(surgery["report"]["inserted"]) == 9
    model = package.load_model(operated).model
    blocks = [m for m in model.modules() if isinstance(m, SqueezeExcite)]
    assert len(blocks) == 9
    assert blocks[0].fc1.out_features == 16 // 8
    # The gates start at 1 everywhere: these have learnt.
    assert all((block.gate(torch.rand(1, block.channels, 4, 4)) != 1).any() for block in blocks)
    old, new = weights(begun), weights(operated)
    assert old.keys() == {key for key in new if ".attention." not in key}


def test_the_result_is_used_as_any_other(senet, operated: Path, tmp_path: Path) -> None:
    code, out, _ = senet("evaluate", "--checkpoint", operated, "--data", "digits", "--json", "--workers", "0")
    assert code == 0
    told, found = json.loads((operated / "surgery.json").read_text()), json.loads(out)
    assert "not used to choose the best epoch of this run" in found["description"]
    images = told["results"]["before surgery"]["images"]
    assert (found["split"], found["images"], found["of_images"], found["trained_on"]) == ("test", images, 1797, 0)
    _, out, _ = senet("evaluate", "--checkpoint", operated, "--data", "digits", "--json", "--split", "val")
    told = json.loads((operated / "best.json").read_text())
    assert json.loads(out)["top1"] == pytest.approx(told["metrics"]["top1"])
    digits = open_data("digits")
    write_images(Subset(digits.val, np.arange(4)), tmp_path, classes=digits.classes)
    code, out, _ = senet("predict", tmp_path, "--checkpoint", operated, "--json", "--workers", "0")
    assert code == 0
    assert len(json.loads(out)) == 4


def test_a_table_or_json(senet, begun: Path, few: Path, tmp_path: Path) -> None:
    common = ("retrofit", "--checkpoint", begun, "--stages", "4", "--data", f"folder:{few}", *SHORT)
    code, out, err = senet(*common, "--out", tmp_path / "a")
    assert code == 0
    assert "fine-tuned, epoch 1" in out
    assert "-: the weights are for 10 classes, the data has 5" in out
    assert "the same, bit for bit" in out
    assert "3 insertion points, 1,740 parameters added" in out
    assert "of 60 validation images, held out: they don't choose the best epoch" in out
    assert "stages.4.2.branch.bn2" in err
    assert "the classifier is new" in err
    code, out, _ = senet(*common, "--out", tmp_path / "b", "--json")
    told = json.loads(out)
    assert told["results"]["before surgery"] is None
    assert 0 <= told["results"]["fine-tuned, epoch 1"]["top1"] <= 1
    assert told["report"]["params"] == 1740


def test_other_classes_get_a_new_classifier_and_nothing_else(senet, begun: Path, few: Path, tmp_path: Path) -> None:
    def cut(model: Path, name: str) -> tuple[set[str], str]:
        """Keys that differ after surgery for the classes of `few`, and what was said."""
        out = tmp_path / name
        arguments = ("retrofit", "--checkpoint", model, "--data", f"folder:{few}", "--epochs", "0", "--out", out)
        code, said, err = senet(*arguments, "--stages", name, "--seed", name, "--workers", "0")
        assert code == 0, err
        old, new = weights(model), weights(out)
        return {key for key in old if old[key].shape != new[key].shape or not torch.equal(old[key], new[key])}, said

    head = {"head.fc.weight", "head.fc.bias"}
    changed, said = cut(begun, "2")
    assert changed == head
    assert "for 10 classes, the data has 5" in said
    assert package.load_model(tmp_path / "2").classes == tuple("abcde")
    changed, said = cut(tmp_path / "2", "3")
    assert changed == set()
    for part in ("train", "val"):
        (few / part / "e").rename(few / part / "z")
    changed, said = cut(tmp_path / "3", "4")
    assert changed == head
    assert "for other classes" in said


def test_numbered_classes_are_names_that_nobody_told(senet, tmp_path: Path) -> None:
    torch.manual_seed(1)
    torch.save(package.create_model("cifar_resnet20", num_classes=3).state_dict(), tmp_path / "theirs.pth")
    ours = tmp_path / "ours.safetensors"
    network = ("--model", "cifar_resnet20", "--num-classes", "3")
    assert senet("convert", tmp_path / "theirs.pth", *network, "--out", ours)[0] == 0
    digits = open_data("digits")
    for part in ("train", "val"):
        chosen = np.flatnonzero(digits.val.labels < 3)[:30]
        write_images(Subset(digits.val, chosen), tmp_path / "data" / part, classes=["x", "y", "z"])
    common = (
        "retrofit",
        "--checkpoint",
        ours,
        "--data",
        f"folder:{tmp_path / 'data'}",
        "--epochs",
        "0",
        "--workers",
        "0",
    )
    code, out, err = senet(*common, "--out", tmp_path / "run", "--json")
    assert code == 0, err
    assert json.loads(out)["results"]["before surgery"] is not None
    assert package.load_model(tmp_path / "run").classes == ("x", "y", "z")
    shutil.rmtree(tmp_path / "data" / "train" / "z")
    shutil.rmtree(tmp_path / "data" / "val" / "z")
    code, out, err = senet(*common, "--out", tmp_path / "two")
    assert code == 0, err
    assert "for 3 classes, the data has 2" in out


def test_only_surgery_needs_no_data(senet, begun: Path, operated: Path, tmp_path: Path) -> None:
    out = tmp_path / "late"
    code, said, _ = senet("retrofit", "--checkpoint", begun, "--stages", "4", "--epochs", "0", "--out", out)
    assert code == 0
    assert "3 insertion points" in said
    before, after = package.load_model(begun), package.load_model(out)
    images = torch.randn(3, 1, 8, 8)
    assert torch.equal(before.model(images), after.model(images))
    assert (before.classes, before.preprocessing) == (after.classes, after.preprocessing)
    assert after.metadata.data == before.metadata.data, "what its weights were trained on"
    twice = tmp_path / "twice"
    code, said, _ = senet(
        "retrofit", "--checkpoint", out, "--attention", "eca", "--epochs", "0", "--out", twice, "--json"
    )
    assert code == 0
    assert [site["stage"] for site in json.loads(said)["report"]["inserted"]] == [2] * 3 + [3] * 3
    assert len(json.loads((twice / "best.json").read_text())["options"]["retrofit"]) == 9
    # ECA isn't in the one operation that ends a block: its parts round elsewhere.
    torch.testing.assert_close(before.model(images), package.load_model(twice).model(images), rtol=1e-5, atol=1e-5)


def test_a_plan_fetches_and_writes_nothing(senet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = senet("retrofit", "--model", "torchvision:resnet18", "--plan", "--json", "--placement", "pre")
    assert code == 0
    model = package.create_model("resnet18_v1_5")
    theirs = [site["channels"] for site in json.loads(out)["inserted"]]
    assert theirs == [site.channels for site in package.plan(model, placement="pre").inserted]
    code, out, _ = senet("retrofit", "--model", "cifar_resnet20", "--plan", "--where", "stages.3.*", "--no-pretrained")
    assert code == 0
    assert "se at 3 insertion points" in out
    assert not list(tmp_path.iterdir())


def test_the_gates_alone(senet, begun: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, _, err = senet(
        "retrofit", "--checkpoint", begun, "--data", "digits", *SHORT, "--train", "attention", "--out", out
    )
    assert code == 0, err
    old, new = weights(begun), weights(out)
    learnt = {key for key in new if key in old and "running" not in key and "tracked" not in key}
    assert all(torch.equal(old[key], new[key]) for key in learnt)
    assert any(not torch.equal(new[key], torch.zeros_like(new[key])) for key in new if "attention.fc2" in key)


def test_stopped_and_gone_on_with(
    senet, begun: Path, operated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused
) -> None:
    start, out = tmp_path / "start", tmp_path / "run"
    shutil.copytree(begun, start)
    step = TrainingModule.training_step

    def stopped(self, batch, number):
        if number == 10:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, number)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", stopped)
        arguments = (
            "retrofit",
            "--checkpoint",
            start,
            "--attention",
            "se:reduction=8",
            *DIGITS[:2],
            *SHORT,
            "--out",
            out,
        )
        code, _, err = senet(*arguments)
    assert code == 130
    assert f"senet retrofit --resume {out}" in err
    shutil.rmtree(start)  # the state has the weights: what the run began with may be gone
    assert "--where can't change" in refused("retrofit", "--resume", out, "--where", "stages.2.*")
    assert "--checkpoint can't change" in refused("train", "--resume", out, "--checkpoint", begun)
    code, said, err = senet("retrofit", "--resume", out, "--json")
    assert code == 0, err
    told = json.loads(said)["results"]
    assert list(told) == ["before surgery", "right after surgery", "fine-tuned, epoch 1"]
    one, other = weights(operated), weights(out)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    code, said, err = senet("retrofit", "--resume", out, "--json")  # it has ended: the comparison again
    assert json.loads(said)["results"] == told
    assert "finished after 1 epochs" in err
    (out / "surgery.json").unlink()
    assert "surgery.json" in refused("retrofit", "--resume", out)


def test_a_run_killed_before_its_first_state_begins_with_the_same_weights(begun: Path, operated: Path) -> None:
    from senet.training.job import Job

    job = Job.read(operated)
    model = job.build(job.source.open()).model
    old = weights(begun)
    assert all(torch.equal(tensor, old[key]) for key, tensor in model.state_dict().items() if key in old)


def test_training_can_begin_with_a_checkpoint(senet, operated: Path, tmp_path: Path, refused) -> None:
    arguments = ("train", "--checkpoint", operated, "--data", "digits", *SHORT, "--out", tmp_path / "run")
    assert "senet retrofit" in refused(*arguments, "--attention", "eca")
    code, _, err = senet(*arguments)
    assert code == 0, err
    assert "adamw lr 0.002" in err  # the recipe finetune, the default with trained weights
    assert weights(tmp_path / "run").keys() == weights(operated).keys()


@pytest.mark.parametrize("model", ["timm:resnet10t", pytest.param("torchvision:resnet18", marks=pytest.mark.slow)])
def test_networks_of_other_libraries(senet, model: str, few: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    common = ("--model", model, "--no-pretrained", "--data", f"folder:{few}", "--size", "16", *SHORT, "--out")
    code, said, err = senet("retrofit", *common, out)
    assert code == 0, err
    assert "-: the network's weights are random" in said
    code, said, _ = senet("evaluate", "--checkpoint", out, "--data", f"folder:{few}", "--json", "--workers", "0")
    assert 15 < json.loads(said)["images"] < 45, "those that didn't choose the epoch"
    code, _, err = senet("train", *common, tmp_path / "plain")
    assert code == 0, err
    assert package.load_model(tmp_path / "plain").metadata.options == {}


def test_a_network_of_your_own(senet, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ownnet.py").write_text(
        "import torch.nn as nn\n"
        "def build(num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),"
        " nn.Linear(16, num_classes))\n"
        "def ten(): return build(10)\n"
    )
    common = ("retrofit", "--data", f"folder:{few}", "--size", "16", *SHORT, "--out")
    code, said, err = senet(*common, "run", "--model", "ownnet:build", "--json")
    assert code == 0, err
    assert json.loads(said)["results"]["before surgery"] is not None  # its function may have put weights in
    assert "--checkpoint run --model ownnet:build" in refused(*common, "again", "--checkpoint", "run")
    assert "use --checkpoint run" in refused(*common, "again", "--model", "run")
    again = ("retrofit", "--checkpoint", "run", "--model", "ownnet:build", "--plan", "--attention", "eca")
    assert "already has attention" in refused(*again)
    code, said, _ = senet("evaluate", "--checkpoint", "run", "--model", "ownnet:build", "--data", f"folder:{few}")
    assert code == 0
    assert "the data has 5 classes" in refused(*common, "ten", "--model", "ownnet:ten")
    assert not Path("ten").exists()
    sys.modules.pop("ownnet", None)


def test_bad_use_leaves_nothing(refused, begun: Path, operated: Path, few: Path, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "out"
    common = ("retrofit", "--out", out, "--data", "digits", "--workers", "0", "--model")
    on = (*common[:-1], "--checkpoint")
    assert "'resnet50'" in refused(*common, "timm:resnet5")
    assert "'resnet50'" in refused(*common, "torchvision:resnet5")
    assert "'cifar_resnet20'" in refused(*common, "cifar_resnet2")
    assert "no such file" in refused(*on, tmp_path / "absent.safetensors")
    assert "absent" in refused(*on, tmp_path / "absent")
    assert "--no-pretrained" in refused(*common, "cifar_resnet20")
    transformer = ("--no-pretrained", "--size", "224", "--data", f"folder:{few}")
    assert "is a transformer" in refused(*common, "timm:vit_tiny_patch16_224", *transformer)
    assert "no insertion point left" in refused(*on, operated)
    assert "no module" in refused(*on, begun, "--where", "layer4.*")
    assert "no stage 7" in refused(*on, begun, "--stages", "7")
    assert "'se'" in refused(*on, begun, "--attention", "sea")
    assert "inserts nothing" in refused(*on, begun, "--attention", "none")
    assert "placement" in refused(*on, begun, "--placement", "middle")
    assert "what trains" in refused(*on, begun, "--train", "gates")
    assert "the weights are those of" in refused(*on, begun, "--no-pretrained")
    assert "no effect" in refused(*on, begun, "--epochs", "0", "--lr", "0.1")
    assert "no effect" in refused(*on, begun, "--plan", "--recipe", "digits")
    new = ("--data", f"folder:{few}", "--train", "attention")
    assert "which is newly initialized" in refused(*on, begun, *new)
    assert "--data is missing" in refused("retrofit", "--checkpoint", begun, "--out", out)
    assert "the network is missing" in refused("retrofit", "--data", "digits", "--out", out)
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "senet[timm]" in refused(*common, "timm:resnet18")
    assert not out.exists()
    for more in ((), ("--epochs", "0")):
        used = ("retrofit", "--checkpoint", begun, "--data", "digits", "--out", operated, *more)
        assert "already contains a run" in refused(*used)


@pytest.mark.slow
def test_two_processes_fine_tune_and_one_evaluates(begun: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "senet",
        "retrofit",
        "--checkpoint",
        str(begun),
        "--data",
        "digits",
        *SHORT,
        "--json",
    ]
    two = ["--devices", "2", "--strategy", "ddp", "--out", str(tmp_path / "run")]
    done = subprocess.run([*command, *two], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["results"]
    assert told["before surgery"] == told["right after surgery"]
    assert told["fine-tuned, epoch 1"]["images"] == len(hold_out(open_data("digits")).test)


@pytest.mark.parametrize("name", ["surgery.json", "run.json"])
def test_a_kill_before_the_first_state_loses_nothing(begun: Path, tmp_path: Path, monkeypatch, name: str) -> None:
    """What says that there is a run comes after all that it needs."""
    from senet.training import job

    class Killed(BaseException):
        pass

    def write(folder: Path, written: str, content: dict) -> None:
        real(folder, written, content)
        if written == name:
            raise Killed

    real = job.write_json
    out = tmp_path / "run"
    arguments = ["retrofit", "--checkpoint", str(begun), *DIGITS[:2], *SHORT, "--out", str(out)]
    monkeypatch.setattr(job, "write_json", write)
    with pytest.raises(Killed):
        main(arguments)
    monkeypatch.undo()
    resumable = (out / "run.json").is_file()
    assert main(["retrofit", "--resume", str(out)] if resumable else arguments) == 0


def test_a_resumed_retrofit_is_judged_on_its_own_data_alone(operated: Path, few: Path, tmp_path: Path, capsys) -> None:
    run = shutil.copytree(operated, tmp_path / "run")
    before = (run / "run.json").read_text()
    assert main(["retrofit", "--resume", str(run), "--data", f"folder:{few}"]) == 2
    assert "differs from the data of the run" in capsys.readouterr().err.replace("\n", " ")
    assert (run / "run.json").read_text() == before


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"results": []}'])
def test_damaged_notes_of_surgery_are_told_before_training(operated: Path, tmp_path: Path, capsys, damage) -> None:
    run = shutil.copytree(operated, tmp_path / "run")
    (run / "surgery.json").write_text(damage)
    assert main(["retrofit", "--resume", str(run), "--epochs", "2"]) == 2
    assert "surgery.json can't be read" in capsys.readouterr().err.replace("\n", " ")
    assert json.loads((run / "run.json").read_text())["recipe"]["epochs"] == 1
