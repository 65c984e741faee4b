"""Record the gates of a network while it runs, for attention layers of several libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from senet.errors import NotSeenError, SenetError
from senet.nn.attention import Attention
from senet.nn.constant import ConstantGate
from senet.nn.modes import evaluation_mode, uncompiled
from senet.nn.precomputed import PrecomputedGate

__all__ = ["GateRecord", "gated_layers", "record_gates", "rescales", "watching"]

GATE_CHILDREN: Final[Mapping[str, tuple[str, ...]]] = {
    "timm.SEModule": ("gate",),
    "timm.SqueezeExcite": ("gate",),
    "timm.EffectiveSEModule": ("gate",),
    "timm.EcaModule": ("gate",),
    "timm.CecaModule": ("gate",),
    "torchvision.SqueezeExcitation": ("scale_activation",),
    "pytorchcv.SEBlock": ("sigmoid",),
}
"""Attention layers of other libraries (package and class), and the sublayers that may return the gate."""


def gated_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Find the attention layers of a network, by path: of this package, or of a class in `GATE_CHILDREN`.

    Of nested layers it returns the outermost, and of several names of one layer the first. Constants are left out.

    Example:
        >>> import senet
        >>> from senet.gates import gated_layers
        >>> list(gated_layers(senet.create_model("se_cifar_resnet20")))[:2]
        ['stages.2.0.se', 'stages.2.1.se']
    """
    found: dict[str, nn.Module] = {}
    around: list[str] = []
    for path, module in model.named_modules(remove_duplicate=False):
        if not _is_gated(module) or any(path.startswith(f"{outer}.") or not outer for outer in around):
            continue
        around.append(path)
        if all(module is not other for other in found.values()):
            found[path] = module
    return {path: module for path, module in found.items() if not isinstance(module, ConstantGate)}


def _is_gated(module: nn.Module) -> bool:
    return isinstance(module, Attention | PrecomputedGate) or _gate_child(module) is not None


def rescales(layer: nn.Module) -> bool:
    """Whether an attention layer computes `x * gate(x)` and nothing more.

    A subclass of another library's layer with a `forward` of its own may compute anything, so it doesn't count.
    """
    if isinstance(layer, Attention):
        return layer.rescales
    kind = _known_class(layer)
    return kind is not None and type(layer).forward is kind.forward and "forward" not in vars(layer)


def _gate_child(layer: nn.Module) -> nn.Module | None:
    """Return the sublayer that computes the gate of another library's layer. None for unknown classes."""
    kind = _known_class(layer)
    for child in () if kind is None else GATE_CHILDREN[_name_of(kind)]:
        found = getattr(layer, child, None)
        if isinstance(found, nn.Module):
            return found
    return None


def _known_class(layer: nn.Module) -> type[nn.Module] | None:
    return next((kind for kind in type(layer).__mro__ if _name_of(kind) in GATE_CHILDREN), None)


def _name_of(kind: type) -> str:
    return f"{kind.__module__.partition('.')[0]}.{kind.__name__}"


@contextmanager
def watching(layers: Mapping[str, nn.Module], on_gate: Callable[[str, Tensor, int], None]) -> Iterator[None]:
    """Call `on_gate(path, gate, images)` at every run of these layers within the block.

    Args:
        layers: The layers, as from `gated_layers`.
        on_gate: Receives the path, the gate (N or 1, C, ...), and N.

    Example:
        >>> import torch, senet
        >>> from senet.gates import gated_layers, watching
        >>> model, means = senet.create_model("se_cifar_resnet20").eval(), {}
        >>> with watching(gated_layers(model), lambda path, gate, images: means.update({path: gate.mean()})):
        ...     _ = model(torch.rand(2, 3, 32, 32))
        >>> len(means)
        9
    """
    with ExitStack() as stack:
        stack.enter_context(uncompiled())
        for path, layer in layers.items():
            stack.callback(_watch(layer, partial(on_gate, path)).remove)
        yield


def _watch(layer: nn.Module, on_gate: Callable[[Tensor, int], None]) -> RemovableHandle:
    if isinstance(layer, PrecomputedGate):
        return layer.register_forward_hook(_read_output(on_gate))
    if isinstance(layer, Attention):
        return layer.register_forward_pre_hook(_call_gate(on_gate), with_kwargs=True)
    child = _gate_child(layer)
    assert child is not None
    return child.register_forward_hook(_read_output(on_gate))


def _call_gate(on_gate: Callable[[Tensor, int], None]) -> Callable[..., None]:
    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        assert isinstance(layer, Attention)
        x = args[0] if args else kwargs["x"]
        layer.check_input(x)
        gate = layer.gate(x)
        if gate.ndim > x.ndim:  # a selective kernel's factors, (N, M, C, ...): each branch has its own channels
            gate = gate.flatten(1, 2)
        on_gate(gate, len(x))

    return hook


def _read_output(on_gate: Callable[[Tensor, int], None]) -> Callable[..., None]:
    def hook(child: nn.Module, args: Any, output: Tensor) -> None:
        del child, args
        if output.ndim == 3 and output.shape[1] == 1:  # ECA convolves along the channels: (N, 1, C)
            output = output.movedim(1, 2)[..., None]
        on_gate(output, len(output))

    return hook


class GateRecord(Mapping[str, Tensor]):
    """Recorded gates by the path of the attention layer: (N, C, 1, ...), or with positions.

    A layer that runs several times per image has one gate per run, in the order of the runs.

    Args:
        layers: Paths of the recorded layers. The mapping contains a layer after its first run.

    Example:
        >>> import torch
        >>> from senet.gates import GateRecord
        >>> record = GateRecord(["layer1.se", "layer2.se"])
        >>> record.add("layer1.se", torch.rand(2, 64, 1, 1), images=2)
        >>> record["layer1.se"].shape, record.not_seen
        (torch.Size([2, 64, 1, 1]), ('layer2.se',))
    """

    def __init__(self, layers: Iterable[str] = ()) -> None:
        self._layers = tuple(layers)
        self._pieces: dict[str, list[Tensor]] = {}

    @property
    def not_seen(self) -> tuple[str, ...]:
        """The layers that haven't run yet."""
        return tuple(path for path in self._layers if path not in self._pieces)

    def add(self, path: str, gate: Tensor, images: int) -> None:
        """Add the gates of a batch."""
        self._pieces.setdefault(path, []).append(gate.detach().expand(images, *gate.shape[1:]))

    def __getitem__(self, path: str) -> Tensor:
        if path in self.not_seen:
            raise NotSeenError(f"{path!r} hasn't run yet; run the network within the block of `record_gates`")
        return torch.cat(self._pieces[path])

    def __iter__(self) -> Iterator[str]:
        return iter(self._pieces)

    def __len__(self) -> int:
        return len(self._pieces)


@contextmanager
def record_gates(model: nn.Module) -> Iterator[GateRecord]:
    """Record every gate that the network computes within the block, in evaluation mode.

    Hooks are removed and modes restored at its end, also after an exception. A compiled network runs uncompiled
    meanwhile. All gates stay in memory. For a whole data set use `senet inspect`.

    Args:
        model: Any network with attention layers of this package (its own, or a retrofitted network), timm (SE,
            effective SE, ECA), torchvision (`SqueezeExcitation`) or pytorchcv.

    Yields:
        The gates, (N, C, 1, 1), by the path of the attention layer. N counts all images of the block. A layer that
        hasn't run is listed in `not_seen`, and reading its gates raises an error. A layer with several names has the
        first.

    Raises:
        SenetError: The network has no known attention layer.

    Example:
        >>> import torch, senet
        >>> model = senet.create_model("se_cifar_resnet20")
        >>> with senet.record_gates(model) as gates:
        ...     _ = model(torch.rand(4, 3, 32, 32))
        >>> gates["stages.4.2.se"].shape
        torch.Size([4, 64, 1, 1])
    """
    layers = gated_layers(model)
    if not layers:
        raise SenetError(f"{type(model).__name__} has no attention layer whose gate could be recorded")
    record = GateRecord(layers)
    with evaluation_mode(model), watching(layers, record.add):
        yield record
