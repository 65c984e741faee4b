"""Checkpoints as data: our own, and everybody's by tables of rules; no file can run code."""

from senet.weights.card import Card
from senet.weights.catalog import CARDS, cards, find_card
from senet.weights.checkpoint import CheckpointMetadata, read_checkpoint, write_checkpoint, write_tensors
from senet.weights.data_record import DataRecord
from senet.weights.files import write_atomically
from senet.weights.hub import fetch
from senet.weights.layouts import LAYOUTS
from senet.weights.load import LoadReport, load_weights, to_layout
from senet.weights.reading import read_contents, read_tensors

__all__ = [
    "CARDS",
    "LAYOUTS",
    "Card",
    "CheckpointMetadata",
    "DataRecord",
    "LoadReport",
    "cards",
    "fetch",
    "find_card",
    "load_weights",
    "read_checkpoint",
    "read_contents",
    "read_tensors",
    "to_layout",
    "write_atomically",
    "write_checkpoint",
    "write_tensors",
]
