"""Filling a page's template."""

from __future__ import annotations

import base64
from importlib.resources import files
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["assemble", "in_script", "thumbnail"]

SMALL = 64
"""Images up to this size are stored without loss."""


def assemble(template: str, **parts: str) -> str:
    """Replace each `{{NAME}}` of a template by its part, once. `COMMON_STYLE` and `COMMON_SCRIPT` are of all pages.

    Raises:
        KeyError: The template names an unknown part.
    """
    common = files("senet.pages")
    parts |= {f"COMMON_{name}": (common / f"common.{kind}").read_text(encoding="utf-8")
              for name, kind in (("STYLE", "css"), ("SCRIPT", "js"))}  # fmt: skip
    before, *rest = template.split("{{")
    pieces = [before]
    for piece in rest:
        name, _, after = piece.partition("}}")
        pieces += [parts[name], after]
    return "".join(pieces)


def in_script(text: str) -> str:
    """Return JSON for a script element, where only "</script" and "<!--" have an effect. So every "<" is escaped."""
    return text.replace("<", "\\u003c")


def thumbnail(image: Image.Image, edge: int) -> str:
    """Return a small copy of an image as a data URL.

    Args:
        image: In any mode but I;16.
        edge: Length of its longer side in pixels, if it is longer.
    """
    small = image.convert("RGB")
    small.thumbnail((edge, edge))
    kind = "PNG" if max(small.size) <= SMALL else "JPEG"
    file = BytesIO()
    small.save(file, kind, quality=80)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
