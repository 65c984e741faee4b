"""`accelerate`: the same network, in place, with norm, activation and channel attention as one operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from senet.fusion.deferred import defer, restore
from senet.gates.excitation import gate_from_means
from senet.gates.recording import gated_layers
from senet.graph.compiled import discard_compiled_code, plain_modules
from senet.graph.inputs import ExampleInputs
from senet.graph.trace import trace
from senet.graph.values import Call, Graph, Value
from senet.models.stages import ResidualBlock
from senet.nn.activations import activation_inside, activation_number, is_batch_norm
from senet.nn.inserted import inserted_after
from senet.nn.optimized import refuse_optimized
from senet.ops.activation_functions import ACTIVATIONS

__all__ = ["AccelerateReport", "FusedAttention", "accelerate"]


@dataclass(frozen=True)
class FusedAttention:
    """Modules that run as one operator.

    Attributes:
        attention: Path of the attention layer.
        norm: Path of the norm before it; None if the attention runs alone.
        activation: Name of the activation between them; "identity" if there is none.
        alone_because: Why the attention runs without the norm before it. Empty if it has one.

    Example:
        >>> import senet
        >>> report = senet.accelerate(senet.create_model("se_vgg11"))
        >>> report.fused[0].activation
        'relu'
    """

    attention: str
    norm: str | None
    activation: str
    alone_because: str = ""


@dataclass
class AccelerateReport:
    """What `accelerate` did.

    Attributes:
        fused: The attention layers that run as one operator, in the order of computation.
        left: Path of each other attention layer, to the reason why it runs as before.

    Example:
        >>> import senet
        >>> report = senet.accelerate(senet.create_model("se_resnet18"))
        >>> len(report.left)
        8
        >>> report.left["stages.2.0.se"]
        'runs with the norm, the sum and the ReLU of its residual block already'
    """

    fused: list[FusedAttention] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    _changed: list[nn.Module] = field(default_factory=list, repr=False)

    def undo(self) -> None:
        """Let the modules compute as before this call of `accelerate`."""
        restore(self._changed)
        self._changed.clear()
        discard_compiled_code()

    def __str__(self) -> str:
        alone = [f for f in self.fused if f.norm is None]
        with_norm = len(self.fused) - len(alone)
        lines = [f"{with_norm} of {len(self.fused) + len(self.left)} attention layers run with their norm"]
        reasons: dict[str, list[str]] = {}
        for layer in alone:
            reasons.setdefault(f"run as one operator without a norm: {layer.alone_because}", []).append(layer.attention)
        for path, reason in self.left.items():
            reasons.setdefault(f"run as before: {reason}", []).append(path)
        lines += [f"{len(paths)} ({paths[0]}, ...) {reason}" for reason, paths in reasons.items()]
        return "\n".join(lines)


def accelerate(model: nn.Module, example_inputs: ExampleInputs | None = None) -> AccelerateReport:
    """Let each batch norm, its activation and the channel attention behind it run as one operator, in place.

    The network stays the same: its modules, parameters, buffers, hooks, checkpoints and results. Training keeps fewer
    activations, and a step takes less time on a CPU (benchmarks/accelerate.md). An attention layer without a norm
    before it runs as one operator alone. Where the operator can't be used (another device or type, hooks,
    `torch.compile`), the modules compute as before.

    Args:
        model: A network of this package, of timm, of torchvision, or your own with such attention layers.
        example_inputs: As in `senet.retrofit`; None guesses an image from the first convolution.

    Returns:
        What was fused, and what was left and why. Calling it again changes nothing.

    Raises:
        SenetError: The network can't run on the example, or was optimized for inference.

    Source: Hu et al. 2018, eqs. 2-4.

    Example:
        >>> import senet
        >>> model = senet.create_model("se_mobilenet_v1_025")
        >>> print(senet.accelerate(model))
        13 of 13 attention layers run with their norm
    """
    refuse_optimized(model, "accelerate")
    layers = {id(layer): path for path, layer in gated_layers(model).items()}
    report = AccelerateReport()
    if not layers:
        return report
    graph = trace(model, example_inputs)
    paths = {id(module): path for path, module in plain_modules(model).items()}
    returned = graph.returned_by()
    seen = set()
    for call in graph.calls:
        if id(call.module) not in layers or id(call.module) in seen:
            continue
        seen.add(id(call.module))
        path = paths[id(call.module)]
        reason = _unfusable(call)
        if reason:
            report.left[path] = reason
            continue
        found = _chain(call, graph, returned)
        if isinstance(found, str):
            report.fused.append(FusedAttention(path, None, "identity", found))
            report._changed += defer(norm=None, activations=(), attention=call.module)
        else:
            norm, name, activations = found
            report.fused.append(FusedAttention(path, paths[id(norm)], name))
            report._changed += defer(norm=norm, activations=activations, attention=call.module)
    for identity, path in layers.items():
        if identity not in seen:
            report.left[path] = "did not run on the example"
    discard_compiled_code()
    return report


def _unfusable(call: Call) -> str:
    """Why an attention layer runs as before. Empty if the operator can compute it."""
    if gate_from_means(call.module) is None:
        return "its gate is not computed from the means of channels alone"
    if "forward" in call.module.__dict__:
        return "has a forward of its own"
    block = call.parent.module if call.parent is not None else None
    if isinstance(block, ResidualBlock) and block.placement == "standard":
        return "runs with the norm, the sum and the ReLU of its residual block already"
    return ""


_Chain = tuple[nn.Module, str, tuple[nn.Module, ...]]


def _chain(call: Call, graph: Graph, returned: Mapping[Value, list[Call]]) -> _Chain | str:
    """Norm, name of the activation and its modules before an attention layer; or why there is no such."""
    identity = ACTIVATIONS.index("identity")
    activation: int = identity
    activations: tuple[nn.Module, ...] = ()
    reader = call
    for _ in range(2):
        if len(reader.inputs) != 1 or not _reads_alone(reader, graph):
            return "its input is also read elsewhere"
        value = reader.inputs[0]
        makers = [c for c in returned.get(value, ()) if value.call.within(c)]
        if reader.parent is not None and inserted_after(reader.parent.module) is reader.module:
            makers.append(reader.parent)
        norm = next((c.module for c in makers if is_batch_norm(c.module)), None)
        if norm is not None:
            own = activation_inside(norm)
            if own is None or (own != identity and activation != identity):
                return f"its norm has an activation that the operator lacks ({type(norm).__name__})"
            return norm, ACTIVATIONS[own if activation == identity else activation], activations
        act = next((c for c in makers if activation_number(c.module) is not None), None)
        if act is None or activation != identity:
            break
        activation, activations, reader = activation_number(act.module) or identity, (act.module,), act
    return "no batch norm and activation, as modules, come right before it"


def _reads_alone(reader: Call, graph: Graph) -> bool:
    value = reader.inputs[0]
    return value not in graph.root.outputs and all(user.call.within(reader) for user in value.users)
