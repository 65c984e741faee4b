"""The average of the weights of several checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from senet.errors import CheckpointError, shown
from senet.weights.checkpoint import CheckpointMetadata, read_checkpoint, weights_file
from senet.weights.files import sha256

__all__ = ["average_checkpoints", "average_tensors"]


def average_checkpoints(paths: Iterable[Path]) -> tuple[dict[str, Tensor], CheckpointMetadata]:
    """Average the weights of checkpoints of one network, such as the last epochs of a run or runs with several seeds.

    Floating-point tensors are averaged in float64, running statistics of norms included. Integer tensors are those of
    the last checkpoint.

    Args:
        paths: Checkpoints of this package, as for `read_checkpoint`.

    Returns:
        The averaged state dict, and the metadata of the last checkpoint without metrics. Its `training` lists the
        files with their hashes.

    Raises:
        CheckpointError: A checkpoint can't be read, or they are of different networks, tasks, classes or images.

    Example:
        >>> import tempfile, torch, senet
        >>> from pathlib import Path
        >>> from senet.preprocessing import CIFAR
        >>> from senet.weights import CheckpointMetadata, average_checkpoints, write_checkpoint
        >>> metadata = CheckpointMetadata(model="cifar_resnet20", classes=("cat", "dog"), preprocessing=CIFAR)
        >>> paths = [Path(tempfile.mkdtemp()) / f"{seed}.safetensors" for seed in range(2)]
        >>> for path in paths:
        ...     write_checkpoint(path, senet.create_model("cifar_resnet20", num_classes=2).state_dict(), metadata)
        >>> tensors, metadata = average_checkpoints(paths)
        >>> len(metadata.training["averaged"])
        2

    Source: Izmailov et al. 2018 (arXiv 1803.05407); Wortsman et al. 2022 (arXiv 2203.05482), equation 1.
    """
    files = [weights_file(Path(path)) for path in paths]
    if len(files) < 2:
        raise CheckpointError(f"an average needs at least two checkpoints, got {len(files)}")
    metadata: list[CheckpointMetadata] = []

    def states() -> Iterable[Mapping[str, Tensor]]:
        for file in files:
            tensors, found = read_checkpoint(file)
            metadata.append(found)
            _refuse_others(files[0], metadata[0], file, found)
            yield tensors

    averaged = average_tensors(states(), [str(file) for file in files])
    last = metadata[-1]
    training = {"averaged": [{"file": file.name, "sha256": sha256(file)} for file in files]}
    data = last.data if all(found.data == last.data for found in metadata) else None
    return averaged, replace(last, metrics={}, training=training, data=data)


def average_tensors(states: Iterable[Mapping[str, Tensor]], names: Sequence[str] = ()) -> dict[str, Tensor]:
    """Average state dicts in float64, one in memory at a time. Integer tensors are those of the last one.

    Args:
        states: State dicts with the same keys and shapes.
        names: Their names, for messages.

    Raises:
        CheckpointError: Two of them differ in a key, a shape or a data type.

    Example:
        >>> import torch
        >>> from senet.weights.average import average_tensors
        >>> average_tensors([{"x": torch.tensor([1.0])}, {"x": torch.tensor([2.0])}])
        {'x': tensor([1.5000])}
    """
    sums: dict[str, Tensor] = {}
    first: dict[str, Tensor] = {}
    count = 0
    for state in states:
        if count:
            _refuse_shapes(first, state, names, count)
        else:
            first = {key: tensor.to("meta") for key, tensor in state.items()}
        for key, tensor in state.items():
            if tensor.is_floating_point():
                value = tensor.to(torch.float64)
                sums[key] = sums[key] + value if count else value
            else:
                sums[key] = tensor
        count += 1
    return {
        key: (total / count).to(first[key].dtype) if total.is_floating_point() else total for key, total in sums.items()
    }


def _refuse_shapes(first: Mapping[str, Tensor], other: Mapping[str, Tensor], names: Sequence[str], number: int) -> None:
    where = f"{names[number]} and {names[0]}" if names else "the state dicts"
    odd = sorted(first.keys() ^ other.keys())
    if odd:
        raise CheckpointError(f"{where} are of different networks: only one of them has {odd[0]}")
    for key, tensor in other.items():
        if (tensor.shape, tensor.dtype) != (first[key].shape, first[key].dtype):
            raise CheckpointError(
                f"{where} are of different networks: {key} is {tuple(tensor.shape)} {tensor.dtype} and "
                f"{tuple(first[key].shape)} {first[key].dtype}"
            )


def _refuse_others(first: Path, there: CheckpointMetadata, file: Path, here: CheckpointMetadata) -> None:
    """Raise a `CheckpointError` if two checkpoints can't be averaged."""
    for what in ("task", "model", "options", "head", "classes", "preprocessing"):
        mine, other = getattr(here, what), getattr(there, what)
        if mine != other:
            raise CheckpointError(f"{file} and {first} can't be averaged: {what} {_difference(mine, other)}")


def _difference(mine: Any, other: Any) -> str:
    """Return the first difference of two values in words."""
    if isinstance(mine, dict):
        key = next(key for key in (*mine, *other) if mine.get(key) != other.get(key))
        return f"{key}={shown(mine.get(key))} and {shown(other.get(key))}"
    if isinstance(mine, tuple):
        if len(mine) != len(other):
            return f"are {len(mine):,} and {len(other):,}"
        number = next(n for n, pair in enumerate(zip(mine, other, strict=True)) if pair[0] != pair[1])
        return f"differ at {number}: {mine[number]!r} and {other[number]!r}"
    return f"is {mine} and {other}"
