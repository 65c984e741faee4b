"""What a traced network consists of: tensors at one moment of the run, calls of modules, and both together."""

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
        inputs: What the network ran on.
        unhooked: Modules whose `forward` was called directly, so that no hook saw the call.
    """

    root: Call
    inputs: Inputs
    calls: list[Call] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    unhooked: list[str] = field(default_factory=list)

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
