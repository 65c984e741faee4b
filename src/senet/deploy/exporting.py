"""`export`: a network as a file that other programs run, proven equal before it is left behind."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from senet.deploy.accuracy import check_drop
from senet.deploy.copying import copied
from senet.deploy.export_metadata import PRECISIONS, ExportMetadata
from senet.deploy.formats import Format, look_up
from senet.deploy.loading import load_exported
from senet.deploy.prepare_for_export import prepare_for_export
from senet.deploy.quantize import QUANTIZERS
from senet.deploy.tracing import reason, traced
from senet.errors import SenetError, UnknownNameError
from senet.models import ConvNet
from senet.preprocessing import Preprocessing
from senet.tasks.logits import LogitsOf, logits_of
from senet.weights import CheckpointMetadata
from senet.weights.files import new_file_mode
from senet.zoo import LoadedModel

if TYPE_CHECKING:
    from senet.data import Data, Source

__all__ = ["Check", "ExportReport", "export"]

Progress = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""Opens a progress bar of that name; within, call what it gives with (done, total)."""


def _silent(_: str) -> AbstractContextManager[Callable[[int, int], None]]:
    return nullcontext(lambda *_: None)


@dataclass(frozen=True, kw_only=True)
class Check:
    """What a file must hold up to before it is left behind.

    Attributes:
        data: Images to compare on, and labels to measure accuracy with; int8 is calibrated on its training part. None:
            two photographs, and no accuracy.
        split: Its part that is compared and measured on; None: test, else val.
        limit: At most so many images of that part; None: all.
        images: Compared on, of those.
        calibration: Images that int8's ranges are found on.
        tolerance: Largest difference of a logit from the network's, as a share of the largest logit; None: 1e-4 in
            float32, 0.05 in bf16, anything in int8, whose measure is accuracy.
        max_drop: Percentage points of top-1 accuracy that may be lost; above 0 at least one image's worth.
        progress: Opens a progress bar.
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


TOLERANCES: Final[Mapping[str, float]] = {"32": 1e-4, "bf16": 0.05, "int8": float("inf")}


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written, and how it was found to be.

    Attributes:
        path: The file.
        format: `"onnx"`, `"openvino"` or `"torch"`.
        passport: What the file says of itself.
        runtime: What it was checked with.
        bytes: On disk.
        images: Compared on.
        drift: Largest difference of a logit from the network's, as a share of the largest logit.
        tolerance: The largest that was allowed; None: any.
        latency_ms: Of one image, in the runtime and, under `"eager"`, in PyTorch; milliseconds, median.
        accuracy: Top-1 in 0..1 `"before"` and `"after"`, where there were labels.
        evaluated: Images that it was measured on.
        notes: What else to know.
    """

    path: str
    format: str
    passport: ExportMetadata
    runtime: str
    bytes: int
    images: int
    drift: float
    tolerance: float | None
    latency_ms: dict[str, float]
    accuracy: dict[str, float] = field(default_factory=dict)
    evaluated: int = 0
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    def __str__(self) -> str:
        height, width = self.passport.preprocessing.size
        limit = "" if self.tolerance is None else f" (limit {self.tolerance:g})"
        lines = [
            f"{self.path}: {self.format}, {self.passport}",
            f"size      {self.bytes / 1e6:.1f} MB",
            f"drift     {self.drift:.1e} of the largest logit, on {self.images} images{limit}",
            f"latency   {self.latency_ms[self.runtime]:.1f} ms with {self.runtime}, {self.latency_ms['eager']:.1f} ms "
            f"in PyTorch before (one image of {height}x{width} pixels)",
        ]
        if self.accuracy:
            before, after = self.accuracy["before"], self.accuracy["after"]
            lines.append(
                f"accuracy  {before:.2%} before, {after:.2%} after ({(after - before) * 100:+.2f} points), "
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
) -> ExportReport:
    """Write a network as a file for other programs, and prove it equal.

    The file holds the optimized network (see `senet.optimize`), and says which classes and preprocessing it has. It is
    run and compared with the network on real images before it appears under its name; a failure leaves nothing behind.

    Args:
        model: A network of this package, what `senet.load_model` gave, or any network of images.
        path: The file to write; its suffix is the format's: `.onnx`, `.xml` (and a `.bin` beside it), `.pt2`.
        format: `"onnx"`, `"openvino"` or `"torch"`.
        precision: `"32"`, `"bf16"` or `"int8"`, as far as the format has it.
        size: The only height and width in pixels that it is to take; None: any.
        batch: The only number of images; None: any. With 1 and a size, gates become part of the weights.
        check: What it must hold up to.
        preprocessing: What its images go through; None: what the network or the checkpoint says, else ImageNet's, for
            as many channels as the network's first convolution takes (`Preprocessing.with_channels`).

    Raises:
        SenetError: The network can't be exported, the file differs too much, or a package is missing.
        UnknownNameError: There is no such format or precision.

    Example:
        >>> senet.deploy.export(senet.load_model("runs/flowers"), "flowers.onnx")
    """
    path, check = Path(path), check or Check()
    kind = look_up(format)
    _refuse(path, kind, precision, size, batch, check)
    loaded = _described(model, preprocessing)
    if size is not None:
        images = replace(loaded.preprocessing, size=size)
        loaded = replace(loaded, preprocessing=images)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        draft = Path(folder) / path.name
        passport, notes = _write(loaded, draft, kind, precision, size, batch, check)
        report = _examined(loaded, draft, kind, passport, check)
        mode = new_file_mode(path.parent)
        for file in kind.files(draft):
            file.chmod(mode)
            file.replace(path.with_name(file.name))
    return replace(report, path=str(path), notes=(*notes, *report.notes))


def _refuse(path: Path, kind: Format, precision: str, size: Any, batch: int | None, check: Check) -> None:
    """What can't come to anything, before anything is computed."""
    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, PRECISIONS)
    if precision not in kind.precisions:
        why = _WHY_NOT[kind.name, precision]
        raise SenetError(f"--format {kind.name} has no {precision}: {why}")
    if path.suffix != kind.suffix:
        raise SenetError(f"{path}: give it a name that ends in {kind.suffix}, the suffix of {kind.name}")
    if path.is_dir():
        raise SenetError(f"{path}: that is a folder; give the file's name")
    if not path.resolve().parent.is_dir():
        raise SenetError(f"{path}: there is no folder {path.parent}")
    if batch is not None and batch < 1:
        raise SenetError(f"batch={batch} must be at least 1")
    if size is not None and min(size) < 1:
        raise SenetError(f"size={size} must be (height, width) in pixels")
    if precision == "int8" and check.data is None:
        raise SenetError("int8 needs --data: real images that its ranges are found on, and its accuracy is measured on")


_WHY_NOT: Final[Mapping[tuple[str, str], str]] = {
    ("onnx", "bf16"): "ONNX Runtime has no bf16 convolutions for processors; openvino and torch do",
    ("torch", "int8"): "onnx and openvino do",
}


def _described(model: nn.Module | LoadedModel, preprocessing: Preprocessing | None) -> LoadedModel:
    """A copy of the network, with its classes and what its images go through."""
    if isinstance(model, LoadedModel):
        images = preprocessing or model.preprocessing
        network, _ = _giving_logits(copied(model.model), images, model.description.model, len(model.classes))
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
    """The network if it gives logits alone, else one that does; and how many."""
    example = torch.zeros(1, images.in_channels, *images.size)
    try:
        with torch.no_grad():
            answer = network.eval()(example)
    except Exception as error:  # whatever the user's code raises
        raise SenetError(
            f"{name} can't take images {tuple(example.shape)}: {reason(error)}; say what it takes with preprocessing="
        ) from error
    logits = logits_of(answer, classes, name=name)
    if logits.ndim != 2:
        raise SenetError(f"{name} gives no logits (N, classes); only classifiers can be exported")
    count = logits.shape[1]
    return network if isinstance(answer, Tensor) else LogitsOf(network, count), count


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
    # Measured with OpenVINO (benchmarks/deploy.md); int8 wants constant weights.
    gated_weights = kind.name == "openvino" and precision != "int8" and batch == 1 and size is not None
    network, notes = prepare_for_export(loaded.model, gated_weights=gated_weights), []
    if precision == "bf16" and kind.name == "torch":
        network = _InBf16(network)
    images = loaded.preprocessing
    program, any_size = traced(network, images.in_channels, images.size, any_size=size is None, batch=batch)
    if size is None and not any_size:
        size = images.size
        notes.append(f"this network takes images of {size[0]}x{size[1]} pixels only, and so does the file")
    passport = ExportMetadata(
        model=loaded.description.model,
        classes=loaded.classes,
        preprocessing=images,
        size=size,
        batch=batch,
        precision=precision,
        data=loaded.description.data,
    )
    if precision == "int8":
        plain = draft.with_name(f"float-{draft.name}")
        kind.write(program, plain, replace(passport, precision="32"))
        QUANTIZERS[kind.name](plain, draft, _calibration(loaded, check, batch), passport)
    else:
        kind.write(program, draft, passport)
    return passport, notes


class _InBf16(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.network(x.to(torch.bfloat16)).float()
        return result


def _examined(loaded: LoadedModel, draft: Path, kind: Format, passport: ExportMetadata, check: Check) -> ExportReport:
    """Run the file; refuse it if it isn't what the network is."""
    runtime = kind.runtimes[0]
    made = load_exported(draft, runtime=runtime)
    images = _images(loaded, check)
    with torch.inference_mode():
        expected, found = loaded.model(images), made.model(images)
    drift = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
    tolerance = TOLERANCES[passport.precision] if check.tolerance is None else check.tolerance
    if not drift <= tolerance:  # not a number is refused too
        raise SenetError(
            f"the {kind.name} file isn't the network: a logit differs by {drift:.1e} of the largest one, "
            f"allowed are {tolerance:g}; it is not kept"
        )
    one = images[:1]
    report = ExportReport(
        path=str(draft),
        format=kind.name,
        passport=passport,
        runtime=runtime,
        bytes=sum(file.stat().st_size for file in kind.files(draft)),
        images=len(images),
        drift=drift,
        tolerance=None if tolerance == float("inf") else tolerance,
        latency_ms={runtime: _latency_ms(made.model, one), "eager": _latency_ms(loaded.model, one)},
    )
    return report if check.data is None else _measured(loaded, made, report, check, check.data)


def _measured(loaded: LoadedModel, made: LoadedModel, report: ExportReport, check: Check, data: Data) -> ExportReport:
    """Add the accuracies; refuse a drop that is too large. A float32 file has just been shown to be equal."""
    from senet.inference import evaluate

    if report.passport.precision == "32":
        return report
    accuracy = {}
    source = _part(data, check)
    for moment, network in (("before", loaded), ("after", made)):
        with check.progress(f"accuracy {moment}") as progress:
            accuracy[moment] = evaluate(network, source, data.classes, progress=progress).top1
    note = check_drop(
        report.passport.precision, accuracy["before"], accuracy["after"], len(source), check.max_drop
    )  # fmt: skip
    return replace(report, accuracy=accuracy, evaluated=len(source), notes=(note,) if note else ())


def _part(data: Data, check: Check) -> Source:
    from senet.data import subsample

    part = data.part(check.split or ("test" if data.test is not None else "val"))
    return part if check.limit is None else subsample(part, check.limit)


def _images(loaded: LoadedModel, check: Check) -> Tensor:
    """(N, C, H, W) real images, preprocessed."""
    from senet.data import eval_transform, sample_images, subsample

    images = loaded.preprocessing
    if check.data is not None:
        source, transform = subsample(_part(check.data, check), check.images), eval_transform(images)
        return torch.stack([transform(source[i][0]) for i in range(len(source))])
    pictures = sample_images(check.images)
    if images.channel_order != "other":
        transform = eval_transform(images)
        return torch.stack([transform(picture) for picture in pictures])
    # No photograph has such channels: its own are repeated in turn.
    black, one = (0.0,) * 3, (1.0,) * 3
    transform = eval_transform(replace(images, mean=black, std=one, channel_order="RGB"))
    pixels = torch.stack([transform(picture) for picture in pictures])[:, [c % 3 for c in range(images.in_channels)]]
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (images.mean, images.std))
    return (pixels - mean) / std


def _calibration(loaded: LoadedModel, check: Check, batch: int | None) -> list[np.ndarray]:
    """Batches of training images: those that accuracy is measured on must not have been seen."""
    from senet.data import eval_transform, subsample

    assert check.data is not None
    transform, source = eval_transform(loaded.preprocessing), subsample(check.data.train, check.calibration)
    step, found = batch or 1, []
    with check.progress("calibrating") as progress:
        for start in range(0, len(source) - step + 1, step):
            images = torch.stack([transform(source[i][0]) for i in range(start, start + step)])
            found.append(images.numpy())
            progress(start + step, len(source))
    if not found:
        raise SenetError(f"batch={batch}: there are only {len(source)} training images to calibrate on")
    return found


def _latency_ms(model: nn.Module, image: Tensor, *, runs: int = 11) -> float:
    taken = []
    with torch.inference_mode():
        for _ in range(2):
            model(image)
        for _ in range(runs):
            started = time.perf_counter()
            model(image)
            taken.append(time.perf_counter() - started)
    return median(taken) * 1e3
