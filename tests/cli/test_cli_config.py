"""Options from a file, runs repeated from their `run.json`, and `--dry-run`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from cli_options import QUICK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from senet.cli import main
from senet.data.augmentation import Augmentation
from senet.training.job import DataOptions, Job
from senet.training.model_initialization import ModelInitialization
from senet.training.recipe import Recipe, RunOptions

TOML = """
model = "se_cifar_resnet20"
size = 16

[model-kwargs]
depth = 1
widths = [16, 32, 48]

[data]
name = "digits"
limit = 100

[recipe]
name = "digits"
batch-size = 32
epochs = 3
optimizer = "adamw"

[augmentation]
crop = "random-resized"
scale = [0.5, 1.0]

[run]
workers = 0
deterministic = true
sync_bn = false
"""
YAML = """
model: se_cifar_resnet20
size: 16
model_kwargs: [depth=1, "widths=[16,32,48]"]
data: digits
limit: 100
recipe:
  name: digits
  batch-size: 32
  epochs: 3
  optimizer: adamw
  augmentation: {crop: random-resized, scale: [0.5, 1.0]}
run: {workers: 0, deterministic: true, sync-bn: false}
patience:
"""
WORDS = [
    "se_cifar_resnet20", "--size", "16", "--model-kwargs", "depth=1", "widths=[16,32,48]", "--data", "digits",
    "--limit", "100", "--recipe", "digits", "--batch-size", "32", "--epochs", "3", "--optimizer", "adamw",
    "--crop", "random-resized", "--scale", "0.5", "1", "--workers", "0", "--deterministic", "--no-sync-bn",
]  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan(senet, *words: object) -> dict:
    code, out, err = senet(*words, "--dry-run", "--json")
    assert code == 0, err
    return json.loads(out)


@pytest.mark.parametrize(("name", "text"), [("a.toml", TOML), ("a.yaml", YAML), ("a.yml", YAML)])
def test_a_file_says_what_a_command_line_would(name: str, text: str, senet) -> None:
    Path(name).write_text(text)
    expected = plan(senet, "train", *WORDS)
    assert plan(senet, "train", "--config", name) == expected
    assert expected["recipe"]["augmentation"]["scale"] == [0.5, 1.0]
    assert expected["network"]["options"] == {"depth": 1, "widths": [16, 32, 48]}
    assert expected["data"]["images"]["train"] == 100
    assert [path.name for path in Path().iterdir()] == [name], "a dry run writes nothing"


def test_the_command_line_wins(senet) -> None:
    Path("a.toml").write_text(TOML)
    found = plan(senet, "train", "cifar_resnet20", "--config", "a.toml", "--lr", "0.5", "--sync-bn", "--model-kwargs",
                 "depth=2", "--scale", "0.3", "0.9")  # fmt: skip
    assert found["network"]["model"] == "cifar_resnet20"
    assert found["network"]["options"] == {"depth": 2}
    assert (found["recipe"]["lr"], found["recipe"]["augmentation"]["scale"]) == (0.5, [0.3, 0.9])
    assert found["run"]["sync_bn"] is True
    assert found["run"]["deterministic"] is True


def test_a_checkpoint_replaces_the_network_of_a_file(senet, trained: Path) -> None:
    Path("a.toml").write_text('model = "resnet50"\npretrained = true\ndata = "digits"\n')
    found = plan(senet, "train", "--config", "a.toml", "--checkpoint", trained)
    assert found["network"]["model"] == "se_cifar_resnet20"
    assert found["network"]["weights"] == str(trained)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.toml", "lrr = 1", "a.toml: unknown option 'lrr'; did you mean 'lr'"),
        (
            "a.toml",
            "[recipe]\nbatch_sise = 1",
            "a.toml: unknown option in [recipe] 'batch_sise'; did you mean 'batch_size'",
        ),
        ("a.toml", "dry_run = true", "unknown option 'dry_run'"),
        ("a.toml", "[recipe]\nlr = 'fast'", "a.toml: recipe.lr: invalid float value: 'fast'"),
        ("a.toml", "epochs = 1.5", "a.toml: epochs: invalid int value: '1.5'"),
        ("a.toml", "epochs = true", "a.toml: epochs: True: write a number or a text"),
        ("a.toml", "compile = 'yes'", "a.toml: compile: 'yes': write true or false"),
        ("a.toml", "size = 'big'", "a.toml: size: 'big': write 224, or 256x192"),
        ("a.toml", "scale = [0.5]", "a.toml: scale: expected 2 arguments"),
        ("a.toml", "data = {path = 'x'}", "unknown option in [data] 'path'"),
        ("a.toml", "lr = {a = 1}", "a.toml: lr: {'a': 1}: write a number or a text"),
        ("a.toml", "lr = 1\n[recipe]\nlr = 2", "a.toml: recipe.lr is given twice"),
        ("a.toml", "lr = ", "a.toml is not TOML: Invalid value"),
        ("a.yaml", "lr: [1", "a.yaml is not YAML: expected ',' or ']'"),
        ("a.yaml", "lr: !!python/object:os.system {}", "a.yaml is not YAML: could not determine a constructor"),
        ("a.yaml", "- lr", "holds no options"),
        ("a.txt", "", "must end in .toml, .yaml or .yml"),
        ("run.json", "{", "run.json can't be read"),
        ("run.json", "[]", "not an object"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(name: str, text: str, says: str, refused) -> None:
    Path(name).write_text(text)
    said = refused("train", "--config", name)
    assert says in said
    assert name in said
    assert len(said.splitlines()) == 1


def test_files_that_are_not_there_or_no_text(refused) -> None:
    assert "--config absent.toml: No such file" in refused("train", "--config", "absent.toml")
    Path("a.toml").write_bytes(b"\xff")
    assert "a.toml is not UTF-8 text" in refused("train", "--config", "a.toml")
    assert "absent.json" in refused("train", "--config", "absent.json")


def test_a_resumed_run_refuses_options_of_a_file_too(refused, senet, trained: Path) -> None:
    Path("a.toml").write_text("lr = 0.2")
    assert "--lr can't change in a resumed run" in refused("train", "--resume", trained, "--config", "a.toml")
    Path("a.yaml").write_text("val-fraction: 0.5")
    for command in ("train", "retrofit", "compare"):
        assert "--val-fraction can't change" in refused(command, "--resume", trained, "--config", "a.yaml")
    assert "use one" in refused("train", "--resume", trained, "--config", trained / "run.json")
    Path("b.yaml").write_text("epochs: 3\nworkers: 0")
    found = plan(senet, "train", "--resume", trained, "--config", "b.yaml")
    assert (found["recipe"]["epochs"], found["run"]["workers"]) == (3, 0)


def test_a_run_is_repeated_from_its_record(senet, trained: Path, digit_folder: Path, refused) -> None:
    record = json.loads((trained / "run.json").read_text())
    found = plan(senet, "train", "--config", trained / "run.json")
    assert found["recipe"] == record["recipe"]
    assert found["run"] == record["run"]
    assert found["data"]["data"] == record["source"]["data"]
    assert found["network"]["input_size"] == [3, 16, 16]
    code, _, err = senet("train", "--config", trained / "run.json", "--out", "again")
    assert code == 0, err
    again = json.loads(Path("again/run.json").read_text())
    assert again == record
    assert Path("again/best.safetensors").read_bytes() == (trained / "best.safetensors").read_bytes()
    changed = plan(senet, "train", "--config", trained / "run.json", "--epochs", "4", "--limit", "50")
    assert changed["recipe"]["epochs"] == 4
    assert changed["data"]["images"]["train"] == 50
    other = plan(senet, "train", "cifar_resnet32", "--config", trained / "run.json")
    assert other["network"]["model"] == "cifar_resnet32"
    assert other["recipe"] == record["recipe"]
    assert "would change the network" in refused("train", "--config", trained / "run.json", "--attention", "eca")
    assert "`senet train` repeats a run" in refused("compare", "--config", trained / "run.json")


def test_data_that_has_changed_since_is_told(senet, trained: Path, digit_folder: Path) -> None:
    shutil.copytree(digit_folder, "data")
    record = json.loads((trained / "run.json").read_text())
    record["source"]["data"] = f"folder:{Path('data').resolve()}"
    Path("run.json").write_text(json.dumps(record))
    next(Path("data/train/3").iterdir()).unlink()
    code, _, err = senet("train", "--config", "run.json", "--out", "again", "--epochs", "1")
    assert code == 0, err
    assert "has changed since the run of run.json" in err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda run: run["recipe"].update(lrr=1), "unknown key 'recipe.lrr'; did you mean 'recipe.lr'"),
        (lambda run: run["recipe"].update(lr="fast"), "recipe.lr: 'fast' has the wrong type; float is wanted"),
        (lambda run: run["recipe"].update(epochs=True), "recipe.epochs: True has the wrong type; int is wanted"),
        (lambda run: run["recipe"]["augmentation"].update(hflip=None), "recipe.augmentation.hflip: None has the wrong"),
        (
            lambda run: run["source"].update(limit="all"),
            "source.limit: 'all' has the wrong type; int or None is",
        ),
        (lambda run: run["run"].update(wokers=1), "unknown key 'run.wokers'; did you mean 'run.workers'"),
        (lambda run: run.update(modle="x"), "unknown key 'modle'; did you mean 'model'"),
        (lambda run: run.pop("recipe"), "'recipe' is missing"),
        (lambda run: run.update(run=3), "run: 3 has the wrong type; dict is wanted"),
        (lambda run: run["recipe"].update(lr=-1), "lr=-1 must be positive"),
    ],
)
def test_a_damaged_record_names_its_key(change, says: str, trained: Path, refused) -> None:
    run = json.loads((trained / "run.json").read_text())
    change(run)
    Path("run.json").write_text(json.dumps(run))
    said = refused("train", "--config", "run.json", "--dry-run")
    assert says in said
    assert "run.json" in said


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    epochs=st.integers(1, 300), lr=st.floats(1e-6, 1), decay=st.floats(0, 0.1), warmup=st.floats(0, 5),
    optimizer=st.sampled_from(["sgd", "adamw"]), schedule=st.sampled_from(["cosine", "one-cycle", "constant"]),
    steps=st.lists(st.integers(1, 50), max_size=3), flip=st.floats(0, 1), seed=st.integers(0, 2**31),
    limit=st.none() | st.integers(10, 500),
)  # fmt: skip
def test_a_written_run_resolves_to_itself(
    epochs, lr, decay, warmup, optimizer, schedule, steps, flip, seed, limit, tmp_path, capsys
) -> None:
    """run -> run.json -> --config run.json gives the same recipe, run options and data."""
    from senet.training.folder import write_json

    recipe = Recipe(
        epochs=epochs, lr=lr, weight_decay=decay, warmup_epochs=warmup, optimizer=optimizer, schedule=schedule,
        step_epochs=tuple(steps), seed=seed, augmentation=Augmentation(crop="pad", hflip=flip),
    )  # fmt: skip
    network = ModelInitialization.from_scratch("se_cifar_resnet20", {"depth": 1})
    job = Job(source=DataOptions(data="digits", limit=limit), network=network, recipe=recipe, run=RunOptions(workers=0))
    write_json(tmp_path, "run.json", job.to_dict())
    capsys.readouterr()
    assert main(["train", "--config", str(tmp_path / "run.json"), "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recipe"] == json.loads(json.dumps(recipe.to_dict()))
    assert Recipe.from_dict(found["recipe"]) == recipe
    assert found["data"]["images"]["train"] == (limit or 1438)


def test_a_dry_run_is_a_table_or_json_and_writes_nothing(senet, trained: Path, elsewhere: Path) -> None:
    code, out, err = senet("train", *WORDS, "--out", "run", "--dry-run")
    assert code == 0, err
    for word in ("parameters", "MACs", "1 x 16 x 16", "random initialization", "adamw", "10: 0, 1, 2", "batch-size"):
        assert word in out, word
    found = plan(senet, "retrofit", "cifar_resnet20", "--no-pretrained", "--data", "digits", "--stages", "4")
    plain = plan(senet, "train", "cifar_resnet20", "--data", "digits")
    assert found["network"]["params"] > plain["network"]["params"]
    assert found["data"]["images"]["test"] > 0, "half of the validation images are held out"
    code, out, err = senet("retrofit", "cifar_resnet20", "--no-pretrained", "--data", "digits", "--dry-run")
    assert code == 0, err
    assert "parameters" in out
    assert not list(elsewhere.iterdir())


def test_a_dry_run_of_a_comparison(senet, elsewhere: Path) -> None:
    words = ("compare", "cifar_resnet20", "--data", "digits", "--seeds", "2", *QUICK)
    found = plan(senet, *words)
    assert list(found["networks"]) == ["plain", "se"]
    assert found["networks"]["plain"]["params"] < found["networks"]["se"]["params"]
    assert found["seeds"] == [0, 1]
    code, out, err = senet(*words, "--dry-run")
    assert code == 0, err
    assert "variant" in out
    Path("a.yaml").write_text(yaml.safe_dump({
        "data": "digits", "seeds": 1, "epochs": 1,
        "variant": {"a": "cifar_resnet20", "b": "cifar_resnet20 attention=eca"},
    }))  # fmt: skip
    assert list(plan(senet, "compare", "--config", "a.yaml")["networks"]) == ["a", "b"]
    Path("a.toml").write_text('data = "digits"\nvariant = ["a=cifar_resnet20", "b=cifar_resnet20 depth=1"]\n')
    assert plan(senet, "compare", "--config", "a.toml")["networks"]["b"]["options"] == {"depth": 1}
    assert {path.name for path in elsewhere.iterdir()} == {"a.yaml", "a.toml"}


def test_an_own_network_in_a_dry_run(senet, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("drynet.py").write_text(
        "import torch.nn as nn\n"
        "def build(num_classes):\n"
        "    layers = nn.Conv2d(1, 8, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes)\n"
        "    return nn.Sequential(*layers)\n"
    )
    found = plan(senet, "train", "drynet:build", "--data", "digits")
    assert found["network"]["weights"] == "as your function builds it"
