"""What a network costs: parameters, multiply-accumulates, memory, time, and the share of its attention."""

from senet.profiling.count import Cost, PartCost, cost
from senet.profiling.memory import saved_bytes
from senet.profiling.timing import Timing, in_turns

__all__ = ["Cost", "PartCost", "Timing", "cost", "in_turns", "saved_bytes"]
