"""Weights from anywhere into a network: recognise the names, rename, check everything, then load."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from senet.errors import CheckpointError, SenetError
from senet.nn import hidden_width
from senet.preprocessing import Preprocessing
from senet.weights.contents import Contents, flattened
from senet.weights.matching import Choice, match, tables_of
from senet.weights.mismatch import both, mismatch
from senet.weights.reading import read_contents
from senet.weights.rules import Table
from senet.weights.transfer import adapt_stem, leave_head
from senet.weights.values import impossible
from senet.weights.wrappers import plain_names, unwrapped

__all__ = ["LoadReport", "load_contents", "load_weights", "to_layout"]


@dataclass(frozen=True)
class LoadReport:
    """What was loaded.

    Attributes:
        layout: Whose names the weights had.
        loaded: Tensors that were loaded.
        newly_initialized: Our names of those that were left as they were (`transfer=True` only).
        images: What that library shows such networks, where it is known; None: what our network's spec says.
        prefix: What stood before the weights' names: wrappers and the modules that the network lay in.
        averaged: Whether the file says that they are an average over training.
        left_out: Keys of the file that are no weights of this network: counters, auxiliary heads, other modules, what
            `ignore` matches.
        notes: What a user should know of the choice, in words.
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
    """Load weights that this package, timm, torchvision, pytorchcv, Caffe or others wrote.

    Everything is checked first: a failure leaves the network as it was.

    Args:
        model: A network of this package, on any device; on `meta` it takes the tensors themselves. It may be compiled,
            or lie in `DataParallel` and the like. Any other network takes weights with its own names.
        source: A file (see `read_contents`), or its content: a state dict, alone or in any wrapper.
        layout: A name in `LAYOUTS`, or `auto`: told from the keys.
        transfer: The classifier may be missing or have another number of classes, and keeps its own weights then; the
            first convolution may have another number of channels, and gets weights made from the file's (for one
            channel their sum; else they are repeated in turn and scaled by 3 / channels).
        prefix: Take only keys below this prefix, where several networks in the file fit (`student`).
        ignore: Shell-style patterns of keys to leave out (`criterion.*`).
        weights: `auto` takes an average over training (EMA, SWA) where the file has one; `raw` takes the current
            weights instead, `ema` insists on the average.

    Returns:
        What was loaded.

    Raises:
        CheckpointError: The weights can't be used; says which key, the likely cause, and what to do.
        SenetError: It is no network, or its weights can't be written.
        UnknownNameError: There is no such layout.
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
    """As `load_weights`.

    Args:
        model: A network.
        contents: Of a file.
        choice: What of it.
        layout: A name in `LAYOUTS`, or `auto`.
        transfer: Classifier and first convolution may differ.
        names_only: Tensors without values may go into a network without values.
        head: Keys of the network that the file may lack.
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
        newly_initialized = leave_head(wanted, own)
    if head and not wanted.keys() & set(head):
        newly_initialized = list(head)
    problem = mismatch(wanted, fit, own, newly_initialized, explained=hasattr(model, "spec"))
    if problem:
        whose = f" ({table.title})" if hasattr(model, "spec") else ""
        raise CheckpointError(f"{name}{whose} doesn't fit {_called(model)}: {problem}")
    wanted |= {key: found.fold(key) for key in found.biases}
    names_only = names_only and all(tensor.is_meta for tensor in own.values())
    for key, tensor in wanted.items():
        wrong = None if names_only and tensor.is_meta else impossible(key, tensor, own[key].dtype)
        if wrong:
            raise CheckpointError(f"{name}: {both(key, found)} {wrong}")
    reason = _broken_convention(table, model)
    if reason:
        raise CheckpointError(f"{name}: {reason}")
    _put(model, {actual[key]: tensor for key, tensor in wanted.items()}, state)
    if newly_initialized and transfer:
        why = (
            "is for another number of classes"
            if any(key in found.tensors for key in newly_initialized)
            else "has no classifier"
        )
        warnings.warn(f"{', '.join(newly_initialized)}: freshly initialised; {name} {why}", stacklevel=3)
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
        raise SenetError(f"weights come from a file's path or a state dict, not from a {type(source).__name__}")
    return read_contents(Path(source))


def _network(model: nn.Module) -> nn.Module:
    """The network itself, whatever is wrapped around it, if weights can be written into it."""
    if not isinstance(model, nn.Module):
        raise SenetError(f"load_weights takes a network (an nn.Module), got {type(model).__name__}")
    model = unwrapped(model)
    frozen = next((key for key, tensor in model.state_dict().items() if tensor.is_inference()), None)
    if frozen is not None:
        raise SenetError(
            f"{frozen} was made in torch.inference_mode() and can't be replaced; build the network outside"
        )
    return model


def to_layout(model: nn.Module, layout: str) -> dict[str, Tensor]:
    """The network's weights under another library's names and shapes, for its own model to load strictly.

    Args:
        model: A network of this package.
        layout: A name in `LAYOUTS`.

    Raises:
        SenetError: That library has no such network, or one that computes something else.
        UnknownNameError: There is no such layout.
    """
    model, reasons = unwrapped(model), []
    state = model.state_dict()
    own = {plain: state[key] for plain, key in plain_names(model).items()}
    for table in tables_of(layout):
        found = table.translate(own, back=True)
        if found.leftover:
            continue
        reason = (
            _broken_convention(table, model)
            or _other_rounding(table, own)
            or (f"{layout} has other pieces there" if table.one_way else None)
        )
        if reason is None:
            return found.tensors
        reasons.append(f"{table.title}: {reason}")
    raise SenetError(f"{_called(model)} has no counterpart in {layout}" + "".join(f"; {r}" for r in reasons))


def _broken_convention(table: Table, model: nn.Module) -> str | None:
    """What the names can't say and the network does otherwise than that library."""
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


def _other_rounding(table: Table, own: Mapping[str, Tensor]) -> str | None:
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


def _called(model: nn.Module) -> str:
    return getattr(getattr(model, "spec", None), "name", "") or type(model).__name__


@torch.no_grad()
def _put(model: nn.Module, wanted: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    # Networks older than the counter come without; a network on `meta` has none of its own either.
    state = {key: wanted.get(key, tensor) for key, tensor in own.items()}
    if not any(tensor.is_meta for tensor in own.values()):
        model.load_state_dict(state, strict=True)
        return
    for key, tensor in own.items():
        if key not in wanted and tensor.is_meta:
            state[key] = torch.zeros(tensor.shape, dtype=tensor.dtype)
        state[key] = state[key].to(tensor.dtype, copy=True)
    model.load_state_dict(state, strict=True, assign=True)
