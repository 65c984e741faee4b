"""Feature maps that are computed when something reads them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, final

from torch import Tensor
from torch.utils._pytree import tree_map_only

from senet.ops.inference import takes

__all__ = ["LazyFeatureMap", "ScaledFeatureMap", "scaled"]


class LazyFeatureMap(Tensor):
    """A feature map that is not computed yet. A layer that knows it may use its parts. Anything else reads it.

    Args:
        like: A tensor of its shape, strides, type and device.
    """

    _value: Tensor | None

    @classmethod
    def _like(cls, like: Tensor) -> Any:
        made: Any = Tensor._make_wrapper_subclass(cls, like.shape, like.stride(), dtype=like.dtype, device=like.device)
        made._value = None
        return made

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], kinds: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Any operation reads the feature map."""
        del kinds
        args, kwargs = tree_map_only(LazyFeatureMap, LazyFeatureMap.read, (args, kwargs or {}))
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch declares it as a method of objects
        cls, func: Callable[..., Any], kinds: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Read it for an operation that got past `__torch_function__`, below autograd."""
        return cls.__torch_function__(func, kinds, args, kwargs)

    def read(self) -> Tensor:
        """Return the feature map."""
        if self._value is None:
            self._value = self._computed()
        return self._value

    @abstractmethod
    def _computed(self) -> Tensor:
        """Compute it."""


@final
class ScaledFeatureMap(LazyFeatureMap):
    """`gate * h` in an optimized network, whose only known reader is a convolution that can scale its input.

    Attributes:
        h: (N, C, H, W).
        gate: (N, C).
    """

    h: Tensor
    gate: Tensor

    def _computed(self) -> Tensor:
        return self.h * self.gate[:, :, None, None]


def scaled(h: Tensor, gate: Tensor) -> Tensor:
    """Return `gate * h`, not multiplied yet unless gradients or a transformation follow the feature map.

    Args:
        h: (N, C, H, W).
        gate: (N, C).
    """
    if gate.shape != h.shape[:2] or not takes(h, (gate,)):
        return h * gate[:, :, None, None].to(h.dtype)
    made = ScaledFeatureMap._like(h)
    made.h, made.gate = h, gate
    return made
