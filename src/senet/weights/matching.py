"""Find the weights of a network among the values of a file, from the keys alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from senet.errors import CheckpointError, SenetError, UnknownNameError
from senet.weights.contents import Contents, Entry, averaged_copies, check_tensors, is_bookkeeping, is_buffer
from senet.weights.layouts import LAYOUTS
from senet.weights.rules import Table, Translation

__all__ = ["WHICH", "Choice", "Match", "match", "tables_of"]

WHICH: Final = ("auto", "raw", "ema")
"""Weights to take where a file also has an average of them. `auto` takes the average."""

_SAMPLE: Final = 48
_RIVAL: Final = 0.9
"""Fraction of the best match's keys from which on another part of the file makes the match ambiguous."""


@dataclass(frozen=True)
class Choice:
    """The user's selection in a file with several networks or other modules.

    Attributes:
        prefix: Take only keys below this prefix.
        ignore: Shell-style patterns of keys to ignore.
        weights: One of `WHICH`.

    Raises:
        UnknownNameError: `weights` is not in `WHICH`.
    """

    prefix: str | None = None
    ignore: Sequence[str] = ()
    weights: str = "auto"

    def __post_init__(self) -> None:
        if self.weights not in WHICH:
            raise UnknownNameError("choice of weights", self.weights, WHICH)
        if isinstance(self.ignore, str):
            raise SenetError(f"ignore={self.ignore!r} must be a list of patterns")
        object.__setattr__(self, "ignore", tuple(self.ignore))


@dataclass(frozen=True)
class Match:
    """The part of a file that matches a network.

    Attributes:
        table: Renaming table of the weights.
        found: The weights under our names.
        prefix: Prefix of their names in the file, with its dot.
        hits: Number of the network's weights in it, minus the number of unknown keys.
        averaged: Whether they are an average over training.
        left_out: Keys of the file that are not loaded and need not be.
        other: Prefix of the current or averaged weights that were not taken, None for none.
        note: A further remark for the user.
    """

    table: Table
    found: Translation
    prefix: str
    hits: int
    averaged: bool = False
    left_out: tuple[str, ...] = ()
    other: str | None = None
    note: str = ""

    def notes(self) -> tuple[str, ...]:
        """Return remarks for the user about the selected weights."""
        remarks = []
        if self.averaged:
            others = f"; --weights raw (weights='raw') takes {_shown(self.other)}" if self.other is not None else ""
            remarks.append(f"averaged weights, from {_shown(self.prefix)}{others}")
        elif self.other is not None:
            remarks.append(f"current weights, from {_shown(self.prefix)}; averaged ones are in {_shown(self.other)}")
        if self.left_out:
            names = ", ".join(self.left_out[:3]) + (", ..." if len(self.left_out) > 3 else "")
            remarks.append(f"left out, {len(self.left_out)} in all: {names}")
        return (*remarks, *filter(None, [self.note]))

    def unplaced(self, own: Mapping[str, Tensor]) -> list[str]:
        """Return the file's keys below the prefix that the network doesn't have."""
        return sorted(
            [*self.found.leftover, *(self.found.sources[key] for key in self.found.tensors if key not in own)]
        )


def tables_of(layout: str) -> tuple[Table, ...]:
    """Return the tables of a layout, or all tables for `auto`.

    Raises:
        UnknownNameError: The layout is unknown.
    """
    if layout == "auto":
        return tuple(dict.fromkeys(table for tables in LAYOUTS.values() for table in tables))
    if layout not in LAYOUTS:
        raise UnknownNameError("layout", layout, ["auto", *LAYOUTS])
    return LAYOUTS[layout]


def match(contents: Contents, own: Mapping[str, Tensor], layout: str, choice: Choice) -> Match:
    """Find a network's weights in a file.

    Args:
        contents: Contents of the file.
        own: The network's state dict.
        layout: A name in `LAYOUTS`, or `auto`.
        choice: The user's selection.

    Raises:
        CheckpointError: No part of the file fits, several networks fit, or other objects lie among the weights.
    """
    contents, ignored = contents.plain(own).without(choice.ignore)
    if choice.prefix is not None:
        contents = contents.within(choice.prefix)
    fits = _fits(contents, own, tables_of(layout))
    if not fits:
        raise CheckpointError(_unknown(contents, layout))
    current = _best([fit for fit in fits if not fit.averaged], contents)
    averaged = _best([fit for fit in fits if fit.averaged], contents)
    chosen = _with_head(contents, _chosen(contents, current, averaged, choice.weights), own)
    return replace(chosen, left_out=(*ignored, *_left_out(contents, chosen, own)))


def _fits(contents: Contents, own: Mapping[str, Tensor], tables: Sequence[Table]) -> list[Match]:
    """Match every prefix with at least half of the network's weights, or else the prefix with the most.

    Raises:
        CheckpointError: No prefix fits, and in one of them two keys get the same name.
    """
    half = sum(not is_buffer(key) for key in own) // 2
    wrong: CheckpointError | None = None
    for least in (half, 1):
        fits: list[Match] = []
        for prefix in contents.prefixes(max(1, least)):
            try:
                fit = _fit(prefix, contents.below(prefix), own, tables)
            except CheckpointError as error:
                wrong = wrong or error
            else:
                fits += [replace(fit, averaged=contents.is_averaged(prefix))] if fit else []
        whole = [fit for fit in fits if fit.hits >= half]
        if whole:
            return whole
        if wrong:
            raise wrong
        if fits:
            return [max(fits, key=lambda fit: fit.hits)]
    return []


def _fit(prefix: str, group: Mapping[str, Tensor], own: Mapping[str, Tensor], tables: Sequence[Table]) -> Match | None:
    """Match with the table that explains most keys, None if no key is one of the network's."""
    sampled = {table: _hits_in_sample(table, group, own) for table in tables}
    best: tuple[tuple[int, int], Match] | None = None
    for table, hits in sampled.items():
        if not hits or hits < max(sampled.values()) / 4:
            continue
        found = table.translate(group)
        known = sum(key in own for key in found.tensors) - sum(not is_bookkeeping(key) for key in found.leftover)
        fitting = sum(key in own and own[key].shape == tensor.shape for key, tensor in found.tensors.items())
        if best is None or (known, fitting) > best[0]:
            best = (known, fitting), Match(table, found, prefix, known)
    return best[1] if best else None


def _hits_in_sample(table: Table, group: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> int:
    """Count the network's keys in a sample. Most tables explain none of them and are skipped early."""
    keys = list(group)
    some = keys[:: max(1, len(keys) // _SAMPLE)]
    return sum(key in own for key in table.translate({key: group[key] for key in some}).tensors)


def _best(fits: Sequence[Match], contents: Contents) -> Match | None:
    """Return the match with most of the network's keys.

    Raises:
        CheckpointError: Another match with different values is about as good.
    """
    if not fits:
        return None
    best = max(fits, key=lambda fit: fit.hits)
    rivals = [fit for fit in fits if fit.hits >= _RIVAL * best.hits and _apart(fit, best) and not _same(fit, best)]
    if rivals:
        names = ", ".join(repr(fit.prefix.rstrip(".")) for fit in [best, *rivals])
        raise CheckpointError(
            f"{contents.source}: several networks in it fit: {names}; choose one with --prefix (prefix=)"
        )
    return best


def _apart(one: Match, other: Match) -> bool:
    return not one.prefix.startswith(other.prefix) and not other.prefix.startswith(one.prefix)


def _same(one: Match, other: Match) -> bool:
    """Whether two parts have equal values, like a network that is registered under two names."""
    a, b = one.found.tensors, other.found.tensors
    return a.keys() == b.keys() and all(a[key] is b[key] or _equal(a[key], b[key]) for key in a)


def _equal(one: Tensor, other: Tensor) -> bool:
    plain = all(t.layout is torch.strided and not t.is_quantized and not t.is_meta for t in (one, other))
    return plain and one.dtype == other.dtype and torch.equal(one, other)


def _chosen(contents: Contents, current: Match | None, averaged: Match | None, which: str) -> Match:
    if averaged is not None and current is not None:
        averaged, why = _completed(averaged, current, updated=contents.average_updated(averaged.prefix))
        if averaged is None and which != "raw":
            if which == "ema":
                raise CheckpointError(f"{contents.source}: {why}; --weights raw takes the others")
            return replace(current, note=why)
    if which == "raw" and current is None:
        assert averaged is not None
        raise CheckpointError(
            f"{contents.source}: its weights are averaged ({_shown(averaged.prefix)}), and there are no others; "
            "leave --weights raw (weights='raw') out"
        )
    if which == "ema" and averaged is None:
        raise CheckpointError(
            f"{contents.source}: no averaged weights of this network in it; leave --weights ema (weights='ema') out"
        )
    chosen, other = (averaged, current) if which != "raw" and averaged is not None else (current, averaged)
    assert chosen is not None
    return replace(chosen, other=other.prefix if other else None)


def _completed(averaged: Match, current: Match, *, updated: bool) -> tuple[Match | None, str]:
    """Complete averaged parameters with the norms' current statistics, or return the reason why they are unusable."""
    if not updated:
        return None, f"the average below {_shown(averaged.prefix)} has not started (n_averaged is 0) and was not taken"
    missing = current.found.tensors.keys() - averaged.found.tensors.keys()
    if not missing:
        return averaged, ""
    wrong = sorted(key for key in missing if not is_buffer(key))
    if wrong or averaged.table is not current.table:
        return None, f"the averaged weights below {_shown(averaged.prefix)} are incomplete and were not taken"
    found = replace(
        averaged.found,
        tensors=current.found.tensors | averaged.found.tensors,
        sources=current.found.sources | averaged.found.sources,
    )
    note = f"the norms' statistics are from {_shown(current.prefix)}, since the average has none"
    return replace(averaged, found=found, note=note), ""


def _with_head(contents: Contents, chosen: Match, own: Mapping[str, Tensor]) -> Match:
    """Add the one linear layer beside a backbone: `backbone.*` and `head.*` of one module."""
    missing = [key for key in own if key not in chosen.found.tensors]
    names = {key.rpartition(".")[2]: key for key in missing}
    if set(names) not in ({"weight"}, {"weight", "bias"}) or len(names) != len(missing):
        return chosen
    siblings = {e.name: e for e in _siblings(contents, chosen, own) if isinstance(e.value, Tensor)}
    matrices = [name for name, entry in siblings.items() if entry.value.ndim == 2]
    weight = own[names["weight"]]
    if len(matrices) != 1 or weight.ndim != 2 or siblings[matrices[0]].value.shape[1] != weight.shape[1]:
        return chosen
    layer = matrices[0].removesuffix("weight")
    taken = {key: siblings.get(layer + name) for name, key in names.items()}
    if not all(taken.values()):
        return chosen
    adopted = {key: entry for key, entry in taken.items() if entry is not None}
    found = replace(
        chosen.found,
        tensors=chosen.found.tensors | {key: entry.value for key, entry in adopted.items()},
        sources=chosen.found.sources | {key: entry.key for key, entry in adopted.items()},
    )
    remark = f"the classifier is {layer.rstrip('.')}, beside {_shown(chosen.prefix)}"
    return replace(chosen, found=found, note="; ".join(filter(None, [chosen.note, remark])))


def _siblings(contents: Contents, chosen: Match, own: Mapping[str, Tensor]) -> Iterator[Entry]:
    """Yield the entries of the weights' own mapping outside of the chosen prefix and of the other weights' prefix."""
    placed = {chosen.prefix + source for key, source in chosen.found.sources.items() if key in own}
    for entry in contents.siblings(placed):
        if not entry.name.startswith(chosen.prefix) and not (chosen.other and entry.name.startswith(chosen.other)):
            yield entry


def _left_out(contents: Contents, chosen: Match, own: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield the keys that are not loaded, after a check for keys that must be.

    Raises:
        CheckpointError: An object among the weights is not a tensor.
    """
    check_tensors(contents.below(chosen.prefix), contents.source)
    unplaced = chosen.unplaced(own)
    made = averaged_copies(contents.below(chosen.prefix))
    yield from sorted(key for key in unplaced if is_bookkeeping(key) or key in made)
    sources = set(chosen.found.sources.values())
    yield from (entry.key for entry in _siblings(contents, chosen, own) if entry.key not in sources)
    placed = {chosen.prefix + source for key, source in chosen.found.sources.items() if key in own}
    for entry in contents.siblings(placed):
        inside = entry.name.startswith(chosen.prefix)
        if inside and not isinstance(entry.value, Tensor) and not is_bookkeeping(entry.key):
            raise CheckpointError(
                f"{contents.source}: {entry.key} is a {type(entry.value).__name__}, not a tensor; "
                f"--ignore {entry.key} (ignore=[...]) skips it"
            )


def _unknown(contents: Contents, layout: str) -> str:
    names = [entry.key for entry in contents.entries if isinstance(entry.value, Tensor)]
    whose = f"the layout {layout!r}" if layout != "auto" else f"any known layout ({', '.join(LAYOUTS)})"
    first = ", ".join(names[:3])
    return f"{contents.source}: its weight names ({first}, ...) match none of this network in {whose}"


def _shown(prefix: str) -> str:
    return prefix.rstrip(".") or "the whole file"
