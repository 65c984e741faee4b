"""Whose names there are."""

from __future__ import annotations

from senet.weights import (
    from_cadene,
    from_caffe,
    from_cifar,
    from_mmpretrain,
    from_pytorchcv,
    from_timm,
    from_torchvision,
)
from senet.weights.rules import Rule, Table

__all__ = ["LAYOUTS"]

OWN = Table("senet", "this package", (Rule("{key:.+}", "{key:.+}"),))

LAYOUTS: dict[str, tuple[Table, ...]] = {
    "senet": (OWN,),
    "torchvision": from_torchvision.TABLES,
    # timm's own model of the authors' networks has Cadene's names.
    "timm": (*from_timm.TABLES, *from_cadene.TABLES),
    "cadene": from_cadene.TABLES,
    "mmpretrain": from_mmpretrain.TABLES,
    "pytorchcv": from_pytorchcv.TABLES,
    "moskomule": from_cifar.MOSKOMULE,
    "cifar": from_cifar.CIFAR,
    "caffe": from_caffe.TABLES,
}
"""Layout to its tables, one a family."""
