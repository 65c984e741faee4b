"""Options made from the fields of a dataclass."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from types import MappingProxyType
from typing import Any

__all__ = ["add_field_options", "given_fields"]

WITHOUT_DOCSTRINGS = sys.flags.optimize > 1
"""Whether `python -OO` runs, which has no texts for the help."""

METAVARS = {
    "epochs": "EPOCHS",
    "train": "PART",
    "freeze": "PART",
    "unfreeze_after": "EPOCHS",
    "backbone_lr_factor": "FACTOR",
    "layer_decay": "FACTOR",
    "freeze_stages": "STAGE",
    "class_weights": "balanced|FILE",
    "sampler": "NAME",
    "loss": "NAME",
    "metric": "NAME",
    "optimizer": "NAME",
    "lr": "RATE",
    "weight_decay": "DECAY",
    "schedule": "NAME",
    "warmup_epochs": "EPOCHS",
    "step_epochs": "EPOCH",
    "step_factor": "FACTOR",
    "label_smoothing": "FRACTION",
    "mixup": "ALPHA",
    "cutmix": "ALPHA",
    "ema_decay": "DECAY",
    "clip_grad_norm": "NORM",
    "patience": "EPOCHS",
    "seed": "SEED",
    "repeated_augmentation": "COPIES",
    "crop": "NAME",
    "pad": "PIXELS",
    "hflip": "PROBABILITY",
    "vflip": "PROBABILITY",
    "train_size": "PIXELS",
    "augment": "SPEC",
    "rotation": "DEGREES",
    "translate": "FRACTION",
    "color_jitter": "STRENGTH",
    "pixel_jitter": "LEVELS",
    "random_erasing": "PROBABILITY",
    "erasing_value": "NAME",
    "cutout": "PIXELS",
    "strategy": "NAME",
    "precision": "PRECISION",
    "save_every": "INTERVAL",
    "logger": "NAME,NAME",
    "crop_fraction": "FRACTION",
    "interpolation": "NAME",
    "mean": "NUMBER",
    "std": "NUMBER",
    "channel_order": "ORDER",
    "value_range": "NUMBER",
    "white_level": "LEVEL",
    "bit_depth": "BITS",
}
"""Field to the placeholder of its value. The default is N."""


def add_field_options(
    group: argparse._ArgumentGroup,
    owner: type,
    *,
    default: str = "",
    leave_out: Iterable[str] = (),
    parsers: Mapping[str, Callable[[str], Any]] = MappingProxyType({}),
) -> None:
    """Add one option per field of a dataclass, with the help text of its docstring. Options that aren't given are None.

    Args:
        group: The group that gets the options.
        owner: The dataclass.
        default: Description of the default. If empty, the help shows each field's own.
        leave_out: Names of fields without an option.
        parsers: Field to the function that reads its value, where it is no plain type.
    """
    helps = _attribute_texts(owner)
    for entry in fields(owner):
        if entry.name in leave_out:
            continue
        flag, kind = f"--{entry.name.replace('_', '-')}", str(entry.type)
        said = f"(default: {default or _default(entry.default)})"
        text = (said if WITHOUT_DOCSTRINGS else f"{helps[entry.name]} {said}").replace("%", "%%")
        metavar = METAVARS.get(entry.name, "N")
        if entry.name in parsers:
            group.add_argument(flag, type=parsers[entry.name], metavar=metavar, help=text)
        elif kind == "bool":
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        elif kind == "tuple[float, float]":
            group.add_argument(flag, nargs=2, type=float, metavar=("MIN", "MAX"), help=text)
        elif kind.startswith("tuple"):
            group.add_argument(flag, nargs="+", type=int if "int" in kind else float, metavar=metavar, help=text)
        else:
            group.add_argument(flag, type={"int": int, "float": float, "str": str}[kind], metavar=metavar, help=text)


def given_fields(options: argparse.Namespace, owner: type) -> dict[str, Any]:
    """Return the fields with a given value."""
    values = {f.name: getattr(options, f.name, None) for f in fields(owner)}
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if value is not None
    }


def _default(value: object) -> str:
    """Return a field's default in command-line form."""
    if value is MISSING:
        raise TypeError("a field that is an option needs a default")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(f"{number:g}" for number in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _attribute_texts(owner: type) -> dict[str, str]:
    """Return each field's help text, from the `Attributes:` section of a Google-style docstring."""
    # Python 3.13 strips the indentation of docstrings when it compiles them, earlier ones don't.
    section = inspect.cleandoc(owner.__doc__ or "").partition("Attributes:\n")[2]
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        entry = re.match(r" {4}(\w+): (.*)", line)
        if entry:
            name = entry[1]
            found[name] = entry[2]
        elif line.startswith(" " * 8) and name:
            found[name] += f" {line.strip()}"
        elif line.strip():
            break
    return {key: _as_help(text) for key, text in found.items()}


def _as_help(text: str) -> str:
    """Remove code marks and the final period. The first letter becomes small, unless it belongs to a name such as
    `SGD`."""
    text = re.sub(r" \(`for_\w+`\)|[\"`]", "", text)
    text = text if text.endswith("...") else text.removesuffix(".")
    return text if text[1:2].isupper() or text[1:2].isdigit() else text[:1].lower() + text[1:]
