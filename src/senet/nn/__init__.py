"""Attention as layers; knows no model."""

from senet.nn.attention import Attention
from senet.nn.block import SqueezeExcite
from senet.nn.excite import ROUNDINGS, hidden_width
from senet.nn.gate import GATES, Gate
from senet.nn.placement import PLACEMENTS, Placement
from senet.nn.spec import ATTENTIONS, SE, AttentionSpec, attention_from_dict, parse_attention
from senet.nn.squeeze import SQUEEZES, Squeeze
from senet.nn.start import INITS

__all__ = [
    "ATTENTIONS",
    "GATES",
    "INITS",
    "PLACEMENTS",
    "ROUNDINGS",
    "SE",
    "SQUEEZES",
    "Attention",
    "AttentionSpec",
    "Gate",
    "Placement",
    "Squeeze",
    "SqueezeExcite",
    "attention_from_dict",
    "hidden_width",
    "parse_attention",
]
