"""The initial network of a training: the network, the source of its weights, and inserted attention."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.errors import CheckpointError, SenetError
from senet.preprocessing import Preprocessing
from senet.tasks import CLASSIFICATION, CLASSIFIERS, MULTI_LABEL, task_named
from senet.training.external_weights import ExternalWeights, recognised
from senet.training.initialized_model import PRETRAINED, SCRATCH, InitializedModel, initialize_model

if TYPE_CHECKING:
    from torch import nn

    from senet.data import Data
    from senet.surgery import Report
    from senet.weights import CheckpointMetadata, DataRecord

__all__ = ["PRETRAINED", "SCRATCH", "InitializedModel", "ModelInitialization", "is_checkpoint", "surgery_plan"]


@dataclass(frozen=True, kw_only=True)
class ModelInitialization:
    """A network and the source of its weights.

    Attributes:
        model: A name of `list_models()`, `timm:NAME`, `torchvision:NAME`, or `module:function`.
        options: Model options for `senet.zoo.build_model`, JSON-ready.
        weights: `"scratch"`, `"pretrained"`, or the path of a checkpoint.
        inserted: Insertion points of attention, applied after loading the weights, see `InsertionPoint.to_dict`.
        preprocessing: Preprocessing of the weights, None for random weights.
        size: Height and width of the images. None takes the size of the weights, else the data, else the network.
        task: Task of the network, a key of `senet.tasks.TASKS`.
        head: Head on the backbone, as `senet.tasks.head.HeadSpec` writes it.
        external: Selection of the weights in a file of another library, else None.
        sha256: Hash of the checkpoint when the run started, empty before, and without a checkpoint.

    Example:
        >>> from senet.training import ModelInitialization
        >>> init = ModelInitialization(model="se_cifar_resnet20", options={"depth": 8})
        >>> model = init.build(("cat", "dog"), init.preprocessing_for()).model
        >>> model.head.fc.out_features
        2
    """

    model: str
    options: dict[str, Any] = field(default_factory=dict)
    weights: str = SCRATCH
    inserted: list[dict[str, Any]] = field(default_factory=list)
    preprocessing: Preprocessing | None = None
    size: tuple[int, int] | None = None
    task: str = CLASSIFICATION
    head: dict[str, Any] = field(default_factory=dict)
    external: ExternalWeights | None = None
    sha256: str = ""

    @classmethod
    def from_scratch(
        cls, model: str, options: dict[str, Any], size: tuple[int, int] | None = None, *, task: str = CLASSIFICATION
    ) -> ModelInitialization:
        """Return a network with its random weights, or the weights of a user's function."""
        return cls(model=model, options=options, size=size, task=task)

    @classmethod
    def from_pretrained(
        cls, model: str, options: dict[str, Any], size: tuple[int, int] | None = None, *, task: str = CLASSIFICATION
    ) -> ModelInitialization:
        """Return a network with its published weights. They are downloaded later.

        Raises:
            SenetError: The network has no published weights.
        """
        from senet.weights import cards, find_card
        from senet.zoo import is_code, model_spec

        _, preprocessing = task_named(task).defaults(model)
        if is_code(model) or (":" not in model and not cards(model)):
            raise SenetError(f"no pretrained weights of {model} are published; use --no-pretrained to start without")
        if ":" not in model:
            card = find_card(model, True)
            spec = model_spec(model, **card.options, preprocessing=card.preprocessing)
            preprocessing = task_named(task).adapted(card.preprocessing)
            options = spec.differences(model_spec(model)) | options
        return cls(model=model, options=options, weights=PRETRAINED, preprocessing=preprocessing, size=size, task=task)

    @classmethod
    def from_checkpoint(
        cls,
        path: str,
        factory: str | None = None,
        size: tuple[int, int] | None = None,
        *,
        task: str | None = None,
    ) -> ModelInitialization:
        """Return the network and weights of a checkpoint of this package.

        Args:
            path: The `.safetensors` file or the training's folder.
            factory: `module:function` of the user's own network.
            size: Height and width of the images.
            task: The checkpoint's own task, or a task for which a classifier becomes the backbone, or None for its own.

        Raises:
            CheckpointError: The checkpoint can't be used, needs a `factory`, or is for another task.
        """
        from senet.zoo import network_of

        metadata = _read_metadata(path)
        task = task or metadata.task
        preprocessing = metadata.preprocessing
        if task != metadata.task and not {task, metadata.task} <= {*CLASSIFIERS}:
            if metadata.task != CLASSIFICATION or ":" in metadata.model or not task_named(task).has_heads:
                raise CheckpointError(
                    f"{path} contains {metadata.model} for {metadata.task}, which can't initialize a network "
                    f"for {task}; only a classifier of this package can become a backbone"
                )
            preprocessing = task_named(task).adapted(preprocessing)
        return cls(
            model=network_of(path, metadata, factory, beside=f"--checkpoint {path} "),
            options={key: value for key, value in metadata.options.items() if key != "num_classes"},
            weights=str(Path(path).resolve()),
            preprocessing=preprocessing,
            size=size,
            task=task,
            head=metadata.head,
        )

    @classmethod
    def from_external_file(
        cls,
        path: str,
        model: str,
        options: dict[str, Any],
        size: tuple[int, int] | None = None,
        *,
        task: str = CLASSIFICATION,
        **choice: Any,
    ) -> tuple[ModelInitialization, tuple[str, ...]]:
        """Return a network with weights from a file of another library, and remarks for the user.

        Args:
            path: The file.
            model: Name of the network.
            options: Model options.
            size: Height and width of the images.
            task: Task of the network.
            **choice: `prefix`, `ignore` and `weights`, as in `senet.load_weights`.

        Raises:
            SenetError: The network is unknown.
            CheckpointError: The file can't be read, or has no weights of the network.
        """
        from senet.zoo import is_code

        found = recognised(path, model, options, task, **choice)
        images = None if is_code(model) else found.images or task_named(task).defaults(model)[1]
        init = cls(
            model=model,
            options=options,
            weights=str(Path(path).resolve()),
            preprocessing=images and task_named(task).adapted(images),
            size=size,
            task=task,
            external=ExternalWeights(classes=found.classes, headless=found.headless, **choice),
        )
        return init, found.notes

    def preprocessing_for(self, data: Data | None = None) -> Preprocessing:
        """Return the preprocessing of the weights, else the data's default, else the network's.

        The user's image size, white level of 16-bit images, channels, bit depth and statistics replace theirs.
        """
        own = (
            self.preprocessing or (data and data.default_preprocessing) or task_named(self.task).defaults(self.model)[1]
        )
        if data is not None and data.white_level is not None:
            own = replace(own, white_level=data.white_level)
        if data is not None and data.channels is not None:
            own = data.channels.apply(own)
        return replace(own, size=self.size) if self.size else own

    def for_data(self, data: Data) -> ModelInitialization:
        """Return the same network for the data's labels: a classifier of multi-label images for such data."""
        multi_label = data.multi_label and self.task == CLASSIFICATION
        return replace(self, task=data.task) if multi_label else self

    def adapted_channels(self, images: Preprocessing) -> str:
        """Describe how the first convolution's weights are adapted to other channels, empty if they aren't."""
        there = self.preprocessing.in_channels if self.preprocessing and self.weights != SCRATCH else images.in_channels
        here = images.in_channels
        if here == there:
            return ""
        how = "summed" if here == 1 else f"repeated in turn and scaled by {there}/{here}"
        return f"the first convolution's weights for {there} channels are {how} for {here}"

    def classes(self) -> tuple[str, ...]:
        """Return the classes of the weights, numbered where the weights have no names."""
        if self.external is not None and self.external.classes is not None:
            return tuple(map(str, range(self.external.classes)))
        if self.external is None and self.weights not in (SCRATCH, PRETRAINED):
            return _read_metadata(self.weights).classes
        return tuple(map(str, range(task_named(self.task).defaults(self.model)[0])))

    def trained_on(self) -> DataRecord | None:
        """Return the training data of the weights from their checkpoint, None where unknown."""
        own = self.external is None and self.weights not in (SCRATCH, PRETRAINED)
        return _read_metadata(self.weights).data if own else None

    def thresholds(self, classes: Sequence[str]) -> tuple[float, ...]:
        """Return the thresholds of a checkpoint with these labels, empty where there are none."""
        own = self.task == MULTI_LABEL and self.external is None and self.weights not in (SCRATCH, PRETRAINED)
        metadata = _read_metadata(self.weights) if own else None
        return metadata.thresholds if metadata and metadata.classes == tuple(classes) else ()

    def all_options(self) -> dict[str, Any]:
        """Return the model options, with the inserted attention for classifiers."""
        return self.options if task_named(self.task).has_heads else self._with_inserted(self.options)

    def whole_head(self) -> dict[str, Any]:
        """Return the head, with the inserted attention, empty for classifiers."""
        return self._with_inserted(self.head) if task_named(self.task).has_heads else {}

    def _with_inserted(self, options: dict[str, Any]) -> dict[str, Any]:
        from senet.zoo import INSERTED

        whole = [*options.get(INSERTED, ()), *self.inserted]
        return options | ({INSERTED: whole} if whole else {})

    def build(self, classes: Sequence[str], preprocessing: Preprocessing) -> InitializedModel:
        """Build the network for these classes. Random weights come from torch's global generator.

        Raises:
            SenetError: The network is unknown.
            CheckpointError: The weights can't be read, or don't fit.
        """
        from senet.surgery import InsertionPoint, apply_insertion_points

        if self.sha256 and self.pinned().sha256 != self.sha256:
            raise CheckpointError(
                f"{self.weights} has changed since the run started; restore it, or start a new run in another --out"
            )
        initialized = initialize_model(self, tuple(classes), preprocessing)
        apply_insertion_points(initialized.model, [InsertionPoint.from_dict(values) for values in self.inserted])
        return initialized

    def pinned(self) -> ModelInitialization:
        """Return this with the hash of the weights' file, so that a resumed run without a state uses the same weights.

        Raises:
            CheckpointError: The file can't be read.
        """
        from senet.weights.checkpoint import weights_file
        from senet.weights.files import sha256

        if self.weights in (SCRATCH, PRETRAINED):
            return self
        path = weights_file(Path(self.weights)) if self.external is None else Path(self.weights)
        try:
            return replace(self, sha256=sha256(path))
        except OSError as error:
            raise CheckpointError(f"{path} can't be read: {error.strerror}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary for `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelInitialization:
        """Build it from the result of `to_dict`. Other keys are ignored."""
        found = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        if found.get("preprocessing"):
            found["preprocessing"] = Preprocessing.from_dict(found["preprocessing"])
        if found.get("external"):
            found["external"] = ExternalWeights(**found["external"])
        return cls(**found | {"size": found["size"] and tuple(found["size"])})


def is_checkpoint(text: str) -> bool:
    """Whether a text is the path of a checkpoint rather than the name of a network."""
    from senet.zoo import list_models

    is_path = os.sep in text or text.endswith((".safetensors", ".json")) or Path(text).exists()
    return is_path and text not in list_models()


def surgery_plan(init: ModelInitialization, model: nn.Module, images: Preprocessing, **wanted: Any) -> Report:
    """Plan the insertion points of attention for the network's task.

    Args:
        init: Initialization of the network.
        model: The built network.
        images: Preprocessing of its images.
        **wanted: Arguments of `plan`.

    Raises:
        SenetError: The network has no insertion point.
    """
    from senet.tasks import task_named

    report = task_named(init.task).plan(model, images, **wanted)
    if not report.inserted:
        reason = report.skipped[0].reason if report.skipped else "no block was found"
        raise SenetError(f"{init.model} has no insertion point left for this attention: each block {reason}")
    return report


def _read_metadata(path: str) -> CheckpointMetadata:
    from senet.weights import read_checkpoint

    return read_checkpoint(Path(path))[1]
