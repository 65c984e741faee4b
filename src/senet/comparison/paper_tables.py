"""The paper's tables as comparisons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.comparison.variant import Variant
from senet.errors import SenetError, UnknownNameError
from senet.training.model_initialization import ModelInitialization
from senet.training.paper_tables import PaperRow, PaperTable
from senet.training.recipe import Recipe
from senet.training.recipes import recipe_for, recipe_named

if TYPE_CHECKING:
    from senet.data import Data

__all__ = ["from_table"]

SMALL = 64
"""Largest image size in pixels for which ImageNet recipes are replaced."""


def from_table(
    table: PaperTable,
    data: Data,
    *,
    name: str,
    only: Sequence[str] = (),
    model: str | None = None,
    size: tuple[int, int] | None = None,
    weights: Path | None = None,
    change: Callable[[Recipe], Recipe] = lambda recipe: recipe,
) -> tuple[Variant, ...]:
    """Return the variants of a paper table for any data.

    A row keeps its own recipe, with two exceptions. Small images use the recipe of the data. A detector with random
    weights uses a recipe that trains its norms.

    Args:
        table: A table of `senet.training.paper_tables`.
        data: Data to train on.
        name: Name of the table, for messages.
        only: Names of rows, or empty for all.
        model: Replacement of the table's network, where all rows have the same one.
        size: Height and width of the images.
        weights: Folder of the comparison that trained the detectors' backbones.
        change: The user's changes of each recipe.

    Raises:
        UnknownNameError: A row is unknown.
        SenetError: The rows have several networks, or a row is impossible with the network, data or weights.
    """
    for wanted in only:
        if wanted not in [row.name for row in table.rows]:
            raise UnknownNameError(f"row of {name}", wanted, [row.name for row in table.rows])
    if model is not None and not table.any_network:
        raise SenetError(f"--model {model}: {name} has several networks; choose rows with --only")
    chosen = [row for row in table.rows if not only or row.name in only]
    for row in chosen:
        if row.task != data.task:
            raise SenetError(f"{name} is for {row.task}; {data.name} is for {data.task}")
        if weights is not None and not row.head:
            raise SenetError(f"--checkpoint {weights}: the networks of {name} start from random weights")
    names = [row.name for row in chosen]
    variants = []
    for row in chosen:
        variant = _variant(row, data, name, model, size, weights)
        # Without its baseline, a row is compared with the first row.
        baseline = row.against if row.against in names else names[0]
        against = baseline if row.against and row is not chosen[0] else ""
        variants.append(replace(variant, recipe=change(variant.recipe), against=against))
    return tuple(variants)


def _variant(
    row: PaperRow, data: Data, table: str, model: str | None, size: tuple[int, int] | None, weights: Path | None
) -> Variant:
    network, options = model or row.model, dict(row.options)
    _check_network(row, table, network, options)
    size = size or row.size
    init = _on_backbone(row, size, weights) if row.head else ModelInitialization.from_scratch(network, options, size)
    pixels = init.preprocessing_for(data).size
    recipe, note = row.recipe, ""
    if row.head and weights is None:
        note = "random weights instead of --checkpoint: recipe 'detection' with trained norms, not the paper's"
        recipe = recipe_named("detection")
    elif row.data == "imagenet" and max(pixels) <= SMALL:
        found = recipe_for(data.name, pixels)
        recipe, note = recipe_named(found), f"images of {pixels[0]} pixels: recipe {found!r}, not the paper's"
    elif row.unstated:
        note = "not stated in the paper: " + "; ".join(row.unstated)
    published = f"{row.metric} {row.published} % ({row.model} on {row.data})"
    return Variant(name=row.name, init=init, recipe=recipe, published=published, note=note)


def _check_network(row: PaperRow, table: str, network: str, options: dict[str, Any]) -> None:
    from senet.zoo import model_spec

    if ":" in network:
        raise SenetError(f"--model {network}: paper tables need a network of this package")
    try:
        model_spec(network, **options)
    except SenetError as error:
        raise SenetError(
            f"row {row.name} of {table} is not possible with {network}: {error}; exclude it with --only"
        ) from error


def _on_backbone(row: PaperRow, size: tuple[int, int] | None, weights: Path | None) -> ModelInitialization:
    """Return the row's network with its head, and the backbone weights of a comparison's lowest seed."""
    from senet.tasks import task_named
    from senet.tasks.dense import DenseTask
    from senet.tasks.head import head_from_dict

    task = task_named(row.task)
    assert isinstance(task, DenseTask)
    head = head_from_dict({"kind": row.head}, task.heads).to_dict()
    if weights is None:
        return replace(ModelInitialization.from_scratch(row.model, dict(row.options), size, task=row.task), head=head)
    seeds = {run.name.rpartition("seed")[2]: run for run in weights.glob(f"{row.model}-seed*")}
    runs = [seeds[seed] for seed in sorted(filter(str.isdecimal, seeds), key=int)]
    if not runs:
        raise SenetError(
            f"--checkpoint {weights} contains no {row.model}-seed0; give the folder of a comparison of table2"
        )
    return replace(ModelInitialization.from_checkpoint(str(runs[0]), None, size, task=row.task), head=head)
