"""The cost of a network and of its attention: parameters, multiply-accumulates, memory and time."""

from senet.profiling.count import Cost, PartCost, cost
from senet.profiling.memory import saved_bytes
from senet.profiling.timing import Timing, time_interleaved

__all__ = ["Cost", "PartCost", "Timing", "cost", "saved_bytes", "time_interleaved"]
