"""Read, write and convert checkpoints of this package and of other libraries. Loading a file never runs its code."""

from senet.weights.average import average_checkpoints
from senet.weights.card import Card
from senet.weights.catalog import cards, find_card
from senet.weights.checkpoint import CheckpointMetadata, read_checkpoint, write_checkpoint
from senet.weights.data_record import DataRecord
from senet.weights.hub import fetch
from senet.weights.layouts import LAYOUTS
from senet.weights.load import LoadReport, load_weights, to_layout
from senet.weights.reading import read_tensors

__all__ = [
    "LAYOUTS",
    "Card",
    "CheckpointMetadata",
    "DataRecord",
    "LoadReport",
    "average_checkpoints",
    "cards",
    "fetch",
    "find_card",
    "load_weights",
    "read_checkpoint",
    "read_tensors",
    "to_layout",
    "write_checkpoint",
]
