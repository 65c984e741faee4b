"""What a network costs: parameters, multiply-accumulates, memory, time, and the share of its attention."""

from senet.cost.count import Cost, PartCost, cost
from senet.cost.memory import saved_bytes
from senet.cost.timing import Timing, in_turns

__all__ = ["Cost", "PartCost", "Timing", "cost", "in_turns", "saved_bytes"]
