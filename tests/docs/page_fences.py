"""The code blocks of a page."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DOCS", "Fence", "fences"]

DOCS = Path(__file__).parents[2] / "docs"

_FENCE = re.compile(r"(?:<!-- no-run: (?P<reason>.*?) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Fence:
    """A code block; `no_run` is the reason why it isn't run where the page's blocks are, else empty."""

    language: str
    code: str
    no_run: str


def fences(page: str) -> list[Fence]:
    """The blocks of a page below `docs/`, in order."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [Fence(m["language"], m["code"], m["reason"] or "") for m in _FENCE.finditer(text)]
