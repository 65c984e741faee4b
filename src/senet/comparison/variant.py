"""A variant of a comparison: a network with its initialization and recipe, and its form on the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from senet.errors import SenetError
from senet.tasks import CLASSIFICATION
from senet.training.model_initialization import SCRATCH, ModelInitialization
from senet.training.recipe import Recipe

if TYPE_CHECKING:
    from senet.data import Data

__all__ = ["Variant", "VariantSpec", "default_variants", "errors_named", "parse_variant"]

NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")

FROM_DATA = ("num_classes", "in_channels", "preprocessing")
"""Options of the networks that follow from the data."""


@contextmanager
def errors_named(name: str) -> Iterator[None]:
    """Put a variant's name before the message of an error within this context.

    Raises:
        SenetError: With the name.

    Example:
        >>> import senet
        >>> from senet.comparison.variant import errors_named
        >>> with errors_named("small"):
        ...     senet.create_model("se_resnet50", in_channels=0)
        Traceback (most recent call last):
        ...
        senet.errors.SenetError: variant small: in_channels=0 must be at least 1
    """
    try:
        yield
    except SenetError as error:
        raise SenetError(f"variant {name}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A network and recipe, trained with each seed.

    Attributes:
        name: Name in the tables and of the run's folder.
        init: The network and its initial weights.
        recipe: The hyperparameters. The seed is the comparison's.
        against: Name of the variant to compare with, empty for a baseline.
        published: The paper's figure, such as "error 22.28/6.03", empty for none.
        note: A remark.
    """

    name: str
    init: ModelInitialization
    recipe: Recipe
    against: str = ""
    published: str = ""
    note: str = ""

    def for_data(self, data: Data) -> Variant:
        """Return the variant with what its network takes from the data.

        Raises:
            SenetError: The network doesn't fit the data.
        """
        with errors_named(self.name):
            return replace(self, init=self.init.for_data(data))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary for `from_dict`."""
        texts = {name: getattr(self, name) for name in ("name", "against", "published", "note")}
        return texts | {"init": self.init.to_dict(), "recipe": self.recipe.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Variant:
        """Build a variant from the result of `to_dict`."""
        given = {"init": ModelInitialization.from_dict(values["init"]), "recipe": Recipe.from_dict(values["recipe"])}
        return cls(**values | given)


@dataclass(frozen=True, kw_only=True)
class VariantSpec:
    """A variant before the choice of its recipe and of the insertion points.

    Attributes:
        name: Name of the variant.
        init: The network before surgery.
        surgery: Arguments of `senet.surgery.plan`, or None for no surgery.
    """

    name: str
    init: ModelInitialization
    surgery: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise SenetError(f"--variant {self.name!r}: a name has letters, digits and any of . _ + -")

    def placed(self, data: Data) -> ModelInitialization:
        """Return the initialization with the inserted attention.

        Raises:
            SenetError: The network has no insertion point.
        """
        if self.surgery is None:
            return self.init
        from senet.training.model_initialization import surgery_plan

        with errors_named(self.name):
            preprocessing = self.init.preprocessing_for(data)
            # Insertion points don't depend on the weights, so nothing is downloaded.
            model = replace(self.init, weights=SCRATCH).build(data.classes, preprocessing).model
            report = surgery_plan(self.init, model, preprocessing, **self.surgery)
        return replace(self.init, inserted=[point.to_dict() for point in report.inserted])


@dataclass
class _Words:
    """The `KEY=VALUE` words of one `--variant`, removed one by one."""

    text: str
    values: dict[str, str] = field(default_factory=dict)

    def add(self, word: str) -> None:
        key, given, value = word.partition("=")
        key = key.replace("-", "_")
        if not (key and given and value):
            raise SenetError(f"--variant {self.text}: {word!r} is not of the form KEY=VALUE")
        if key in self.values:
            raise SenetError(f"--variant {self.text}: {key} is given twice")
        self.values[key] = value


def parse_variant(
    words: Sequence[str], size: tuple[int, int] | None, *, pretrained: bool | None = None, task: str | None = None
) -> VariantSpec:
    """Parse one `--variant NAME=NETWORK [KEY=VALUE ...]`.

    NETWORK is a value of `senet train --model`, or the path of a checkpoint. Keys are `attention`, `placement`,
    `stages`, any model option, `pretrained=true`, and `retrofit=SPEC`. The last one inserts attention by surgery at the
    insertion points of `placement`, `stages` and `where`.

    Args:
        words: The words, as split by the shell.
        size: Height and width of the images.
        pretrained: Default where the variant doesn't set it.
        task: Task of the network, or None for a checkpoint's own, else classification.

    Raises:
        SenetError: The form is invalid, or the network or an option is unknown.
    """
    text = " ".join(words)
    name, given, model = words[0].partition("=")
    if not (given and model):
        raise SenetError(f"--variant {text}: use NAME=NETWORK [KEY=VALUE ...], such as se=resnet50 attention=se")
    keys = _Words(text)
    for word in words[1:]:
        keys.add(word)
    values = keys.values
    with errors_named(name):
        surgery = None
        if "retrofit" in values:
            surgery = _surgery(values)
        elif "where" in values:
            raise SenetError("where= needs retrofit=")
        wanted = values.pop("pretrained", None)
        if wanted not in (None, "true", "false"):
            raise SenetError(f"pretrained={wanted} must be true or false")
        chosen = pretrained if wanted is None else wanted == "true"
        init = initialization_of(model, _options(values), size, pretrained=bool(chosen), task=task)
    return VariantSpec(name=name, init=init, surgery=surgery)


def _surgery(values: dict[str, str]) -> dict[str, Any]:
    from senet.nn import parse_attention

    attention = parse_attention(values.pop("retrofit"))
    if attention is None:
        raise SenetError("retrofit=none inserts nothing")
    found: dict[str, Any] = {"attention": attention}
    if "where" in values:
        found["where"] = values.pop("where").split(",")
    if "placement" in values:
        found["placement"] = values.pop("placement")
    if "stages" in values:
        found["stages"] = numbers(values.pop("stages"), "stages")
    return found


def _options(values: dict[str, str]) -> dict[str, Any]:
    """Return the model options, JSON-ready."""
    import json

    from senet.nn import parse_attention

    found: dict[str, Any] = {}
    for key, value in values.items():
        if key in FROM_DATA:
            raise SenetError(f"{key}={value}: {key} follows from the data; leave it out")
        if key == "attention":
            attention = parse_attention(value)
            found[key] = None if attention is None else attention.to_dict()
        elif key == "stages":
            found[key] = numbers(value, key)
        else:
            try:
                found[key] = json.loads(value)
            except (ValueError, RecursionError):
                found[key] = value
    return found


def numbers(text: str, what: str) -> list[int]:
    """Parse whole numbers: `3,4` -> [3, 4]."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise SenetError(f"{what} {text}: use whole numbers with commas, such as 3,4") from None


def initialization_of(
    model: str, options: dict[str, Any], size: tuple[int, int] | None, *, pretrained: bool, task: str | None = None
) -> ModelInitialization:
    """Return the initialization of a named network, with published weights if wanted, or of a checkpoint.

    Raises:
        SenetError: The network or checkpoint is unknown, or options would change a checkpoint.
    """
    from senet.training.model_initialization import is_checkpoint
    from senet.zoo import is_code, model_spec

    if is_checkpoint(model):
        if options:
            raise SenetError(f"{next(iter(options))} would change the network of {model}; retrofit= inserts attention")
        return ModelInitialization.from_checkpoint(model, None, size, task=task)
    if ":" not in model:
        model_spec(model, **options)  # reports an unknown option before anything is trained
    elif options:
        raise SenetError(f"{next(iter(options))} is an option of this package's networks, not of {model}")
    initialize = (
        ModelInitialization.from_pretrained if pretrained and not is_code(model) else ModelInitialization.from_scratch
    )
    return initialize(model, options, size, task=task or CLASSIFICATION)


def default_variants(
    init: ModelInitialization, attention: dict[str, Any] | None, where: dict[str, Any] | None = None
) -> list[VariantSpec]:
    """Return a network without and with attention.

    A network of this package with random weights is built both ways. Any other gets its attention by surgery.

    Args:
        init: The network, with its options for the variant with attention.
        attention: Result of `AttentionSpec.to_dict`, or None for the network's own attention, else SE.
        where: Placement and stages for surgery.
    """
    from senet.nn import SE, attention_from_dict
    from senet.zoo import model_spec

    options = dict(init.options)
    if init.weights != SCRATCH or ":" in init.model:
        spec = attention_from_dict(attention) if attention else SE()
        surgery = {"attention": spec, **(where or {})}
        return [VariantSpec(name="plain", init=init), VariantSpec(name=spec.kind, init=init, surgery=surgery)]
    own = model_spec(init.model, **options).attention
    chosen = attention or (own or SE()).to_dict()
    plain = {key: value for key, value in options.items() if key not in ("placement", "stages")}
    return [
        VariantSpec(name="plain", init=replace(init, options=plain | {"attention": None})),
        VariantSpec(name=chosen["kind"], init=replace(init, options=options | {"attention": chosen})),
    ]
