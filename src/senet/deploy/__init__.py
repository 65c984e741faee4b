"""Networks made ready for use: the same function, computed faster."""

from senet.deploy.optimize import OptimizeReport, optimize

__all__ = ["OptimizeReport", "optimize"]
