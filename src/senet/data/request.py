"""A request for a data set: its name and the options around it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from senet.data.place import split_place
from senet.data.split import SplitSpec
from senet.errors import DataError

__all__ = ["DEFAULT_FRACTION", "DEFAULT_ROOT", "Request", "absolute_path", "storable", "with_absolute_path"]

DEFAULT_ROOT = Path("~/.cache/senet/data")
DEFAULT_FRACTION = 0.2

ON_SERVERS = ("hf", "litdata")
"""Kinds whose place may be on a server."""

WITH_OPTIONS = ("csv", *ON_SERVERS)
"""Kinds with options behind their place (`hf:flowers:label=species`)."""


def absolute_path(path: str) -> str:
    """Return a path that is valid in any working directory."""
    return str(Path(path).expanduser().resolve())


def with_absolute_path(name: str) -> str:
    """Return a data set's name (`folder:flowers`, `csv:flowers.csv:label=species`) with an absolute path.

    A name on a server stays as it is.
    """
    kind, colon, path = name.partition(":")
    place, options = split_place(path) if kind in WITH_OPTIONS else (path, "")
    if not colon or not place or (kind in ON_SERVERS and not Path(place).expanduser().exists()):
        return name
    return f"{kind}:{absolute_path(place)}{options}"


def storable(name: str) -> str:
    """Return a name as text for JSON. A byte of a path that is no UTF-8 becomes an escape."""
    return name.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True)
class Request:
    """`KIND` or `KIND:PATH`, with the options around it.

    Attributes:
        kind: Text before the colon.
        path: Text after it, empty without a colon.
        val_fraction: Fraction of validation images in each class, or None if not given.
        seed: Seed of the choice of these images, or None if not given.
        download: Whether the data may be downloaded.
        root: Folder of data sets given without a path, or None for the default.
        folds: Number of folds for undivided images, or None for a single division.
        fold: Fold of the validation images, in 1..folds.
        group: Column (`csv:`) or regular expression (of paths) of groups that stay together, None if not given.
        classes: Class names, if the data has none.
        instances: Masks number single objects, all of the second class.
        default_fraction: `val_fraction` if not given, ignored for divided data.
        default_seed: `seed` if not given, ignored for divided data.
        training: Whether the images are trained on. For evaluation a split may be empty, and one class is enough.
    """

    kind: str
    path: str
    val_fraction: float | None = None
    seed: int | None = None
    download: bool = False
    root: Path | None = None
    folds: int | None = None
    fold: int | None = None
    group: str | None = None
    classes: tuple[str, ...] = ()
    instances: bool = False
    default_fraction: float = DEFAULT_FRACTION
    default_seed: int = 0
    training: bool = True

    @property
    def name(self) -> str:
        """The requested name."""
        return f"{self.kind}:{self.path}" if self.path else self.kind

    def folder(self) -> Path:
        """Return the given or the default folder."""
        return Path(self.path or self.root or DEFAULT_ROOT).expanduser()

    def existing_folder(self, layout: str) -> Path:
        """Return the given folder.

        Args:
            layout: The expected layout, in words.

        Raises:
            DataError: The folder isn't given, is missing or is a file.
        """
        if not self.path:
            raise DataError(f"{self.kind} needs a path: {self.kind}:PATH; {layout}")
        root = self.folder()
        if not root.is_dir():
            wrong = "is a file, not a folder" if root.exists() else "doesn't exist"
            raise DataError(f"{root} {wrong}; {layout}")
        return root

    @property
    def split_spec(self) -> SplitSpec:
        """Fraction and seed for undivided images, or their folds. `group` is the given one.

        Raises:
            DataError: The fraction or the fold is out of range.
        """
        seed = self.default_seed if self.seed is None else self.seed
        if self.folds is not None or self.fold is not None:
            folds, fold = self._checked_fold()
            return SplitSpec(1 / folds, seed, folds, fold, self.group or "")
        fraction = self.default_fraction if self.val_fraction is None else self.val_fraction
        if not 0 < fraction < 1:
            raise DataError(f"a validation fraction of {fraction} must lie between 0 and 1")
        return SplitSpec(fraction, seed, group=self.group or "")

    def _checked_fold(self) -> tuple[int, int]:
        folds, fold = self.folds, self.fold
        if folds is None:
            raise DataError(f"--fold {fold} needs the number of folds: --folds N")
        if folds < 2:
            raise DataError(f"--folds {folds} must be at least 2")
        if self.val_fraction is not None:
            raise DataError(f"--val-fraction {self.val_fraction:g} and --folds {folds} exclude each other; use one")
        if fold is None:
            raise DataError(f"--folds {folds} needs the fold to validate on: --fold 1 to --fold {folds}")
        if not 1 <= fold <= folds:
            raise DataError(f"--fold {fold} must lie in 1..{folds}")
        return folds, fold

    def refuse_empty(self, *, train: int, val: int) -> None:
        """Refuse an empty split: few images that are divided one by one may all come into one split.

        Raises:
            DataError: A split is empty.
        """
        if (train and val) or not self.training:
            return
        purpose, more = ("validate", "more") if train else ("train", "less")
        raise DataError(
            f"{self.name}: none of its {train + val} images is left to {purpose} on ({self.split_spec.in_words}); give "
            f"{more} than --val-fraction {self.split_spec.fraction:g}, another --split-seed, or divide them yourself"
        )

    def refuse_split(self, why: str) -> None:
        """Refuse fraction and seed for data that is divided already.

        Raises:
            DataError: A fraction, a seed, folds or groups were given, which could have no effect.
        """
        if self.seed is not None:
            raise DataError(f"--split-seed {self.seed} has no effect on {self.name}: {why}")
        if self.val_fraction is not None:
            raise DataError(f"a validation fraction of {self.val_fraction} has no effect on {self.name}: {why}")
        for option, given in (("folds", self.folds), ("fold", self.fold), ("group", self.group)):
            if given is not None:
                raise DataError(f"--{option} {given} has no effect on {self.name}: {why}")

    def refuse_dense_options(self) -> None:
        """Refuse options of masks for data without masks.

        Raises:
            DataError: Classes or instances were given.
        """
        if self.classes:
            raise DataError(f"--class-names has no effect on {self.name}, which names its classes itself")
        if self.instances:
            raise DataError(f"--instances applies to masks:PATH; {self.name} has no masks")
