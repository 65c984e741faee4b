"""What a training begins with: a network, where its weights come from, and what surgery inserts into it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.errors import CheckpointError, SenetError
from senet.preprocessing import Preprocessing
from senet.tasks import CLASSIFICATION, task_named
from senet.training.external_weights import ExternalWeights, recognised
from senet.training.initialized_model import BUILT, PUBLIC, InitializedModel, initialize_model

if TYPE_CHECKING:
    from torch import nn

    from senet.data import Data
    from senet.surgery import Report
    from senet.weights import CheckpointMetadata, DataRecord

__all__ = ["BUILT", "PUBLIC", "InitializedModel", "ModelInitialization", "is_checkpoint", "surgery_plan"]


@dataclass(frozen=True, kw_only=True)
class ModelInitialization:
    """Which network, with which weights.

    Attributes:
        model: A name of `list_models()`, `timm:NAME`, `torchvision:NAME`, or `module:function`.
        task: What for, a key of `senet.tasks.TASKS`.
        head: What stands on the network where it is a backbone, as `senet.tasks.head.HeadSpec` writes it.
        external: How the weights are read, if another program wrote them; else None.
        options: Its options as `senet.zoo.build_model` takes them, JSON-ready.
        weights: `BUILT`, `PUBLIC`, or a checkpoint's path.
        sha256: Of that checkpoint's file when the run began; empty before, and without one.
        inserted: Insertion points of attention, filled once the weights are there; see `InsertionPoint.to_dict`.
        preprocessing: What the weights' images went through; None where the weights are for none in particular.
        size: Height and width of the images; None leaves it to the weights, else the data, else the network.
    """

    model: str
    options: dict[str, Any] = field(default_factory=dict)
    weights: str = BUILT
    inserted: list[dict[str, Any]] = field(default_factory=list)
    preprocessing: Preprocessing | None = None
    size: tuple[int, int] | None = None
    task: str = CLASSIFICATION
    head: dict[str, Any] = field(default_factory=dict)
    external: ExternalWeights | None = None
    sha256: str = ""

    @classmethod
    def built(
        cls, model: str, options: dict[str, Any], size: tuple[int, int] | None = None, *, task: str = CLASSIFICATION
    ) -> ModelInitialization:
        """A network as it is built."""
        return cls(model=model, options=options, size=size, task=task)

    @classmethod
    def public(
        cls, model: str, options: dict[str, Any], size: tuple[int, int] | None = None, *, task: str = CLASSIFICATION
    ) -> ModelInitialization:
        """A network with its published weights; nothing is fetched yet.

        Raises:
            SenetError: There are none.
        """
        from senet.weights import cards, find_card
        from senet.zoo import is_code, model_spec

        _, preprocessing = task_named(task).defaults(model)
        if is_code(model) or (":" not in model and not cards(model)):
            raise SenetError(f"no pretrained weights of {model} are published; --no-pretrained begins without")
        if ":" not in model:
            card = find_card(model, True)
            spec = model_spec(model, **card.options, preprocessing=card.preprocessing)
            preprocessing = task_named(task).adapted(card.preprocessing)
            options = spec.differences(model_spec(model)) | options
        return cls(model=model, options=options, weights=PUBLIC, preprocessing=preprocessing, size=size, task=task)

    @classmethod
    def checkpoint(
        cls,
        path: str,
        factory: str | None = None,
        size: tuple[int, int] | None = None,
        *,
        task: str | None = None,
    ) -> ModelInitialization:
        """The network and the weights of a checkpoint that a training wrote.

        Args:
            path: The `.safetensors` file or the training's folder.
            factory: The user's own network's `module:function`.
            size: Of the images.
            task: What for: the checkpoint's own task, or one for which a classifier becomes the backbone; None is its
                own.

        Raises:
            CheckpointError: It can't be used, is of the user's own code and no `factory` says which, or is of another
                task.
        """
        from senet.zoo import network_of

        description = _described(path)
        task = task or description.task
        preprocessing = description.preprocessing
        if task != description.task:
            if description.task != CLASSIFICATION or ":" in description.model or not task_named(task).has_heads:
                raise CheckpointError(
                    f"{path} holds {description.model} for {description.task}, which can't begin one for {task}; "
                    "a classifier of this package can be a backbone"
                )
            preprocessing = task_named(task).adapted(preprocessing)
        return cls(
            model=network_of(path, description, factory, beside=f"--checkpoint {path} "),
            options={key: value for key, value in description.options.items() if key != "num_classes"},
            weights=str(Path(path).resolve()),
            preprocessing=preprocessing,
            size=size,
            task=task,
            head=description.head,
        )

    @classmethod
    def external_file(
        cls,
        path: str,
        model: str,
        options: dict[str, Any],
        size: tuple[int, int] | None = None,
        *,
        task: str = CLASSIFICATION,
        **choice: Any,
    ) -> tuple[ModelInitialization, tuple[str, ...]]:
        """A network with weights from any other program's file; and what a user should know of them, in words.

        Args:
            path: The file.
            model: Which network they are of.
            options: Its options.
            size: Of the images.
            task: What for.
            **choice: `prefix`, `ignore` and `weights`, as in `senet.load_weights`.

        Raises:
            SenetError: There is no such network.
            CheckpointError: The file can't be read, or holds no weights of the network.
        """
        from senet.zoo import is_code

        found = recognised(path, model, options, task, **choice)
        images = None if is_code(model) else found.images or task_named(task).defaults(model)[1]
        start = cls(
            model=model,
            options=options,
            weights=str(Path(path).resolve()),
            preprocessing=images and task_named(task).adapted(images),
            size=size,
            task=task,
            external=ExternalWeights(classes=found.classes, headless=found.headless, **choice),
        )
        return start, found.notes

    def images(self, data: Data | None = None) -> Preprocessing:
        """What images go through: as the weights want it, else as the data's own path, else as the network's.

        The size and the white of 16-bit images that the user asks for replace theirs.
        """
        own = (
            self.preprocessing or (data and data.default_preprocessing) or task_named(self.task).defaults(self.model)[1]
        )
        if data is not None and data.white_level is not None:
            own = replace(own, white_level=data.white_level)
        return replace(own, size=self.size) if self.size else own

    def classes(self) -> tuple[str, ...]:
        """The outputs that the weights are for; those without names are numbered."""
        if self.external is not None and self.external.classes is not None:
            return tuple(map(str, range(self.external.classes)))
        if self.external is None and self.weights not in (BUILT, PUBLIC):
            return _described(self.weights).classes
        return tuple(map(str, range(task_named(self.task).defaults(self.model)[0])))

    def trained_on(self) -> DataRecord | None:
        """The data that the weights were trained on, as their checkpoint says; None where nobody knows."""
        own = self.external is None and self.weights not in (BUILT, PUBLIC)
        return _described(self.weights).data if own else None

    def all_options(self) -> dict[str, Any]:
        """The options with which the network is built with what is inserted."""
        return self.options if task_named(self.task).has_heads else self._with_inserted(self.options)

    def whole_head(self) -> dict[str, Any]:
        """The head, with what is inserted into the whole network; empty for a classifier."""
        return self._with_inserted(self.head) if task_named(self.task).has_heads else {}

    def _with_inserted(self, options: dict[str, Any]) -> dict[str, Any]:
        from senet.zoo import INSERTED

        whole = [*options.get(INSERTED, ()), *self.inserted]
        return options | ({INSERTED: whole} if whole else {})

    def build(self, classes: Sequence[str], preprocessing: Preprocessing) -> InitializedModel:
        """The network for these classes; the generator that torch draws from decides what is random.

        Raises:
            SenetError: There is no such network.
            CheckpointError: The weights can't be had, or don't fit.
        """
        from senet.surgery import InsertionPoint, apply_insertion_points

        if self.sha256 and self.pinned().sha256 != self.sha256:
            raise CheckpointError(
                f"{self.weights} has changed since the run began with it; bring it back, or start anew in another --out"
            )
        started = initialize_model(self, tuple(classes), preprocessing)
        apply_insertion_points(started.model, [InsertionPoint.from_dict(values) for values in self.inserted])
        return started

    def pinned(self) -> ModelInitialization:
        """This with the hash of the weights' file, so that a run begins with the same ones until it has a state.

        Raises:
            CheckpointError: The file can't be read.
        """
        from senet.weights.checkpoint import weights_file
        from senet.weights.files import sha256

        if self.weights in (BUILT, PUBLIC):
            return self
        path = weights_file(Path(self.weights)) if self.external is None else Path(self.weights)
        try:
            return replace(self, sha256=sha256(path))
        except OSError as error:
            raise CheckpointError(f"{path} can't be read: {error.strerror}") from error

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelInitialization:
        """Read what `to_dict` wrote, among other values."""
        found = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        if found.get("preprocessing"):
            found["preprocessing"] = Preprocessing.from_dict(found["preprocessing"])
        if found.get("external"):
            found["external"] = ExternalWeights(**found["external"])
        return cls(**found | {"size": found["size"] and tuple(found["size"])})


def is_checkpoint(text: str) -> bool:
    """Whether what stands for a network is a checkpoint's path rather than a name."""
    from senet.zoo import list_models

    is_path = os.sep in text or text.endswith((".safetensors", ".json")) or Path(text).exists()
    return is_path and text not in list_models()


def surgery_plan(start: ModelInitialization, model: nn.Module, images: Preprocessing, **wanted: Any) -> Report:
    """Where the task of the network puts attention.

    Args:
        start: Of the network.
        model: The network, built.
        images: What it looks at.
        **wanted: Arguments of `plan`.

    Raises:
        SenetError: It has no place for it.
    """
    from senet.tasks import task_named

    report = task_named(start.task).plan(model, images, **wanted)
    if not report.inserted:
        reason = report.skipped[0].reason if report.skipped else "no block was found"
        raise SenetError(f"{start.model} has no place left for this attention: each block {reason}")
    return report


def _described(path: str) -> CheckpointMetadata:
    from senet.weights import read_checkpoint

    return read_checkpoint(Path(path))[1]
