"""Gates of any network: recognise them, record them, their statistics."""

from senet.gates.recording import GateRecord, Watchable, gated_layers, record_gates, watching
from senet.gates.statistics import GateStatistics

__all__ = ["GateRecord", "GateStatistics", "Watchable", "gated_layers", "record_gates", "watching"]
