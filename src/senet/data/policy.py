"""Names and options of augmentation policies: TrivialAugment, RandAugment, AugMix and AutoAugment.

This module imports no torch, so that a command line can check a policy at once.
"""

from __future__ import annotations

from typing import NamedTuple

from senet.errors import SenetError, UnknownNameError

__all__ = ["NONE", "POLICIES", "Policy", "parse_policy"]

NONE = "none"


class Option(NamedTuple):
    """A whole number among a policy's options."""

    default: int
    smallest: int
    largest: int


POLICIES: dict[str, dict[str, Option]] = {
    NONE: {},
    "trivial": {},
    "rand": {"n": Option(2, 1, 14), "m": Option(9, 0, 30)},
    "augmix": {"severity": Option(3, 1, 10), "width": Option(3, 1, 10)},
    "auto": {},
}
"""Policy to its options."""


class Policy(NamedTuple):
    """A policy with the values of all its options.

    Attributes:
        name: A key of `POLICIES`.
        options: Option to its value.
    """

    name: str
    options: dict[str, int]


def parse_policy(text: str) -> Policy:
    """Parse `trivial` or `rand:n=2,m=9`.

    Raises:
        UnknownNameError: There is no such policy.
        SenetError: The policy has no such option, or its value is out of range.

    Example:
        >>> from senet.data.policy import parse_policy
        >>> parse_policy("rand:m=12").options
        {'n': 2, 'm': 12}
    """
    name, _, rest = text.partition(":")
    if name not in POLICIES:
        raise UnknownNameError("augmentation policy", name, POLICIES)
    known = POLICIES[name]
    values = {option: limits.default for option, limits in known.items()}
    for pair in rest.split(",") if rest else ():
        option, _, value = pair.partition("=")
        if option not in known:
            there = ", ".join(known) or "none"
            raise SenetError(f"augment={text!r}: {name} has no option {option!r}; its options are: {there}")
        limits = known[option]
        if not value.isdecimal() or not limits.smallest <= int(value) <= limits.largest:
            raise SenetError(
                f"augment={text!r}: {option} must be a whole number in {limits.smallest}..{limits.largest}"
            )
        values[option] = int(value)
    return Policy(name, values)
