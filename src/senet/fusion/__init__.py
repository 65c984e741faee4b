"""The same network, faster: fewer passes over its feature maps."""

from senet.fusion.optimize import OptimizeReport, optimize

__all__ = ["OptimizeReport", "optimize"]
