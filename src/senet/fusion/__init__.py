"""Faster networks with the same output: fewer passes over the feature maps."""

from senet.fusion.acceleration import AccelerateReport, FusedAttention, accelerate
from senet.fusion.optimization import OptimizeReport, optimize

__all__ = ["AccelerateReport", "FusedAttention", "OptimizeReport", "accelerate", "optimize"]
