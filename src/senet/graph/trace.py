"""Watch a network run once, and write down how its maps flow: operations, and the modules' inputs and outputs."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from senet.errors import SenetError
from senet.nn.modes import evaluation_mode

__all__ = ["Call", "Graph", "Value", "trace"]

CONVOLUTIONS = ("convolution", "mkldnn_convolution", "_convolution")
NORMS = ("batch_norm", "group_norm")
LAST_DIM = ("mm", "addmm", "bmm", "baddbmm", "layer_norm", "rms_norm", "linear")
SEVERAL = ("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk", "unbind", "tensor_split")
RESHAPES = ("view", "_unsafe_view", "reshape", "_reshape_alias")


@dataclass(eq=False, repr=False)
class Value:
    """A tensor at one moment of the run; an operation in place makes a new one.

    Attributes:
        number: Position in the order of computation.
        op: The operation's name without overload and trailing underscore (`add`, `convolution`, `cat`), or "input".
        inputs: The values that it was computed from; parameters are none.
        shape: Of the tensor.
        channel_dim: The dimension that counts channels, as far as it can be told; else None.
        arguments: The operation's other arguments.
        call: The module call whose own `forward` computed it.
        users: The operations that read it.
        conv_rank: Spatial dimensions of a convolution's kernel; 0 for everything else.
        groups: Of a convolution.
        kernel: Of a convolution: its spatial size.
        weighted: A convolution or a matrix product.
    """

    number: int
    op: str
    inputs: tuple[Value, ...]
    shape: tuple[int, ...]
    channel_dim: int | None
    arguments: tuple[Any, ...]
    call: Call
    users: list[Value] = field(default_factory=list)
    conv_rank: int = 0
    groups: int = 1
    kernel: tuple[int, ...] = ()
    weighted: bool = False

    @property
    def channels(self) -> int:
        """Size of the second dimension."""
        return self.shape[1]

    @property
    def space(self) -> tuple[int, ...]:
        """Sizes after the second dimension."""
        return self.shape[2:]

    @property
    def depthwise(self) -> bool:
        """Whether it is a convolution that looks at each channel alone."""
        return self.conv_rank > 0 and self.groups > 1 and self.groups == self.inputs[0].channels


@dataclass(eq=False, repr=False)
class Call:
    """One call of a module.

    Attributes:
        path: The module's path; empty for the whole network.
        module: The module (of the network itself, not of its copy).
        parent: The call from within which it was called.
        inputs: Tensors that it got, in whatever containers.
        outputs: Tensors that it returned.
        single: It returned one tensor and nothing else.
    """

    path: str
    module: nn.Module
    parent: Call | None
    inputs: tuple[Value, ...] = ()
    outputs: tuple[Value, ...] = ()
    single: bool = False

    @property
    def depth(self) -> int:
        """Number of calls around it."""
        return 0 if self.parent is None else self.parent.depth + 1

    def within(self, other: Call) -> bool:
        """Whether it is `other` or was called from within it."""
        call: Call | None = self
        while call is not None:
            if call is other:
                return True
            call = call.parent
        return False


@dataclass(eq=False, repr=False)
class Graph:
    """What was seen.

    Attributes:
        root: The whole network's call.
        calls: All calls, in the order in which they ended.
        values: All values, in the order of computation.
    """

    root: Call
    calls: list[Call] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)

    def times_called(self) -> Mapping[nn.Module, int]:
        """How often each module ran."""
        counts: dict[nn.Module, int] = {}
        for call in self.calls:
            counts[call.module] = counts.get(call.module, 0) + 1
        return counts

    def returned_by(self) -> Mapping[Value, list[Call]]:
        """Value to the calls that returned it alone, the innermost first."""
        found: dict[Value, list[Call]] = {}
        for call in self.calls:
            if call.single:
                found.setdefault(call.outputs[0], []).append(call)
        return found


class _Recorder(TorchDispatchMode):
    """Follows tensors by identity; keeps them alive meanwhile, so that an identity means one tensor."""

    def __init__(self, model: nn.Module, originals: Mapping[nn.Module, nn.Module]) -> None:
        super().__init__()
        self.originals = originals
        self.names = {module: name for name, module in model.named_modules()}
        self.fixed = {id(t) for t in [*model.parameters(), *model.buffers()]}
        self.current: dict[int, Value] = {}
        self.written: set[int] = set()
        self.alive: list[Tensor] = []
        root = Call("", originals[model], None)
        self.graph = Graph(root)
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
            # Drawn from parameters and constants alone: nothing that flows through the network.
            self.fixed |= {id(t) for t in outputs}
            self.alive += outputs
            return result
        if isinstance(result, Tensor) and id(result) in self.fixed:
            self.written.add(_memory(result))
        # A norm also gives its statistics, and an index pool its indices, which nothing here follows.
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
        """Whether numbers of the input are in it."""
        if id(tensor) in self.fixed and not self._is_constant(tensor):
            self.values_of(tensor)
        return id(tensor) in self.current

    def _is_constant(self, tensor: Tensor) -> bool:
        """Whether it is a parameter, or drawn from these alone, and nothing else was written into it since."""
        return id(tensor) in self.fixed and _memory(tensor) not in self.written

    def _remember(self, tensor: Tensor, value: Value) -> None:
        self.current[id(tensor)] = value
        self.alive.append(tensor)

    def values_of(self, tree: Any) -> tuple[Value, ...]:
        """The values of all tensors in nested containers; one never seen before, or filled meanwhile, is an input."""
        found = []
        for tensor in _tensors(tree):
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

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        parent = self.stack[-1] if self.stack else None
        inputs = self.values_of((args, kwargs))
        call = self.graph.root if parent is None else Call(self.names[module], self.originals[module], parent)
        call.inputs = inputs
        self.stack.append(call)

    def leave(self, output: Any) -> None:
        call = self.stack[-1]
        call.outputs = self.values_of(output)
        call.single = isinstance(output, Tensor) and len(call.outputs) == 1
        self.stack.pop()
        self.graph.calls.append(call)


def _memory(tensor: Tensor) -> int:
    """What two tensors share of which one is a part of the other."""
    return tensor.untyped_storage()._cdata


def _tensors(tree: Any) -> Iterator[Tensor]:
    """Tensors in nested containers, also in objects that hold some as attributes (a detector's list of images)."""
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor):
            yield leaf
        elif hasattr(leaf, "__dict__") and not isinstance(leaf, nn.Module):
            yield from (v for v in vars(leaf).values() if isinstance(v, Tensor))


def _channel_dim(name: str, tensor: Tensor, inputs: Sequence[Value], args: tuple[Any, ...]) -> int | None:
    """Where the channels are after an operation."""
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
    # Whatever keeps the rank keeps the order; of several operands the largest sets it.
    largest = max(same_rank, key=lambda v: math.prod(v.shape), default=None)
    return largest.channel_dim if largest else None


def trace(model: nn.Module, example_inputs: Sequence[Any] | None = None) -> Graph:
    """Run a network once in evaluation mode and return what was seen; the network is left as it was.

    First a copy without weights runs on the meta device, where nothing is computed. A network that can't (because
    what it does next depends on numbers, say) runs itself, on real tensors.

    Args:
        model: Any module.
        example_inputs: Its positional arguments; None guesses them from its first convolution.

    Raises:
        SenetError: It runs on none of them.
    """
    candidates = [tuple(example_inputs)] if example_inputs is not None else list(_guesses(model))
    first_error: Exception | None = None
    for inputs in candidates:
        for prepare in (_on_meta, _for_real):
            try:
                with ExitStack() as stack:
                    return _record(*prepare(model, inputs, stack))
            except Exception as error:  # a user's network may refuse in its own way
                first_error = first_error if first_error is not None and prepare is _on_meta else error
    assert first_error is not None
    reason = (str(first_error).strip().splitlines() or [type(first_error).__name__])[0]
    shapes = " or ".join(_shapes(inputs) for inputs in candidates)
    hint = "" if example_inputs is not None else "; give example_inputs=(tensor, ...)"
    raise SenetError(f"{type(model).__name__} can't run on {shapes}: {reason}{hint}") from first_error


def _shapes(inputs: Sequence[Any]) -> str:
    return "an input of shape " + ", ".join(str(tuple(t.shape)) for t in _tensors(inputs))


def _guesses(model: nn.Module) -> Iterator[tuple[Any, ...]]:
    """What a network with this first convolution takes; in the form of a batch, then of a detector's list."""
    convs = [m for m in model.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    if not convs:
        raise SenetError(f"{type(model).__name__} has no convolution, so there is nothing to rescale")
    first = convs[0]
    like = first.weight
    for size in _sizes(model, first):
        for channels in dict.fromkeys((first.in_channels, 3)):
            image = torch.zeros(2, channels, *size, dtype=like.dtype, device=like.device)
            yield (image,)
            if len(size) == 2:
                yield ([image[0]],)


def _sizes(model: nn.Module, first: nn.Module) -> list[tuple[int, ...]]:
    known = getattr(model, "default_cfg", None) or getattr(model, "pretrained_cfg", None)
    if isinstance(known, Mapping) and len(known.get("input_size") or ()) == 3:
        return [tuple(known["input_size"][1:])]
    own = getattr(getattr(getattr(model, "spec", None), "preprocessing", None), "size", None)
    if own is not None:
        return [tuple(own)]
    sizes: dict[type[nn.Module], list[tuple[int, ...]]] = {
        nn.Conv1d: [(4096,), (16384,), (256,)],
        nn.Conv2d: [(224, 224), (299, 299), (32, 32)],
        nn.Conv3d: [(16, 112, 112), (32, 64, 64), (32, 224, 224), (16, 224, 224)],
    }
    return next(found for kind, found in sizes.items() if isinstance(first, kind))


Prepared = tuple[nn.Module, tuple[Any, ...], Mapping[nn.Module, nn.Module]]


def _on_meta(model: nn.Module, inputs: tuple[Any, ...], stack: ExitStack) -> Prepared:
    """A copy whose tensors have shapes and no contents: whatever the run leaves in it doesn't matter."""
    memo: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        bare = torch.empty_like(tensor, device="meta", requires_grad=False)
        memo[id(tensor)] = nn.Parameter(bare, requires_grad=False) if isinstance(tensor, nn.Parameter) else bare
    twin = copy.deepcopy(model, memo).eval()
    stack.enter_context(torch.device("meta"))
    pairs = zip(twin.modules(), model.modules(), strict=True)
    bare_inputs = torch.utils._pytree.tree_map(lambda t: t.to("meta") if isinstance(t, Tensor) else t, inputs)
    return twin, bare_inputs, dict(pairs)


def _for_real(model: nn.Module, inputs: tuple[Any, ...], stack: ExitStack) -> Prepared:
    stack.enter_context(evaluation_mode(model))
    return model, inputs, {module: module for module in model.modules()}


def _record(model: nn.Module, inputs: tuple[Any, ...], originals: Mapping[nn.Module, nn.Module]) -> Graph:
    recorder = _Recorder(model, originals)
    with ExitStack() as stack:
        for module in recorder.names:
            before = module.register_forward_pre_hook(recorder.enter, with_kwargs=True, prepend=True)
            after = module.register_forward_hook(lambda _m, _a, output: recorder.leave(output))
            stack.callback(before.remove)
            stack.callback(after.remove)
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        with recorder:
            model(*inputs)
    return recorder.graph
