"""One arm of a comparison: a network with its start and its recipe, and how a command line writes it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from senet.errors import SenetError
from senet.tasks import CLASSIFICATION
from senet.training.model_initialization import BUILT, ModelInitialization
from senet.training.recipe import Recipe

if TYPE_CHECKING:
    from senet.data import Data

__all__ = ["Variant", "VariantSpec", "default_variants", "parse_variant"]

NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What is trained with each seed.

    Attributes:
        name: In the tables, and of the run's folder.
        start: Which network, with which weights.
        recipe: What the training is; the seed is the comparison's.
        against: Name of the variant that it is compared with; empty for one that others are compared with.
        published: What the paper prints, as "error 22.28/6.03"; empty for none.
        note: What has to be known of it.
    """

    name: str
    start: ModelInitialization
    recipe: Recipe
    against: str = ""
    published: str = ""
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` reads it back."""
        words = {name: getattr(self, name) for name in ("name", "against", "published", "note")}
        return words | {"start": self.start.to_dict(), "recipe": self.recipe.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Variant:
        """Read what `to_dict` wrote."""
        given = {"start": ModelInitialization.from_dict(values["start"]), "recipe": Recipe.from_dict(values["recipe"])}
        return cls(**values | given)


@dataclass(frozen=True, kw_only=True)
class VariantSpec:
    """A variant before its recipe is known and surgery has chosen the places.

    Attributes:
        name: The variant's.
        start: The network before surgery.
        surgery: Arguments of `senet.surgery.plan`; None leaves the network as it is.
    """

    name: str
    start: ModelInitialization
    surgery: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise SenetError(f"--variant {self.name!r}: a name is made of letters, digits and any of . _ + -")

    def placed(self, data: Data) -> ModelInitialization:
        """The start with what surgery inserts.

        Raises:
            SenetError: The network has no place for it.
        """
        if self.surgery is None:
            return self.start
        from senet.training.model_initialization import surgery_plan

        preprocessing = self.start.images(data)
        # The places don't hang on the weights: nothing is fetched.
        model = replace(self.start, weights=BUILT).build(data.classes, preprocessing).model
        report = surgery_plan(self.start, model, preprocessing, **self.surgery)
        return replace(self.start, inserted=[point.to_dict() for point in report.inserted])


@dataclass
class _Words:
    """`KEY=VALUE` words of one `--variant`, taken out one by one."""

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
    """Read one `--variant NAME=NETWORK [KEY=VALUE ...]`.

    NETWORK is what `senet train --model` takes, or the path of a checkpoint. Keys are `attention`, `placement`,
    `stages`, any option of the network, `pretrained=true`, and `retrofit=SPEC`, which inserts that attention by surgery
    (then `placement`, `stages` and `where` say where).

    Args:
        words: As the shell divides them.
        size: Of the images.
        pretrained: Where the variant doesn't say.
        task: What for; None is a checkpoint's own, else classification.

    Raises:
        SenetError: Not of that form, or no such network or option.
    """
    text = " ".join(words)
    name, given, model = words[0].partition("=")
    if not (given and model):
        raise SenetError(f"--variant {text}: write NAME=NETWORK [KEY=VALUE ...], such as se=resnet50 attention=se")
    keys = _Words(text)
    for word in words[1:]:
        keys.add(word)
    values = keys.values
    surgery = None
    if "retrofit" in values:
        surgery = _surgery(values)
    elif "where" in values:
        raise SenetError(f"--variant {text}: where= says where retrofit= inserts attention; give that too")
    wanted = values.pop("pretrained", None)
    if wanted not in (None, "true", "false"):
        raise SenetError(f"--variant {text}: pretrained={wanted}: write true or false")
    public = pretrained if wanted is None else wanted == "true"
    start = initialization_of(model, _options(values), size, pretrained=bool(public), task=task)
    return VariantSpec(name=name, start=start, surgery=surgery)


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
    """The network's options, JSON-ready."""
    import json

    from senet.nn import parse_attention

    found: dict[str, Any] = {}
    for key, value in values.items():
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
    """`3,4` -> [3, 4]."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise SenetError(f"{what} {text}: write whole numbers with commas, such as 3,4") from None


def initialization_of(
    model: str, options: dict[str, Any], size: tuple[int, int] | None, *, pretrained: bool, task: str | None = None
) -> ModelInitialization:
    """A network by name, with published weights if wanted, or a checkpoint's.

    Raises:
        SenetError: There is no such network or checkpoint, or a checkpoint is to be changed.
    """
    from senet.training.model_initialization import is_checkpoint
    from senet.zoo import is_code, model_spec

    if is_checkpoint(model):
        if options:
            raise SenetError(f"{next(iter(options))} would change the network of {model}; retrofit= inserts attention")
        return ModelInitialization.checkpoint(model, None, size, task=task)
    if ":" not in model:
        model_spec(model, **options)  # a misspelt option is told before anything is trained
    elif options:
        raise SenetError(f"{next(iter(options))} is an option of this package's networks; {model} is none of them")
    begin = ModelInitialization.public if pretrained and not is_code(model) else ModelInitialization.built
    return begin(model, options, size, task=task or CLASSIFICATION)


def default_variants(
    start: ModelInitialization, attention: dict[str, Any] | None, where: dict[str, Any] | None = None
) -> list[VariantSpec]:
    """A network without and with attention.

    One of this package with random weights is built both ways; any other gets its attention by surgery.

    Args:
        start: The network, with the options that it has with attention.
        attention: As `AttentionSpec.to_dict` writes it; None is the network's own, or else SE.
        where: Placement and stages of surgery.
    """
    from senet.nn import SE, attention_from_dict
    from senet.zoo import model_spec

    options = dict(start.options)
    if start.weights != BUILT or ":" in start.model:
        spec = attention_from_dict(attention) if attention else SE()
        surgery = {"attention": spec, **(where or {})}
        return [VariantSpec(name="plain", start=start), VariantSpec(name=spec.kind, start=start, surgery=surgery)]
    own = model_spec(start.model, **options).attention
    chosen = attention or (own or SE()).to_dict()
    plain = {key: value for key, value in options.items() if key not in ("placement", "stages")}
    return [
        VariantSpec(name="plain", start=replace(start, options=plain | {"attention": None})),
        VariantSpec(name=chosen["kind"], start=replace(start, options=options | {"attention": chosen})),
    ]
