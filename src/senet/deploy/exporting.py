"""`export`: write a network as a file for other programs, and verify the file before it gets its name."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from senet.deploy.accuracy import check_drop, check_metric_drop
from senet.deploy.copying import copied
from senet.deploy.dense_check import compare_dense, images_of, measure
from senet.deploy.detector import score_threshold, traced_detector
from senet.deploy.export_metadata import PRECISIONS, ExportMetadata
from senet.deploy.formats import Format, look_up
from senet.deploy.loading import load_exported
from senet.deploy.low_precision import lowered, lowered_detector
from senet.deploy.onnx_versions import check_versions, set_versions
from senet.deploy.parity import Parity, compare_logits
from senet.deploy.prepare_for_export import Form, prepare_for_export
from senet.deploy.quantize import QUANTIZERS
from senet.deploy.tracing import reason, traced
from senet.errors import SenetError, UnknownNameError
from senet.models import ConvNet
from senet.preprocessing import Preprocessing
from senet.profiling.timing import seconds_in_turns
from senet.tasks import CLASSIFICATION, CLASSIFIERS, DETECTION, task_named
from senet.tasks.detection.results import category_ids
from senet.tasks.logits import LogitsOf, logits_of
from senet.weights import CheckpointMetadata
from senet.weights.files import new_file_mode
from senet.zoo import LoadedModel

if TYPE_CHECKING:
    from senet.data import Data, Source

__all__ = ["Check", "ExportReport", "export"]

Progress = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""Opens a progress bar with a name. The returned context gives a function of (done, total)."""


def _silent(_: str) -> AbstractContextManager[Callable[[int, int], None]]:
    return nullcontext(lambda *_: None)


@dataclass(frozen=True, kw_only=True)
class Check:
    """Acceptance criteria for an exported file.

    Attributes:
        data: Data for comparing logits and measuring accuracy. int8 is calibrated on its training split. None compares
            on two photographs and measures no accuracy.
        split: Split to compare and measure on; None: test, else val.
        limit: Largest number of images of the split; None: all.
        images: Number of these images to compare logits on.
        calibration: Number of training images that calibrate int8.
        tolerance: Largest difference of a logit from the network's, relative to the largest logit. None: 1e-4 in
            float32, 0.05 in bf16, 0.01 in fp16, unlimited in int8, where accuracy decides. For a detector, the largest
            difference of a score, and of a box relative to its image's longest edge. None: 1e-4 and 2e-5 in float32,
            0.05 and 0.01 in fp16.
        max_drop: Largest loss of top-1 accuracy, mIoU or mAP in percentage points. Above 0, a loss of one image is
            always allowed for the accuracy.
        progress: Opens a progress bar.

    Raises:
        SenetError: A number of images is below 1.

    Example:
        >>> import senet
        >>> from senet.data import open_data
        >>> check = senet.deploy.Check(data=open_data("digits"), calibration=100, max_drop=1.0)
        >>> check.images, check.split, check.max_drop
        (16, None, 1.0)
    """

    data: Data | None = None
    split: str | None = None
    limit: int | None = None
    images: int = 16
    calibration: int = 300
    tolerance: float | None = None
    max_drop: float = 0.5
    progress: Progress = _silent

    def __post_init__(self) -> None:
        for name in ("images", "calibration"):
            if getattr(self, name) < 1:
                raise SenetError(f"{name}={getattr(self, name)} must be at least 1")
        if self.limit is not None and self.limit < 1:
            raise SenetError(f"limit={self.limit} must be at least 1")


MOST_DENSE = 4
"""Largest number of real images for comparing detectors and segmenters, whose outputs have many numbers each."""

TOLERANCES: Final[Mapping[str, float]] = {"32": 1e-4, "bf16": 0.05, "fp16": 0.01, "int8": float("inf")}


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """The result of `export`.

    Attributes:
        path: Path of the file.
        format: `"onnx"`, `"openvino"` or `"torch"`.
        metadata: Metadata embedded in the file.
        runtime: Runtime that checked the file.
        bytes: Size on disk in bytes.
        images: Number of images for the comparison.
        drift: Largest difference of a logit from the network's, relative to the largest logit, or of a score.
        tolerance: Largest allowed drift; None: unlimited, or the limits of a detector.
        latency_ms: Median time of one image in milliseconds, in the runtime and in PyTorch (`"eager"`).
        accuracy: Top-1 accuracy, mIoU or mAP in 0..1 `"before"` and `"after"`, where measured.
        evaluated: Number of images for the accuracy.
        notes: Further remarks.
        metric: Name of what `accuracy` holds.
        differences: Further differences from the network: `changed_pixels`, the fraction of pixels with another class,
            of a segmenter; `box_pixels`, `boxes` and `unmatched_boxes` of a detector.
        about: `drift` and `differences` in words.
        shape: Height and width of the image of `latency_ms`.

    Example:
        >>> import tempfile, senet
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> report = senet.deploy.export(model, f"{tempfile.mkdtemp()}/tiny.pt2", format="torch", size=(64, 64))
        >>> print(report.metadata)
        float32, 64x64 pixels, any batch
        >>> report.drift <= report.tolerance
        True
    """

    path: str
    format: str
    metadata: ExportMetadata
    runtime: str
    bytes: int
    images: int
    drift: float
    tolerance: float | None
    latency_ms: dict[str, float]
    accuracy: dict[str, float] = field(default_factory=dict)
    evaluated: int = 0
    notes: tuple[str, ...] = ()
    metric: str = "accuracy"
    differences: dict[str, float] = field(default_factory=dict)
    about: str = ""
    shape: tuple[int, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)

    def __str__(self) -> str:
        height, width = self.shape or self.metadata.preprocessing.size
        limit = "" if self.tolerance is None else f" (limit {self.tolerance:g})"
        lines = [
            f"{self.path}: {self.format}, {self.metadata}",
            f"size      {self.bytes / 1e6:.1f} MB",
            f"drift     {self.about or f'{self.drift:.1e} of the largest logit'}, on {self.images} images{limit}",
            f"latency   {self.latency_ms[self.runtime]:.1f} ms with {self.runtime}, {self.latency_ms['eager']:.1f} ms "
            f"in PyTorch before (one image of {height}x{width} pixels)",
        ]
        if self.accuracy:
            before, after = self.accuracy["before"], self.accuracy["after"]
            lines.append(
                f"{self.metric:<8}  {before:.2%} before, {after:.2%} after ({(after - before) * 100:+.2f} points), "
                f"on {self.evaluated:,} images"
            )
        return "\n".join([*lines, *(f"note      {note}" for note in self.notes)])


def export(
    model: nn.Module | LoadedModel,
    path: str | os.PathLike[str],
    *,
    format: str = "onnx",
    precision: str = "32",
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    check: Check | None = None,
    preprocessing: Preprocessing | None = None,
    opset: int | None = None,
    ir_version: int | None = None,
) -> ExportReport:
    """Export a network to a file for other programs, and verify the file.

    The file contains the optimized network (see `senet.optimize`), its classes and its preprocessing. Before the file
    gets its name, it runs on real images and its outputs are compared with the network's. A failure leaves no file.

    Args:
        model: A network of this package, a result of `senet.tasks.load_model` (a detector or segmenter too), or any
            image classifier.
        path: Path of the file. The suffix is `.onnx`, `.xml` (with a `.bin` beside it) or `.pt2`, by the format.
        format: `"onnx"`, `"openvino"` or `"torch"`.
        precision: `"32"`, `"bf16"`, `"fp16"` or `"int8"`, where the format and the task support it.
        size: Fixed height and width in pixels, for a faster graph; None: any size.
        batch: Fixed batch size; None: any. With batch 1 and a fixed size, gates scale weights in float32 files.
        check: Acceptance criteria for the file.
        preprocessing: Preprocessing of the images. None uses that of the network or checkpoint, else ImageNet's with
            the channels of the first convolution (`Preprocessing.with_channels`).
        opset: Version of ONNX's operators, 18 or newer; None: PyTorch's choice, and 18 for detectors.
        ir_version: Version of ONNX's file format, for older runtimes; None: the oldest for a given `opset`, else
            PyTorch's choice.

    Returns:
        A report with the file's size, latency, largest difference and accuracy.

    Raises:
        SenetError: The network can't be exported, the file differs too much, or a package is missing.
        UnknownNameError: The format or precision is unknown.

    Example:
        >>> import tempfile, senet
        >>> from torch import nn
        >>> gate = senet.SqueezeExcite(8, reduction=2)
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), gate, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> report = senet.deploy.export(model, f"{tempfile.mkdtemp()}/tiny.pt2", format="torch", size=(32, 32))
        >>> report.format, report.drift < 1e-4
        ('torch', True)
    """
    path, check = Path(path), check or Check()
    kind = look_up(format)
    task = model.metadata.task if isinstance(model, LoadedModel) else CLASSIFICATION
    _refuse_for(task, kind, precision, batch, check)
    _refuse(path, kind, precision, size, batch, check)
    _refuse_versions(kind, opset, ir_version)
    loaded = _as_loaded(model, preprocessing)
    if task == DETECTION:
        batch = 1  # the number of detections differs between images
    elif size is not None:
        images = replace(loaded.preprocessing, size=size)
        loaded = replace(loaded, preprocessing=images)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        draft = Path(folder) / path.name
        metadata, notes = _write(loaded, draft, kind, precision, size, batch, check)
        set_versions(draft, opset, ir_version)
        report = _examined(loaded, draft, kind, metadata, check)
        mode = new_file_mode(path.parent)
        for file in kind.files(draft):
            file.chmod(mode)
            file.replace(path.with_name(file.name))
    return replace(report, path=str(path), notes=(*notes, *report.notes))


def _refuse(path: Path, kind: Format, precision: str, size: Any, batch: int | None, check: Check) -> None:
    """Refuse invalid arguments before anything is computed."""
    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, PRECISIONS)
    if precision not in kind.precisions:
        why = _WHY_NOT[kind.name, precision]
        raise SenetError(f"--format {kind.name} has no {precision}: {why}")
    if path.suffix != kind.suffix:
        raise SenetError(f"{path}: the name must end in {kind.suffix}, the suffix of {kind.name}")
    if path.is_dir():
        raise SenetError(f"{path}: is a folder; give the file's name")
    if not path.resolve().parent.is_dir():
        raise SenetError(f"{path}: no folder {path.parent}")
    if batch is not None and batch < 1:
        raise SenetError(f"batch={batch} must be at least 1")
    if size is not None and min(size) < 1:
        raise SenetError(f"size={size} must be (height, width) in pixels")
    if precision == "int8" and check.data is None:
        raise SenetError("int8 needs --data: real images for calibration and for measuring accuracy")


def _refuse_versions(kind: Format, opset: int | None, ir_version: int | None) -> None:
    for name, value in (("opset", opset), ("ir_version", ir_version)):
        if value is not None and kind.name != "onnx":
            raise SenetError(f"{name}={value} is for onnx; {kind.name} has its own versions")
    check_versions(opset, ir_version)


def _refuse_for(task: str, kind: Format, precision: str, batch: int | None, check: Check) -> None:
    """Refuse what a detector or segmenter can't have, and data of another task."""
    if check.data is not None and check.data.task != task:
        raise SenetError(f"{check.data.name} is for {check.data.task}; this network is for {task}")
    if task in CLASSIFIERS:
        return
    if precision == "int8":
        raise SenetError(f"int8 is for classifiers; use fp16 for {task}")
    if task == DETECTION:
        if kind.name == "torch":
            raise SenetError("detectors have no torch file: torch.export can't trace them; use onnx or openvino")
        if precision == "bf16":
            raise SenetError("bf16 is for classifiers and segmenters: a detector's coordinates need more; use fp16")
        if batch not in (None, 1):
            raise SenetError(f"batch={batch}: a detector's file takes one image at a time; leave batch out")


_WHY_NOT: Final[Mapping[tuple[str, str], str]] = {
    ("onnx", "bf16"): "ONNX Runtime has no bf16 convolutions on CPUs; use openvino or torch",
    ("torch", "int8"): "use onnx or openvino",
}


def _as_loaded(model: nn.Module | LoadedModel, preprocessing: Preprocessing | None) -> LoadedModel:
    """Copy the network, with its classes and preprocessing."""
    if isinstance(model, LoadedModel):
        images = preprocessing or model.preprocessing
        network, name, count = copied(model.model), model.metadata.model, len(model.classes)
        if model.metadata.task in CLASSIFIERS:
            network, _ = _giving_logits(network, images, name, count)
        else:
            task_named(model.metadata.task).check_network(network.eval(), name, images, model.classes)
            network = network if model.metadata.task == DETECTION else LogitsOf(network, count, dims=4)
        return replace(model, model=network, preprocessing=images)
    if not isinstance(model, nn.Module):
        raise SenetError(f"export takes a network (an nn.Module) or a LoadedModel, got {type(model).__name__}")
    made = copied(model)
    name = made.spec.name if isinstance(made, ConvNet) else type(made).__name__
    images = preprocessing or _default_preprocessing(made)
    made, count = _giving_logits(made, images, name, None)
    classes = tuple(map(str, range(count)))
    return LoadedModel(made, classes, images, CheckpointMetadata(model=name, classes=classes, preprocessing=images))


def _giving_logits(network: nn.Module, images: Preprocessing, name: str, classes: int | None) -> tuple[nn.Module, int]:
    """Return a network whose output is the logits tensor, and the number of logits."""
    example = torch.zeros(1, images.in_channels, *images.size)
    try:
        with torch.no_grad():
            output = network.eval()(example)
    except Exception as error:  # whatever the user's code raises
        raise SenetError(
            f"{name} can't take images {tuple(example.shape)}: {reason(error)}; set preprocessing= to its input"
        ) from error
    logits = logits_of(output, classes, name=name)
    if logits.ndim != 2:
        raise SenetError(
            f"{name} returns no logits (N, classes); only classifiers can be exported, and "
            "detectors and segmenters as a LoadedModel"
        )
    count = logits.shape[1]
    return network if isinstance(output, Tensor) else LogitsOf(network, count), count


def _default_preprocessing(network: nn.Module) -> Preprocessing:
    if isinstance(network, ConvNet):
        return network.spec.preprocessing
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    return Preprocessing() if first is None else Preprocessing().with_channels(first.in_channels)


def _write(
    loaded: LoadedModel,
    draft: Path,
    kind: Format,
    precision: str,
    size: tuple[int, int] | None,
    batch: int | None,
    check: Check,
) -> tuple[ExportMetadata, list[str]]:
    task, images = loaded.metadata.task, loaded.preprocessing
    form = Form() if task == DETECTION else _form(kind, precision, size, batch)
    network = prepare_for_export(loaded.model, form)
    metadata = ExportMetadata(
        model=loaded.metadata.model,
        classes=loaded.classes,
        preprocessing=images,
        size=size,
        batch=batch,
        precision=precision,
        data=loaded.metadata.data,
        task=task,
        thresholds=loaded.metadata.thresholds,
    )
    lower = precision in ("bf16", "fp16") and kind.name != "openvino"  # OpenVINO's files have 16-bit constants
    if task == DETECTION:
        metadata = replace(
            metadata, score_threshold=score_threshold(network), category_ids=category_ids(loaded.metadata)
        )
        traced_network = traced_detector(lowered_detector(network, precision) if lower else network, metadata)
        kind.write(traced_network, draft, metadata)
        return metadata, []
    network = lowered(network, precision) if lower else network
    program, any_size = traced(network, images.in_channels, images.size, any_size=size is None, batch=batch)
    notes = []
    if size is None and not any_size:
        metadata = replace(metadata, size=images.size)
        notes.append(f"network and file take images of {images.size[0]}x{images.size[1]} pixels only")
    if precision == "int8":
        plain = draft.with_name(f"float-{draft.name}")
        kind.write(program, plain, replace(metadata, precision="32"))
        QUANTIZERS[kind.name](plain, draft, _calibration(loaded, check, batch), metadata)
    else:
        kind.write(program, draft, metadata)
    return metadata, notes


def _form(kind: Format, precision: str, size: tuple[int, int] | None, batch: int | None) -> Form:
    """Return the fastest form (benchmarks/deploy.md). int8 needs constant weights, and bf16 is faster with them."""
    if kind.name == "torch" or precision != "32" or size is None:
        return Form()
    return Form(one_image=batch == 1, blocked=kind.name == "onnx")


def _examined(loaded: LoadedModel, draft: Path, kind: Format, metadata: ExportMetadata, check: Check) -> ExportReport:
    """Run the file, and refuse it if its outputs differ from the network's."""
    runtime = kind.runtimes[0]
    made = load_exported(draft, runtime=runtime)
    parity, images, tolerance = _compared(loaded, made, metadata, check)
    if parity.problem:
        raise SenetError(
            f"the {kind.name} file differs from the network: {parity.problem}; the file is not kept"
        )  # fmt: skip
    one = images[0][None]
    report = ExportReport(
        path=str(draft),
        format=kind.name,
        metadata=metadata,
        runtime=runtime,
        bytes=sum(file.stat().st_size for file in kind.files(draft)),
        images=len(images),
        drift=parity.drift,
        tolerance=None if tolerance == float("inf") else tolerance,
        latency_ms={runtime: _latency_ms(made.model, one), "eager": _latency_ms(loaded.model, one)},
        differences=parity.figures,
        about=parity.about,
        shape=(one.shape[2], one.shape[3]),
    )
    return report if check.data is None else _measured(loaded, made, report, check, check.data)


def _compared(
    loaded: LoadedModel, made: LoadedModel, metadata: ExportMetadata, check: Check
) -> tuple[Parity, Sequence[Tensor], float | None]:
    """Return the differences, the images, and the largest allowed drift."""
    tolerance = TOLERANCES[metadata.precision] if check.tolerance is None else check.tolerance
    if metadata.task in CLASSIFIERS:
        batch = _images(loaded, check)
        with torch.inference_mode():
            expected, found = loaded.model(batch), made.model(batch)
        return compare_logits([expected], [found], tolerance), list(batch), tolerance
    source = None if check.data is None else _part(check.data, check)
    images = images_of(loaded, source, min(check.images, MOST_DENSE), metadata.size)
    parity = compare_dense(loaded, made, images, metadata, check.tolerance)
    return parity, images, check.tolerance if metadata.task == DETECTION else tolerance


def _measured(loaded: LoadedModel, made: LoadedModel, report: ExportReport, check: Check, data: Data) -> ExportReport:
    """Add the accuracies, both on the CPU, where files run, and refuse a drop that is too large.

    A float32 file needs none, since its logits are equal.
    """
    from senet.inference import evaluate

    if report.metadata.precision == "32":
        return report
    accuracy = {}
    source = _part(data, check)
    if data.task != CLASSIFICATION:
        title = task_named(data.task).metrics[0].title
        for moment, network in (("before", loaded), ("after", made)):
            with check.progress(f"{title} {moment}") as progress:
                accuracy[moment] = measure(network, source, data.classes, progress)
        check_metric_drop(
            report.metadata.precision, title, accuracy["before"], accuracy["after"], check.max_drop
        )  # fmt: skip
        return replace(report, accuracy=accuracy, evaluated=len(source), metric=title)
    for moment, network in (("before", loaded), ("after", made)):
        with check.progress(f"accuracy {moment}") as progress:
            given: dict[str, Any] = {"device": torch.device("cpu"), "progress": progress}
            accuracy[moment] = evaluate(network, source, data.classes, **given).top1
    note = check_drop(
        report.metadata.precision, accuracy["before"], accuracy["after"], len(source), check.max_drop
    )  # fmt: skip
    return replace(report, accuracy=accuracy, evaluated=len(source), notes=(note,) if note else ())


def _part(data: Data, check: Check) -> Source:
    from senet.data import subsample

    part = data.split(check.split or ("test" if data.test is not None else "val"))
    return part if check.limit is None else subsample(part, check.limit)


def _images(loaded: LoadedModel, check: Check) -> Tensor:
    """Return preprocessed real images (N, C, H, W)."""
    from senet.data import eval_transform, sample_images, subsample
    from senet.data.inputs import transformed

    images = loaded.preprocessing
    if check.data is not None:
        source, transform = subsample(_part(check.data, check), check.images), eval_transform(images)
        return torch.stack([transformed(source, i, transform) for i in range(len(source))])
    photographs = sample_images(check.images)
    if images.channel_order != "other":
        transform = eval_transform(images)
        return torch.stack([transform(photograph) for photograph in photographs])
    # A photograph has three channels. They are repeated in turn for other numbers.
    black, one = (0.0,) * 3, (1.0,) * 3
    transform = eval_transform(replace(images, mean=black, std=one, channel_order="RGB", bit_depth=8))
    rgb = torch.stack([transform(photograph) for photograph in photographs])
    pixels = rgb[:, [c % 3 for c in range(images.in_channels)]]
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (images.mean, images.std))
    return (pixels - mean) / std


def _calibration(loaded: LoadedModel, check: Check, batch: int | None) -> list[np.ndarray]:
    """Return batches of training images. Images for measuring accuracy must not be used for calibration."""
    from senet.data import eval_transform, subsample
    from senet.data.inputs import transformed

    assert check.data is not None
    transform, source = eval_transform(loaded.preprocessing), subsample(check.data.train, check.calibration)
    step, found = batch or 1, []
    with check.progress("calibrating") as progress:
        for start in range(0, len(source) - step + 1, step):
            images = torch.stack([transformed(source, i, transform) for i in range(start, start + step)])
            found.append(images.numpy())
            progress(start + step, len(source))
    if not found:
        raise SenetError(f"batch={batch}: there are only {len(source)} training images to calibrate on")
    return found


def _latency_ms(model: nn.Module, image: Tensor, *, runs: int = 11) -> float:
    with torch.inference_mode():
        [taken] = seconds_in_turns([lambda: model(image)], seconds=0, min_rounds=runs, warmups=2, device=image.device)
    return median(taken) * 1e3
