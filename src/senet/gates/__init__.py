"""Gates of any network: find attention layers, record their gates, and compute statistics."""

from senet.gates.recording import GateRecord, gated_layers, record_gates, watching
from senet.gates.statistics import GateStatistics

__all__ = ["GateRecord", "GateStatistics", "gated_layers", "record_gates", "watching"]
