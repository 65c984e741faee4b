"""Filling a page's template."""

from __future__ import annotations

import base64
import json
from importlib.resources import files
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["assemble", "script_json", "thumbnail"]


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


def script_json(value: Any) -> str:
    """Return JSON for a script element, where only "</script" and "<!--" have an effect. So every "<" is escaped."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def thumbnail(image: Image.Image, edge: int) -> str:
    """Return a small copy of an image as a data URL.

    Args:
        image: In any mode but I;16.
        edge: Length of its longer side in pixels, if it is longer.
    """
    small = image.convert("RGB")
    small.thumbnail((edge, edge))
    file = BytesIO()
    small.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
