"""scikit-learn's 1,797 scans of handwritten digits, which need no download."""

from __future__ import annotations

import numpy as np
from PIL import Image

from senet.data.memory import MemorySource
from senet.data.request import Request
from senet.data.sources import Data, Subset
from senet.data.split import stratified_split
from senet.errors import DataError
from senet.preprocessing import Preprocessing

__all__ = ["open_digits"]

SPLIT_SEED = 2017
"""Fixed, so that all runs use the same validation images."""

PREPROCESSING = Preprocessing(size=(16, 16), crop_fraction=1.0, mean=(0.305,), std=(0.319,), channel_order="L")


def open_digits(request: Request) -> Data:
    """Open the digits 0 to 9 as 8x8 grey images: four fifths of each class for training, one fifth for validation.

    Raises:
        DataError: A path, a validation fraction or a seed was given.
    """
    from sklearn.datasets import load_digits

    if request.path:
        raise DataError("digits comes with scikit-learn and takes no path; use digits")
    request.refuse_split("its validation images are fixed")
    scans = load_digits()
    grey = np.rint(scans.images * (255 / 16)).astype(np.uint8)
    source = MemorySource([(Image.fromarray(scan),) for scan in grey], scans.target, name="digits")
    train, val = stratified_split(source.labels, 0.2, seed=SPLIT_SEED)
    return Data(
        request.name,
        tuple(map(str, scans.target_names)),
        Subset(source, train),
        Subset(source, val),
        default_preprocessing=PREPROCESSING,
    )
