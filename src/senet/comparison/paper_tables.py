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
"""Images of at most so many pixels aren't trained on as ImageNet's are."""


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
    """A table's rows, ready to be trained on any data.

    A row's own recipe is taken, but on small images the one that suits the data, and for a detector that begins with
    random weights one in which its norms learn.

    Args:
        table: As `senet.training.paper_tables` has it.
        data: To train on.
        name: The table's, for messages.
        only: Names of rows; none are all.
        model: Another network in place of the table's, where all its rows are of one.
        size: Of the images.
        weights: Folder of the comparison that has trained the detectors' backbones.
        change: What the user wants otherwise in each recipe.

    Raises:
        UnknownNameError: No such row.
        SenetError: The rows are of several networks; or a row isn't possible with that network, that data or those
            weights.
    """
    for wanted in only:
        if wanted not in [row.name for row in table.rows]:
            raise UnknownNameError(f"row of {name}", wanted, [row.name for row in table.rows])
    if model is not None and not table.any_network:
        raise SenetError(f"--model {model}: the rows of {name} are of several networks; --only chooses among them")
    chosen = [row for row in table.rows if not only or row.name in only]
    for row in chosen:
        if row.task != data.task:
            raise SenetError(f"{name} is about {row.task}; {data.name} is for {data.task}")
        if weights is not None and not row.head:
            raise SenetError(f"--checkpoint {weights}: the networks of {name} begin with random weights")
    names = [row.name for row in chosen]
    variants = []
    for row in chosen:
        variant = _variant(row, data, name, model, size, weights)
        # Without its baseline a row is compared with the first one.
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
    start = _on_backbone(row, size, weights) if row.head else ModelInitialization.built(network, options, size)
    pixels = start.images(data).size
    recipe, note = row.recipe, ""
    if row.head and weights is None:
        note = "random initial weights (no --checkpoint), whose norms must learn: recipe 'detection', not the paper's"
        recipe = recipe_named("detection")
    elif row.data == "imagenet" and max(pixels) <= SMALL:
        found = recipe_for(data.name, pixels)
        recipe, note = recipe_named(found), f"images of {pixels[0]} pixels: recipe {found!r}, not the paper's"
    elif row.unstated:
        note = "not stated in the paper: " + "; ".join(row.unstated)
    published = f"{row.metric} {row.published} % ({row.model} on {row.data})"
    return Variant(name=row.name, start=start, recipe=recipe, published=published, note=note)


def _check_network(row: PaperRow, table: str, network: str, options: dict[str, Any]) -> None:
    from senet.zoo import model_spec

    if ":" in network:
        raise SenetError(f"--model {network}: a table's rows are options of this package's networks")
    try:
        model_spec(network, **options)
    except SenetError as error:
        raise SenetError(
            f"row {row.name} of {table} is not possible with {network}: {error}; --only leaves it out"
        ) from error


def _on_backbone(row: PaperRow, size: tuple[int, int] | None, weights: Path | None) -> ModelInitialization:
    """The row's network under its head, with what a comparison of classifiers has trained in its lowest seed."""
    from senet.tasks import task_named
    from senet.tasks.dense import DenseTask
    from senet.tasks.head import head_from_dict

    task = task_named(row.task)
    assert isinstance(task, DenseTask)
    head = head_from_dict({"kind": row.head}, task.heads).to_dict()
    if weights is None:
        return replace(ModelInitialization.built(row.model, dict(row.options), size, task=row.task), head=head)
    seeds = {run.name.rpartition("seed")[2]: run for run in weights.glob(f"{row.model}-seed*")}
    runs = [seeds[seed] for seed in sorted(filter(str.isdecimal, seeds), key=int)]
    if not runs:
        raise SenetError(
            f"--checkpoint {weights} holds no {row.model}-seed0; it is the folder of a comparison of table2"
        )
    return replace(ModelInitialization.checkpoint(str(runs[0]), None, size, task=row.task), head=head)
