"""Parse the values of options. Each function is the `type` of an option."""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
from pathlib import Path
from typing import Any

__all__ = [
    "bit_depth",
    "class_names",
    "class_weights",
    "numbers",
    "parse_size",
    "positive",
    "positives",
    "statistics",
    "white_level",
]


def parse_size(text: str) -> tuple[int, int]:
    """Parse `224` or `256x192` (height x width) in pixels."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match or int(match[1]) < 1 or (match[2] and int(match[2]) < 1):
        raise argparse.ArgumentTypeError(f"{text!r}: write 224, or 256x192 for height x width")
    return int(match[1]), int(match[2] or match[1])


def white_level(text: str) -> int | str:
    """Parse `4095` or `auto`."""
    if text == "auto":
        return text
    if not text.isdigit() or not 1 <= int(text) <= 65_535:
        raise argparse.ArgumentTypeError(f"{text!r}: write a value of 16 bits, 1 to 65535 (4095 for 12 bits), or auto")
    return int(text)


def bit_depth(text: str) -> int:
    """Parse `8` to `16`, or `float`."""
    if text == "float":
        return 32
    if not text.isdigit() or not 8 <= int(text) <= 16:
        raise argparse.ArgumentTypeError(f"{text!r}: write 8 to 16 (12 for a white of 4095), or float")
    return int(text)


def statistics(text: str) -> str | dict[str, Any]:
    """Parse `auto`, or read a JSON file with the mean and the deviation of each channel."""
    if text == "auto":
        return text
    try:
        found = json.loads(Path(text).read_text(encoding="utf-8-sig"))
        found = found.get("statistics", found)
        return {key: [float(value) for value in found[key]] for key in ("mean", "std")}
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error.strerror}; give auto, or a JSON file") from None
    except (ValueError, AttributeError, TypeError, KeyError):
        raise argparse.ArgumentTypeError(
            f'{text}: write JSON such as {{"mean": [0.5, 0.4], "std": [0.2, 0.1]}}, a number for each channel'
        ) from None


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def positives(text: str) -> tuple[int, ...]:
    """Parse `1,8` into `(1, 8)`."""
    return tuple(map(positive, text.split(",")))


def numbers(text: str) -> list[int]:
    """Parse `3,4` into `[3, 4]`."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: write whole numbers with commas, such as 3,4") from None


def class_names(text: str) -> tuple[str, ...]:
    """Parse names with commas, `cat,dog`, or read a UTF-8 file with one name a line."""
    if Path(text).is_file():
        try:
            names = _stripped(Path(text).read_text(encoding="utf-8-sig").splitlines())
        except UnicodeDecodeError:
            raise argparse.ArgumentTypeError(f"{text} is not UTF-8 text") from None
        except OSError as error:
            raise argparse.ArgumentTypeError(f"{text}: {error.strerror}") from None
    elif "," not in text and (os.sep in text or text.endswith(".txt")):
        raise argparse.ArgumentTypeError(f"{text}: no such file")
    else:
        names = _stripped(text.split(","))
    if not names:
        raise argparse.ArgumentTypeError(f"{text}: no names in it")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise argparse.ArgumentTypeError(f"{text}: {twice!r} is there twice")
    return names


def class_weights(text: str) -> str | dict[str, float]:
    """Parse `balanced`, or read a file with a weight for each class: JSON, or CSV with lines `class,weight`."""
    if text == "balanced":
        return text
    try:
        content = Path(text).read_text(encoding="utf-8-sig")
        pairs = json.loads(content).items() if text.endswith(".json") else _weight_lines(content)
        return {str(name): float(weight) for name, weight in pairs}
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"{text}: {error.strerror}; give balanced, or a CSV or JSON file of weights"
        ) from None
    except (ValueError, AttributeError, TypeError):
        raise argparse.ArgumentTypeError(
            f'{text}: write a line such as cat,2.0 for each class, or JSON such as {{"cat": 2.0}}'
        ) from None


def _weight_lines(content: str) -> list[list[str]]:
    """Return the pairs of a CSV file, without a header `class,weight`."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(content.splitlines()) if row]
    return rows[1:] if rows and rows[0] == ["class", "weight"] else rows


def _stripped(names: list[str]) -> tuple[str, ...]:
    return tuple(filter(None, (name.strip() for name in names)))
