"""The network and the names of the reports in tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from senet.data import Data
from senet.inference import Evaluation, MultiLabelEvaluation
from senet.preprocessing import Preprocessing
from senet.zoo import LoadedModel

PLAIN = Preprocessing(size=(8, 8), mean=(0.0,) * 3, std=(1.0,) * 3)
CLASSES = ("<b>red & <script>x", "=green", "blue " + 60 * "x")
THRESHOLDS = (0.7, 0.5, 0.8)
"""Of a multi-label classifier."""
ABOUT: dict[str, Any] = {
    "checkpoint": "runs/<i>", "model": "a <net>", "data": "folder:x", "description": "15 images", "warnings": ["<w>"]
}  # fmt: skip


class MeanColour(nn.Module):
    """The mean of each channel, as logits."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3)."""
        return 4 * x.mean((2, 3))


class Written(NamedTuple):
    """A report with all that it is of."""

    folder: Path
    data: Data
    loaded: LoadedModel
    result: Evaluation | MultiLabelEvaluation
    document: dict[str, Any]
