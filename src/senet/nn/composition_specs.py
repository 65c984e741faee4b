"""Specifications of composed channel attention: any composition, and the published ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from senet.nn._fields import one_of
from senet.nn.attention_spec import AttentionSpec
from senet.nn.composition import COMPOSITIONS, SUMMARIES, ChannelAttention
from senet.nn.excitations import EXCITATIONS
from senet.nn.gate import GATES
from senet.nn.initialization import INITS

__all__ = ["CECA", "FCA", "GCT", "LC0", "SRM", "Channel"]


@dataclass(frozen=True)
class Channel(AttentionSpec):
    """Channel attention of any squeeze, excitation and gate. The fields are the arguments of `ChannelAttention`.

    Example:
        >>> from senet.nn import Channel
        >>> Channel(squeeze="std", excitation="conv", gate="softmax").build(64).excitation.conv.kernel_size
        (3,)
    """

    kind: ClassVar[str] = "channel"
    squeeze: str = one_of(SUMMARIES, "mean")
    excitation: str = one_of(EXCITATIONS, "bottleneck")
    gate: str = one_of(GATES, "sigmoid")
    shift: bool = False
    reduction: int | None = None
    groups: int | None = None
    kernel_size: int | None = None
    bias: bool | None = None
    frequencies: int | None = None
    init: str = one_of(INITS, "default")

    def build(self, channels: int, *, ndim: int = 2) -> ChannelAttention:
        """Return a new `ChannelAttention`."""
        return ChannelAttention(channels, ndim=ndim, **self.options())


class _Published(AttentionSpec):
    """A row of `COMPOSITIONS`. The fields are the arguments of `ChannelAttention` that the row leaves open."""

    def build(self, channels: int, *, ndim: int = 2) -> ChannelAttention:
        """Return a new `ChannelAttention`."""
        return ChannelAttention(channels, ndim=ndim, **COMPOSITIONS[self.kind], **self.options())


@dataclass(frozen=True)
class CECA(_Published):
    """Efficient channel attention whose first and last channel are neighbors (cECA).

    Source: timm's `CecaModule`; Wang et al. 2020 (arXiv 1910.03151) for ECA.
    Differs: below 8 channels timm's smallest kernel is 3, the paper's rule gives 1.

    Example:
        >>> from senet.nn import CECA
        >>> CECA().build(256).excitation.conv.padding_mode
        'circular'
    """

    kind: ClassVar[str] = "ceca"
    kernel_size: int | None = None
    init: str = one_of(INITS, "default")


@dataclass(frozen=True)
class SRM(_Published):
    """Style-based recalibration: each channel's mean and standard deviation, weighted, normed and gated.

    Training needs more than one image in a batch, because the norm has one value per image and channel.

    Source: Lee et al. 2019 (arXiv 1903.10829), eqs. 1-6. The weights start at 0, as in the authors' code.

    Example:
        >>> from senet.nn import SRM
        >>> sum(p.numel() for p in SRM().build(64).parameters())  # 2 weights, and 2 of the norm
        256
    """

    kind: ClassVar[str] = "srm"
    init: str = one_of(INITS, "default")


@dataclass(frozen=True)
class GCT(_Published):
    """Gated channel transformation: channels compete through a norm, `x * (1 + tanh(weight * s + bias))`.

    Source: Yang et al. 2020 (arXiv 1909.11519), eqs. 2-5. The published initialization already is the identity.

    Example:
        >>> import torch
        >>> from senet.nn import GCT
        >>> x = torch.rand(2, 16, 8, 8)
        >>> torch.equal(GCT().build(16)(x), x)
        True
    """

    kind: ClassVar[str] = "gct"
    init: str = one_of(INITS, "default")


@dataclass(frozen=True)
class FCA(_Published):
    """Frequency channel attention: SE whose squeeze is one frequency for each group of channels (FcaNet).

    Source: Qin et al. 2021 (arXiv 2012.11820). `Frequencies` names the differences.

    Example:
        >>> from senet.nn import FCA
        >>> FCA(reduction=4, frequencies=4).build(8).squeeze.of_channel[-1]
        (0, 2)
    """

    kind: ClassVar[str] = "fca"
    reduction: int = 16
    frequencies: int | None = None
    init: str = one_of(INITS, "default")


@dataclass(frozen=True)
class LC0(_Published):
    """The SE of Leela Chess Zero: 2C outputs, `x * sigmoid(z) + b`.

    Source: lczero.org, "Neural network topology".

    Example:
        >>> from senet.nn import LC0
        >>> LC0(reduction=4).build(64).excitation.fc2
        Linear(in_features=16, out_features=128, bias=True)
    """

    kind: ClassVar[str] = "lc0"
    reduction: int = 16
    init: str = one_of(INITS, "default")
