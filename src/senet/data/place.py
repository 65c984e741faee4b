"""The place of a data set and the options behind it: `flowers.csv:label=species,root=images`."""

from __future__ import annotations

import re

__all__ = ["split_place"]

_START = re.compile(r':(?="?\w+=|streaming(?:,|$))')


def split_place(text: str) -> tuple[str, str]:
    """Divide the text behind the kind into the place and the options with their colon.

    Options begin at the first colon before `NAME=`, so drives and addresses keep theirs.

    Example:
        >>> from senet.data.place import split_place
        >>> split_place("C:/data/list.csv:label=species,root=images")
        ('C:/data/list.csv', ':label=species,root=images')
        >>> split_place("s3://bucket/flowers")
        ('s3://bucket/flowers', '')
    """
    found = _START.search(text)
    return (text[: found.start()], text[found.start() :]) if found else (text, "")
