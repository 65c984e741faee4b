"""Randomness that depends on a key alone, neither on the process nor on earlier draws."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["derive_seed", "generator", "seeded_rng"]


def derive_seed(*key: int | str) -> int:
    """Return a 64-bit seed that mixes all parts of a key, the same on every machine and in every version."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big")


def generator(*key: int | str) -> torch.Generator:
    """Return a CPU generator seeded by the key."""
    return torch.Generator().manual_seed(derive_seed(*key))


@contextmanager
def seeded_rng(*key: int | str) -> Iterator[None]:
    """Seed torch's global CPU generator by the key within the block, and restore it afterwards.

    `torch.manual_seed` doesn't suit, since it also resets the generator of every GPU.
    """
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(derive_seed(*key))
    try:
        yield
    finally:
        torch.set_rng_state(before)
