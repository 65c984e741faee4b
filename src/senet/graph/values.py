"""The graph of a traced network: values, module calls, and both together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from senet.graph.inputs import Inputs

__all__ = ["CONVOLUTIONS", "NORMS", "RESHAPES", "Call", "Graph", "Value"]

CONVOLUTIONS = ("convolution", "mkldnn_convolution", "_convolution")
NORMS = ("batch_norm", "group_norm")
RESHAPES = ("view", "_unsafe_view", "reshape", "_reshape_alias")


@dataclass(eq=False, repr=False)
class Value:
    """A tensor at one point of the run. An in-place operation creates a new value.

    Attributes:
        number: Position in the order of computation.
        op: The operation's name without overload and trailing underscore (`add`, `convolution`, `cat`), or "input".
        inputs: The values that it was computed from, without parameters.
        shape: Shape of the tensor.
        channel_dim: The channel dimension, or None if it isn't known.
        arguments: The operation's other arguments.
        call: The module call whose own `forward` computed it.
        users: The operations that read it.
        conv_rank: Spatial dimensions of a convolution's kernel. 0 for other operations.
        groups: Groups of a convolution.
        kernel: Spatial kernel size of a convolution.
        weighted: Whether it is a convolution or a matrix product.

    Example:
        >>> from torch import nn
        >>> from senet.graph import trace
        >>> value = trace(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1))).values[1]
        >>> value.op, value.shape, value.kernel, value.call.path
        ('convolution', (2, 8, 224, 224), (3, 3), '0')
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
        """Whether it is a depthwise convolution."""
        return self.conv_rank > 0 and self.groups > 1 and self.groups == self.inputs[0].channels


@dataclass(eq=False, repr=False)
class Call:
    """One call of a module.

    Attributes:
        path: The module's path. Empty for the whole network.
        module: The module of the network itself, not of its copy.
        parent: The enclosing call.
        inputs: The input tensors, also from nested containers.
        outputs: The returned tensors.
        single: Whether it returned a single tensor and nothing else.

    Example:
        >>> from torch import nn
        >>> from senet.graph import trace
        >>> graph = trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()))
        >>> [(call.path, call.depth) for call in graph.calls]
        [('0', 1), ('1', 1), ('', 0)]
    """

    path: str
    module: nn.Module
    parent: Call | None
    inputs: tuple[Value, ...] = ()
    outputs: tuple[Value, ...] = ()
    single: bool = False

    @property
    def depth(self) -> int:
        """Number of enclosing calls."""
        return 0 if self.parent is None else self.parent.depth + 1

    def within(self, other: Call) -> bool:
        """Whether it is `other` or was called within it."""
        call: Call | None = self
        while call is not None:
            if call is other:
                return True
            call = call.parent
        return False


@dataclass(eq=False, repr=False)
class Graph:
    """The recorded run of a network.

    Attributes:
        root: The call of the whole network.
        inputs: The inputs of the run.
        calls: All calls, in the order of their return.
        values: All values, in the order of computation.
        unhooked: Modules whose `forward` was called directly, without hooks.

    Example:
        >>> from torch import nn
        >>> from senet.graph import trace
        >>> graph = trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()))
        >>> print(graph.inputs)
        an input of shape (2, 3, 224, 224)
        >>> len(graph.calls), graph.root.outputs[0].op
        (3, 'relu')
    """

    root: Call
    inputs: Inputs
    calls: list[Call] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    unhooked: list[str] = field(default_factory=list)

    def times_called(self) -> Mapping[nn.Module, int]:
        """Return the number of calls of each module."""
        counts: dict[nn.Module, int] = {}
        for call in self.calls:
            counts[call.module] = counts.get(call.module, 0) + 1
        return counts

    def returned_by(self) -> Mapping[Value, list[Call]]:
        """Map each value to the calls that returned only it, the innermost first."""
        found: dict[Value, list[Call]] = {}
        for call in self.calls:
            if call.single:
                found.setdefault(call.outputs[0], []).append(call)
        return found
