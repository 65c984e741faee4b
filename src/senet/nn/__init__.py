"""Attention layers and their specifications. They know no network."""

from senet.nn.attention import Attention
from senet.nn.attention_spec import AttentionSpec
from senet.nn.block import SqueezeExcite
from senet.nn.branches import BranchAttention, SelectiveKernel
from senet.nn.channel import EffectiveSqueezeExcite, EfficientChannelAttention
from senet.nn.composition import COMPOSITIONS, SUMMARIES, ChannelAttention
from senet.nn.composition_specs import CECA, FCA, GCT, LC0, SRM, Channel
from senet.nn.constant import ConstantGate
from senet.nn.context import FUSIONS, GlobalContext
from senet.nn.coordinate import CoordinateAttention
from senet.nn.excitations import EXCITATIONS, Excitation
from senet.nn.excite import ROUNDINGS, hidden_width
from senet.nn.frequencies import Frequencies
from senet.nn.gate import GATES, Gate
from senet.nn.gather import GatherExcite
from senet.nn.groupwise import GroupwiseEnhance
from senet.nn.initialization import INITS
from senet.nn.local import EfficientLocalAttention
from senet.nn.mixed import BottleneckAttention, ChannelSpatialSqueezeExcite, ConvolutionalBlockAttention
from senet.nn.multiscale import MultiScaleAttention
from senet.nn.placement import PLACEMENTS, Placement
from senet.nn.response import GlobalResponseNorm
from senet.nn.shuffle import ShuffleAttention
from senet.nn.simam import SimpleAttention
from senet.nn.spatial import SpatialSqueezeExcite
from senet.nn.spatial_specs import ELA, EMA, GC, GRN, SGE, Coord, Shuffle, SimAM, Split, Strip, Triplet
from senet.nn.spec import (
    ATTENTIONS,
    BAM,
    CBAM,
    ECA,
    ESE,
    GE,
    SE,
    SK,
    ScSE,
    SpatialSE,
    attention_from_dict,
    parse_attention,
)
from senet.nn.split import SplitAttention
from senet.nn.squeeze import SQUEEZES
from senet.nn.strip import StripAttention
from senet.nn.triplet import TripletAttention

__all__ = [
    "ATTENTIONS",
    "BAM",
    "CBAM",
    "CECA",
    "COMPOSITIONS",
    "ECA",
    "ELA",
    "EMA",
    "ESE",
    "EXCITATIONS",
    "FCA",
    "FUSIONS",
    "GATES",
    "GC",
    "GCT",
    "GE",
    "GRN",
    "INITS",
    "LC0",
    "PLACEMENTS",
    "ROUNDINGS",
    "SE",
    "SGE",
    "SK",
    "SQUEEZES",
    "SRM",
    "SUMMARIES",
    "Attention",
    "AttentionSpec",
    "BottleneckAttention",
    "BranchAttention",
    "Channel",
    "ChannelAttention",
    "ChannelSpatialSqueezeExcite",
    "ConstantGate",
    "ConvolutionalBlockAttention",
    "Coord",
    "CoordinateAttention",
    "EffectiveSqueezeExcite",
    "EfficientChannelAttention",
    "EfficientLocalAttention",
    "Excitation",
    "Frequencies",
    "Gate",
    "GatherExcite",
    "GlobalContext",
    "GlobalResponseNorm",
    "GroupwiseEnhance",
    "MultiScaleAttention",
    "Placement",
    "ScSE",
    "SelectiveKernel",
    "Shuffle",
    "ShuffleAttention",
    "SimAM",
    "SimpleAttention",
    "SpatialSE",
    "SpatialSqueezeExcite",
    "Split",
    "SplitAttention",
    "SqueezeExcite",
    "Strip",
    "StripAttention",
    "Triplet",
    "TripletAttention",
    "attention_from_dict",
    "hidden_width",
    "parse_attention",
]
