"""The paper's tables as comparisons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from senet.comparison.variant import Variant
from senet.errors import SenetError, UnknownNameError
from senet.training.recipe import Recipe
from senet.training.recipes import recipe_for, recipe_named
from senet.training.start import Start
from senet.training.tables import Row, Table

if TYPE_CHECKING:
    from senet.data import Data

__all__ = ["from_table"]

SMALL = 64
"""Images of at most so many pixels aren't trained on as ImageNet's are."""


def from_table(
    table: Table,
    data: Data,
    *,
    name: str,
    only: Sequence[str] = (),
    model: str | None = None,
    size: tuple[int, int] | None = None,
    change: Callable[[Recipe], Recipe] = lambda recipe: recipe,
) -> tuple[Variant, ...]:
    """A table's rows, ready to be trained on any data.

    A row's own recipe is taken, but on small images the one that suits the data.

    Args:
        table: As `senet.training.tables` has it.
        data: To train on.
        name: The table's, for messages.
        only: Names of rows; none are all.
        model: Another network in place of the table's, where all its rows are of one.
        size: Of the images.
        change: What the user wants otherwise in each recipe.

    Raises:
        UnknownNameError: No such row.
        SenetError: The rows are of several networks; or a row isn't possible with that network.
    """
    for wanted in only:
        if wanted not in [row.name for row in table.rows]:
            raise UnknownNameError(f"row of {name}", wanted, [row.name for row in table.rows])
    if model is not None and not table.any_network:
        raise SenetError(f"--model {model}: the rows of {name} are of several networks; --only chooses among them")
    chosen = [row for row in table.rows if not only or row.name in only]
    names = [row.name for row in chosen]
    # Without its baseline a row is compared with the first one.
    against = {row.name: row.against if row.against in names else names[0] for row in chosen if row.against}
    return tuple(
        _variant(row, data, name, model, size, change, against.get(row.name, "") if row.name != names[0] else "")
        for row in chosen
    )


def _variant(
    row: Row, data: Data, table: str, model: str | None, size: tuple[int, int] | None, change: Any, against: str
) -> Variant:
    from senet.zoo import model_spec

    network = model or row.model
    options = dict(row.options)
    if ":" in network:
        raise SenetError(f"--model {network}: a table's rows are options of this package's networks")
    try:
        model_spec(network, **options)
    except SenetError as error:
        raise SenetError(
            f"row {row.name} of {table} is not possible with {network}: {error}; --only leaves it out"
        ) from error
    start = Start.built(network, options, size or row.size)
    pixels = start.images(data).size
    recipe, note = row.recipe, ""
    if row.data == "imagenet" and max(pixels) <= SMALL:
        found = recipe_for(data.name, pixels)
        recipe, note = recipe_named(found), f"images of {pixels[0]} pixels: recipe {found!r}, not the paper's"
    elif row.unstated:
        note = "not stated in the paper: " + "; ".join(row.unstated)
    return Variant(
        name=row.name, start=start, recipe=change(recipe), against=against,
        published=f"error {row.error} % ({row.model} on {row.data})", note=note,
    )  # fmt: skip
