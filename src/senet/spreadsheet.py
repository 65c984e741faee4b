"""Text cells in CSV files that a spreadsheet program doesn't interpret as formulas."""

from __future__ import annotations

import re

__all__ = ["text_cell"]

FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""The start of a formula in Excel, LibreOffice or Google Sheets. The last four characters are full-width."""


def text_cell(text: str) -> str:
    """Escape text for a CSV cell: an apostrophe precedes formulas, and invalid characters become UTF-8.

    To decode it, remove one apostrophe where apostrophes precede the start of a formula. A byte of a file name that
    isn't UTF-8 becomes `\\udcXX`.

    Args:
        text: Such as a file or class name. Not for numbers, whose minus sign would be escaped.

    Source: OWASP, CSV injection.
    """
    text = text.encode("utf-8", "backslashreplace").decode()
    return f"'{text}" if FORMULA.match(text) else text
