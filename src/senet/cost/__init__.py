"""What a network costs: parameters and multiply-accumulates, and the share of its attention in each."""

from senet.cost.count import Cost, PartCost, cost

__all__ = ["Cost", "PartCost", "cost"]
