"""`accelerate`: the same network, in place, with norm, activation and channel attention as one operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from torch import Tensor, nn

from senet.gates.excitation import gate_from_means
from senet.gates.recording import gated_layers
from senet.graph.compiled import discard_compiled_code, plain_modules
from senet.graph.inputs import ExampleInputs
from senet.graph.trace import trace
from senet.graph.values import Call, Graph, Value
from senet.models.stages import ResidualBlock
from senet.nn.gated_norm import GatedNorm, PassedOver
from senet.nn.optimized import refuse_optimized
from senet.ops.activation_functions import ACTIVATIONS

__all__ = ["AccelerateReport", "FusedAttention", "accelerate"]

_ACTIVATIONS: Final[Mapping[str, str]] = {
    "ReLU": "relu",
    "ReLU6": "relu6",
    "SiLU": "silu",
    "Swish": "silu",
    "Hardswish": "hard_swish",
    "HardSwish": "hard_swish",
    "GELU": "gelu",
    "Identity": "identity",
}
"""Class of an activation of torch or timm, to its name in `ACTIVATIONS`."""


@dataclass(frozen=True)
class FusedAttention:
    """Three modules that run as one operator.

    Attributes:
        norm: Path of the norm.
        activation: Name of the activation; "identity" if there is none.
        attention: Path of the attention layer.

    Example:
        >>> import senet
        >>> report = senet.accelerate(senet.create_model("se_vgg11"))
        >>> report.fused[0].activation
        'relu'
    """

    norm: str
    activation: str
    attention: str


@dataclass
class AccelerateReport:
    """What `accelerate` did.

    Attributes:
        fused: Norms that compute their activation and attention, in the order of computation.
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
        """Let all modules compute as before."""
        for module in self._changed:
            module.__dict__.pop("forward", None)
        self._changed.clear()
        discard_compiled_code()

    def __str__(self) -> str:
        lines = [f"{len(self.fused)} of {len(self.fused) + len(self.left)} attention layers run with their norm"]
        reasons: dict[str, list[str]] = {}
        for path, reason in self.left.items():
            reasons.setdefault(reason, []).append(path)
        lines += [f"{len(paths)} left ({paths[0]}, ...): {reason}" for reason, paths in reasons.items()]
        return "\n".join(lines)


def accelerate(model: nn.Module, example_inputs: ExampleInputs | None = None) -> AccelerateReport:
    """Let each batch norm compute its activation and the channel attention behind it in one operator, in place.

    The network stays the same: its modules, parameters, buffers, hooks, checkpoints and results. Training keeps fewer
    activations, and a step of most networks takes less time on a CPU (benchmarks/accelerate.md). Where the operator
    can't be used (another device or type, hooks, `torch.compile`), the modules compute as before.

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
    times, returned = graph.times_called(), graph.returned_by()
    seen = set()
    for call in graph.calls:
        if id(call.module) not in layers or id(call.module) in seen:
            continue
        seen.add(id(call.module))
        path = paths[id(call.module)]
        found = _chain(call, graph, times, returned)
        if isinstance(found, str):
            report.left[path] = found
            continue
        norm, activation, inner, gate_of = found
        report.fused.append(FusedAttention(paths[id(norm)], ACTIVATIONS[activation], path))
        forward = GatedNorm(norm, activation=activation, inner=inner, attention=call.module, gate_of=gate_of)
        _replace(norm, forward, report)
        _replace(call.module, PassedOver(call.module, forward), report)
        for module in inner:
            if not _is_inside(module, norm):
                _replace(module, PassedOver(module), report)
    for identity, path in layers.items():
        if identity not in seen:
            report.left[path] = "did not run on the example"
    discard_compiled_code()
    return report


def _replace(module: nn.Module, forward: Callable[[Tensor], Tensor], report: AccelerateReport) -> None:
    module.__dict__["forward"] = forward
    report._changed.append(module)


def _is_inside(module: nn.Module, owner: nn.Module) -> bool:
    return any(module is inner for inner in owner.modules())


_Chain = tuple[nn.Module, int, tuple[nn.Module, ...], Callable[[Tensor], Tensor]]


def _chain(
    call: Call, graph: Graph, times: Mapping[nn.Module, int], returned: Mapping[Value, list[Call]]
) -> _Chain | str:
    """Norm, number of the activation, its modules and the gate before an attention layer; or why there is no such."""
    gate_of = gate_from_means(call.module)
    if gate_of is None:
        return "its gate is not computed from the means of channels alone"
    if _has_own_forward(call.module):
        return "has a forward of its own"
    if call.parent is not None and isinstance(call.parent.module, ResidualBlock):
        return "runs with the norm, the sum and the ReLU of its residual block already"
    if len(call.inputs) != 1 or times[call.module] != 1:
        return "runs several times for an image"
    value, reader = call.inputs[0], call
    inner: tuple[nn.Module, ...] = ()
    activation = "identity"
    for _ in range(2):
        if value in graph.root.outputs or not _read_only_within(value, reader):
            return "its input is also read elsewhere"
        makers = [c for c in returned.get(value, ()) if value.call.within(c)]
        norm = next((c for c in makers if _is_norm(c.module)), None)
        if norm is not None:
            own = _activation_inside(norm.module)
            if own is None or (own[0] != "identity" and activation != "identity"):
                return f"its norm has an activation that the operator lacks ({type(norm.module).__name__})"
            if own[0] != "identity":
                activation = own[0]
            if times[norm.module] != 1 or _has_own_forward(norm.module):
                return "its norm runs several times for an image, or has a forward of its own"
            return norm.module, ACTIVATIONS.index(activation), (*own[1], *inner), gate_of
        act = next((c for c in makers if _name_of(c.module) is not None), None)
        if act is None or len(act.inputs) != 1 or activation != "identity":
            break
        if _has_own_forward(act.module):
            return "its activation has a forward of its own"
        activation, inner = _name_of(act.module) or "identity", (act.module,)
        value, reader = act.inputs[0], act
    return "no batch norm and activation, as modules, come right before it"


def _has_own_forward(module: nn.Module) -> bool:
    forward = module.__dict__.get("forward")
    return forward is not None and not isinstance(forward, GatedNorm | PassedOver)


def _read_only_within(value: Value, reader: Call) -> bool:
    return bool(value.users) and all(user.call.within(reader) for user in value.users)


def _name_of(module: nn.Module) -> str | None:
    """The name of an activation that the operator computes."""
    kind = type(module)
    if kind.__module__.partition(".")[0] not in ("torch", "timm"):
        return None
    if getattr(module, "approximate", "none") != "none":
        return None  # GELU by tanh
    return _ACTIVATIONS.get(kind.__name__)


def _is_norm(module: nn.Module) -> bool:
    kind = type(module)
    return kind is nn.BatchNorm2d or (kind.__name__ == "BatchNormAct2d" and kind.__module__.startswith("timm."))


def _activation_inside(norm: nn.Module) -> tuple[str, tuple[nn.Module, ...]] | None:
    """Name and modules of the activation that is part of a norm; None if the operator lacks it."""
    act, drop = getattr(norm, "act", None), getattr(norm, "drop", None)
    if act is None:
        return "identity", ()
    name = _name_of(act)
    if name is None or type(drop) is not nn.Identity:
        return None
    return name, (act, drop)
