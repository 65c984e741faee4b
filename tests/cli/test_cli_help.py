"""Every command's help: what goes where, defaults, examples."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import shlex
from pathlib import Path

import pytest

from senet.cli import COMMANDS, make_parser
from senet.cli import fields as cli_fields
from senet.cli.fields import add_field_options

PARSER, PARSERS = make_parser()


def texts(name: str) -> list[tuple[argparse.Action, str]]:
    """Each argument of a command with its whole help text."""
    parser = PARSERS[name]
    return [(a, parser._get_formatter()._expand_help(a)) for a in parser._actions if a.dest != "help"]


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("columns", ["80", "200"])
def test_usage_fits_a_screen_and_examples_follow(name: str, columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    parser = PARSERS[name]
    usage = parser.format_usage()
    assert usage.startswith(f"usage: senet {name} ")
    assert len(usage.splitlines()) <= 12
    assert max(map(len, usage.splitlines())) <= 90
    text = parser.format_help()
    block = re.search(r"^Examples:\n((?:  .*\n)+)\n", text, re.MULTILINE)
    assert block
    assert all(re.match(rf"  senet ({name}|train) ?", line) for line in block[1].splitlines())
    assert max(map(len, block[1].splitlines())) <= 110
    assert "\n\n\n" not in text


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_can_be_parsed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("names.txt").write_text("a\nb\n")
    for line in PARSERS[name].format_help().splitlines():
        if line.startswith("  senet "):
            assert PARSER.parse_known_args(shlex.split(line)[1:])[1] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_says_what_goes_there_and_what_is_taken_without_it(name: str) -> None:
    for action, text in texts(name):
        assert text, action.dest
        if action.nargs == 0 and not isinstance(action, argparse.BooleanOptionalAction):
            continue
        metavars = action.metavar if isinstance(action.metavar, tuple) else (action.metavar,)
        for metavar in filter(None, metavars):
            for word in re.split(r"[,|=]", metavar):
                assert len(word) > 1 or word in ("N", "A", "B", "C"), (action.dest, metavar)
        if action.nargs != 0 and not isinstance(action, argparse.BooleanOptionalAction):
            assert action.metavar or action.choices, action.dest
        spelled_twice = text.endswith(" as an option")
        assert "(default: " in text or action.required or not action.option_strings or spelled_twice, (
            action.dest,
            text,
        )


@pytest.mark.parametrize("name", COMMANDS)
def test_help_texts_are_written_alike(name: str) -> None:
    for action, text in texts(name):
        assert not text.endswith("."), (action.dest, text)
        first = text.split()[0]
        assert not (first[0].isupper() and first[1:].islower()), (action.dest, text)
    titles = [group.title for group in PARSERS[name]._action_groups if group._group_actions]
    assert len(titles) == len(set(titles))
    assert not [title for title in titles if title[0].isupper()]


def test_names_in_help_are_the_names_that_there_are() -> None:
    """The command line lists them without importing torch."""
    from senet.data.augmentation import CROPS
    from senet.nn import PLACEMENTS
    from senet.nn.spec import ATTENTIONS
    from senet.tasks import TASKS
    from senet.tasks.detection.heads import HEADS as DETECTION
    from senet.tasks.segmentation.heads import HEADS as SEGMENTATION
    from senet.training.recipe import OPTIMIZERS, PRECISIONS, SCHEDULES, TRAINED
    from senet.training.recipes import RECIPES
    from senet.weights import LAYOUTS

    train = {action.dest: text for action, text in texts("train")}
    for option, names in {
        "attention": ATTENTIONS, "placement": PLACEMENTS, "task": TASKS, "head": [*DETECTION, *SEGMENTATION],
        "recipe": RECIPES, "optimizer": OPTIMIZERS, "schedule": SCHEDULES, "train": TRAINED, "precision": PRECISIONS,
        "crop": CROPS,
    }.items():  # fmt: skip
        assert [name for name in names if not re.search(rf"\b{name}\b", train[option])] == [], option
    convert = {action.dest: text for action, text in texts("convert")}
    assert all(name in convert["layout"] and name in convert["to"] for name in LAYOUTS)


def test_defaults_of_fields_are_their_own_or_said_to_be_the_recipes() -> None:
    train = {action.dest: text for action, text in texts("train")}
    assert train["workers"].endswith("(default: -1)")
    assert train["sync_bn"].endswith("(default: yes)")
    assert train["lr"].endswith("(default: the recipe's)")


def test_the_list_of_commands(senet) -> None:
    code, out, _ = senet("--help")
    assert code == 0
    for name in COMMANDS:
        assert re.search(rf"^    {name} +[A-Z]", out, re.MULTILINE), name
    assert out.startswith("usage: senet COMMAND [options]\n")


def test_help_texts_come_from_docstrings_with_and_without_their_indentation() -> None:
    """Python 3.13 strips it when it compiles a module."""
    made = [dataclasses.make_dataclass("Made", [("lr", "float", 0.1), ("epochs", "int", 3)]) for _ in range(2)]
    text = """Numbers.

    Attributes:
        lr: The step, in
            units of one.
        epochs: Passes.

    Others: none.
    """
    made[0].__doc__, made[1].__doc__ = text, inspect.cleandoc(text)
    shown = []
    for owner in made:
        parser = argparse.ArgumentParser(prog="x")
        add_field_options(parser.add_argument_group("numbers"), owner)
        shown.append(parser.format_help())
    assert shown[0] == shown[1]
    assert "the step, in units of one (default: 0.1)" in shown[0]


def test_an_interpreter_without_docstrings_has_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -OO` drops docstrings. It would compile all of PyTorch again, so only its flag is set here."""
    monkeypatch.setattr(cli_fields, "WITHOUT_DOCSTRINGS", True)
    owner = dataclasses.make_dataclass("Made", [("lr", "float", 0.1)])  # with a docstring that dataclasses write
    parser = argparse.ArgumentParser(prog="x")
    add_field_options(parser.add_argument_group("numbers"), owner)
    [action] = (a for a in parser._actions if a.dest == "lr")
    assert action.help == "(default: 0.1)"
