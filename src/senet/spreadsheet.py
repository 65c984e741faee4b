"""Text in CSV files that a spreadsheet program shows and doesn't compute."""

from __future__ import annotations

import re

__all__ = ["text_cell"]

FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""How a text begins that Excel, LibreOffice or Google Sheets takes for a formula; the last four are full-width."""


def text_cell(text: str) -> str:
    """A text as a cell: with an apostrophe before what would be a formula, and in characters that UTF-8 has.

    To get the text back, take one apostrophe away where apostrophes stand before such a beginning. A byte of a file's
    name that is no UTF-8 becomes `\\udcXX`.

    Args:
        text: Such as a file's or a class's name; never a number, whose minus is meant.

    Source: OWASP, CSV injection.
    """
    text = text.encode("utf-8", "backslashreplace").decode()
    return f"'{text}" if FORMULA.match(text) else text
