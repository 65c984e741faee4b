"""`module:function`: a network of the user's own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from torch import nn

import senet
from senet.zoo import build_model

SOURCE = """
from torch import nn


def both(num_classes, in_channels=3):
    return nn.Conv2d(in_channels, num_classes, 1)


def classes_only(*, num_classes):
    return nn.Linear(2, num_classes)


def neither():
    return nn.ReLU()


def anything(**options):
    return nn.Conv2d(options["in_channels"], options["num_classes"], 1)


def needs_more(num_classes, width):
    return nn.Linear(width, num_classes)


def no_module():
    return 7


constant = 3


class Network(nn.Linear):
    def __init__(self, num_classes):
        super().__init__(5, num_classes)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    name = f"own_{tmp_path.name.replace('-', '_')}"
    Path(f"{name}.py").write_text(SOURCE)
    return name


def test_the_users_function_gets_what_it_takes(own: str) -> None:
    path = list(sys.path)
    assert build_model(f"{own}:both", num_classes=4, in_channels=2).weight.shape == (4, 2, 1, 1)
    assert build_model(f"{own}:classes_only", num_classes=4).out_features == 4
    assert isinstance(build_model(f"{own}:neither", num_classes=4), nn.ReLU)
    assert build_model(f"{own}:Network", num_classes=4).out_features == 4
    assert build_model(f"{own}:anything", num_classes=4, in_channels=1).weight.shape == (4, 1, 1, 1)
    assert sys.path == path


def test_what_is_wrong_with_it_is_told(own: str) -> None:
    path = list(sys.path)
    for text, message in {
        "absent_module_of_mine:both": "no module 'absent_module_of_mine'",
        f"{own}:absent": "has no function 'absent'",
        f"{own}:constant": "has no function 'constant'",
        f"{own}:no_module": "returned int, not a torch.nn.Module",
        f"{own}:needs_more": "width",
        ":both": ":both",
        f"{own}:": f"{own}:",
        "..:both": "..:both",
    }.items():
        with pytest.raises(senet.SenetError, match=message.replace(".", r"\.")):
            build_model(text, num_classes=2)
    with pytest.raises(senet.SenetError, match="attention is an option of this package's networks"):
        build_model(f"{own}:both", num_classes=2, options={"attention": None})
    assert sys.path == path


def test_a_mistake_inside_the_users_code_is_the_users(own: str) -> None:
    Path(f"{own}_broken.py").write_text("import a_library_that_is_not_there\n\ndef f(): ...\n")
    with pytest.raises(senet.SenetError, match="no module 'a_library_that_is_not_there'"):
        build_model(f"{own}_broken:f", num_classes=2)
    Path(f"{own}_raising.py").write_text("def f():\n    raise ZeroDivisionError('mine')\n")
    with pytest.raises(ZeroDivisionError, match="mine"):
        build_model(f"{own}_raising:f", num_classes=2)


def test_without_a_colon_it_is_one_of_ours() -> None:
    model = build_model("se_cifar_resnet20", num_classes=4, in_channels=1, options={"depth": 1})
    assert model.spec.num_classes == 4
    assert model.spec.in_channels == 1
    with pytest.raises(senet.SenetError, match="unknown model"):
        build_model("resnet", num_classes=2)
