"""Inception-v3, plain and with attention."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

from torch import nn

from senet.models.inception import Branches, Conv, InceptionSpec, Steps, averaging
from senet.models.spec import BlockShape
from senet.nn import SE
from senet.preprocessing import Preprocessing

__all__ = ["IMAGENET_INCEPTION", "STEM", "VARIANTS", "InceptionV3Spec", "halving_pool"]

IMAGENET_INCEPTION = Preprocessing(size=(299, 299), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""Preprocessing of the released Inception networks, as in timm: resize to 341, center crop 299, RGB in -1..1."""


def halving_pool() -> nn.MaxPool2d:
    """Return a 3x3 max pool with stride 2, without padding, rounding down."""
    return nn.MaxPool2d(3, 2)


STEM: Steps = (
    Conv(32, 3, 2, padded=False),
    Conv(32, 3, padded=False),
    Conv(64, 3),
    halving_pool,
    Conv(80),
    Conv(192, 3, padded=False),
    halving_pool,
)
"""The stem of Inception-v3 and Inception-ResNet-v2: 299 pixels to 35."""


def _a(projection: int) -> Branches:
    """Return the module of Szegedy et al. 2016, Fig. 5."""
    return {
        "1x1": (Conv(64),),
        "5x5": (Conv(48), Conv(64, 5)),
        "double3x3": (Conv(64), Conv(96, 3), Conv(96, 3)),
        "pool": (averaging, Conv(projection)),
    }


_B: Branches = {
    "3x3": (Conv(384, 3, 2, padded=False),),
    "double3x3": (Conv(64), Conv(96, 3), Conv(96, 3, 2, padded=False)),
    "pool": (halving_pool,),
}
"""Fig. 10, 35 to 17."""


def _c(width: int) -> Branches:
    """Return the module of Fig. 6."""
    row, column = (1, 7), (7, 1)
    return {
        "1x1": (Conv(192),),
        "7x7": (Conv(width), Conv(width, row), Conv(192, column)),
        "double7x7": (Conv(width), Conv(width, column), Conv(width, row), Conv(width, column), Conv(192, row)),
        "pool": (averaging, Conv(192)),
    }


_D: Branches = {
    "3x3": (Conv(192), Conv(320, 3, 2, padded=False)),
    "7x7x3": (Conv(192), Conv(192, (1, 7)), Conv(192, (7, 1)), Conv(192, 3, 2, padded=False)),
    "pool": (halving_pool,),
}
"""Fig. 10, 17 to 8."""

_FORK = (Conv(384, (1, 3)), Conv(384, (3, 1)))

_E: Branches = {
    "1x1": (Conv(320),),
    "3x3": (Conv(384), _FORK),
    "double3x3": (Conv(448), Conv(384, 3), _FORK),
    "pool": (averaging, Conv(192)),
}
"""Fig. 7."""

_MODULES = ((_a(32), _a(64), _a(64)), (_B, _c(128), _c(160), _c(160), _c(192)), (_D, _E, _E))


@final
@dataclass(frozen=True, kw_only=True)
class InceptionV3Spec(InceptionSpec):
    """Inception-v3. Attention follows each of its eleven concatenations.

    Source: Szegedy et al. 2016 (arXiv 1512.00567), Table 1 and Figs. 5-7 and 10. Widths that it leaves open, the eps of
    the norms and the dropout are from TensorFlow's public definition.
    Differs: no auxiliary classifier. The average pools count the padding, as torchvision's and timm's do and
    TensorFlow's do not.
    """

    eps = 1e-3
    stem = STEM

    dropout: float = 0.2

    def blocks(self) -> list[list[BlockShape]]:
        """Return the shapes of all blocks, by stage."""
        return self.in_sequence(_MODULES)


_PLAIN = InceptionV3Spec(preprocessing=IMAGENET_INCEPTION)

VARIANTS = {"inception_v3": _PLAIN, "se_inception_v3": replace(_PLAIN, attention=SE())}
"""The specs by name."""
