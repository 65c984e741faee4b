"""Published data sets that torchvision reads: CIFAR-10, CIFAR-100, Fashion-MNIST and ImageNet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torchvision import datasets

from senet.data.memory import MemorySource
from senet.data.request import Request
from senet.data.sources import Data, FileSource
from senet.errors import DataError
from senet.preprocessing import CIFAR, Preprocessing

__all__ = ["PUBLISHED", "Published", "open_imagenet"]

ARCHIVES = "ILSVRC2012_devkit_t12.tar.gz, ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar"


@dataclass(frozen=True)
class Published:
    """A small published data set: torchvision's reader and a suitable preprocessing.

    Its official test images are the validation split, as in the papers. There is no test split.
    """

    reader: Callable[..., Any]
    megabytes: int
    preprocessing: Preprocessing

    def __call__(self, request: Request) -> Data:
        """Open the data set, after a download if requested.

        Raises:
            DataError: It is missing, can't be downloaded, or a validation fraction was given.
        """
        request.refuse_split("it has its own test images")
        train, val = (self._read(request, train=train) for train in (True, False))
        return Data(
            request.name,
            tuple(train.classes),
            MemorySource(train, train.targets, name=f"{request.kind} train"),
            MemorySource(val, val.targets, name=f"{request.kind} test"),
            default_preprocessing=self.preprocessing,
        )

    def _read(self, request: Request, *, train: bool) -> Any:
        root = request.folder()
        try:
            return self.reader(root, train=train, download=request.download)
        except (RuntimeError, OSError, EOFError, ValueError, AssertionError) as error:
            if request.download:
                raise DataError(f"{request.kind} can't be downloaded to {root}: {error}") from error
            raise DataError(
                f"{request.kind} isn't in {root}, or not completely; "
                f"add --download to fetch it ({self.megabytes} MB), or name its folder: {request.kind}:FOLDER"
            ) from error


PUBLISHED = {
    "cifar10": Published(datasets.CIFAR10, 170, CIFAR),
    "cifar100": Published(
        datasets.CIFAR100,
        170,
        replace(CIFAR, mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762)),
    ),
    "fashion_mnist": Published(
        datasets.FashionMNIST,
        30,
        Preprocessing(size=(28, 28), crop_fraction=1.0, mean=(0.2860,), std=(0.3530,), channel_order="L"),
    ),
}


def open_imagenet(request: Request) -> Data:
    """Open ILSVRC-2012 with torchvision, which unpacks the archives on first use (hours, 150 GB).

    The 50,000 validation images are the validation split. Classes are in the order of their WordNet numbers.

    Raises:
        DataError: It is missing, or a download or a validation fraction was requested.
    """
    request.refuse_split("it has its own validation images")
    root = request.folder() if request.path else request.folder() / "imagenet"
    splits = {split: _read_imagenet(root, split) for split in ("train", "val")}
    sources = {
        split: FileSource((path for path, _ in images.samples), images.targets, root=images.split_folder)
        for split, images in splits.items()
    }
    classes = tuple(", ".join(names) for names in splits["train"].classes)
    return Data(request.name, classes, train=sources["train"], val=sources["val"])


def _read_imagenet(root: Path, split: str) -> Any:
    try:
        return datasets.ImageNet(root, split=split)
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"imagenet isn't in {root}, and no program may download it; put {ARCHIVES} there "
            "(https://image-net.org), or, if you have train and val folders of classes, use folder:PATH"
        ) from error
