"""Load weights of any supported layout into a network: recognize the names, rename, check everything, then load."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from senet.errors import CheckpointError, SenetError
from senet.nn import hidden_width
from senet.preprocessing import Preprocessing
from senet.weights.contents import Contents, flattened
from senet.weights.matching import Choice, match, tables_of
from senet.weights.mismatch import described_key, mismatch
from senet.weights.reading import read_contents
from senet.weights.repository import local_checkpoint
from senet.weights.rules import Table
from senet.weights.transfer import adapt_stem, drop_head
from senet.weights.values import value_issue
from senet.weights.wrappers import plain_names, unwrapped

__all__ = ["LoadReport", "load_contents", "load_weights", "to_layout"]


@dataclass(frozen=True)
class LoadReport:
    """The result of `load_weights`.

    Attributes:
        layout: Name of the layout that the weights had.
        loaded: Number of loaded tensors.
        newly_initialized: Names of the network's weights that the file did not replace (`transfer=True` only).
        images: Preprocessing of the source library for these networks. None means the preprocessing of the network's
            spec.
        prefix: Prefix of the weights' names in the file: wrappers and parent modules.
        averaged: Whether the weights are an average over training (EMA, SWA).
        left_out: Keys of the file that were not loaded: counters, auxiliary heads, other modules, keys that `ignore`
            matches.
        notes: Remarks for the user about the selected weights.

    Example:
        >>> import senet
        >>> source = senet.create_model("cifar_resnet20", num_classes=10)
        >>> report = senet.load_weights(senet.create_model("cifar_resnet20", num_classes=10), source.state_dict())
        >>> report.layout, report.averaged, report.newly_initialized
        ('senet', False, ())
        >>> report.loaded == len(source.state_dict())
        True
    """

    layout: str
    loaded: int
    newly_initialized: tuple[str, ...] = ()
    images: Preprocessing | None = None
    prefix: str = ""
    averaged: bool = False
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def load_weights(
    model: nn.Module,
    source: str | os.PathLike[str] | Mapping[str, Any] | Contents,
    *,
    layout: str = "auto",
    transfer: bool = False,
    prefix: str | None = None,
    ignore: Sequence[str] = (),
    weights: str = "auto",
) -> LoadReport:
    """Load weights written by this package, timm, torchvision, pytorchcv, Caffe and other libraries.

    All keys, shapes and values are checked before the first tensor is copied. A failure leaves the network unchanged.

    Args:
        model: A network of this package, on any device. On `meta` it takes the tensors themselves. It may be compiled
            or wrapped in `DataParallel` and the like. Any other network takes weights with its own names.
        source: A `.safetensors`, `.caffemodel` or PyTorch file, a checkpoint folder, `hf://user/name`, or a state dict,
            alone or in any wrapper.
        layout: A name in `LAYOUTS`, or `auto` to detect the layout from the keys.
        transfer: Allow another classifier and another number of input channels. A missing classifier, or one for
            another number of classes, keeps the network's own weights. The first convolution's weights are adapted:
            summed for one channel, else repeated in turn and scaled by 3 / channels.
        prefix: Take only keys below this prefix, where several networks in the file fit (`student`).
        ignore: Shell-style patterns of keys to ignore (`criterion.*`).
        weights: `auto` takes an average over training (EMA, SWA) where the file has one. `raw` takes the current
            weights. `ema` requires the average.

    Returns:
        A report of the loaded weights.

    Raises:
        CheckpointError: The weights can't be used. The message names the key, the likely cause and a remedy.
        SenetError: `model` is not a network, or its weights can't be replaced.
        UnknownNameError: The layout is unknown.

    Example:
        >>> import tempfile, torch, senet
        >>> from torchvision.models import resnet18
        >>> path = f"{tempfile.mkdtemp()}/resnet18.pth"
        >>> torch.save(resnet18().state_dict(), path)
        >>> model = senet.create_model("resnet18_v1_5", num_classes=1000)
        >>> senet.load_weights(model, path).layout
        'torchvision'
    """
    model, names_only = _network(model), isinstance(source, Mapping)
    choice = Choice(prefix, ignore, weights)
    return load_contents(model, _contents(source), choice, layout=layout, transfer=transfer, names_only=names_only)


def load_contents(
    model: nn.Module,
    contents: Contents,
    choice: Choice,
    *,
    layout: str = "auto",
    transfer: bool = False,
    names_only: bool = False,
    head: Collection[str] = (),
) -> LoadReport:
    """Load the contents of a file, see `load_weights`.

    Args:
        model: A network.
        contents: Contents of the file.
        choice: Selects one network of the file.
        layout: A name in `LAYOUTS`, or `auto`.
        transfer: Allow another classifier and another first convolution.
        names_only: Allow tensors without values where the network has no values either.
        head: Keys of the network that may be missing in the file.
    """
    name, actual, state = contents.source, plain_names(model), model.state_dict()
    own = {plain: state[key] for plain, key in actual.items()}
    fit = match(contents, own, layout, choice)
    table, found = fit.table, fit.found
    wanted = {key: tensor for key, tensor in found.tensors.items() if found.sources[key] not in fit.left_out}
    wanted |= table.zeros(found.tensors, own)
    newly_initialized: list[str] = []
    if transfer:
        adapt_stem(model, wanted, own, actual)
        newly_initialized = drop_head(wanted, own)
    if head and not wanted.keys() & set(head):
        newly_initialized = list(head)
    problem = mismatch(wanted, fit, own, newly_initialized, explained=hasattr(model, "spec"))
    if problem:
        whose = f" ({table.title})" if hasattr(model, "spec") else ""
        raise CheckpointError(f"{name}{whose} doesn't fit {_model_name(model)}: {problem}")
    wanted |= {key: found.fold(key) for key in found.biases}
    names_only = names_only and all(tensor.is_meta for tensor in own.values())
    for key, tensor in wanted.items():
        wrong = None if names_only and tensor.is_meta else value_issue(key, tensor, own[key].dtype)
        if wrong:
            raise CheckpointError(f"{name}: {described_key(key, found)} {wrong}")
    reason = _convention_mismatch(table, model)
    if reason:
        raise CheckpointError(f"{name}: {reason}")
    _load_state(model, {actual[key]: tensor for key, tensor in wanted.items()}, state)
    if newly_initialized and transfer:
        why = (
            "is for another number of classes"
            if any(key in found.tensors for key in newly_initialized)
            else "has no classifier"
        )
        warnings.warn(f"{', '.join(newly_initialized)}: newly initialized; {name} {why}", stacklevel=3)
    return LoadReport(
        table.layout,
        len(wanted),
        tuple(newly_initialized),
        table.images,
        fit.prefix,
        averaged=fit.averaged,
        left_out=fit.left_out,
        notes=fit.notes(),
    )


def _contents(source: object) -> Contents:
    if isinstance(source, Contents):
        return source
    if isinstance(source, Mapping):
        return flattened(source, "the state dict")
    if not isinstance(source, str | os.PathLike):
        raise SenetError(f"source must be a path or a state dict, not a {type(source).__name__}")
    return read_contents(local_checkpoint(source))


def _network(model: nn.Module) -> nn.Module:
    """Remove all wrappers around a network.

    Raises:
        SenetError: It is not a network, or its weights can't be replaced.
    """
    if not isinstance(model, nn.Module):
        raise SenetError(f"load_weights takes a network (an nn.Module), got {type(model).__name__}")
    model = unwrapped(model)
    frozen = next((key for key, tensor in model.state_dict().items() if tensor.is_inference()), None)
    if frozen is not None:
        raise SenetError(
            f"{frozen} was made in torch.inference_mode() and can't be replaced; build the network outside of it"
        )
    return model


def to_layout(model: nn.Module, layout: str) -> dict[str, Tensor]:
    """Convert a network's weights to the names and shapes of another library.

    The library's own model loads the result with `strict=True`.

    Args:
        model: A network of this package.
        layout: A name in `LAYOUTS`.

    Returns:
        A state dict.

    Raises:
        SenetError: The library has no such network, or its network computes something else.
        UnknownNameError: The layout is unknown.

    Example:
        >>> import senet
        >>> from torchvision.models import resnet18
        >>> model = senet.create_model("resnet18_v1_5", num_classes=1000)
        >>> resnet18().load_state_dict(senet.weights.to_layout(model, "torchvision"))
        <All keys matched successfully>
    """
    model, reasons = unwrapped(model), []
    state = model.state_dict()
    own = {plain: state[key] for plain, key in plain_names(model).items()}
    for table in tables_of(layout):
        found = table.translate(own, back=True)
        if found.leftover:
            continue
        reason = (
            _convention_mismatch(table, model)
            or _rounding_mismatch(table, own)
            or (f"{layout} splits its weights otherwise" if table.one_way else None)
        )
        if reason is None:
            return found.tensors
        reasons.append(f"{table.title}: {reason}")
    raise SenetError(f"{_model_name(model)} has no counterpart in {layout}" + "".join(f"; {r}" for r in reasons))


def _convention_mismatch(table: Table, model: nn.Module) -> str | None:
    """Describe an option in which the network differs from the library although all keys and shapes agree."""
    spec = getattr(model, "spec", None)
    for path, value in table.expects.items():
        missing = object()
        has: Any = spec
        for part in path.split("."):
            has = getattr(has, part, missing)
        wants = value(spec) if callable(value) and spec is not None else value
        if has is not missing and has != wants:
            option = path.partition(".")[0]
            build = f"{path}={wants!r}" if option == path else f"{option} as there"
            form = " (its _v1_5 form, perhaps)" if path in ("stride_first", "ceil_pool") else ""
            return (
                f"{table.title} have {path}={wants!r}, this network {has!r}: with the same weights it would compute "
                f"something else; build it with {build}{form}"
            )
    return None


def _rounding_mismatch(table: Table, own: Mapping[str, Tensor]) -> str | None:
    if table.rounding == "floor":
        return None
    for key, tensor in own.items():
        if key.endswith("se.fc1.weight"):
            hidden, channels = tensor.shape
            if hidden != hidden_width(channels, 16, table.rounding):
                return (
                    f"its SE blocks have other widths ({hidden} of {channels} in {key}); build it with "
                    f"attention=senet.SE(rounding={table.rounding!r})"
                )
    return None


def _model_name(model: nn.Module) -> str:
    return getattr(getattr(model, "spec", None), "name", "") or type(model).__name__


@torch.no_grad()
def _load_state(model: nn.Module, wanted: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    # Old files lack the counter `num_batches_tracked`. A network on `meta` has no value for it either.
    state = {key: wanted.get(key, tensor) for key, tensor in own.items()}
    if not any(tensor.is_meta for tensor in own.values()):
        model.load_state_dict(state, strict=True)
        return
    for key, tensor in own.items():
        if key not in wanted and tensor.is_meta:
            state[key] = torch.zeros(tensor.shape, dtype=tensor.dtype)
        state[key] = state[key].to(tensor.dtype, copy=True)
    model.load_state_dict(state, strict=True, assign=True)
