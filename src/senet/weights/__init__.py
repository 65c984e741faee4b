"""Checkpoints as data: safetensors beside a JSON description; nothing is ever unpickled."""

from senet.weights.checkpoint import Description, read_checkpoint, write_checkpoint
from senet.weights.files import write_atomically

__all__ = ["Description", "read_checkpoint", "write_atomically", "write_checkpoint"]
