"""Norm, activation and channel attention as one operator, in a network's own modules: the norm waits for the attention.

`defer` gives a module another class, as `torch.nn.utils.parametrize` does. The norm then returns a feature map that is
not computed yet, activations behind it add themselves, and the attention layer computes all three in one operator.
Whatever else reads the feature map makes the modules compute it, so that no path through a network is wrong.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
from torch import Tensor, nn

from senet.fusion.lazy import LazyFeatureMap
from senet.gates.excitation import excitation, gate_from_means
from senet.nn.activations import activation_inside, activation_number
from senet.nn.epilogue import is_large, running_statistics, unwatched, update_running_statistics
from senet.ops import bn_act_gate, bn_act_se
from senet.ops.arguments import gradients_by_autograd, needs_gradient

__all__ = ["DeferredFeatureMap", "defer", "plain_type", "restore"]

MIN_ELEMENTS: Final = {
    (True, True): 1 << 16,
    (True, False): 1 << 19,
    (False, True): 1 << 16,
    (False, False): 1 << 62,
}
"""Smallest number of elements of a feature map for which the operator is faster, by (with a norm, gradients).

Without gradients attention alone never is. Measured: benchmarks/operator_sizes.json.
"""

_Norm = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
"""gamma, beta, mean and var of `bn_act_gate`."""

_NO_NORM: Final[_Norm] = (None, None, None, None)

_PLAIN: Final = "_senet_plain"
"""Attribute of a class made here: the class behind it."""


class _NormCall:
    """A call of a norm that waits for its attention layer.

    Args:
        norm: The norm.
        x: Its input, (N, C, H, W).
    """

    def __init__(self, norm: _DeferredNorm, x: Tensor) -> None:
        self.norm, self.x = norm, x
        self.records_gradients, self.training = torch.is_grad_enabled(), norm.training
        self.has_run = False
        self.value: Tensor | None = None

    def read(self, module: _DeferredActivation | None) -> Tensor:
        """Return the norm's result, or that of the activation behind it, computed by the modules."""
        with torch.set_grad_enabled(self.records_gradients):
            if self.value is None:
                self.value = self.norm._computed(self.x, training=self.training, tracks=not self.has_run)
                self.has_run = True
            return self.value if module is None else module._plain(self.value)

    def can_wait(self) -> bool:
        """Whether nobody has used the result, and gradients and mode are those of the call."""
        modes = torch.is_grad_enabled(), self.norm.training
        return not self.has_run and modes == (self.records_gradients, self.training)

    def gated(self, activation: int, attention: nn.Module) -> Tensor:
        """Run norm, activation and attention."""
        self.has_run = True
        return self.norm._gated(self.x, activation, attention)


class DeferredFeatureMap(LazyFeatureMap):
    """The feature map after a norm, or after a norm and its activation, before it is computed.

    Args:
        call: The norm's call.
        activation: Number of the activation in `ACTIVATIONS`, of the norm or of `module`.
        module: The activation behind the norm, if there is one.
    """

    _call: _NormCall
    _activation: int
    _module: _DeferredActivation | None

    @classmethod
    def after(cls, call: _NormCall, activation: int, module: _DeferredActivation | None = None) -> DeferredFeatureMap:
        """Make the feature map of a norm's call."""
        norm: Any = call.norm
        if needs_gradient((call.x, norm.weight, norm.bias)):
            return _Wait.apply(call.x, norm.weight, norm.bias, call, activation, module)
        return cls._made(call, activation, module)

    @classmethod
    def _made(cls, call: _NormCall, activation: int, module: _DeferredActivation | None) -> DeferredFeatureMap:
        made = cls._like(call.x)
        made._call, made._activation, made._module = call, activation, module
        return made

    def _computed(self) -> Tensor:
        return self._call.read(self._module)

    def activated(self, module: _DeferredActivation, activation: int) -> DeferredFeatureMap | None:
        """Return this feature map with an activation behind it. None if it can't wait any longer."""
        if self._activation or not self._call.can_wait():
            return None
        return DeferredFeatureMap.after(self._call, activation, module)

    def gated(self, attention: nn.Module) -> Tensor | None:
        """Run norm, activation and attention. None if the feature map was used before."""
        return self._call.gated(self._activation, attention) if self._call.can_wait() else None


class _Wait(torch.autograd.Function):
    """The history of a `DeferredFeatureMap`, for gradients that come to itself.

    Operations that use `__torch_function__` have the history of the modules. Functions that autograd calls past it (a
    custom `autograd.Function`, the full backward hook of a module between norm and attention) have this one.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, call: _NormCall, *others: Any
    ) -> DeferredFeatureMap:
        ctx.save_for_backward(x, weight, bias)
        ctx.norm, ctx.training, (activation, ctx.module) = call.norm, call.training, others
        return DeferredFeatureMap._made(call, activation, ctx.module)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        with torch.enable_grad():
            y = ctx.norm._computed(inputs[0], training=ctx.training, tracks=False)
            if ctx.module is not None:
                y = ctx.module._plain(y)
        return *gradients_by_autograd(y, inputs, ctx.needs_input_grad[:3], dy), None, None, None


class _Deferring(nn.Module):
    """Base of the classes that stand before a module's own class."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the module's own `forward`."""
        if len(args) == 1 and not kwargs:
            y = self._deferred(args[0])
            if y is not None:
                return y
        return super().forward(*args, **kwargs)

    def _deferred(self, x: Any) -> Tensor | None:
        """Return the result without computing all of it. None to use the module's own `forward`."""
        raise NotImplementedError

    def _plain(self, x: Tensor) -> Tensor:
        return super().forward(x)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A pickled network has its own classes, and loads without this package."""
        del protocol  # that of protocol 0 names the class, the others compare it with the object's
        reduced: Any = super().__reduce_ex__(0)
        function, args, *others = reduced
        return function, (plain_type(self), *args[1:]), *others


class _DeferredNorm(_Deferring):
    running_mean: Tensor | None
    track_running_stats: bool

    def _deferred(self, x: Any) -> Tensor | None:
        norm: Any = self
        if not _is_faster(x, norm=True) or not unwatched(self) or not all(map(unwatched, self.children())):
            return None
        statistics = running_statistics(norm, x)
        if statistics is None or not bn_act_gate.SIGNATURE.takes((x, norm.weight, norm.bias, *statistics)):
            return None
        return DeferredFeatureMap.after(_NormCall(self, x), activation_inside(self) or 0)

    def _gated(self, x: Tensor, activation: int, attention: nn.Module) -> Tensor:
        norm: Any = self
        training = norm.training or norm.running_mean is None
        mean, var = (None, None) if training else (norm.running_mean, norm.running_var)
        parameters: _Norm = (norm.weight, norm.bias, mean, var)
        update = functools.partial(update_running_statistics, norm)
        return _rescaled(attention, x, parameters, update, training=training, eps=norm.eps, activation=activation)

    def _computed(self, x: Tensor, *, training: bool, tracks: bool) -> Tensor:
        """Compute the norm by itself.

        Args:
            x: Its input.
            training: Its mode.
            tracks: Whether it may update its running statistics.
        """
        before = self.training, self.track_running_stats
        self.training, self.track_running_stats = training, tracks and self.track_running_stats
        try:
            return self._plain(x)
        finally:
            self.training, self.track_running_stats = before


class _DeferredActivation(_Deferring):
    def _deferred(self, x: Any) -> Tensor | None:
        if type(x) is not DeferredFeatureMap or not unwatched(self):
            return None
        return x.activated(self, activation_number(self) or 0)


class _DeferredAttention(_Deferring):
    def _deferred(self, x: Any) -> Tensor | None:
        if type(x) is DeferredFeatureMap:
            return x.gated(self)
        if not _is_faster(x, norm=False) or not bn_act_gate.SIGNATURE.takes((x, *_NO_NORM)):
            return None
        return _rescaled(self, x, _NO_NORM, lambda _: None, training=False, eps=0.0, activation=0)


def _rescaled(
    attention: nn.Module,
    x: Tensor,
    norm: _Norm,
    update: Callable[[Tensor], None],
    *,
    training: bool,
    eps: float,
    activation: int,
) -> Tensor:
    """Run norm, activation and attention by the operator that has the attention's gate.

    Args:
        attention: The layer.
        x: The norm's input, (N, C, H, W).
        norm: As in `bn_act_gate`.
        update: Called with the statistics of the batch, (2, C).
        training: As in `bn_act_gate`.
        eps: As in `bn_act_gate`.
        activation: As in `bn_act_gate`.
    """
    layers = excitation(attention)
    if layers is not None and bn_act_se.SIGNATURE.takes((x, *norm, *layers[:4])):
        return bn_act_se.bn_act_se(
            x,
            *norm,
            *layers[:4],
            training=training,
            eps=eps,
            activation=activation,
            hidden_activation=layers.activation,
            gate=layers.gate,
            on_statistics=update,
        )
    squeezed = bn_act_gate.bn_act_squeeze(x, *norm, training=training, eps=eps, activation=activation)
    update(squeezed.statistics)  # before the gate, at whose end a checkpointed part may stop
    gate_of = gate_from_means(attention)
    assert gate_of is not None
    return squeezed.scaled(gate_of(squeezed.means))


def _is_faster(x: Any, *, norm: bool) -> bool:
    """Whether it is a feature map for which the operator is faster than the modules."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or not isinstance(x, Tensor):
        return False  # Inductor fuses the modules' plain operations itself
    return is_large(x, MIN_ELEMENTS[norm, torch.is_grad_enabled()])


@functools.cache
def _deferring(kind: Any, role: Any) -> type[nn.Module]:
    """Return a class before another, of the same name."""
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__, _PLAIN: kind}
    return types.new_class(kind.__name__, (role, kind), exec_body=lambda body: body.update(names))


def defer(*, norm: nn.Module | None, activations: Iterable[nn.Module], attention: nn.Module) -> list[nn.Module]:
    """Let norm and activations wait for the attention layer, which computes all in one operator.

    Args:
        norm: `nn.BatchNorm2d`, or timm's with an activation. None for attention alone.
        activations: The activations between norm and attention.
        attention: A layer for which `gate_from_means` has a gate.

    Returns:
        The modules that did not wait before.
    """
    roles = [(attention, _DeferredAttention), *((a, _DeferredActivation) for a in activations)]
    changed = []
    for module, role in [*roles, *([] if norm is None else [(norm, _DeferredNorm)])]:
        if plain_type(module) is type(module):
            module.__class__ = _deferring(type(module), role)  # type: ignore[arg-type]  # classes are hashable
            changed.append(module)
    return changed


def plain_type(module: nn.Module) -> type[nn.Module]:
    """Return the class that a module had before `defer`."""
    return vars(type(module)).get(_PLAIN, type(module))


def restore(modules: Iterable[nn.Module]) -> None:
    """Give modules the class that they had before `defer`."""
    for module in modules:
        module.__class__ = plain_type(module)
