"""Look at the gates of a network while it runs, whoever wrote its attention layers."""

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

__all__ = ["GateRecord", "gated_layers", "record_gates", "watching"]

GATE_CHILDREN: Final[Mapping[str, tuple[str, ...]]] = {
    "timm.SEModule": ("gate",),
    "timm.SqueezeExcite": ("gate",),
    "timm.EffectiveSEModule": ("gate",),
    "timm.EcaModule": ("gate",),
    "timm.CecaModule": ("gate",),
    "torchvision.SqueezeExcitation": ("scale_activation",),
    "pytorchcv.SEBlock": ("sigmoid",),
}
"""Package and class of others' attention layers, to the sublayers that may return the gate."""


def gated_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Path to attention layer: ours (also as a precomputed gate), or one in `GATE_CHILDREN`.

    Of nested layers the outermost; of several names of one layer the first; constants are left out.
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


def _gate_child(layer: nn.Module) -> nn.Module | None:
    """What returns the gate of another package's attention layer; None if it is none that we know."""
    for kind in type(layer).__mro__:
        for child in GATE_CHILDREN.get(f"{kind.__module__.partition('.')[0]}.{kind.__name__}", ()):
            found = getattr(layer, child, None)
            if isinstance(found, nn.Module):
                return found
    return None


@contextmanager
def watching(layers: Mapping[str, nn.Module], see: Callable[[str, Tensor, int], None]) -> Iterator[None]:
    """Within the block `see(path, gate, images)` is called at every run of these layers.

    Args:
        layers: As `gated_layers` returns them.
        see: Gets the gate, (N or 1, C, ...), and N.
    """
    with ExitStack() as stack:
        stack.enter_context(uncompiled())
        for path, layer in layers.items():
            stack.callback(_watch(layer, partial(see, path)).remove)
        yield


def _watch(layer: nn.Module, see: Callable[[Tensor, int], None]) -> RemovableHandle:
    if isinstance(layer, PrecomputedGate):
        return layer.register_forward_hook(_show_output(see))
    if isinstance(layer, Attention):
        return layer.register_forward_pre_hook(_call_gate(see), with_kwargs=True)
    child = _gate_child(layer)
    assert child is not None
    return child.register_forward_hook(_show_output(see))


def _call_gate(see: Callable[[Tensor, int], None]) -> Callable[..., None]:
    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        assert isinstance(layer, Attention)
        x = args[0] if args else kwargs["x"]
        layer.check_input(x)
        gate = layer.gate(x)
        if gate.ndim > x.ndim:  # a selective kernel's factors, (N, M, C, ...): each branch has its own channels
            gate = gate.flatten(1, 2)
        see(gate, len(x))

    return hook


def _show_output(see: Callable[[Tensor, int], None]) -> Callable[..., None]:
    def hook(child: nn.Module, args: Any, output: Tensor) -> None:
        del child, args
        if output.ndim == 3 and output.shape[1] == 1:  # ECA convolves along the channels: (N, 1, C)
            output = output.movedim(1, 2)[..., None]
        see(output, len(output))

    return hook


class GateRecord(Mapping[str, Tensor]):
    """Gates of all images so far, by the path of the attention layer; (N, C, 1, ...), or with positions.

    A layer that runs several times for an image has a gate for each run, in the order of the runs.

    Args:
        layers: Paths of the layers that are watched. It holds those that have run.
    """

    def __init__(self, layers: Iterable[str] = ()) -> None:
        self._layers = tuple(layers)
        self._pieces: dict[str, list[Tensor]] = {}

    @property
    def not_seen(self) -> tuple[str, ...]:
        """The layers that haven't run yet."""
        return tuple(path for path in self._layers if path not in self._pieces)

    def see(self, path: str, gate: Tensor, images: int) -> None:
        """Keep the gate of a batch."""
        self._pieces.setdefault(path, []).append(gate.detach().expand(images, *gate.shape[1:]))

    def __getitem__(self, path: str) -> Tensor:
        if path in self.not_seen:
            raise NotSeenError(f"{path!r} hasn't run since `record_gates` began; run the network within the block")
        return torch.cat(self._pieces[path])

    def __iter__(self) -> Iterator[str]:
        return iter(self._pieces)

    def __len__(self) -> int:
        return len(self._pieces)


@contextmanager
def record_gates(model: nn.Module) -> Iterator[GateRecord]:
    """Collect every gate that the network uses within the block, in evaluation mode.

    Hooks and modes are given back at its end, also after an exception. A compiled network runs uncompiled meanwhile.
    All gates stay in memory; for a whole data set take `senet inspect`.

    Args:
        model: Any network with attention layers of this package (its own, or a retrofitted network) or with those of
            timm (SE, effective SE, ECA), torchvision (`SqueezeExcitation`) or pytorchcv.

    Yields:
        Path of the attention layer to its gates, (N, C, 1, 1), N being all images that it saw. A layer that hasn't run
        is not in it, but in `not_seen`; asking for its gates is an error. A layer with several names has the first.

    Raises:
        SenetError: No attention layer that is known.

    Example:
        with senet.record_gates(model) as gates:
            model(images)
        gates["stages.4.2.se"].mean(0)
    """
    layers = gated_layers(model)
    if not layers:
        raise SenetError(f"{type(model).__name__} has no attention layer whose gate could be recorded")
    record = GateRecord(layers)
    with evaluation_mode(model), watching(layers, record.see):
        yield record
