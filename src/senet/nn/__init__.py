"""Attention layers and their specifications. They know no network."""

from senet.nn.attention import Attention
from senet.nn.block import SqueezeExcite
from senet.nn.branches import BranchAttention, SelectiveKernel
from senet.nn.channel import EffectiveSqueezeExcite, EfficientChannelAttention
from senet.nn.constant import ConstantGate
from senet.nn.excite import ROUNDINGS, hidden_width
from senet.nn.gate import GATES, Gate
from senet.nn.gather import GatherExcite
from senet.nn.initialization import INITS
from senet.nn.mixed import BottleneckAttention, ChannelSpatialSqueezeExcite, ConvolutionalBlockAttention
from senet.nn.placement import PLACEMENTS, Placement
from senet.nn.spatial import SpatialSqueezeExcite
from senet.nn.spec import (
    ATTENTIONS,
    BAM,
    CBAM,
    ECA,
    ESE,
    GE,
    SE,
    SK,
    AttentionSpec,
    ScSE,
    SpatialSE,
    attention_from_dict,
    parse_attention,
)
from senet.nn.squeeze import SQUEEZES

__all__ = [
    "ATTENTIONS",
    "BAM",
    "CBAM",
    "ECA",
    "ESE",
    "GATES",
    "GE",
    "INITS",
    "PLACEMENTS",
    "ROUNDINGS",
    "SE",
    "SK",
    "SQUEEZES",
    "Attention",
    "AttentionSpec",
    "BottleneckAttention",
    "BranchAttention",
    "ChannelSpatialSqueezeExcite",
    "ConstantGate",
    "ConvolutionalBlockAttention",
    "EffectiveSqueezeExcite",
    "EfficientChannelAttention",
    "Gate",
    "GatherExcite",
    "Placement",
    "ScSE",
    "SelectiveKernel",
    "SpatialSE",
    "SpatialSqueezeExcite",
    "SqueezeExcite",
    "attention_from_dict",
    "hidden_width",
    "parse_attention",
]
