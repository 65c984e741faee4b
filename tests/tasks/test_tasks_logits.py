"""Networks that answer with more than their logits."""

from __future__ import annotations

import json
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from senet.cli import main
from senet.data import open_data
from senet.deploy import export, load_exported
from senet.errors import SenetError
from senet.inference import evaluate
from senet.preprocessing import Preprocessing
from senet.tasks import task_named
from senet.tasks.logits import logits_of

LOGITS, AUX, LOSS = torch.randn(3, 5), torch.randn(3, 7), torch.tensor(2.0)
InceptionOutputs = namedtuple("InceptionOutputs", ["logits", "aux_logits"])


class ModelOutput(OrderedDict):
    """As Hugging Face's: a dictionary with attributes."""


@dataclass
class Answer:
    logits: Tensor
    aux: Tensor


HOLDERS: dict[str, Any] = {
    "tensor": LOGITS,
    "named tuple": InceptionOutputs(LOGITS, AUX),
    "named tuple, without its second in evaluation": InceptionOutputs(LOGITS, None),
    "out": OrderedDict(out=LOGITS, aux=torch.randn(3, 5)),
    "logits": {"aux": torch.randn(3, 5), "logits": LOGITS},
    "hugging face": ModelOutput(loss=LOSS, logits=LOGITS),
    "tuple": (LOGITS, AUX),
    "loss first": (LOSS, LOGITS),
    "features first": [AUX, LOGITS, torch.randn(3, 5)],
    "object": Answer(LOGITS, AUX),
    "a tuple in a dictionary": {"out": (AUX, LOGITS)},
}


@pytest.mark.parametrize("answer", HOLDERS.values(), ids=HOLDERS)
def test_logits_are_found(answer: Any) -> None:
    assert logits_of(answer, 5, name="net") is LOGITS


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"scores": LOGITS, "features": AUX}, "a dict with 'scores', 'features'"),
        ((AUX, LOSS), r"a tuple of \(3, 7\), \(\)"),
        ((), "a tuple of nothing"),
        (None, "a NoneType"),
        ({}, "a dict with nothing"),
    ],
)
def test_none_are_an_error_that_names_network_and_remedy(answer: Any, said: str) -> None:
    with pytest.raises(SenetError, match=rf"(?s)my:net returns {said}.*for 5 classes.*under 'logits' or 'out'"):
        logits_of(answer, 5, name="my:net")


NETWORKS = """
from collections import namedtuple
import torch
from torch import nn

InceptionOutputs = namedtuple("InceptionOutputs", ["logits", "aux_logits"])

class Net(nn.Module):
    def __init__(self, num_classes, form):
        super().__init__()
        convolution = nn.Conv2d(1, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU()
        self.body = nn.Sequential(*convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head, self.aux, self.form = nn.Linear(8, num_classes), nn.Linear(8, 3), form

    def forward(self, x):
        x = self.body(x)
        return FORMS[self.form](self.head(x), self.aux(x), self.training)

FORMS = {
    "inception": lambda y, a, training: InceptionOutputs(y, a) if training else y,
    "torchvision": lambda y, a, training: {"out": y, "aux": a},
    "tuple": lambda y, a, training: (a, y),
    "wrong": lambda y, a, training: {"prediction": y},
    "wrong while training": lambda y, a, training: {"prediction": y} if training else y,
}

def inception(num_classes): return Net(num_classes, "inception")
def torchvision(num_classes): return Net(num_classes, "torchvision")
def tuples(num_classes): return Net(num_classes, "tuple")
def wrong(num_classes): return Net(num_classes, "wrong")
def wrong_later(num_classes): return Net(num_classes, "wrong while training")
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "answers_of_many_forms.py").write_text(NETWORKS)
    return tmp_path


def train(name: str) -> int:
    quick = ["--epochs", "1", "--limit", "40", "--batch-size", "20", "--workers", "0"]
    return main(["train", "--data", "digits", "--model", f"answers_of_many_forms:{name}", *quick, "--out", name])


@pytest.mark.parametrize("name", ["inception", "torchvision", "tuples"])
def test_such_networks_are_trained_evaluated_and_used(
    name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from senet.zoo import load_model

    assert train(name) == 0, capsys.readouterr().err
    capsys.readouterr()
    use = ["--checkpoint", name, "--model", f"answers_of_many_forms:{name}"]
    assert main(["predict", *[str(p) for p in _pictures(here)], *use, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows[0]["top"]) == 5
    loaded = load_model(name, factory=f"answers_of_many_forms:{name}")
    data = open_data("digits")
    result = evaluate(loaded, data.val, data.classes, workers=0)
    report = export(loaded, here / "net.pt2", format="torch")
    assert report.drift <= 1e-4
    exported = load_exported(here / "net.pt2", runtime="torch")
    assert evaluate(exported, data.val, data.classes, workers=0).top1 == result.top1


def _pictures(folder: Path) -> list[Path]:
    from senet.data import Subset, write_images

    data = open_data("digits")
    return write_images(Subset(data.val, torch.arange(2).numpy()), folder / "pictures", classes=data.classes)


@pytest.mark.parametrize("name", ["wrong", "wrong_later"])
def test_an_answer_without_logits_ends_the_training_in_words(
    name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(name) == 2
    message = capsys.readouterr().err
    assert "returns a dict with 'prediction'" in message
    assert ("Net" if name == "wrong_later" else "answers_of_many_forms:wrong") in message
    assert "under 'logits' or 'out'" in message
    assert not (here / name / "best.safetensors").exists()


def test_segmenters_may_answer_so_too() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Any:
            return x.mean(), self.head(x)

    task, images = task_named("segmentation"), Preprocessing(size=(32, 48))
    task.check_network(Net(), "net", images, "abcd")
    with pytest.raises(SenetError, match=r"net returns a tuple of .* classes, H, W\) for 3 classes"):
        task.check_network(Net(), "net", images, "abc")


def test_a_detector_must_give_losses() -> None:
    from senet.data import DenseBatch
    from senet.tasks.detection.objective import DetectionObjective

    class Net(nn.Module):
        def forward(self, images: Any, targets: Any) -> Any:
            return (torch.zeros(()),)

    target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "crowd": torch.zeros(0).bool()}
    batch = DenseBatch([torch.zeros(3, 8, 8)], [target], torch.zeros(1), torch.ones(1).bool(), [], (0, 0))
    with pytest.raises(SenetError, match=r"Net returns a tuple in training; .* dictionary of losses"):
        DetectionObjective(("a",)).training_step(Net(), batch)
