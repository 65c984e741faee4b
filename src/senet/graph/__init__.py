"""The flow of feature maps through any network: trace it, and find blocks, residual sums and concatenations."""

from senet.graph.block import Block
from senet.graph.blocks import find_blocks
from senet.graph.inputs import ExampleInputs
from senet.graph.trace import trace
from senet.graph.values import Call, Graph, Value

__all__ = ["Block", "Call", "ExampleInputs", "Graph", "Value", "find_blocks", "trace"]
