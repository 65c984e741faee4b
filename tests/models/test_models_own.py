"""`module:function`: a network of the user's own."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
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


def test_what_the_users_code_puts_on_the_path_stays(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = list(sys.path)
    here = str(Path.cwd())
    Path(f"{own}_first.py").write_text(
        f"import sys\nsys.path.insert(0, '/opt/mine')\nsys.path.append({here!r})\nfrom torch import nn\n"
        "def build(num_classes):\n    sys.path.insert(0, '/opt/later')\n    return nn.Linear(3, num_classes)\n"
    )
    build_model(f"{own}_first:build", num_classes=2)
    assert sys.path == ["/opt/later", "/opt/mine", *before, here]


def test_a_path_that_the_users_code_replaces_or_clears(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    end = "\nfrom torch import nn\ndef build(num_classes):\n    return nn.Linear(3, num_classes)\n"
    Path(f"{own}_new.py").write_text("import sys\nsys.path = ['/opt/new', *sys.path]" + end)
    before = list(sys.path)
    build_model(f"{own}_new:build", num_classes=2)
    assert sys.path == ["/opt/new", *before]
    Path(f"{own}_without.py").write_text("import sys\nsys.path.pop(0)" + end)
    build_model(f"{own}_without:build", num_classes=2)
    assert sys.path == ["/opt/new", *before]


def test_an_entry_of_the_users_own_for_the_working_directory_stays(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here = str(Path.cwd())
    monkeypatch.setattr(sys, "path", [*sys.path, here])
    before = list(sys.path)
    build_model(f"{own}:both", num_classes=2)
    assert sys.path == before


@pytest.mark.parametrize(
    "mistake", ["raise ZeroDivisionError('mine')", "raise KeyboardInterrupt", "def (", "import absent_one"]
)
@pytest.mark.parametrize("where", ["module", "function"])
def test_the_path_survives_mistakes(mistake: str, where: str, own: str) -> None:
    before = list(sys.path)
    name = f"{own}_wrong"
    inside = f"def build():\n    exec({mistake!r})\n"
    Path(f"{name}.py").write_text(inside if where == "function" else mistake)
    with pytest.raises((Exception, KeyboardInterrupt)):
        build_model(f"{name}:build", num_classes=2)
    assert sys.path == before
    assert build_model(f"{own}:both", num_classes=2) is not None


def test_nested_and_late_imports(own: str) -> None:
    before = list(sys.path)
    Path(f"{own}_part.py").write_text(
        "from torch import nn\ndef build(num_classes):\n    return nn.Linear(4, num_classes)\n"
    )
    Path(f"{own}_outer.py").write_text(
        "from senet.zoo import build_model\n"
        f"inner = build_model('{own}_part:build', num_classes=3)\n"
        f"def build(num_classes):\n    import {own}_late\n    return {own}_late.made(inner)\n"
    )
    Path(f"{own}_late.py").write_text("made = lambda inner: inner\n")
    assert build_model(f"{own}_outer:build", num_classes=3).out_features == 3
    assert sys.path == before


def test_threads_leave_the_path_as_it_was(own: str) -> None:
    before = list(sys.path)
    for number in range(8):
        Path(f"{own}_t{number}.py").write_text(
            "import time\nfrom torch import nn\n"
            "def build(num_classes):\n    time.sleep(0.01)\n    return nn.Linear(3, num_classes)\n"
        )
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: build_model(f"{own}_t{n % 8}:build", num_classes=n + 1), range(40)))
    assert [model.out_features for model in made] == list(range(1, 41))
    assert sys.path == before
