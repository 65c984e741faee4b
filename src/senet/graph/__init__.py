"""How feature maps flow through any network: trace, blocks, residual sums, concatenations."""

from senet.graph.block import Unit
from senet.graph.blocks import find_units
from senet.graph.inputs import ExampleInputs
from senet.graph.trace import trace
from senet.graph.values import Call, Graph, Value

__all__ = ["Call", "ExampleInputs", "Graph", "Unit", "Value", "find_units", "trace"]
