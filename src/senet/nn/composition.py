"""Channel attention as a composition of a squeeze, an excitation, a gate and an optional shift."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, final

import torch
from torch import Tensor

from senet.errors import SenetError
from senet.nn._dims import over_space
from senet.nn._table import look_up
from senet.nn.attention import Attention
from senet.nn.excitations import EXCITATIONS
from senet.nn.frequencies import Frequencies
from senet.nn.initialization import gate_function
from senet.nn.squeeze import SQUEEZES, Squeeze, deviation, mean

__all__ = ["COMPOSITIONS", "SUMMARIES", "ChannelAttention"]


def mean_and_deviation(x: Tensor) -> Tensor:
    """Return mean and standard deviation, (N, C, *spatial) -> (N, C, 2) (Lee et al. 2019, SRM, eqs. 1-2)."""
    return torch.stack([mean(x), deviation(x)], 2)


SUMMARIES: Final = (*(name for name in SQUEEZES if name != "none"), "mean-std", "dct")
"""The squeezes of a composition. "mean-std" has two numbers for each channel."""

COMPOSITIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "se": {"squeeze": "mean", "excitation": "bottleneck", "gate": "sigmoid"},
    "eca": {"squeeze": "mean", "excitation": "conv", "gate": "sigmoid"},
    "ceca": {"squeeze": "mean", "excitation": "circular-conv", "gate": "sigmoid"},
    "ese": {"squeeze": "mean", "excitation": "linear", "gate": "hard-sigmoid"},
    "srm": {"squeeze": "mean-std", "excitation": "affine-norm", "gate": "sigmoid"},
    "gct": {"squeeze": "rms", "excitation": "norm-affine", "gate": "1+tanh"},
    "fca": {"squeeze": "dct", "excitation": "bottleneck", "gate": "sigmoid", "bias": False},
    "lc0": {"squeeze": "mean", "excitation": "bottleneck", "gate": "sigmoid", "shift": True},
}
"""Published layers as options of `ChannelAttention`."""


@final
class ChannelAttention(Attention):
    """Rescale each channel: `x * gate(excite(squeeze(x)))`, or with a shift `x * gate(z) + b`.

    `COMPOSITIONS` has the published layers: SE, ECA, cECA, eSE, SRM, GCT, FcaNet and the SE of Leela Chess Zero.
    The rows "se", "eca" and "ese" equal `SqueezeExcite`, `EfficientChannelAttention` and `EffectiveSqueezeExcite`, with
    the same parameters. These three keep their own classes for the fused operators and for trained weights.

    Args:
        channels: Channels C of the feature map.
        squeeze: A name in `SUMMARIES`: "mean", "max", "mean+max", "std", "rms" (root of the second moment),
            "mean-std", or "dct".
        excitation: A name in `EXCITATIONS`: "bottleneck", "grouped", "linear", "conv", "circular-conv", "affine",
            "affine-norm", "norm-affine" or "none".
        gate: A name in `GATES`.
        shift: Whether the excitation also computes a shift b for each channel, which is added.
        reduction: Reduction ratio of "bottleneck" and "grouped", 16 if None.
        groups: Groups of channels of "grouped", 4 if None.
        kernel_size: Kernel size of the convolutions along the channels. The default grows with C.
        bias: Whether the layers of "bottleneck", "grouped" and "linear" have biases, yes if None.
        frequencies: Number of frequencies of "dct", 16 (at most C) if None.
        init: "default", or "identity": the output first equals the input, with the centred form of the gate.
        ndim: Spatial dimensions, 1 to 3. Parameters don't depend on it.

    Shape:
        (N, C, *spatial) -> the same. The gate and the shift are (N, C, 1, ...).

    Raises:
        SenetError: The squeeze or excitation has no such option, a number is out of range, "none" comes with
            `init="identity"`, or the input has the wrong rank or channels.
        UnknownNameError: There is no such squeeze, excitation, gate or init.

    Source: Hu et al. 2018 (arXiv 1709.01507), eqs. 2-4; Wang et al. 2020 (ECA, arXiv 1910.03151); Lee and Park 2020
        (eSE, arXiv 1911.06667); Lee et al. 2019 (SRM, arXiv 1903.10829); Yang et al. 2020 (GCT, arXiv 1909.11519);
        Qin et al. 2021 (FcaNet, arXiv 2012.11820); Leela Chess Zero (lczero.org, the network's topology).
    Differs: SRM's authors compute the unbiased variance and add 1e-5 to it; the paper's eq. 2 has neither. A 1x1
        feature map has no unbiased variance. GCT's norms are root mean squares, whose factors cancel, with a smaller
        epsilon than the authors'. `Frequencies` names the differences of FcaNet. `init="identity"` is in no paper.

    Example:
        >>> import torch
        >>> from senet.nn import ChannelAttention
        >>> lc0 = ChannelAttention(64, shift=True)
        >>> x = torch.rand(2, 64, 8, 8)
        >>> torch.equal(lc0(x), x * lc0.gate(x) + lc0.shift(x))
        True
        >>> ChannelAttention(64, excitation="affine", reduction=8)
        Traceback (most recent call last):
        ...
        senet.errors.SenetError: excitation='affine' has no reduction; leave it out
    """

    def __init__(
        self,
        channels: int,
        *,
        squeeze: str = "mean",
        excitation: str = "bottleneck",
        gate: str = "sigmoid",
        shift: bool = False,
        reduction: int | None = None,
        groups: int | None = None,
        kernel_size: int | None = None,
        bias: bool | None = None,
        frequencies: int | None = None,
        init: str = "default",
        ndim: int = 2,
    ) -> None:
        super().__init__(channels, ndim=ndim)
        self.rescales = not shift
        self.activate = gate_function(gate, init)
        self.squeeze = _squeeze(squeeze, channels, frequencies, ndim)
        options = {"reduction": reduction, "groups": groups, "kernel_size": kernel_size, "bias": bias}
        build = _with_options(excitation, options)
        self.excitation = build(channels, 2 if squeeze == "mean-std" else 1, 2 if shift else 1)
        if init == "identity":
            self.excitation.start_at_zero()

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits of the gate and, with a shift, the shift: (N, 1 or 2, C)."""
        s = self.squeeze(x)
        return self.excitation(s if s.ndim == 3 else s[:, :, None])

    def gate(self, x: Tensor) -> Tensor:
        """Return the factors, (N, C, 1, ...)."""
        return over_space(self.activate(self.logits(x)[:, 0]), x)

    def shift(self, x: Tensor) -> Tensor:
        """Return what is added, (N, C, 1, ...). Zero without a shift."""
        z = self.logits(x)
        return over_space(torch.zeros_like(z[:, 0]) if self.rescales else z[:, 1], x)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x * gate(x) + shift(x)`, (N, C, *spatial)."""
        self.check_input(x)
        z = self.logits(x)
        scaled = x * over_space(self.activate(z[:, 0]), x)
        return scaled if self.rescales else scaled + over_space(z[:, 1], x)


def _squeeze(name: str, channels: int, frequencies: int | None, ndim: int) -> Squeeze:
    known = {**{n: SQUEEZES[n] for n in SUMMARIES if n in SQUEEZES}, "mean-std": mean_and_deviation, "dct": None}
    function = look_up("squeeze", name, known)
    if function is None:
        return Frequencies(channels, min(16, channels) if frequencies is None else frequencies, ndim)
    if frequencies is not None:
        raise SenetError(f"squeeze={name!r} has no frequencies; leave them out")
    return function


def _with_options(excitation: str, options: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the excitation with the options that were given. One that it doesn't have raises an error."""
    build = look_up("excitation", excitation, EXCITATIONS)
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name not in inspect.signature(build).parameters:
            raise SenetError(f"excitation={excitation!r} has no {name}; leave it out")
    return partial(build, **given)
