"""Renaming of weights as data: a table of pattern pairs, usable in both directions, takes every key exactly once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from senet.errors import CheckpointError
from senet.nn.precision import in_float64
from senet.preprocessing import Preprocessing

__all__ = ["Folded", "Rule", "Table", "Translation", "conv_norm", "under"]

_FIELD = re.compile(r"\{([a-z]\w*)(?:([+-]\d+)|:([^{}]+))?\}")
_NUMBER = r"(?:0|[1-9]\d*)"
_PARAMETER = "weight|bias|running_mean|running_var|num_batches_tracked"


class _Pattern:
    """One side of a rule: literal text and fields.

    `{p}` is the name of a parameter or buffer. Any other `{name}` is a number. `{name+1}` is the number plus one on
    this side. `{name:regex}` is any text that the expression matches.
    """

    def __init__(self, text: str) -> None:
        pieces: list[str] = []
        self.template: list[str | tuple[str, int | None]] = []
        position = 0
        for found in _FIELD.finditer(text):
            name, shift, expression = found.groups()
            self._add(pieces, text[position : found.start()])
            number = expression is None and name != "p"
            pieces.append(f"(?P<{name}>{_NUMBER if number else expression or _PARAMETER})")
            self.template.append((name, int(shift or 0) if number else None))
            position = found.end()
        self._add(pieces, text[position:])
        self.start = text.partition("{")[0]
        self.regex = re.compile("".join(pieces))
        self.fields = frozenset(part[0] for part in self.template if not isinstance(part, str))

    def _add(self, pieces: list[str], literal: str) -> None:
        assert not set(literal) & set("{}"), f"{literal!r}: malformed field"
        pieces.append(re.escape(literal))
        self.template.append(literal)

    def values(self, key: str) -> dict[str, str] | None:
        """Return the fields' values in a key, without this side's shifts, None where the key doesn't match."""
        found = self.regex.fullmatch(key)
        if not found:
            return None
        values = found.groupdict()
        for part in self.template:
            if not isinstance(part, str) and part[1] is not None:
                number = int(values[part[0]]) - part[1]
                if number < 0:
                    return None
                values[part[0]] = str(number)
        return values

    def render(self, values: Mapping[str, str]) -> str | None:
        """Return the key with these values, None where a shift makes a number negative."""
        parts: list[str] = []
        for part in self.template:
            if isinstance(part, str):
                parts.append(part)
            elif part[1] is None:
                parts.append(values[part[0]])
            elif int(values[part[0]]) + part[1] < 0:
                return None
            else:
                parts.append(str(int(values[part[0]]) + part[1]))
        return "".join(parts)


@dataclass(frozen=True)
class Rule:
    """A pair of patterns: the external name and our name.

    Attributes:
        theirs: External pattern such as `layer{s}.{u}.conv{n}.{p}`, see `_Pattern`.
        ours: Our pattern with the same fields: `stages.{s+1}.{u}.branch.conv{n}.{p}`.
        kernel: Kernel size of the external convolution that our matrix replaces: with 1, (a, b, 1, 1) there is (a, b)
            here.
        old: Whether the external name is read but no longer written.
    """

    theirs: str
    ours: str
    kernel: int = 0
    old: bool = False

    def __post_init__(self) -> None:
        assert self._sides[0].fields == self._sides[1].fields, f"{self}: the sides have different fields"

    @cached_property
    def _sides(self) -> tuple[_Pattern, _Pattern]:
        return _Pattern(self.theirs), _Pattern(self.ours)

    def rename(self, key: str, *, back: bool = False) -> str | None:
        """Return our name of an external key (`back`: the reverse), None where the rule doesn't match."""
        source, target = reversed(self._sides) if back else self._sides
        if not key.startswith(source.start):
            return None
        values = source.values(key)
        result = None if values is None else target.render(values)
        if result is None or target.values(result) != values:  # the other side's expressions must match too
            return None
        return result


@dataclass(frozen=True)
class Folded:
    """A bias before a norm that our network lacks. It is subtracted from the norm's running mean.

    Attributes:
        theirs: External pattern of the bias.
        ours: Our pattern of the running mean.
    """

    theirs: str
    ours: str

    def rename(self, key: str, *, back: bool = False) -> str | None:
        """Return the running mean's name, None for `back`, which is impossible."""
        return None if back else self._rule.rename(key)

    @cached_property
    def _rule(self) -> Rule:
        return Rule(self.theirs, self.ours)


AnyRule = Rule | Folded


@dataclass(frozen=True)
class Translation:
    """A state dict under other names.

    Attributes:
        tensors: New name to tensor.
        sources: New name to original name.
        leftover: Keys that no rule matched.
        biases: Name of a norm's running mean to the key and the bias to subtract from it.
    """

    tensors: dict[str, Tensor]
    sources: dict[str, str]
    leftover: list[str]
    biases: dict[str, tuple[str, Tensor]] = field(default_factory=dict)

    def fold(self, name: str) -> Tensor:
        """Return a tensor with its bias folded in. Both shapes must be equal."""
        tensor = self.tensors[name]
        if name not in self.biases:
            return tensor
        bias = self.biases[name][1]
        assert bias.shape == tensor.shape
        return in_float64(tensor.to("meta") if bias.is_meta else tensor) - in_float64(bias)


@dataclass(frozen=True, eq=False)
class Table:
    """The weight names of one library for one network family.

    Attributes:
        layout: Name of the layout.
        title: Readable title.
        rules: Rules. Each key matches exactly one.
        expects: Model options (dotted: `attention.gate`) that the library's networks have and their keys don't show.
            The value is the option's value or a function of the spec. Options that the network lacks are skipped.
        rounding: Rounding of the SE blocks' hidden width in that library.
        zero: Pattern of our keys that are zero where the file lacks them.
        images: Preprocessing of that library for the family, where known.
    """

    layout: str
    title: str
    rules: tuple[AnyRule, ...]
    expects: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    rounding: str = "floor"
    zero: str | None = None
    images: Preprocessing | None = None

    def __str__(self) -> str:
        return self.title

    @property
    def one_way(self) -> bool:
        """Whether the table only reads: biases were folded into norms, or the file splits norms into two layers."""
        return self.layout == "caffe" or any(isinstance(rule, Folded) for rule in self.rules)

    def translate(self, tensors: Mapping[str, Tensor], *, back: bool = False) -> Translation:
        """Rename every key, and reshape matrices as the other side has them.

        Raises:
            CheckpointError: Two keys would get the same name.
        """
        result = Translation({}, {}, [])
        for key, tensor in tensors.items():
            found = self._rule(key, back)
            if found is None:
                result.leftover.append(key)
                continue
            rule, name = found
            if isinstance(rule, Folded):
                _check_unique(name, key, {mean: k for mean, (k, _) in result.biases.items()})
                result.biases[name] = (key, tensor)
            else:
                _check_unique(name, key, result.sources)
                result.tensors[name] = _reshaped(rule, tensor, back)
                result.sources[name] = key
        alone = [mean for mean in result.biases if mean not in result.tensors]
        result.leftover.extend(result.biases.pop(mean)[0] for mean in alone)
        return result

    def _rule(self, key: str, back: bool) -> tuple[AnyRule, str] | None:
        usable = [rule for rule in self.rules if not (back and isinstance(rule, Rule) and rule.old)]
        found = [(rule, name) for rule in usable if (name := rule.rename(key, back=back)) is not None]
        assert len(found) <= 1, f"{self.title}: {key} matches {len(found)} rules: {[rule for rule, _ in found]}"
        return found[0] if found else None

    def zeros(self, found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return zeros for the network's tensors that this library omits because they are zero."""
        if self.zero is None:
            return {}
        pattern = _Pattern(self.zero)
        absent = [key for key in own if key not in found and pattern.values(key) is not None]
        return {key: torch.zeros(own[key].shape, dtype=own[key].dtype) for key in absent}


def _check_unique(name: str, key: str, taken: Mapping[str, str]) -> None:
    if name in taken:
        raise CheckpointError(f"{key} and {taken[name]} are two names for one weight, {name}")


def _reshaped(rule: Rule, tensor: Tensor, back: bool) -> Tensor:
    side = rule.kernel
    if back and side and tensor.ndim == 2:
        return tensor.unflatten(1, (-1, side, side))
    if not back and side and tensor.ndim == 4 and tensor.shape[2:] == (side, side):
        return tensor.flatten(1)
    return tensor


def under(theirs: str, ours: str, rules: Iterable[AnyRule]) -> tuple[AnyRule, ...]:
    """Put a prefix before both sides of every rule."""
    found: list[AnyRule] = []
    for rule in rules:
        found.append(replace(rule, theirs=theirs + rule.theirs, ours=ours + rule.ours))
    return tuple(found)


def conv_norm(theirs: str, ours: str) -> tuple[Rule, Rule]:
    """Return the rules of a convolution and its norm: `conv` and `bn` there, 0 and 1 here."""
    return Rule(f"{theirs}.conv.{{p}}", f"{ours}.0.{{p}}"), Rule(f"{theirs}.bn.{{p}}", f"{ours}.1.{{p}}")
