"""Data sets, transforms and loaders.

Names are imported on first use (PEP 562). `senet.data.augmentation` imports neither torch nor torchvision.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from senet.data.augmentation import Augmentation
    from senet.data.dataset import Batch, ImageDataset
    from senet.data.dense import AnnotationIssue, DenseBatch, DenseDataset, DenseSource, annotation_issues
    from senet.data.folder import find_images
    from senet.data.holdout import hold_out
    from senet.data.images import CorruptImage, load_image
    from senet.data.loader import default_workers, eval_loader, train_loader
    from senet.data.memory import MemorySource, write_images
    from senet.data.mixing import Mixing
    from senet.data.opening import open_data
    from senet.data.photographs import sample_images
    from senet.data.sampler import EvalBatchSampler, Shard, TrainBatchSampler
    from senet.data.scanning import ScanReport, scan
    from senet.data.sharding import ShardSummary, write_shards
    from senet.data.shards import ShardSource
    from senet.data.sources import Data, FileSource, Source, Subset, subsample
    from senet.data.transforms import Normalise, eval_transform, train_transform

__all__ = [
    "AnnotationIssue",
    "Augmentation",
    "Batch",
    "CorruptImage",
    "Data",
    "DenseBatch",
    "DenseDataset",
    "DenseSource",
    "EvalBatchSampler",
    "FileSource",
    "ImageDataset",
    "MemorySource",
    "Mixing",
    "Normalise",
    "ScanReport",
    "Shard",
    "ShardSource",
    "ShardSummary",
    "Source",
    "Subset",
    "TrainBatchSampler",
    "annotation_issues",
    "default_workers",
    "eval_loader",
    "eval_transform",
    "find_images",
    "hold_out",
    "load_image",
    "open_data",
    "sample_images",
    "scan",
    "subsample",
    "train_loader",
    "train_transform",
    "write_images",
    "write_shards",
]

MODULES = {
    "augmentation": ("Augmentation",),
    "dataset": ("Batch", "ImageDataset"),
    "dense": ("DenseBatch", "DenseDataset", "DenseSource", "AnnotationIssue", "annotation_issues"),
    "folder": ("find_images",),
    "holdout": ("hold_out",),
    "images": ("CorruptImage", "load_image"),
    "loader": ("default_workers", "eval_loader", "train_loader"),
    "memory": ("MemorySource", "write_images"),
    "mixing": ("Mixing",),
    "opening": ("open_data",),
    "sampler": ("EvalBatchSampler", "Shard", "TrainBatchSampler"),
    "photographs": ("sample_images",),
    "scanning": ("ScanReport", "scan"),
    "sharding": ("ShardSummary", "write_shards"),
    "shards": ("ShardSource",),
    "sources": ("Data", "FileSource", "Source", "Subset", "subsample"),
    "transforms": ("Normalise", "eval_transform", "train_transform"),
}


def __getattr__(name: str) -> Any:
    for module, names in MODULES.items():
        if name in names:
            return getattr(import_module(f"senet.data.{module}"), name)
    raise AttributeError(f"module 'senet.data' has no attribute {name!r}")
