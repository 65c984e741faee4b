"""Which values of a file are the weights of a network: found from the keys, not from what they lie in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from senet.errors import CheckpointError, SenetError, UnknownNameError
from senet.weights.contents import Contents, Entry, check, copies, is_bookkeeping, is_buffer
from senet.weights.layouts import LAYOUTS
from senet.weights.rules import Table, Translation

__all__ = ["WHICH", "Choice", "Match", "match", "tables_of"]

WHICH: Final = ("auto", "raw", "ema")
"""Which weights are taken where a file has an average of them too: `auto` takes the average."""

_SAMPLE: Final = 48
_RIVAL: Final = 0.9
"""Share of the best fit's keys with which another part of the file could be meant as well."""


@dataclass(frozen=True)
class Choice:
    """What a user says of a file that holds more than one network, or more than a network.

    Attributes:
        prefix: Only keys below it.
        ignore: Shell-style patterns of keys that are left out.
        weights: One of `WHICH`.

    Raises:
        UnknownNameError: `weights` is something else.
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
    """A part of a file that is a network's weights.

    Attributes:
        table: Whose names they have.
        found: The weights under our names.
        prefix: What stood before their names, with its dot.
        hits: How many weights of the network it has, less what nothing here is called.
        averaged: Whether they are an average over training.
        left_out: Keys of the file that are no weights of the network, and needn't be.
        other: The prefix of the weights that weren't taken: the current ones or the averaged ones; None for none.
        note: What else a user should know.
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
        """What a user should know of the choice, in words."""
        told = []
        if self.averaged:
            others = f"; --weights raw (weights='raw') takes {_shown(self.other)}" if self.other is not None else ""
            told.append(f"averaged weights, from {_shown(self.prefix)}{others}")
        elif self.other is not None:
            told.append(f"current weights, from {_shown(self.prefix)}; averaged ones are in {_shown(self.other)}")
        if self.left_out:
            names = ", ".join(self.left_out[:3]) + (", ..." if len(self.left_out) > 3 else "")
            told.append(f"left out, {len(self.left_out)} in all: {names}")
        return (*told, *filter(None, [self.note]))

    def unplaced(self, own: Mapping[str, Tensor]) -> list[str]:
        """Keys of the file, below the prefix, that are none of the network's."""
        return sorted(
            [*self.found.leftover, *(self.found.sources[key] for key in self.found.tensors if key not in own)]
        )


def tables_of(layout: str) -> tuple[Table, ...]:
    """The tables of a layout; of all for `auto`.

    Raises:
        UnknownNameError: There is no such layout.
    """
    if layout == "auto":
        return tuple(dict.fromkeys(table for tables in LAYOUTS.values() for table in tables))
    if layout not in LAYOUTS:
        raise UnknownNameError("layout", layout, ["auto", *LAYOUTS])
    return LAYOUTS[layout]


def match(contents: Contents, own: Mapping[str, Tensor], layout: str, choice: Choice) -> Match:
    """Find a network's weights.

    Args:
        contents: Of the file.
        own: The network's state dict.
        layout: A name in `LAYOUTS`, or `auto`.
        choice: What the user says.

    Raises:
        CheckpointError: There are none, more than one network fits, or something else lies between them.
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
    """Every prefix whose tensors are at least half of the network's weights; if there is none, the one that has most.

    Raises:
        CheckpointError: None fits, and in one two names are for one weight.
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
    """With the table that explains most of the keys; None if none is one of the network's."""
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
    """How many of some keys are the network's: most tables explain none of them."""
    keys = list(group)
    some = keys[:: max(1, len(keys) // _SAMPLE)]
    return sum(key in own for key in table.translate({key: group[key] for key in some}).tensors)


def _best(fits: Sequence[Match], contents: Contents) -> Match | None:
    """The fit with most of the network's keys.

    Raises:
        CheckpointError: Another one, with other numbers, is as good.
    """
    if not fits:
        return None
    best = max(fits, key=lambda fit: fit.hits)
    rivals = [fit for fit in fits if fit.hits >= _RIVAL * best.hits and _apart(fit, best) and not _same(fit, best)]
    if rivals:
        names = ", ".join(repr(fit.prefix.rstrip(".")) for fit in [best, *rivals])
        raise CheckpointError(
            f"{contents.source}: holds several networks that fit: {names}; choose one with --prefix (prefix=)"
        )
    return best


def _apart(one: Match, other: Match) -> bool:
    return not one.prefix.startswith(other.prefix) and not other.prefix.startswith(one.prefix)


def _same(one: Match, other: Match) -> bool:
    """Whether two parts hold the same numbers, as where a network is registered under two names."""
    a, b = one.found.tensors, other.found.tensors
    return a.keys() == b.keys() and all(a[key] is b[key] or _equal(a[key], b[key]) for key in a)


def _equal(one: Tensor, other: Tensor) -> bool:
    plain = all(t.layout is torch.strided and not t.is_quantized and not t.is_meta for t in (one, other))
    return plain and one.dtype == other.dtype and torch.equal(one, other)


def _chosen(contents: Contents, current: Match | None, averaged: Match | None, which: str) -> Match:
    if averaged is not None and current is not None:
        averaged, why = _completed(averaged, current, begun=contents.has_begun(averaged.prefix))
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


def _completed(averaged: Match, current: Match, *, begun: bool) -> tuple[Match | None, str]:
    """Averages of parameters alone, with the current statistics of norms beside them; or why they can't be taken."""
    if not begun:
        return None, f"the average below {_shown(averaged.prefix)} has not begun (n_averaged is 0) and was not taken"
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
    note = f"the norms' statistics are those of {_shown(current.prefix)}, which the average lacks"
    return replace(averaged, found=found, note=note), ""


def _with_head(contents: Contents, chosen: Match, own: Mapping[str, Tensor]) -> Match:
    """With the one linear layer beside a network without its own: `backbone.*` and `head.*` of one module."""
    missing = [key for key in own if key not in chosen.found.tensors]
    names = {key.rpartition(".")[2]: key for key in missing}
    if set(names) not in ({"weight"}, {"weight", "bias"}) or len(names) != len(missing):
        return chosen
    beside = {e.name: e for e in _beside(contents, chosen, own) if isinstance(e.value, Tensor)}
    matrices = [name for name, entry in beside.items() if entry.value.ndim == 2]
    weight = own[names["weight"]]
    if len(matrices) != 1 or weight.ndim != 2 or beside[matrices[0]].value.shape[1] != weight.shape[1]:
        return chosen
    layer = matrices[0].removesuffix("weight")
    taken = {key: beside.get(layer + name) for name, key in names.items()}
    if not all(taken.values()):
        return chosen
    adopted = {key: entry for key, entry in taken.items() if entry is not None}
    found = replace(
        chosen.found,
        tensors=chosen.found.tensors | {key: entry.value for key, entry in adopted.items()},
        sources=chosen.found.sources | {key: entry.key for key, entry in adopted.items()},
    )
    told = f"the classifier is {layer.rstrip('.')}, beside {_shown(chosen.prefix)}"
    return replace(chosen, found=found, note="; ".join(filter(None, [chosen.note, told])))


def _beside(contents: Contents, chosen: Match, own: Mapping[str, Tensor]) -> Iterator[Entry]:
    """What lies in the weights' own mapping, and is neither below their prefix nor below that of the others."""
    placed = {chosen.prefix + source for key, source in chosen.found.sources.items() if key in own}
    for entry in contents.beside(placed):
        if not entry.name.startswith(chosen.prefix) and not (chosen.other and entry.name.startswith(chosen.other)):
            yield entry


def _left_out(contents: Contents, chosen: Match, own: Mapping[str, Tensor]) -> Iterator[str]:
    """Keys that are left out, once what may not be has been refused.

    Raises:
        CheckpointError: Something that is no tensor lies among the weights.
    """
    check(contents.below(chosen.prefix), contents.source)
    unplaced = chosen.unplaced(own)
    made = copies(contents.below(chosen.prefix))
    yield from sorted(key for key in unplaced if is_bookkeeping(key) or key in made)
    sources = set(chosen.found.sources.values())
    yield from (entry.key for entry in _beside(contents, chosen, own) if entry.key not in sources)
    placed = {chosen.prefix + source for key, source in chosen.found.sources.items() if key in own}
    for entry in contents.beside(placed):
        inside = entry.name.startswith(chosen.prefix)
        if inside and not isinstance(entry.value, Tensor) and not is_bookkeeping(entry.key):
            raise CheckpointError(
                f"{contents.source}: {entry.key} is a {type(entry.value).__name__}, not a tensor; "
                f"--ignore {entry.key} (ignore=[...]) leaves it out"
            )


def _unknown(contents: Contents, layout: str) -> str:
    names = [entry.key for entry in contents.entries if isinstance(entry.value, Tensor)]
    whose = f"the layout {layout!r} has" if layout != "auto" else f"any known layout ({', '.join(LAYOUTS)}) has"
    first = ", ".join(names[:3])
    return f"{contents.source}: no name of a weight in it ({first}, ...) is one that {whose} for this network"


def _shown(prefix: str) -> str:
    return prefix.rstrip(".") or "the whole file"
