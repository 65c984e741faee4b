"""Published sizes, costs and errors of the networks, as printed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["PUBLISHED", "Published"]


@dataclass(frozen=True, kw_only=True)
class Published:
    """One row of a published table.

    Attributes:
        model: Name of the network in `list_models()`.
        source: The publication and its table.
        data: The data set.
        pixels: Side of the image in pixels.
        top1: Top-1 error in percent.
        top5: Top-5 error in percent.
        macs: Multiply-accumulates as printed, with their unit: "3.86G" or "569M". The paper calls them FLOPs.
        params: Parameters as printed: "4.2M".
        discrepancy: Why the printed count differs from this package's by more than the last digit.

    Example:
        >>> from senet.models import PUBLISHED
        >>> row = PUBLISHED["se_resnet50"][0]
        >>> row.source, row.errors, row.macs
        ('Hu et al. 2018 (arXiv 1709.01507 v4), Table 2', '23.29/6.62', '3.87G')
    """

    model: str
    source: str
    data: str = "ImageNet"
    pixels: int = 224
    top1: float | None = None
    top5: float | None = None
    macs: str = ""
    params: str = ""
    discrepancy: str = ""

    @property
    def errors(self) -> str:
        """Format top-1/top-5 error in percent, as in a table."""
        return "/".join(f"{e:.2f}" for e in (self.top1, self.top5) if e is not None)

    def agreement(self, macs: int) -> str:
        """Compare a rounded count with the printed one: "equal", "last digit" (by at most 3) or "differs"."""
        if not self.macs:
            return ""
        figure, decimals, _ = _parse(self.macs)
        off = abs(float(self.like_printed(macs)[:-1]) - figure)
        return "equal" if off < 0.5 / 10**decimals else "last digit" if off < 3.5 / 10**decimals else "differs"

    def like_printed(self, macs: int) -> str:
        """Format a count with the unit and digits of the printed one. Empty without a printed one."""
        if not self.macs:
            return ""
        _, decimals, unit = _parse(self.macs)
        return f"{macs / unit:.{decimals}f}{self.macs[-1]}"

    def to_dict(self, macs: int) -> dict[str, Any]:
        """Return a JSON-serializable dictionary, including the comparison with a count."""
        figure = None
        if self.macs:
            value, _, unit = _parse(self.macs)
            figure = round(value * unit)
        return {
            "source": self.source,
            "data": self.data,
            "pixels": self.pixels,
            "top1_error_percent": self.top1,
            "top5_error_percent": self.top5,
            "macs": figure,
            "macs_as_printed": self.macs or None,
            "params_as_printed": self.params or None,
            "macs_agreement": self.agreement(macs) or None,
            "discrepancy": self.discrepancy or None,
        }


def _parse(printed: str) -> tuple[float, int, float]:
    """Split into figure, number of decimals and unit."""
    found = re.fullmatch(r"(\d+(?:\.(\d+))?)([GM])", printed)
    assert found, printed
    return float(found[1]), len(found[2] or ""), {"G": 1e9, "M": 1e6}[found[3]]


_SOURCE = "Hu et al. 2018 (arXiv 1709.01507 v4)"
_README = "the authors' README (retrained, other augmentation)"
_AKAMASTER = "akamaster/pytorch_resnet_cifar10, its checkpoints"
_PYTORCHCV = "pytorchcv 0.0.74, its checkpoints"

_INCEPTION_RESNET = "not reproduced: the layers of its own publication cost more at 299 pixels"

_SHUFFLENET = "not reproduced: its layers cost 138.1M (plain 137.5M); the paper starts from a round 140M"

# name: top-1, top-5 and GFLOPs of the plain network, then of the SE network. The paper's own re-implementations.
_TABLE_2: Final[dict[str, tuple[float, float, str, float, float, str]]] = {
    "resnet50": (24.80, 7.48, "3.86G", 23.29, 6.62, "3.87G"),
    "resnet101": (23.17, 6.52, "7.58G", 22.38, 6.07, "7.60G"),
    "resnet152": (22.42, 6.34, "11.30G", 21.57, 5.73, "11.32G"),
    "resnext50_32x4d": (22.11, 5.90, "4.24G", 21.10, 5.49, "4.25G"),
    "resnext101_32x4d": (21.18, 5.57, "7.99G", 20.70, 5.01, "8.00G"),
    "vgg16": (27.02, 8.81, "15.47G", 25.22, 7.70, "15.48G"),
    "bn_inception": (25.38, 7.89, "2.03G", 24.23, 7.14, "2.04G"),
    "inception_resnet_v2": (20.37, 5.21, "11.75G", 19.80, 4.79, "11.76G"),
}

# name: top-1, top-5, FLOPs and parameters of the plain network, then of the SE network.
_TABLE_3: Final[dict[str, tuple[float, float, str, str, float, float, str, str]]] = {
    "mobilenet_v1": (28.4, 9.4, "569M", "4.2M", 25.3, 7.7, "572M", "4.7M"),
    "shufflenet_v1_g3": (32.6, 12.5, "140M", "1.8M", 31.0, 11.1, "142M", "2.4M"),
}

# name: data, plain top-1, with SE top-1. ResNet-110 and -164 are the pre-activation ones of He et al. 2016
# (arXiv 1603.05027, Table 2), whose 6.37 and 5.46 the paper repeats.
_TABLES_4_AND_5: Final[dict[str, list[tuple[str, float, float]]]] = {
    "cifar_preresnet110": [("CIFAR-10", 6.37, 5.21), ("CIFAR-100", 26.88, 23.85)],
    "cifar_preresnet164": [("CIFAR-10", 5.46, 4.39), ("CIFAR-100", 24.33, 21.31)],
    "wrn16_8": [("CIFAR-10", 4.27, 3.88), ("CIFAR-100", 20.43, 19.14)],
    "shake_shake26_2x96d": [("CIFAR-10 with Cutout", 2.56, 2.12)],
    "shake_even29_2x4x64d": [("CIFAR-100 with Cutout", 15.85, 15.41)],
}

_AUTHORS_README: Final[dict[str, tuple[float, float]]] = {
    "se_bn_inception": (23.62, 7.04),
    "se_resnet50": (22.37, 6.36),
    "se_resnet101": (21.75, 5.72),
    "se_resnet152": (21.34, 5.54),
    "se_resnext50_32x4d": (20.97, 5.54),
    "se_resnext101_32x4d": (19.81, 4.96),
}

# CIFAR-10 top-1 of public checkpoints of exactly these networks (pytorchcv's other CIFAR ResNets have projections).
_CIFAR_CHECKPOINTS: Final[dict[str, tuple[str, float]]] = {
    "cifar_resnet20": (_AKAMASTER, 8.27),
    "cifar_resnet32": (_AKAMASTER, 7.37),
    "cifar_resnet56": (_AKAMASTER, 6.61),
    "cifar_preresnet20": (_PYTORCHCV, 6.51),
    "cifar_preresnet56": (_PYTORCHCV, 4.49),
    "cifar_preresnet110": (_PYTORCHCV, 3.86),
    "cifar_preresnet164": (_PYTORCHCV, 3.64),
    "wrn28_10": (_PYTORCHCV, 2.39),
}


def _rows() -> list[Published]:
    rows = []
    other: dict[str, Any]
    for name, two in _TABLE_2.items():
        other = {"pixels": 299, "discrepancy": _INCEPTION_RESNET} if name == "inception_resnet_v2" else {}
        for model, (top1, top5, macs) in ((name, two[:3]), (f"se_{name}", two[3:])):
            rows.append(Published(model=model, source=f"{_SOURCE}, Table 2", top1=top1, top5=top5, macs=macs, **other))
    for name, three in _TABLE_3.items():
        for model, (top1, top5, macs, params) in ((name, three[:4]), (f"se_{name}", three[4:])):
            other = {"macs": macs, "params": params}
            other["discrepancy"] = _SHUFFLENET if model == "se_shufflenet_v1_g3" else ""
            rows.append(Published(model=model, source=f"{_SOURCE}, Table 3", top1=top1, top5=top5, **other))
    for name, results in _TABLES_4_AND_5.items():
        for data, original, attended in results:
            source = f"{_SOURCE}, Table {4 if data.startswith('CIFAR-10 ') or data == 'CIFAR-10' else 5}"
            rows.append(Published(model=name, source=source, data=data, pixels=32, top1=original))
            rows.append(Published(model=f"se_{name}", source=source, data=data, pixels=32, top1=attended))
    for pixels, top1, top5 in ((224, 18.68, 4.47), (320, 17.28, 3.79)):
        rows.append(Published(model="senet154", source=f"{_SOURCE}, Table 8", pixels=pixels, top1=top1, top5=top5))
    for name, (top1, top5) in _AUTHORS_README.items():
        rows.append(Published(model=name, source=_README, top1=top1, top5=top5))
    for name, (source, error) in _CIFAR_CHECKPOINTS.items():
        rows.append(Published(model=name, source=source, data="CIFAR-10", pixels=32, top1=error))
    return rows


def _by_model(rows: list[Published]) -> dict[str, tuple[Published, ...]]:
    return {name: tuple(row for row in rows if row.model == name) for name in dict.fromkeys(row.model for row in rows)}


PUBLISHED: Final[Mapping[str, tuple[Published, ...]]] = _by_model(_rows())
"""Published rows by network name, the paper's own tables first. The accuracy of the public checkpoints is on their
cards (`senet.weights.cards`)."""
