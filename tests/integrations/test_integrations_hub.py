"""Networks on the Hugging Face Hub: the library's own code against a server on this machine, and its cache."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hub_server import Hub
from safetensors.torch import load_file, save_file
from torch import nn

import senet
from senet.cli import main
from senet.errors import CheckpointError, SenetError
from senet.integrations.hub import write_folder
from senet.integrations.model_card import model_card
from senet.preprocessing import CIFAR, IMAGENET_CAFFE, Preprocessing
from senet.weights import CheckpointMetadata, DataRecord, write_checkpoint
from senet.weights.repository import HubAddress
from senet.zoo import LoadedModel

CLASSES = ("cat", "dog|wolf", "`bird`\n# fish")
NAME, OPTIONS = "se_cifar_resnet20", {"depth": 1, "attention": senet.SE(reduction=8).to_dict()}


def network(name: str = NAME, **options) -> nn.Module:
    """A network in which statistics, gammas and gates count."""
    torch.manual_seed(4)
    model = senet.create_model(name, **({"num_classes": 3} | (OPTIONS if name == NAME else {}) | options))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def record(**changes) -> DataRecord:
    values = {"name": "folder:/home/someone/pets", "val_fraction": 0.2, "split_seed": 0, "digest": "0" * 64,
              "train": 80, "val": 20}  # fmt: skip
    return DataRecord(**values | changes)


METADATA = CheckpointMetadata(
    model=NAME,
    options=OPTIONS,
    classes=CLASSES,
    preprocessing=CIFAR,
    metrics={"loss": 0.5, "top1": 0.9},
    training={"epoch": 3, "data": "folder:/home/someone/pets", "recipe": {"epochs": 3, "lr": 0.1, "optimizer": "sgd"}},
    data=record(),
)
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def run(tmp_path) -> Path:
    """The folder of a training."""
    folder = tmp_path / "run"
    folder.mkdir()
    write_checkpoint(folder / "best.safetensors", network().state_dict(), METADATA)
    return folder


@pytest.fixture
def pushed(hub, run) -> Hub:
    senet.load_model(run).push_to_hub("user/pets", licence="mit")
    return hub


# Pushing and loading.


@torch.no_grad()
def test_the_shortest_program(hub: Hub) -> None:
    model = network()
    url = model.push_to_hub("user/pets", classes=("cat", "dog", "bird"))
    assert url.startswith(f"{hub.url}/user/pets/commit/")
    assert hub.latest("user/pets").keys() == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    loaded = senet.load_model("hf://user/pets")
    assert loaded.classes == ("cat", "dog", "bird")
    assert torch.equal(loaded.model(IMAGES), model(IMAGES))
    assert torch.equal(senet.create_model("hf-hub:user/pets").eval()(IMAGES), model(IMAGES))


@torch.no_grad()
def test_the_checkpoint_of_a_training_keeps_all_that_it_says(pushed: Hub) -> None:
    loaded = senet.load_model("hf://user/pets")
    assert torch.equal(loaded.model(IMAGES), network()(IMAGES))
    assert (loaded.classes, loaded.preprocessing) == (CLASSES, CIFAR)
    assert loaded.metadata.metrics == METADATA.metrics
    assert loaded.metadata.training["recipe"] == METADATA.training["recipe"]
    assert loaded.metadata.data == record(name="folder:pets")
    texts = [content.decode(errors="replace") for content in pushed.latest("user/pets").values()]
    assert not any("someone" in text for text in texts), "paths of this machine are not published"
    # Pushed again, it is the same repository.
    loaded.push_to_hub("user/again", licence="mit")
    again = pushed.latest("user/again")
    assert again["config.json"] == pushed.latest("user/pets")["config.json"]


def test_it_is_one_commit_by_the_librarys_own_requests(pushed: Hub) -> None:
    asked = [line for line in pushed.requests if line != "GET /api/agent-harnesses"]  # of the library itself
    assert [line.partition("/lfs/")[0] for line in asked[:3]] == [
        "POST /api/repos/create", "POST /api/validate-yaml", "POST /api/models/user/pets/preupload/main"]  # fmt: skip
    assert "POST /user/pets.git/info/lfs/objects/batch" in asked, "weights are a large file"
    assert [line for line in asked if "/commit/" in line] == ["POST /api/models/user/pets/commit/main"]
    assert not pushed.repositories["user/pets"].private


@torch.no_grad()
def test_a_branch_and_a_private_repository(hub: Hub) -> None:
    first, second = network(), network(depth=2)
    first.push_to_hub("user/pets", private=True)
    second.push_to_hub("user/pets", revision="deeper/two")
    assert hub.repositories["user/pets"].private
    assert torch.equal(senet.load_model("hf://user/pets").model(IMAGES), first(IMAGES))
    assert torch.equal(senet.load_model("hf://user/pets@deeper/two").model(IMAGES), second(IMAGES))
    commit = hub.repositories["user/pets"].branches["deeper/two"]
    assert torch.equal(senet.create_model(f"hf-hub:user/pets@{commit}").eval()(IMAGES), second(IMAGES))


@torch.no_grad()
def test_create_model_adapts_it(pushed: Hub) -> None:
    with pytest.warns(UserWarning, match=r"head\.fc\.weight"):
        model = senet.create_model("hf-hub:user/pets", num_classes=7, in_channels=1, features_only=False)
    assert model.head.fc.out_features == 7
    assert model.spec.preprocessing.in_channels == 1
    expected = network().state_dict()["stem.0.weight"].sum(1, keepdim=True)
    torch.testing.assert_close(model.stem[0].weight, expected)
    backbone = senet.create_model("hf-hub:user/pets", features_only=True).eval()
    torch.testing.assert_close(backbone(IMAGES)[-1], network().forward_features(IMAGES))
    with pytest.raises(SenetError, match="has its own weights"):
        senet.create_model("hf-hub:user/pets", pretrained="in1k")
    report = senet.load_weights(network(), "hf://user/pets")
    assert report.loaded == len(network().state_dict())


def test_what_was_loaded_once_needs_no_server(pushed: Hub, monkeypatch) -> None:
    senet.load_model("hf://user/pets")
    commit = pushed.repositories["user/pets"].branches["main"]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    before = len(pushed.requests)
    assert senet.load_model("hf://user/pets").classes == CLASSES
    assert senet.load_model(f"hf://user/pets@{commit}").classes == CLASSES
    assert len(pushed.requests) == before
    with pytest.raises(CheckpointError, match=r"config\.json of https://huggingface.co/user/other is not in the cache"):
        senet.load_model("hf://user/other")


def test_a_new_commit_is_seen(pushed: Hub) -> None:
    senet.load_model("hf://user/pets")
    other = LoadedModel(network(), ("a", "b", "c"), CIFAR, replace(METADATA, classes=("a", "b", "c")))
    other.push_to_hub("user/pets")
    assert senet.load_model("hf://user/pets").classes == ("a", "b", "c")


@pytest.mark.slow
def test_retrofitted_and_other_libraries_networks(hub: Hub) -> None:
    from torchvision.models import resnet18

    model = resnet18(num_classes=3).eval()
    points = [point.to_dict() for point in senet.retrofit(model).inserted]
    metadata = replace(METADATA, model="torchvision:resnet18", options={"retrofit": points})
    LoadedModel(model, CLASSES, CIFAR, metadata).push_to_hub("user/retrofit")
    assert json.loads(hub.latest("user/retrofit")["config.json"]).keys() == {"senet"}
    assert "timm" not in hub.latest("user/retrofit")["README.md"].decode()
    with torch.no_grad():
        assert torch.equal(senet.load_model("hf://user/retrofit").model(IMAGES), model(IMAGES))
    with pytest.raises(
        CheckpointError, match=r"holds no plain classifier.*use senet.load_model\('hf://user/retrofit'\)"
    ):
        senet.create_model("hf-hub:user/retrofit")


# timm.


@pytest.mark.parametrize("images", [CIFAR, IMAGENET_CAFFE, Preprocessing(mean=(100.0,), std=(50.0,), channel_order="L",
                                                                         value_range=255.0)])  # fmt: skip
@torch.no_grad()
def test_timm_reads_it_and_computes_the_same_from_its_own_images(hub: Hub, images: Preprocessing) -> None:
    timm = pytest.importorskip("timm")
    import senet.integrations.timm

    images = replace(images, size=(32, 32), crop_fraction=1.0)
    model = network(in_channels=images.in_channels)
    url = LoadedModel(model, CLASSES, images, replace(METADATA, preprocessing=images)).push_to_hub("user/pets")
    theirs = timm.create_model("hf-hub:user/pets", pretrained=True).eval()
    assert theirs.pretrained_cfg["label_names"] == list(CLASSES), url
    white = torch.rand(2, images.in_channels, 32, 32, generator=torch.Generator().manual_seed(1))
    data = timm.data.resolve_data_config(model=theirs)
    assert tuple(data["input_size"]) == (images.in_channels, 32, 32)
    assert timm.data.create_transform(**data) is not None

    def normalised(mean, std, x):
        return (x - torch.tensor(mean).view(1, -1, 1, 1)) / torch.tensor(std).view(1, -1, 1, 1)

    ours = white * images.value_range
    ours = normalised(images.mean, images.std, ours.flip(1) if images.channel_order == "BGR" else ours)
    out = theirs(normalised(data["mean"], data["std"], white))
    torch.testing.assert_close(out, model(ours), rtol=1e-4, atol=1e-4)
    # The same repository, read here.
    loaded = senet.load_model("hf://user/pets")
    again = white * loaded.preprocessing.value_range
    torch.testing.assert_close(
        loaded.model(normalised(loaded.preprocessing.mean, loaded.preprocessing.std, again)), out
    )
    features = timm.create_model("hf-hub:user/pets", pretrained=True, features_only=True, out_indices=(0, 2))
    assert features.feature_info.channels() == [16, 64]


def test_timms_own_push_works_on_a_registered_network(hub: Hub) -> None:
    timm = pytest.importorskip("timm")
    import senet.integrations.timm

    model = timm.create_model("senet_se_cifar_resnet20", num_classes=3, depth=1)
    timm.models.push_to_hf_hub(model, "user/theirs", safe_serialization=True)
    again = timm.create_model("hf-hub:user/theirs", pretrained=True)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in again.state_dict().items())
    with pytest.raises(CheckpointError, match="describes no network of this package"):
        senet.load_model("hf://user/theirs")


# The model card.


def test_the_card_says_what_a_reader_needs(pushed: Hub) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard(pushed.latest("user/pets")["README.md"].decode())
    assert (card.data.license, card.data.library_name, card.data.pipeline_tag) == (
        "mit",
        "senet",
        "image-classification",
    )
    assert {result.metric_name: result.metric_value for result in card.data.eval_results} == {
        "loss": 0.5, "top-1 accuracy": 0.9}  # fmt: skip
    assert card.data.eval_results[0].dataset_name == "folder:pets"
    text = card.text
    assert "| top-1 accuracy | 90.00% | 69.90% to 97.21% |" in text  # Wilson, 18 of 20
    assert "On the validation images during training (20 images)" in text
    assert "`folder:pets`: 80 training and 20 validation images (20% split off, seed 0)." in text
    assert "| optimizer | sgd |" in text
    assert "| mean | 0.4914, 0.4822, 0.4465 |" in text
    assert "3 attention layers (SqueezeExcite) with" in text
    assert "`cat`, `dog\\|wolf`, `'bird' # fish`" in text, "names of classes are no markup"
    assert 'senet.load_model("hf://user/pets")' in text


def test_the_card_of_a_bare_network() -> None:
    model = senet.create_model("cifar_resnet20", num_classes=200)
    metadata = CheckpointMetadata(model="cifar_resnet20", classes=tuple(map(str, range(200))), preprocessing=CIFAR)
    evaluation = {"images": 8, "top1": 0.5, "intervals": {}, "data": "folder:/home/someone/x", "split": "all",
                  "warnings": ["3 of them were trained on"]}  # fmt: skip
    measured = model_card(model, metadata, name="user/x", evaluation=evaluation)
    assert "Measured on 8 images (split `all` of `folder:x`)" in measured
    assert "3 of them were trained on" in measured
    assert "someone" not in measured
    text = model_card(model, metadata, name="user/x")
    for line in ("None are recorded.", "No data is recorded.", "No training is recorded.", "no attention layer",
                 "and 100 more", "The publisher states no licence."):  # fmt: skip
        assert line in text


# The command line.


def call(capsys, *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(word) for word in words])
    return code, *capsys.readouterr()


@pytest.fixture
def digits_run(tmp_path) -> Path:
    folder = tmp_path / "digits"
    folder.mkdir()
    images = Preprocessing(size=(8, 8), crop_fraction=1.0, mean=(0.3,), std=(0.3,), channel_order="L")
    model = network(in_channels=1, num_classes=10)
    classes = tuple(map(str, range(10)))
    write_checkpoint(
        folder / "best.safetensors",
        model.state_dict(),
        CheckpointMetadata(model=NAME, options=OPTIONS, classes=classes, preprocessing=images),
    )
    return folder


@pytest.mark.slow
def test_push_with_an_evaluation_and_the_gates(hub: Hub, digits_run, tmp_path, capsys) -> None:
    data = ("--data", "digits", "--workers", 0, "--json")
    for command in ("evaluate", "inspect"):
        limit = ("--limit", 40, "--examples", 0) if command == "inspect" else ()
        code, out, _ = call(capsys, command, digits_run, *data, *limit)
        assert code == 0
        (tmp_path / f"{command}.json").write_text(out)
    results = ("--evaluation", tmp_path / "evaluate.json", "--inspection", tmp_path / "inspect.json")
    code, out, err = call(capsys, "push", digits_run, "user/digits", *results, "--private", "--licence", "mit")
    assert code == 0, err
    assert out.splitlines()[1] == 'load it with: senet.load_model("hf://user/digits")'
    text = hub.latest("user/digits")["README.md"].decode()
    top1 = json.loads((tmp_path / "evaluate.json").read_text())["top1"]
    assert f"| top-1 accuracy | {top1:.2%} |" in text
    assert "Measured on 359 images (split `val` of `digits`)" in text
    assert "Over 40 images (digits, val):" in text
    assert "| `stages.2.0` | 16 |" in text
    # The other commands take the address in place of a folder.
    code, out, err = call(capsys, "evaluate", "hf://user/digits", *data)
    assert code == 0, err
    assert json.loads(out)["top1"] == top1
    code, out, err = call(capsys, "push", digits_run, "user/digits", "--revision", "two", "--json")
    assert json.loads(out)["url"].startswith(f"{hub.url}/user/digits/commit/"), err


def test_a_dry_run_writes_the_folder_and_asks_nobody(hub: Hub, run, tmp_path, capsys) -> None:
    code, out, err = call(capsys, "push", run, "user/pets", "--dry-run", tmp_path / "made")
    assert code == 0, err
    assert out.endswith("made: README.md, config.json, model.safetensors\n")
    assert not hub.requests
    assert senet.load_model(tmp_path / "made").classes == CLASSES
    timm = pytest.importorskip("timm")

    theirs = timm.create_model(f"local-dir:{tmp_path / 'made'}", pretrained=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(IMAGES), network()(IMAGES))
    code, _, err = call(capsys, "push", run, "user/pets", "--dry-run", tmp_path / "made")
    assert (code, err) == (2, f"senet push: --dry-run {tmp_path / 'made'} exists; name a new folder\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("user",), "is not a repository of the Hugging Face Hub"),
        (("hf://user/pets",), "write user/name, and the branch as --revision"),
        (("user/pets@v1",), "write user/name, and the branch as --revision"),
        (("user/pets", "--dry-run", "x", "--private"), "leave out --private"),
        (("user/pets", "--evaluation", "missing.json"), "missing.json: No such file"),
        (("user/pets", "--evaluation", "{run}/best.json"), "is no output of `senet evaluate CHECKPOINT --json`"),
        (("user/pets", "--inspection", "{run}/best.safetensors"), "write it with `senet inspect CHECKPOINT --json`"),
    ],
)
def test_mistakes_are_one_line(hub: Hub, run, capsys, words, message) -> None:
    code, _, err = call(capsys, "push", run, *(word.format(run=run) for word in words))
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not hub.repositories


# Failures.


def test_without_a_login_the_remedy_is_named(hub: Hub, run, monkeypatch, capsys) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    code, _, err = call(capsys, "push", run, "user/pets")
    assert code == 2
    assert "user/pets can't be written to: " in err
    assert "log in with `hf auth login`" in err
    assert err.count("\n") == 1
    assert not hub.repositories


def test_a_failed_commit_leaves_the_branch_as_it_was(pushed: Hub) -> None:
    before = pushed.latest("user/pets")
    pushed.refuse["POST /api/models/user/pets/commit"] = 403
    with pytest.raises(SenetError, match="user/pets can't be written to"):
        network(depth=2).push_to_hub("user/pets")
    assert pushed.latest("user/pets") == before


def test_no_server(run, hub: Hub, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SenetError, match="user/pets can't be written to"):
        senet.load_model(run).push_to_hub("user/pets")


@pytest.mark.parametrize("address", ["hf://user/pets@v9", "hf://user/nothing", "hf-hub:user/nothing"])
def test_missing_repositories_and_revisions(pushed: Hub, address: str) -> None:
    with pytest.raises(CheckpointError, match=r"no such branch, tag or commit|does not exist on the hub"):
        senet.create_model(address) if address.startswith("hf-hub") else senet.load_model(address)


@pytest.mark.parametrize(
    "text", ["hf://pets", "hf://../pets", "hf://user/..", "hf://user/pets/x", "hf://user/pets@../../x", "hf://user/pets@/x",
             "hf://user/pets@a//b", "hf:///etc/passwd", "hf://user/pets@", "hf://us er/pets"],
)  # fmt: skip
def test_addresses_that_could_leave_the_cache_are_refused(hub: Hub, text: str) -> None:
    with pytest.raises(SenetError, match="is not a repository of the Hugging Face Hub"):
        senet.load_model(text)
    assert not hub.requests


def test_addresses() -> None:
    assert str(HubAddress.parse("hf-hub:user/pets@v1")) == "hf://user/pets@v1"
    assert HubAddress.parse("a-b/c.d_e").repo == "a-b/c.d_e"


# Security.


def test_altered_weights_are_refused(pushed: Hub) -> None:
    files = pushed.latest("user/pets")
    weights = bytearray(files["model.safetensors"])
    weights[-1] ^= 1
    files["model.safetensors"] = bytes(weights)
    for load in (senet.load_model, lambda name: senet.create_model(name.replace("hf://", "hf-hub:"))):
        with pytest.raises(CheckpointError, match=r"its hash differs from the one in config\.json"):
            load("hf://user/pets")


def test_a_pickle_is_never_read(pushed: Hub) -> None:
    files = pushed.latest("user/pets")
    files["pytorch_model.bin"] = b"cos\nsystem\n(S'false'\ntR."
    del files["model.safetensors"]
    with pytest.raises(CheckpointError, match=r"model\.safetensors of .*the file does not exist on the hub"):
        senet.load_model("hf://user/pets")
    assert not any(line.endswith("pytorch_model.bin") for line in pushed.requests)


def test_code_that_a_repository_names_is_not_run(pushed: Hub) -> None:
    files = pushed.latest("user/pets")
    config = json.loads(files["config.json"])
    config["senet"]["model"] = "os:getcwd"
    files["config.json"] = json.dumps(config).encode()
    with pytest.raises(CheckpointError, match="use --model os:getcwd if you trust this code"):
        senet.load_model("hf://user/pets")
    with pytest.raises(CheckpointError, match="holds no plain classifier"):
        senet.create_model("hf-hub:user/pets")


@pytest.mark.parametrize(
    "content",
    [b"{}", b"[]", b"not json", b'{"senet": 3}', b'{"senet": {}}', b'{"a": NaN}', b'{"a": 1, "a": 2}', b"\xff"],
)
def test_damaged_configurations_are_refused(pushed: Hub, content: bytes) -> None:
    pushed.latest("user/pets")["config.json"] = content
    with pytest.raises(CheckpointError, match=r"config\.json"):
        senet.load_model("hf://user/pets")


# What can't be pushed.


def test_networks_that_nobody_could_rebuild(hub: Hub, tmp_path) -> None:
    changed = network()
    changed.stages["2"][0].extra = nn.Linear(2, 2)
    with pytest.raises(
        SenetError, match=r"can't be rebuilt from its name and options: stages\.2\.0\.extra.bias differs"
    ):
        changed.push_to_hub("user/pets")
    nameless = replace(network().spec, name="").build()
    with pytest.raises(SenetError, match=r"none of senet.list_models\(\)"):
        nameless.push_to_hub("user/pets")
    fast, _ = senet.optimize(network())
    with pytest.raises(SenetError, match="optimize"):
        fast.push_to_hub("user/pets") if hasattr(fast, "push_to_hub") else write_folder(
            tmp_path, fast, METADATA, name="user/pets"
        )
    with pytest.raises(SenetError, match="2 class names for 3 outputs"):
        network().push_to_hub("user/pets", classes=("a", "b"))
    headless = network()
    headless.reset_classifier(0)
    with pytest.raises(SenetError, match="without a classifier"):
        headless.push_to_hub("user/pets")
    assert not hub.requests


def test_a_folder_of_timm_is_still_weights_of_another_library(tmp_path) -> None:
    from senet.weights.checkpoint import is_checkpoint_file

    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    assert not is_checkpoint_file(tmp_path / "model.safetensors")


def test_a_checkpoint_called_config_keeps_its_meaning(run) -> None:
    for end in (".json", ".safetensors"):
        shutil.copy(run / f"best{end}", run / f"config{end}")
    for name in ("config.json", "config.safetensors"):
        assert senet.load_model(run / name).classes == CLASSES
    assert load_file(run / "config.safetensors").keys() == network().state_dict().keys()
