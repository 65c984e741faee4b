"""Global context: positions are pooled by a learned attention, and the result rescales or shifts the channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, final

import torch
from torch import Tensor, nn

from senet.nn._dims import CONV, over_space
from senet.nn._table import look_up
from senet.nn.attention import Attention
from senet.nn.excite import bottleneck, hidden_width
from senet.nn.initialization import gate_function, zero

__all__ = ["FUSIONS", "GlobalContext"]


def _add(x: Tensor, _gate: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    return x + z


def _scale(x: Tensor, gate: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    return x * gate(z)


FUSIONS: Final[Mapping[str, Callable[[Tensor, Callable[[Tensor], Tensor], Tensor], Tensor]]] = {
    "add": _add,
    "scale": _scale,
}
"""How the context changes the feature map: `(x, gate, z)` -> output."""


@final
class GlobalContext(Attention):
    """Pool positions by a softmax, transform the result in a bottleneck, and add it to every position (GC).

    Args:
        channels: Channels C of the feature map.
        reduction: Reduction ratio of the bottleneck.
        fusion: "add" (`x + z`, the GC block), or "scale" (`x * sigmoid(z)`, the paper's ablation and timm's default).
        init: "default", or "identity": the output first equals the input. With "scale" the gate becomes 2 * sigmoid.
        ndim: Spatial dimensions, 1 to 3.

    Shape:
        (N, C, *spatial) -> the same. The gate is (N, C, 1, ...), with "add" all ones.

    Raises:
        SenetError: The reduction leaves no hidden unit, or the input has the wrong rank or channels.
        UnknownNameError: There is no such fusion or init.

    Source: Cao et al. 2019 (GCNet, arXiv 1904.11492), eq. 5 and Table 3 (fusion).
    Differs: `init="identity"` is not in the paper. The authors' code starts the last layer at zero only in the "add"
        fusion, which is this initialization.

    Example:
        >>> import torch
        >>> from senet.nn import GlobalContext
        >>> gc, x = GlobalContext(32), torch.rand(2, 32, 8, 6)
        >>> torch.equal(gc(x), x + gc.context(x)[:, :, None, None])
        True
    """

    def __init__(
        self, channels: int, reduction: int = 16, *, fusion: str = "add", init: str = "default", ndim: int = 2
    ) -> None:
        super().__init__(channels, ndim=ndim)
        hidden = hidden_width(channels, reduction)
        self.fuse = look_up("fusion", fusion, FUSIONS)
        self.rescales = fusion == "scale"
        self.activate = gate_function("sigmoid", init)
        self.attend = CONV[ndim](channels, 1, 1)
        self.fc1, self.fc2 = bottleneck(channels, hidden)
        self.norm = nn.LayerNorm(hidden)
        if init == "identity":
            zero(self.fc2)

    def context(self, x: Tensor) -> Tensor:
        """Return the transformed context z, (N, C)."""
        weights = self.attend(x).flatten(2).softmax(2).to(x.dtype)
        pooled = (x.flatten(2) @ weights.transpose(1, 2)).squeeze(2)
        return self.fc2(torch.relu(self.norm(self.fc1(pooled))))

    def gate(self, x: Tensor) -> Tensor:
        """Return the factors, (N, C, 1, ...). With the fusion "add" they are ones."""
        z = self.context(x)
        return over_space(self.activate(z) if self.rescales else torch.ones_like(z), x)

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature map with the context added, or rescaled by it, (N, C, *spatial)."""
        self.check_input(x)
        return self.fuse(x, self.activate, over_space(self.context(x), x))
