"""The guides name commands, options and messages that exist."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import takewhile
from pathlib import Path

import pytest
from page_fences import DOCS, fences

import senet
from senet.cli import make_parser

GUIDES = (
    "coming-from-timm", "add-se", "fine-tune", "resume", "several-gpus", "read-the-gates", "when-se-does-not-help",
    "troubleshooting", "hugging-face-hub", "evaluate", "augmentation", "channels", "better-training", "multi-label",
    "remote-data",
)  # fmt: skip

COMMAND = re.compile(r"(?:^|\s)(?:-m )?senet (?=[a-z-])")
"""Before it stand variables of the environment, `torchrun ... -m`, `srun ...`."""

PLACEHOLDER = "…"
"""In a heading: what differs from message to message."""


def commands(page: str) -> list[str]:
    """The `senet` commands of a page's shell blocks, without comments."""
    lines = "\n".join(fence.code for fence in fences(page) if fence.language == "bash").replace("\\\n", " ")
    return [line for line in lines.splitlines() if COMMAND.search(line)]


def arguments(line: str) -> list[str]:
    """What follows `senet` on a line."""
    words = shlex.split(COMMAND.split(line, maxsplit=1)[1], comments=True)
    return list(takewhile(lambda word: word not in ("&", ">"), words))


@pytest.mark.parametrize("guide", GUIDES)
def test_each_command_has_the_options_that_the_guide_gives_it(guide):
    found = commands(f"guides/{guide}.md")
    assert found, "a guide shows a command"
    parser, parsers = make_parser()
    for line in found:
        options, unknown = parser.parse_known_args(arguments(line))
        parsers[options.command].refuse_unknown(unknown)  # raises, as the parser does


def headings(page: str) -> list[str]:
    """The messages that are headings of a page, without their marks of code."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [match[2] for match in re.finditer(r"^### (`+) ?(.*?) ?\1$", text, re.M)]


@cache
def texts() -> tuple[str, ...]:
    """The strings of the package's source; a formatted one has a placeholder for each value."""
    found: list[str] = []
    for path in Path(senet.__file__).parent.rglob("*.py"):
        found += _strings(ast.parse(path.read_text(encoding="utf-8")))
    return tuple(found)


def _strings(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else PLACEHOLDER for part in node.values)
            yield "".join(map(str, parts))


def is_in_source(heading: str) -> bool:
    """Whether one string of the source holds the heading's fixed words, in their order."""
    pieces = (re.escape(piece.strip()) for piece in heading.split(PLACEHOLDER) if piece.strip())
    pattern = re.compile(".*".join(pieces), re.S)
    return any(pattern.search(text) for text in texts())


def test_there_are_messages_enough_each_once():
    found = headings("guides/troubleshooting.md")
    assert len(found) == len(set(found)) >= 25


@pytest.mark.parametrize("heading", headings("guides/troubleshooting.md"))
def test_each_message_is_one_of_the_package(heading):
    assert is_in_source(heading)


def test_a_message_that_went_stale_is_noticed():
    assert not is_in_source("… has one class only and that is how it is (…)")
