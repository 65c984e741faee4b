"""Random initial weights that depend on the seed and the parameter's name alone, not on the other layers.

Layers draw their weights one after the other. A layer added in between, such as attention, changes the draws of all
later layers, and two networks then differ in more than this layer. Here the draws of each parameter are repeated with
a generator of its own, so the distribution stays the network's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from senet.data.randomness import derive_seed

__all__ = ["InitialDraws"]

RANDOM: Final = frozenset(
    f"{name}_" for name in ("normal", "uniform", "bernoulli", "cauchy", "exponential", "geometric", "log_normal")
)
"""Operators that fill a tensor with random numbers in place."""

CONSTANT: Final = frozenset({"fill_", "zero_", "copy_"})
"""Operators that overwrite a tensor with given values."""


class InitialDraws(TorchDispatchMode):
    """Record the random initialization of a network that is built within the block.

    Recorded are the operators that fill a tensor in place: a random one, and what follows, such as the `mul_` of
    `torch.nn.init.trunc_normal_`. Not recorded are weights from a file, draws from a generator of the network's own,
    draws on another device than the CPU, and values computed from other tensors (`torch.nn.init.orthogonal_`).

    Example:
        >>> from torch import nn
        >>> from senet.training.initial_draws import InitialDraws
        >>> def build(*names):
        ...     with InitialDraws() as draws:
        ...         model = nn.ModuleDict({name: nn.Linear(2, 2) for name in names})
        ...     draws.repeat(model, seed=0)
        ...     return model
        >>> bool((build("fc")["fc"].weight == build("se", "fc")["fc"].weight).all())
        True
    """

    def __init__(self) -> None:
        super().__init__()
        # The operators on each memory. They hold their tensors, so no other tensor gets the same memory.
        self._written: dict[int, list[tuple[Any, tuple[Any, ...], dict[str, Any]]]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operator, and record it if it belongs to a tensor's random initialization."""
        del types
        kwargs, name = dict(kwargs or {}), func.overloadpacket.__name__
        if name.endswith("_") and args and _is_plain(args[0]):
            self._record(name, func, args, kwargs)
        return func(*args, **kwargs)

    def _record(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        memory, others = _memory(args[0]), (*args[1:], *kwargs.values())
        repeatable = not any(isinstance(other, Tensor | torch.Generator) for other in others)
        if not repeatable or (name in RANDOM | CONSTANT and _is_whole(args[0])):
            self._written.pop(memory, None)
        if repeatable and (name in RANDOM or memory in self._written):
            self._written.setdefault(memory, []).append((func, args, kwargs))

    def repeat(self, model: nn.Module, seed: int) -> None:
        """Repeat the recorded draws of each tensor of a network, with a generator seeded by `seed` and its name.

        Afterwards torch's generators are seeded with `seed`.
        """
        with torch.no_grad():
            for name, tensor in chain(model.named_parameters(), model.named_buffers()):
                written = self._written.pop(_memory(tensor), ()) if _is_plain(tensor) else ()
                torch.default_generator.manual_seed(derive_seed("initial", seed, name))
                for func, args, kwargs in written:
                    func(*args, **kwargs)
        torch.manual_seed(seed)


def _is_plain(tensor: object) -> bool:
    if not isinstance(tensor, Tensor) or is_lazy(tensor) or tensor.is_inference():
        return False
    return tensor.layout is torch.strided and tensor.device.type == "cpu"


def _is_whole(tensor: Tensor) -> bool:
    """Whether it covers its memory, so that writing to it leaves nothing of earlier values."""
    return tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
