"""Record the operations of one run, and the inputs and outputs of modules."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from senet.graph.compiled import plain_modules
from senet.graph.inputs import Inputs, tensors_in
from senet.graph.values import CONVOLUTIONS, NORMS, RESHAPES, Call, Graph, Value

__all__ = ["Recorder"]

LAST_DIM = ("mm", "addmm", "bmm", "baddbmm", "layer_norm", "rms_norm", "linear")
SEVERAL = ("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk", "unbind", "tensor_split")


class Recorder(TorchDispatchMode):
    """Record tensors by identity. Keeps them alive meanwhile, so that an identity means one tensor.

    Args:
        model: The copy that runs.
        originals: From its modules to the network's own.
        inputs: The inputs of the run.
    """

    def __init__(self, model: nn.Module, originals: Mapping[nn.Module, nn.Module], inputs: Inputs) -> None:
        super().__init__()
        self.originals = originals
        # A scripted module has no hooks. It counts as one operation of its caller.
        named = plain_modules(model).items()
        self.names = {module: name for name, module in named if not isinstance(module, torch.jit.ScriptModule)}
        # Also buffers, because a forward method may replace them. Another tensor could then get their identity.
        self.alive: list[Tensor] = [*model.parameters(), *model.buffers()]
        self.fixed = {id(t) for t in self.alive}
        self.current: dict[int, Value] = {}
        self.written: set[int] = set()
        root = Call("", originals[model], None)
        self.graph = Graph(root, inputs)
        self.stack: list[Call] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        name = str(func.overloadpacket.__name__).rstrip("_")
        followed = [t for t in tensors if self._is_followed(t)]
        outputs = [t for t in tree_leaves(result) if isinstance(t, Tensor) and id(t) not in self.fixed]
        if not followed:
            # Computed only from parameters and constants, so it doesn't depend on the input.
            self.fixed |= {id(t) for t in outputs}
            self.alive += outputs
            return result
        if isinstance(result, Tensor) and id(result) in self.fixed:
            self.written.add(_memory(result))
        # Further outputs (a norm's statistics, a pool's indices) are not recorded.
        for tensor in outputs if name in SEVERAL else outputs[:1]:
            self._remember(tensor, self._value(name, tensor, tensors, args))
        return result

    def _value(self, name: str, tensor: Tensor, tensors: list[Tensor], args: tuple[Any, ...]) -> Value:
        inputs = tuple(self.current[id(t)] for t in tensors if id(t) in self.current)
        value = Value(
            number=len(self.graph.values),
            op=name,
            inputs=inputs,
            shape=tuple(tensor.shape),
            channel_dim=_channel_dim(name, tensor, inputs, args),
            arguments=tuple(a for a in args if not isinstance(a, Tensor | list)),
            call=self.stack[-1] if self.stack else self.graph.root,
        )
        if name in CONVOLUTIONS and inputs:
            weight = args[1]
            value.conv_rank, value.kernel = weight.ndim - 2, tuple(weight.shape[2:])
            transposed = isinstance(args[6], bool) and args[6] if len(args) > 6 else False
            value.groups = inputs[0].channels // weight.shape[1] if not transposed else 1
        value.weighted = value.conv_rank > 0 or (name in LAST_DIM and "norm" not in name)
        for source in inputs:
            source.users.append(value)
        self.graph.values.append(value)
        return value

    def _is_followed(self, tensor: Tensor) -> bool:
        """Whether it depends on the input."""
        if id(tensor) in self.fixed and not self._is_constant(tensor):
            self.values_of(tensor)
        return id(tensor) in self.current

    def _is_constant(self, tensor: Tensor) -> bool:
        """Whether it is a parameter or computed only from parameters, and was not overwritten since."""
        return id(tensor) in self.fixed and _memory(tensor) not in self.written

    def _remember(self, tensor: Tensor, value: Value) -> None:
        self.current[id(tensor)] = value
        self.alive.append(tensor)

    def values_of(self, tree: Any) -> tuple[Value, ...]:
        """Return the values of all tensors in nested containers. Unknown or overwritten tensors become inputs."""
        found = []
        for tensor in tensors_in(tree):
            if self._is_constant(tensor):
                continue
            if id(tensor) not in self.current:
                self.fixed.discard(id(tensor))
                call = self.stack[-1] if self.stack else self.graph.root
                dim = 1 if tensor.ndim > 2 else None
                value = Value(len(self.graph.values), "input", (), tuple(tensor.shape), dim, (), call)
                self.graph.values.append(value)
                self._remember(tensor, value)
            found.append(self.current[id(tensor)])
        return tuple(found)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record all operations of the network's modules within the block."""
        with ExitStack() as stack:
            for module in self.names:
                before = module.register_forward_pre_hook(self.enter, with_kwargs=True, prepend=True)
                after = module.register_forward_hook(lambda _m, _a, output: self.leave(output))
                stack.callback(before.remove)
                stack.callback(after.remove)
                module.forward = self._detecting_direct_calls(module, module.forward)
            with self:
                yield

    def _detecting_direct_calls(self, module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap the module's `forward` to detect calls that skip hooks."""

        @functools.wraps(forward)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if not self.stack or self.stack[-1].module is not self.originals[module]:
                self.graph.unhooked.append(self.names[module])
            return forward(*args, **kwargs)

        return wrapped

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Record the call of a module."""
        parent = self.stack[-1] if self.stack else None
        inputs = self.values_of((args, kwargs))
        call = self.graph.root if parent is None else Call(self.names[module], self.originals[module], parent)
        call.inputs = inputs
        self.stack.append(call)

    def leave(self, output: Any) -> None:
        """Record the return of the innermost call."""
        call = self.stack[-1]
        call.outputs = self.values_of(output)
        call.single = isinstance(output, Tensor) and len(call.outputs) == 1
        self.stack.pop()
        self.graph.calls.append(call)


def _memory(tensor: Tensor) -> int:
    """Return the identity of the memory, which views share."""
    return tensor.untyped_storage()._cdata


def _channel_dim(name: str, tensor: Tensor, inputs: Sequence[Value], args: tuple[Any, ...]) -> int | None:
    """Return the channel dimension after an operation."""
    if name in CONVOLUTIONS or any(norm in name and "layer" not in name for norm in NORMS):
        return 1 if tensor.ndim >= 2 else None
    if any(last in name for last in LAST_DIM):
        return tensor.ndim - 1
    same_rank = [v for v in inputs if v.channel_dim is not None and len(v.shape) == tensor.ndim]
    if name in ("permute", "transpose", "t") and same_rank:
        order = list(range(tensor.ndim))
        if name == "permute":
            order = [d % tensor.ndim for d in args[1]]
        elif name == "transpose":
            a, b = args[1] % tensor.ndim, args[2] % tensor.ndim
            order[a], order[b] = b, a
        return order.index(same_rank[0].channel_dim) if same_rank[0].channel_dim in order else None
    if name in RESHAPES and inputs and inputs[0].channel_dim is not None:
        before, dim = inputs[0].shape, inputs[0].channel_dim
        size, behind = before[dim], math.prod(before[dim + 1 :])
        matches = [d for d, s in enumerate(tensor.shape) if s == size and math.prod(tensor.shape[d + 1 :]) == behind]
        return matches[-1] if matches else None
    # Operations that keep the rank keep the order. Of several operands the largest determines it.
    largest = max(same_rank, key=lambda v: math.prod(v.shape), default=None)
    return largest.channel_dim if largest else None
