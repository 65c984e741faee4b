"""What a user asked for when naming a data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from senet.data.split import Split
from senet.errors import DataError

__all__ = ["DEFAULT_FRACTION", "DEFAULT_ROOT", "Request", "absolute_name", "absolute_path", "storable"]

DEFAULT_ROOT = Path("~/.cache/senet/data")
DEFAULT_FRACTION = 0.2


def absolute_path(path: str) -> str:
    """A path that holds in any working directory."""
    return str(Path(path).expanduser().resolve())


def absolute_name(name: str) -> str:
    """A data set's name (`folder:flowers`) with an absolute path."""
    kind, colon, place = name.partition(":")
    return f"{kind}:{absolute_path(place)}" if colon and place else name


def storable(name: str) -> str:
    """A name as text that JSON can hold: a byte of a path that is no UTF-8 stands as an escape."""
    return name.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True)
class Request:
    """`KIND` or `KIND:PLACE`, with what the options around it say.

    Attributes:
        kind: What stands before the colon.
        place: What stands after it; empty without a colon.
        val_fraction: The share of each class to validate on; None where the user didn't say.
        seed: What the choice of these images depends on; None where the user didn't say.
        download: Whether the data may be fetched.
        root: Where data sets are kept that name no place; None for the default.
        classes: Names of the classes, where the data itself doesn't say; empty if it does.
        instances: Masks hold the numbers of single objects, all of the second class.
        default_fraction: `val_fraction` where the user didn't say; without effect on data that comes divided.
        default_seed: The same of `seed`.
        training: Whether images are wanted to train on; to evaluate on, a part may be empty and one class is enough.
    """

    kind: str
    place: str
    val_fraction: float | None = None
    seed: int | None = None
    download: bool = False
    root: Path | None = None
    classes: tuple[str, ...] = ()
    instances: bool = False
    default_fraction: float = DEFAULT_FRACTION
    default_seed: int = 0
    training: bool = True

    @property
    def name(self) -> str:
        """The form in which the data was asked for."""
        return f"{self.kind}:{self.place}" if self.place else self.kind

    def folder(self) -> Path:
        """The place, or the default one."""
        return Path(self.place or self.root or DEFAULT_ROOT).expanduser()

    def existing_folder(self, layout: str) -> Path:
        """The place.

        Args:
            layout: What is expected there, in words.

        Raises:
            DataError: It isn't named, isn't there or is no folder.
        """
        if not self.place:
            raise DataError(f"{self.kind} needs a path: {self.kind}:PATH; {layout}")
        root = self.folder()
        if not root.is_dir():
            wrong = "is a file, not a folder" if root.exists() else "doesn't exist"
            raise DataError(f"{root} {wrong}; {layout}")
        return root

    @property
    def split(self) -> Split:
        """How undivided images are divided.

        Raises:
            DataError: The fraction is none.
        """
        fraction = self.default_fraction if self.val_fraction is None else self.val_fraction
        if not 0 < fraction < 1:
            raise DataError(f"a validation fraction of {fraction} must lie between 0 and 1")
        return Split(fraction, self.default_seed if self.seed is None else self.seed)

    def refuse_empty(self, *, train: int, val: int) -> None:
        """For images that were divided one by one: few of them may all have come into one part.

        Raises:
            DataError: A part is empty.
        """
        if (train and val) or not self.training:
            return
        part, more = ("validate", "more") if train else ("train", "less")
        raise DataError(
            f"{self.name}: none of its {train + val} images is left to {part} on (a share of {self.split.fraction:g} "
            f"is chosen, image by image); give {more} than --val-fraction {self.split.fraction:g}, another "
            "--split-seed, or divide them yourself"
        )

    def refuse_split(self, why: str) -> None:
        """For data that comes divided already.

        Raises:
            DataError: The user asked for a fraction or a seed, which could have no effect.
        """
        if self.seed is not None:
            raise DataError(f"--split-seed {self.seed} has no effect on {self.name}: {why}")
        if self.val_fraction is not None:
            raise DataError(f"a validation fraction of {self.val_fraction} has no effect on {self.name}: {why}")

    def refuse_dense_options(self) -> None:
        """For data whose classes are known, and that has no masks.

        Raises:
            DataError: The user named classes, or said what masks hold.
        """
        if self.classes:
            raise DataError(f"--class-names has no effect on {self.name}, which names its classes itself")
        if self.instances:
            raise DataError(f"--instances is about masks:PATH; {self.name} has no masks")
