"""Examples run: those of docstrings as doctests, and the Python code of README and pages."""

from __future__ import annotations

import doctest
import importlib
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

MODULES = [path for path in sorted((SOURCE / "senet").rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]
PAGES = sorted([*ROOT.glob("README*.md"), *(ROOT / "docs").rglob("*.md")])
TRANSLATED = [page for page in PAGES if page.name.endswith(".zh-CN.md")]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)


def run_doctests(tests: list[doctest.DocTest]) -> None:
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    for test in tests:
        runner.run(test, out=report.append, clear_globs=False)
    assert not runner.failures, "".join(report)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_examples_of_docstrings(path):
    module = importlib.import_module(".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"))
    tests = [test for test in doctest.DocTestFinder().find(module) if test.examples]
    for test in tests:
        test.globs = {"__name__": "__main__"}  # an example imports what it uses
    run_doctests(tests)


@dataclass(frozen=True)
class Fence:
    """A block of Python code on a page.

    Attributes:
        line: Of its first line of code.
        code: Without the fence's indentation.
        no_run: Why it isn't run; empty if it is.
    """

    line: int
    code: str
    no_run: str


def python_fences(text: str) -> list[Fence]:
    """Blocks of Python code; `<!-- no-run: REASON -->` on the line before a fence keeps it from running."""
    found, lines = [], text.splitlines()
    starts = (number for number, line in enumerate(lines) if re.match(r"\s*```python\b", line))
    for start in starts:
        indent = len(lines[start]) - len(lines[start].lstrip())
        end = next(n for n in range(start + 1, len(lines)) if lines[n].strip() == "```")
        above = next((line for line in reversed(lines[:start]) if line.strip()), "")
        reason = re.fullmatch(r"\s*<!-- no-run: (.+) -->\s*", above)
        code = "\n".join(line[indent:] for line in lines[start + 1 : end])
        found.append(Fence(start + 2, code + "\n", reason[1] if reason else ""))
    return found


RUNNABLE = [
    page
    for page in PAGES
    if page not in TRANSLATED and not all(fence.no_run for fence in python_fences(page.read_text(encoding="utf-8")))
]


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_code_of_pages(page):
    """Blocks of a page run in order and share their names."""
    names = {"__name__": "__main__"}
    for fence in python_fences(page.read_text(encoding="utf-8")):
        if fence.no_run:
            continue
        if fence.code.lstrip().startswith(">>>"):
            run_doctests([doctest.DocTestParser().get_doctest(fence.code, names, page.name, str(page), fence.line)])
        else:
            exec(compile("\n" * (fence.line - 1) + fence.code, str(page), "exec"), names)


@pytest.mark.parametrize("page", TRANSLATED, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_translated_page_has_the_same_code(page):
    original = page.with_name(page.name.replace(".zh-CN", ""))
    texts = [path.read_text(encoding="utf-8") for path in (original, page)]
    english, chinese = ([re.sub(r"\s*#.*", "", fence.code) for fence in python_fences(text)] for text in texts)
    assert english == chinese


def test_a_marked_block_does_not_run():
    text = "<!-- no-run: a download -->\n\n```python\n1 / 0\n```\n\n```python title='x'\nx = 1\n```\n"
    assert [(f.no_run, f.line, f.code) for f in python_fences(text)] == [
        ("a download", 4, "1 / 0\n"),
        ("", 8, "x = 1\n"),
    ]
