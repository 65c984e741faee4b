"""How feature maps flow through any network: trace, blocks, residual sums, concatenations."""

from senet.graph.block import Unit
from senet.graph.blocks import find_units
from senet.graph.trace import Call, Graph, Value, trace

__all__ = ["Call", "Graph", "Unit", "Value", "find_units", "trace"]
