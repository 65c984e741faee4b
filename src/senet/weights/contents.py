"""The contents of a file: each value in nested mappings under one dotted name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Final

from torch import Tensor

from senet.errors import CheckpointError, shown
from senet.weights.values import storage_issue, tensor_issue
from senet.weights.wrappers import WRAPPER_NAMES

__all__ = ["Contents", "Entry", "averaged_copies", "check_tensors", "flattened", "is_bookkeeping", "is_buffer"]

_DEEPEST: Final = 12
"""Largest nesting depth of mappings, and largest number of parts in a prefix."""

_MOST_PREFIXES: Final = 64

_AVERAGED: Final = re.compile(r"(^|_)(ema|swa|avg|average|averaged|shadow)(?=_|\d|$)")
_CURRENT: Final = re.compile(r"(^|_)(online|current|raw)(?=_|$)")

_BUFFERS: Final = ("running_mean", "running_var", "num_batches_tracked")

_BOOKKEEPING: Final = (
    *("*total_ops", "*total_params"),  # thop's counters
    *("*AuxLogits.*", "*aux[0-9].*", "*aux_*", "*_aux.*", "*auxiliary*"),  # heads that only training uses
    *("n_averaged", "steps", "step", "initted", "num_updates", "decay"),  # counters of averaging
)
"""Names that a network for inference lacks. They are ignored unless the network has a weight of that name."""


@dataclass(frozen=True)
class Entry:
    """One value of a file.

    Attributes:
        name: Dotted path of the value, without wrappers such as `_orig_mod`.
        key: Its key in the innermost mapping, without wrappers.
        value: The value, usually a tensor.
        home: Dotted path of the innermost mapping, as in the file.
        written: Dotted path of the value, as in the file.
    """

    name: str
    key: str
    value: Any
    home: str
    written: str

    @property
    def prefix(self) -> str:
        """The part of the name before the key."""
        return self.name[: len(self.name) - len(self.key)]

    def without(self, parts: Collection[str]) -> Entry:
        """Return the entry without these parts of its name."""
        return replace(self, name=_without(self.name, parts), key=_without(self.key, parts))


def is_buffer(key: str) -> bool:
    """Whether a key is a norm's statistic. Some averages contain parameters only."""
    return key.rpartition(".")[2] in _BUFFERS


def is_bookkeeping(key: str) -> bool:
    """Whether a key is a profiler's counter, an auxiliary head, or a counter of averaging."""
    return any(fnmatchcase(key, pattern) for pattern in _BOOKKEEPING)


def averaged_copies(keys: Iterable[str]) -> set[str]:
    """Return the keys of the averaged copies that mmcv's hook adds: `ema_conv1_weight`."""
    keys = list(keys)
    flat = [key for key in keys if key.startswith("ema_") and "." not in key]
    return set(flat) & {f"ema_{key.replace('.', '_')}" for key in keys} if flat else set()


@dataclass(frozen=True)
class Contents:
    """All values of a file or state dict.

    Attributes:
        source: Name of the file in messages.
        entries: Its values, in the file's order.
    """

    source: str
    entries: tuple[Entry, ...]

    def plain(self, own: Collection[str]) -> Contents:
        """Remove `module` from the names, unless the network's keys `own` contain it."""
        if any("module" in key.split(".") for key in own):
            return self
        return Contents(
            self.source,
            tuple(entry.without({"module"}) for entry in self.entries),
        )

    def without(self, patterns: Collection[str]) -> tuple[Contents, list[str]]:
        """Remove the names that match these shell-style patterns, and return them too.

        Raises:
            CheckpointError: A pattern matches no name.
        """
        kept, dropped, used = [], [], set()
        for entry in self.entries:
            found = [p for p in patterns if _matches(entry, p)]
            used.update(found)
            if found:
                dropped.append(entry.name)
            else:
                kept.append(entry)
        unused = next((pattern for pattern in patterns if pattern not in used), None)
        if unused is not None:
            raise CheckpointError(f"{self.source}: no name in it matches the ignore pattern {unused!r}")
        return Contents(self.source, tuple(kept)), dropped

    def within(self, prefix: str) -> Contents:
        """Keep only the entries below a prefix, which may itself be below others.

        Raises:
            CheckpointError: There is no entry below it.
        """
        for ignored in (WRAPPER_NAMES, {*WRAPPER_NAMES, "module"}):
            wanted = _without(prefix.strip("."), ignored)
            kept = tuple(e for e in self.entries if not wanted or f".{wanted}." in f".{e.name}")
            if kept:
                break
        else:
            there = ", ".join(repr(p) for p in self.prefixes(0)[:6] if p) or "none"
            raise CheckpointError(f"{self.source}: no name in it has the prefix {prefix!r}; there are {there}")
        return Contents(self.source, kept)

    def prefixes(self, least: int) -> list[str]:
        """Return the prefixes of at least `least` tensors, with their dot, the most common first."""
        counts: Counter[str] = Counter()
        for entry in self.entries:
            if isinstance(entry.value, Tensor):
                parts = entry.name.split(".", _DEEPEST)[:-1]
                counts.update(".".join([*parts[:n], ""]) for n in range(len(parts) + 1))
        return [prefix for prefix, count in counts.most_common(_MOST_PREFIXES) if count >= least]

    def below(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors below a prefix, without it.

        Raises:
            CheckpointError: Two tensors have the same name.
        """
        found: dict[str, Tensor] = {}
        written: dict[str, str] = {}
        for entry in self.entries:
            if isinstance(entry.value, Tensor) and entry.name.startswith(prefix):
                key = entry.name.removeprefix(prefix)
                if key in found:
                    raise CheckpointError(
                        f"{self.source}: {entry.written} and {written[key]} are two names for one weight, {key}"
                    )
                found[key], written[key] = entry.value, entry.written
        return found

    def siblings(self, names: Collection[str]) -> list[Entry]:
        """Return all entries of the mappings that contain these names."""
        homes = {entry.home for entry in self.entries if entry.name in names}
        return [entry for entry in self.entries if entry.home in homes]

    def is_averaged(self, prefix: str) -> bool:
        """Whether the tensors below a prefix are an average over training, judged from the names."""
        parts = [re.sub(r"(?<=[a-z])(?=[A-Z])", "_", part).lower() for part in prefix.split(".")]
        if parts[0] in ("state_dict", "ema_state_dict") and self._swapped:
            return parts[0] == "state_dict"
        for part in reversed(parts):
            if _CURRENT.search(part):
                return False
            if _AVERAGED.search(part):
                return True
        return any(prefix.startswith(scope) for scope in self._averaged_scopes)

    def average_updated(self, prefix: str) -> bool:
        """Whether an average below this prefix was updated at least once after initialization.

        Averaging often starts late in a training. `n_averaged` is the number of averaged steps.
        """
        scopes = {
            entry.name.removesuffix("n_averaged"): entry.value
            for entry in self.entries
            if entry.key.rpartition(".")[2] == "n_averaged"
        }
        counters = [value for scope, value in scopes.items() if scope and prefix.startswith(scope)]
        counters += [scopes["averaging_state."]] if self._swapped and "averaging_state." in scopes else []
        return all(int(value) > 0 for value in counters if _is_number(value))

    @cached_property
    def _swapped(self) -> bool:
        """Whether `state_dict` contains the average, as with MMEngine's hook and Lightning's callback."""
        names = {entry.name for entry in self.entries}
        roots = {name.partition(".")[0] for name in names}
        by_mmengine = "ema_state_dict" in roots and (
            bool(roots & {"message_hub"}) or bool(names & {"ema_state_dict.steps", "meta.mmengine_version"})
        )
        return by_mmengine or "current_model_state" in roots

    @cached_property
    def _averaged_scopes(self) -> tuple[str, ...]:
        """Prefixes with a counter of `AveragedModel`, or with the averaged copies of mmcv's hook."""
        found = {
            entry.name.removesuffix("n_averaged")
            for entry in self.entries
            if entry.name.rpartition(".")[2] == "n_averaged" and self._holds_tensors(entry.home)
        }
        flat = (entry for entry in self.entries if entry.key.startswith("ema_") and "." not in entry.key)
        first = next(flat, None)
        if first is not None and averaged_copies(entry.key for entry in self.entries if entry.home == first.home):
            found.add(first.prefix)
        return tuple(found)

    def _holds_tensors(self, home: str) -> bool:
        return any(e.home == home and isinstance(e.value, Tensor) and "." in e.key for e in self.entries)


def flattened(content: Any, source: str) -> Contents:
    """Give every value in nested mappings a dotted name.

    Raises:
        CheckpointError: It is not a mapping, has no tensor, or has a tensor far larger than its storage.
    """
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{source}: contains a {type(content).__name__}, not a state dict; save model.state_dict() with torch.save"
        )
    entries: list[Entry] = []
    seen: set[int] = set()

    def walk(mapping: Mapping[Any, Any], home: str, depth: int) -> None:
        seen.add(id(mapping))
        for key, value in mapping.items():
            name = key if isinstance(key, str) else shown(key)  # an optimizer numbers its states
            path = f"{home}.{name}" if home else name
            if not isinstance(value, Mapping) and isinstance(key, str):
                entries.append(Entry(path, key, value, home, path).without(WRAPPER_NAMES))
            elif isinstance(value, Mapping) and depth < _DEEPEST and id(value) not in seen:  # pickles may be cyclic
                walk(value, path, depth + 1)

    walk(content, "", 0)
    tensors = {entry.written: entry.value for entry in entries if isinstance(entry.value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{source}: no weights in it")
    wrong = storage_issue(tensors)
    if wrong:
        raise CheckpointError(f"{source}: {wrong}")
    return Contents(source, tuple(entries))


def check_tensors(tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise a `CheckpointError` for invalid names and values of weights."""
    for key in tensors:
        if not key or not key.isprintable():
            raise CheckpointError(f"{source}: {key!r} is not a valid weight name")
    for key, value in tensors.items():
        wrong = tensor_issue(value)
        if wrong:
            raise CheckpointError(f"{source}: {key} {wrong}")


def _without(name: str, parts: Collection[str]) -> str:
    kept = [part for part in name.split(".") if part not in parts]
    return ".".join(kept)


def _is_number(value: Any) -> bool:
    return type(value) is int or (isinstance(value, Tensor) and value.numel() == 1 and tensor_issue(value) is None)


def _matches(entry: Entry, pattern: str) -> bool:
    return fnmatchcase(entry.name, pattern) or fnmatchcase(entry.key, pattern)
