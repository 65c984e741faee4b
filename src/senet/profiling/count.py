"""Count parameters and multiply-accumulates of any `nn.Module`, per part, without computing anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from senet.errors import SenetError
from senet.nn import Attention
from senet.nn.precision import in_float64
from senet.nn.precomputed import PrecomputedGate

__all__ = ["Cost", "PartCost", "cost"]


@dataclass(frozen=True)
class PartCost:
    """The cost of one part of a network.

    Attributes:
        name: Module path. Empty for the whole network.
        params: Trainable parameters, without running statistics.
        macs: Multiply-accumulates of convolutions and matrix products for one image. The paper calls them FLOPs.
        attention_params: The part of `params` in attention.
        attention_macs: The part of `macs` in attention.

    Example:
        >>> import senet
        >>> stem, *stages, head = senet.cost(senet.create_model("se_resnet50", device="meta")).parts
        >>> stem.name, stem.params, stem.attention_params
        ('stem', 9536, 0)
    """

    name: str
    params: int
    macs: int
    attention_params: int
    attention_macs: int


@dataclass(frozen=True)
class Cost(PartCost):
    """The cost of a network and of its parts (stem, each stage, head).

    Attributes:
        input_size: (C, H, W) of the image.
        parts: The parts in module order, which add up to the whole. The last one is `"(own)"`, if the network
            has parameters or products outside its children.

    Example:
        >>> import senet
        >>> cost = senet.cost(senet.create_model("se_cifar_resnet20", device="meta"), (3, 32, 32))
        >>> f"{cost.attention_params_share:.1%}"
        '0.9%'
        >>> print(cost)
        part       params        MACs  attention params  attention MACs
        stem          464     442,368                 -               -
        ...
        total     272,095  40,...
    """

    input_size: tuple[int, ...]
    parts: tuple[PartCost, ...]

    @property
    def attention_params_share(self) -> float:
        """Attention's fraction of the parameters, 0..1."""
        return self.attention_params / self.params if self.params else 0.0

    @property
    def attention_macs_share(self) -> float:
        """Attention's fraction of the multiply-accumulates, 0..1."""
        return self.attention_macs / self.macs if self.macs else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serializable dictionary."""
        shares = {
            "attention_params_share": self.attention_params_share,
            "attention_macs_share": self.attention_macs_share,
        }
        return asdict(self) | shares

    def __str__(self) -> str:
        head = ("part", "params", "MACs", "attention params", "attention MACs")
        rows = [head, *(_row(part) for part in self.parts), _row(self, "total")]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = ["  ".join(v.rjust(w) if i else v.ljust(w) for i, (v, w) in enumerate(zip(r, widths, strict=True)))
                 for r in rows]  # fmt: skip
        return "\n".join(lines)


def _row(part: PartCost, name: str | None = None) -> tuple[str, ...]:
    def share(piece: int, whole: int) -> str:
        return f"{piece:,} ({piece / whole:.2%})" if piece else "-"

    return (
        name or part.name,
        f"{part.params:,}",
        f"{part.macs:,}",
        share(part.attention_params, part.params),
        share(part.attention_macs, part.macs),
    )


def cost(
    model: nn.Module, input_size: Sequence[int] = (3, 224, 224), *, example_inputs: Sequence[Any] | None = None
) -> Cost:
    """Count a network's parameters and multiply-accumulates.

    The network runs on the meta device: nothing is computed, no weight is copied, and the model doesn't change.

    Args:
        model: Any module that takes one image tensor. It may be on the meta device.
        input_size: (C, H, W) of one image (or (C, L), (C, D, H, W)).
        example_inputs: All positional arguments, with one image, for a network with other inputs (a detector
            takes a list of images). Its computation can depend on values, so a copy of it really runs.

    Returns:
        The cost of the whole network and of its parts.

    Raises:
        SenetError: The network can't run on this input size, or not on the meta device.

    Source: counts as in the paper's Tables 2 and 10-16 (multiply-accumulates of convolutions and fully connected
    layers), with torch's own counter.

    Example:
        >>> import senet
        >>> cost = senet.cost(senet.create_model("se_resnet50", device="meta"))
        >>> cost.params, cost.attention_params
        (28088024, 2530992)
    """
    macs = _macs(model, tuple(input_size), example_inputs)
    attention = [name for name, module in model.named_modules() if isinstance(module, Attention | PrecomputedGate)]
    whole = _part(model, "", macs, attention)
    parts = [_part(model, path, macs, attention) for path in _parts(model)]
    parts.append(_rest(whole, parts))
    return Cost(
        **asdict(whole),
        input_size=tuple(input_size),
        parts=tuple(part for part in parts if part.params or part.macs),
    )


_FREE = frozenset({F.batch_norm, F.relu, torch.relu, torch.sigmoid})


class _FreeElementwise(TorchFunctionMode):
    """Skip norms, ReLUs and gates. They have no MACs, but would take most of the time on the meta device."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return args[0] if args and func in _FREE else func(*args, **(kwargs or {}))


def _macs(model: nn.Module, input_size: tuple[int, ...], example_inputs: Sequence[Any] | None = None) -> dict[str, int]:
    """Return the multiply-accumulates by module path, including submodules."""
    if example_inputs is not None:
        return _macs_of_a_run(model, example_inputs)
    tensors = [*model.named_parameters(), *model.named_buffers()]
    meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    dtype = next((t.dtype for _, t in tensors if t.is_floating_point()), torch.float32)
    image = torch.empty(1, *input_size, dtype=dtype, device="meta")
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), _FreeElementwise(), FlopCounterMode(display=False) as counter:
            functional_call(model, meta, (image,))
    except Exception as error:  # a user's network may raise anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise SenetError(f"{type(model).__name__} can't be counted at input_size={input_size}: {reason}") from error
    finally:
        for module, training in modes:
            module.training = training
    return _by_path(counter, type(model).__name__)


def _macs_of_a_run(model: nn.Module, example_inputs: Sequence[Any]) -> dict[str, int]:
    # In float64 every layer uses PyTorch's operators, which the counter supports. The compiled kernel doesn't take it.
    copy = deepcopy(model).cpu().double().eval()
    inputs = tree_map_only(torch.Tensor, in_float64, list(example_inputs))
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            copy(*inputs)
    except Exception as error:  # a user's network may raise anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise SenetError(f"{type(model).__name__} can't be counted with these example inputs: {reason}") from error
    return _by_path(counter, type(model).__name__)


def _by_path(counter: FlopCounterMode, root: str) -> dict[str, int]:
    found = {}
    for path, operators in counter.get_flop_counts().items():
        if path == root or path.startswith(f"{root}."):
            found[path[len(root) + 1 :]] = sum(operators.values()) // 2
    return found


def _parts(model: nn.Module) -> Iterator[str]:
    """Yield the paths of the direct children, and of the children of containers."""
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from (f"{name}.{inner}" for inner, _ in child.named_children())
        else:
            yield name


def _part(model: nn.Module, path: str, macs: dict[str, int], attention: list[str]) -> PartCost:
    module = model.get_submodule(path)
    if any(path == a or _below(path, a) for a in attention):
        outer = [path]
    else:
        inside = [a for a in attention if _below(a, path)]
        # An attention block inside another one (scSE's channel part) is counted with the outer one.
        outer = [a for a in inside if not any(_below(a, b) for b in inside)]
    return PartCost(
        name=path,
        params=sum(p.numel() for p in module.parameters()),
        macs=_total(module, path, macs),
        attention_params=sum(p.numel() for a in outer for p in model.get_submodule(a).parameters()),
        attention_macs=sum(_total(model.get_submodule(a), a, macs) for a in outer),
    )


def _rest(whole: PartCost, parts: Sequence[PartCost]) -> PartCost:
    """Return the cost outside the network's children: its own parameters and products."""
    return PartCost(
        name="(own)",
        params=whole.params - sum(part.params for part in parts),
        macs=whole.macs - sum(part.macs for part in parts),
        attention_params=whole.attention_params - sum(part.attention_params for part in parts),
        attention_macs=whole.attention_macs - sum(part.attention_macs for part in parts),
    )


def _below(path: str, ancestor: str) -> bool:
    return path != ancestor and path.startswith(f"{ancestor}." if ancestor else "")


def _total(module: nn.Module, path: str, macs: dict[str, int]) -> int:
    """Return the MACs of a module. A module that is never called itself (a container) has the sum of its children."""
    if path in macs:
        return macs[path]
    prefix = f"{path}." if path else ""
    return sum(_total(child, f"{prefix}{name}", macs) for name, child in module.named_children())
