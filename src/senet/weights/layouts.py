"""The supported checkpoint layouts: the weight names of one library each.

Example:
    >>> from senet.weights import LAYOUTS
    >>> sorted(LAYOUTS)
    ['cadene', 'caffe', 'cifar', 'mmpretrain', 'moskomule', 'pytorchcv', 'senet', 'timm', 'torchvision']
    >>> [str(table) for table in LAYOUTS["cadene"]]
    ["Cadene's (timm's legacy) SE networks"]
"""

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
    # timm's `legacy_se*` networks use Cadene's names.
    "timm": (*from_timm.TABLES, *from_cadene.TABLES),
    "cadene": from_cadene.TABLES,
    "mmpretrain": from_mmpretrain.TABLES,
    "pytorchcv": from_pytorchcv.TABLES,
    "moskomule": from_cifar.MOSKOMULE,
    "cifar": from_cifar.CIFAR,
    "caffe": from_caffe.TABLES,
}
"""Layout name to its renaming tables, one for each network family."""
