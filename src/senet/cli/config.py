"""Options from a file: TOML or YAML with options' names as keys, or the `run.json` of a run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from senet.cli.parser import Parser, UsageError
from senet.data.augmentation import Augmentation
from senet.errors import SenetError, UnknownNameError, shown
from senet.training.folder import reading
from senet.training.job import DataOptions, Job
from senet.training.model_initialization import ModelInitialization
from senet.training.recipe import Recipe, RunOptions
from senet.training.teacher import Teacher

__all__ = ["add_config_options", "apply_config", "is_record", "read_run"]

TABLES = ("network", "data", "recipe", "augmentation", "run")
"""Tables whose keys are options. `name` in `[data]` is the option `--data`, and in `[recipe]` the option `--recipe`."""

NO_KEYS = {"help", "debug", "config", "dry_run", "resume", "json"}
"""Options that a file can't give."""


def add_config_options(group: argparse._ArgumentGroup, *, record: bool, dry_run: bool = True) -> None:
    """Add `--config` and `--dry-run`.

    Args:
        group: The group that gets the options.
        record: Whether the file may be the `run.json` of a run.
        dry_run: Whether the command has `--dry-run`.
    """
    kinds = ".toml or .yaml with names of options as keys" + (
        ", or the run.json of a run to repeat it" if record else ""
    )
    group.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"file with options: {kinds}. Options of the command line win (default: none)",
    )
    if dry_run:
        group.add_argument(
            "--dry-run", action="store_true", default=None, help="print the resolved recipe, data and network, and stop"
        )


def is_record(options: argparse.Namespace) -> bool:
    """Whether `--config` names the `run.json` of a run."""
    return options.config is not None and options.config.suffix.lower() == ".json"


def apply_config(options: argparse.Namespace, parser: Parser) -> None:
    """Fill options that the command line leaves open with the values in the file of `--config`.

    Raises:
        UsageError: The file can't be read, or has an unknown option or an invalid value.
    """
    path: Path | None = getattr(options, "config", None)
    if path is None:
        return
    if is_record(options):
        if options.command != "train":
            raise UsageError(f"--config {path}: `senet train` repeats a run; write options as .toml or .yaml")
        if options.resume is not None:
            raise UsageError(f"--config {path} repeats a run in another folder, and --resume continues one; use one")
        return
    given = dict(_values(path, parser))
    if options.model is not None or options.checkpoint is not None or getattr(options, "variant", None):
        for name in ("model", "checkpoint", "variant", *(["pretrained"] if options.checkpoint else [])):
            given.pop(name, None)
    for name, value in given.items():
        if getattr(options, name) is None:
            setattr(options, name, value)


def _values(path: Path, parser: Parser) -> Iterator[tuple[str, Any]]:
    """Return the name and value of each option in a file, converted as on the command line."""
    actions = {a.dest: a for a in parser._actions if a.option_strings and a.dest not in NO_KEYS}
    seen: set[str] = set()
    for name, key, value in _flat(_read(path)):
        if name not in actions:
            table, _, word = key.rpartition(".")
            kind = f"option in [{table}]" if table else "option"
            raise UsageError(f"{path}: {UnknownNameError(kind, word, actions)}")
        if name in seen:
            raise UsageError(f"{path}: {key} is given twice")
        seen.add(name)
        if value is None:
            continue
        try:
            yield name, getattr(parser.parse_args(list(_words(actions[name], value))), name)
        except UsageError as error:
            reason = str(error).partition(": ")[2] if str(error).startswith("argument ") else str(error)
            raise UsageError(f"{path}: {key}: {reason}") from None


def _read(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"--config {path} is not UTF-8 text") from None
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}") from None
    suffix = path.suffix.lower()
    if suffix == ".toml":
        found = _toml(path, text)
    elif suffix in (".yaml", ".yml"):
        found = _yaml(path, text)
    else:
        raise UsageError(f"--config {path}: the name must end in .toml, .yaml or .yml, or be a run's run.json")
    if not isinstance(found, dict):
        raise UsageError(f"--config {path} holds no options: write `epochs: 10`, one option a line")
    return found


def _toml(path: Path, text: str) -> object:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"--config {path} is not TOML: {error}") from None


def _yaml(path: Path, text: str) -> object:
    import yaml

    try:
        return yaml.safe_load(text) if text.strip() else {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (at line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UsageError(f"--config {path} is not YAML: {problem}{where}") from None


def _flat(values: Mapping[Any, Any], table: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield the option's name, the key for messages, and the value. Tables are unfolded."""
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name in TABLES and isinstance(value, dict):
            yield from _flat(value, name)
        else:
            shown_key = f"{table}.{key}" if table else str(key)
            yield table if name == "name" and table in ("data", "recipe") else name, shown_key, value


def _words(action: argparse.Action, value: Any) -> Iterator[str]:
    """Return the command-line text of a value."""
    flag = action.option_strings[0]
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise UsageError(f"{shown(value)}: write true or false")
        if value or isinstance(action, argparse.BooleanOptionalAction):
            yield flag if value else action.option_strings[1]
    elif action.dest == "variant":
        pairs = [f"{name}={text}" for name, text in value.items()] if isinstance(value, dict) else value
        for pair in pairs if isinstance(pairs, list) else [pairs]:
            yield from (flag, *(map(_text, pair) if isinstance(pair, list) else _text(pair).split()))
    elif isinstance(value, dict) and action.metavar == "NAME=VALUE":
        yield from (flag, *(f"{name}={json.dumps(content)}" for name, content in value.items()))
    elif isinstance(value, list) and action.nargs is not None:
        yield from (flag, *map(_text, value))
    else:
        yield f"{flag}={','.join(map(_text, value)) if isinstance(value, list) else _text(value)}"


def _text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(f"{shown(value)}: write a number or a text")
    return str(value)


def read_run(path: Path) -> Job:
    """Return the run in a `run.json`.

    Raises:
        CheckpointError: It can't be read, has an unknown key, or has a value of a wrong type.
    """
    with reading(path.parent, path.name, "run to repeat") as values:
        types = _types(ModelInitialization) | {
            "source": "dict",
            "recipe": "dict",
            "run": "dict",
            "digest": "str",
            "division": "str",
            "teacher": "dict",
        }
        _check("", values, types)
        for section, owner in (("source", DataOptions), ("recipe", Recipe), ("run", RunOptions)):
            _check(f"{section}.", values[section], _types(owner))
        _check("recipe.augmentation.", values["recipe"]["augmentation"], _types(Augmentation))
        if "teacher" in values:
            _check("teacher.", values["teacher"], _types(Teacher))
            _check("teacher.network.", values["teacher"]["network"], _types(ModelInitialization))
        return Job.from_dict(values)


KINDS: dict[str, type | tuple[type, ...]] = {
    "int": int, "float": (int, float), "bool": bool, "str": str, "None": type(None), "tuple": list, "list": list,
}  # fmt: skip
"""Type of a field to its type in JSON. All other types are objects."""


def _types(owner: type) -> dict[str, str]:
    return {f.name: str(f.type) for f in fields(owner)}


def _check(section: str, values: object, types: Mapping[str, str]) -> None:
    """Raise a `SenetError` for an unknown key or a value of a wrong type."""
    if not isinstance(values, dict):
        raise SenetError(f"{section.rstrip('.') or 'its content'} is not an object of keys and values")
    for key, value in values.items():
        if key not in types:
            raise UnknownNameError("key", f"{section}{key}", [f"{section}{name}" for name in types])
        wanted = [kind.partition("[")[0] for kind in types[key].split(" | ")]
        if (isinstance(value, bool) and "bool" not in wanted) or not any(
            isinstance(value, KINDS.get(kind, dict)) for kind in wanted
        ):
            raise SenetError(f"{section}{key}: {shown(value)} has the wrong type; {' or '.join(wanted)} is wanted")
