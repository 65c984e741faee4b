"""Scanning a data set for faults before training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from senet.data.bands import describe
from senet.data.checks import mask_issues
from senet.data.dense import annotation_issues
from senet.data.depth import depth_note
from senet.data.images import CorruptImage, Depth, ImageInfo
from senet.data.labels import MULTI_LABEL, class_totals
from senet.data.loader import default_workers
from senet.data.quiet import quiet_pillow
from senet.data.sources import Data, Source

__all__ = ["ScanReport", "SplitReport", "scan"]

CHUNK = 64


class ScanResult(NamedTuple):
    """Result of scanning one image: its properties, or path and reason if it is corrupt."""

    split: str
    position: int
    info: ImageInfo | None
    corrupt: tuple[str, str] | None
    form: str = ""


@dataclass
class SplitReport:
    """Report on one split (train, val or test) of a data set.

    Attributes:
        images: Number of images, including corrupt ones.
        per_class: Images of each class. Detection counts boxes, segmentation images that contain the class.
        width: Smallest and largest width in pixels, or None if all images are corrupt.
        height: Smallest and largest height in pixels.
        modes: Number of images in each of Pillow's modes.
        forms: Number of images by channels and bit depth, such as `"4 channels, 16 bit"`.
        bit_depth: Note on 16-bit images, empty if none is due.
        corrupt: Path and reason of each unreadable image.
    """

    images: int
    per_class: dict[str, int]
    width: tuple[int, int] | None = None
    height: tuple[int, int] | None = None
    modes: dict[str, int] = field(default_factory=dict)
    forms: dict[str, int] = field(default_factory=dict)
    bit_depth: str = ""
    corrupt: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class ScanReport:
    """Report on a data set.

    Attributes:
        name: The set's name on the command line.
        splits: One report for each split.
        leaks: Pairs of paths: a training image, and an equal one in another split.
        duplicates: Pairs of paths: equal images of one class within one split.
        label_conflicts: Pairs of paths: equal images within one split, but of different classes.
        annotation_issues: Path and reason of each issue of boxes or masks.
        left_out: Files among the images that aren't read.

    Example:
        >>> from senet.data import ScanReport, open_data, scan
        >>> report: ScanReport = scan(open_data("digits"), workers=0)
        >>> list(report.splits), report.splits["val"].modes
        (['train', 'val'], {'L': 359})
    """

    name: str
    splits: dict[str, SplitReport]
    leaks: list[tuple[str, str]] = field(default_factory=list)
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    label_conflicts: list[tuple[str, str]] = field(default_factory=list)
    annotation_issues: list[tuple[str, str]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def corrupt(self) -> list[tuple[str, str]]:
        """Path and reason of every corrupt image of any split."""
        return [issue for split in self.splits.values() for issue in split.corrupt]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready form."""
        return asdict(self)


def scan(data: Data, *, workers: int | None = None, progress: Callable[[int, int], None] | None = None) -> ScanReport:
    """Decode every image once and report faults. Images are equal if their files have the same bytes.

    Args:
        data: The data set.
        workers: Processes that decode, 0 for none, None for one on each CPU core.
        progress: Called with the numbers of images done and in all.

    Example:
        >>> from senet.data import open_data, scan
        >>> report = scan(open_data("digits"), workers=0)
        >>> report.corrupt, report.leaks, report.splits["train"].width
        ([], [], (8, 8))
    """
    sources = data.splits
    total = sum(map(len, sources.values()))
    report = ScanReport(data.name, {name: _counted(data, source) for name, source in sources.items()})
    report.annotation_issues = [
        (issue.path, issue.reason) for issue in (*annotation_issues(data), *mask_issues(data, data.splits))
    ]
    report.left_out = list(data.left_out)
    sizes: dict[str, list[tuple[int, int]]] = {name: [] for name in sources}
    modes: dict[str, Counter[str]] = {name: Counter() for name in sources}
    forms: dict[str, Counter[str]] = {name: Counter() for name in sources}
    deep: dict[str, list[Depth]] = {name: [] for name in sources}
    first: dict[bytes, tuple[str, int]] = {}
    for done, result in enumerate(_scan_all(data, default_workers() if workers is None else workers), 1):
        if result.corrupt is not None:
            report.splits[result.split].corrupt.append(result.corrupt)
        if result.info is not None:
            sizes[result.split].append((result.info.width, result.info.height))
            modes[result.split][result.info.mode] += 1
            forms[result.split][result.form] += 1
            if result.info.depth is not None and result.info.pages == 1:
                deep[result.split].append(result.info.depth)
            _note_equal(report, sources, first, result)
        if progress is not None:
            progress(done, total)
    for name, split in report.splits.items():
        split.modes, split.forms, split.bit_depth = dict(modes[name]), dict(forms[name]), depth_note(deep[name])
        if sizes[name]:
            widths, heights = zip(*sizes[name], strict=True)
            split.width, split.height = (min(widths), max(widths)), (min(heights), max(heights))
    return report


def _counted(data: Data, source: Source) -> SplitReport:
    if data.task in ("classification", MULTI_LABEL):
        counts = class_totals(source.labels, len(data.classes)).tolist()
    else:
        counts = source.counts(len(data.classes))  # type: ignore[attr-defined]
    return SplitReport(len(source), dict(zip(data.classes, counts, strict=True)))


def _note_equal(
    report: ScanReport, sources: dict[str, Source], first: dict[bytes, tuple[str, int]], result: ScanResult
) -> None:
    assert result.info is not None
    split, position = first.setdefault(result.info.digest, (result.split, result.position))
    if (split, position) == (result.split, result.position):
        return
    same_class = np.array_equal(sources[split].labels[position], sources[result.split].labels[result.position])
    pairs = report.leaks if split != result.split else report.duplicates if same_class else report.label_conflicts
    pairs.append((sources[split].locate(position), sources[result.split].locate(result.position)))


def _scan_all(data: Data, workers: int) -> Iterator[ScanResult]:
    sources = data.splits
    chunks = [
        (split, range(start, min(start + CHUNK, len(source))))
        for split, source in sources.items()
        for start in range(0, len(source), CHUNK)
    ]
    if workers == 0 or len(chunks) == 1:
        for chunk in chunks:
            yield from _scan_image(sources, chunk)
        return
    with ProcessPoolExecutor(workers, initializer=_receive, initargs=(sources,)) as pool:
        for result in pool.map(_scan_received, chunks):
            yield from result


_received: dict[str, Source] = {}
"""The sources of a worker process, sent to it once."""


def _receive(sources: dict[str, Source]) -> None:
    quiet_pillow()
    _received.update(sources)


def _scan_received(chunk: tuple[str, range]) -> list[ScanResult]:
    return _scan_image(_received, chunk)


def _scan_image(sources: dict[str, Source], chunk: tuple[str, range]) -> list[ScanResult]:
    split, indices = chunk
    return [_scan_one(sources[split], split, index) for index in indices]


def _scan_one(source: Source, split: str, index: int) -> ScanResult:
    try:
        info, form = describe(source, index)
        return ScanResult(split, index, info, None, str(form))
    except CorruptImage as error:
        return ScanResult(split, index, None, (error.path, error.reason))
