"""Output stride: the last stages keep the resolution and look at pixels further apart instead ("a trous")."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol, final, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.nn import Attention

if TYPE_CHECKING:
    from senet.models.spec import ModelSpec

__all__ = ["Dilatable", "dilate"]


@runtime_checkable
class Dilatable(Protocol):
    """A layer of a family's own that takes steps over the map or looks at a pixel's neighbours."""

    stride: int

    def dilate(self, stride: int, dilation: int) -> None:
        """Take steps of `stride` from now on, and neighbours `dilation` times as far away."""


@final
class DensePool(nn.Module):
    """A pool whose stride was taken away: the same windows, and those at all pixels between them.

    A pool that rounds up, or whose windows don't overlap, keeps the size (its last windows are cut at the border,
    as a pool that rounds up cuts them); any other one loses what it lost before.

    Args:
        pool: The pool in its place so far.
        dilation: Distance of a window's pixels.

    Shape:
        (N, C, H, W) -> (N, C, H', W').
    """

    def __init__(self, pool: nn.MaxPool2d | nn.AvgPool2d, dilation: int) -> None:
        super().__init__()
        self.kernel, step, padding = _one(pool.kernel_size), _one(pool.stride), _one(pool.padding)
        self.dilation = dilation
        self.padding = padding * dilation
        reach = (self.kernel - 1) * dilation
        whole = pool.ceil_mode or self.kernel == step
        self.beyond = max(0, reach - 2 * self.padding) if whole else 0
        self.average = isinstance(pool, nn.AvgPool2d)
        self.count_padding = isinstance(pool, nn.AvgPool2d) and pool.count_include_pad

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H', W')."""
        if not self.average:
            return F.max_pool2d(self._pad(x, float("-inf")), self.kernel, 1, 0, self.dilation)
        inside = x.new_ones(1, 1, *x.shape[2:])
        if self.count_padding:
            inside = F.pad(inside, [self.padding] * 4, value=1.0)
            return self._sum(self._pad(x, 0.0)) / self._sum(F.pad(inside, [0, self.beyond] * 2))
        return self._sum(self._pad(x, 0.0)) / self._sum(self._pad(inside, 0.0))

    def _pad(self, x: Tensor, value: float) -> Tensor:
        return F.pad(x, [self.padding, self.padding + self.beyond] * 2, value=value)

    def _sum(self, x: Tensor) -> Tensor:
        reach = (self.kernel - 1) * self.dilation
        height, width = x.shape[2] - reach, x.shape[3] - reach
        steps = range(0, reach + 1, self.dilation)
        windows = [x[:, :, down : down + height, right : right + width] for down in steps for right in steps]
        return torch.stack(windows).sum(0) if len(windows) > 1 else windows[0]

    def extra_repr(self) -> str:
        """What `print` shows."""
        kind = "average" if self.average else "maximum"
        return f"{kind}, kernel={self.kernel}, padding={self.padding}+{self.beyond}, dilation={self.dilation}"


def dilate(model: nn.Module, spec: ModelSpec) -> None:
    """Change a network that `spec` describes so that no map is coarser than `spec.output_stride`.

    One rule for all layers: where the network would see every s-th pixel and now sees every t-th (t = output_stride),
    a layer's pixels lie s/t apart, and a stride that would make t more is taken away. So at every (s/t)-th pixel the
    map is what it was before, and a checkpoint serves both. In particular, the first block that loses its stride has:

    - stride on the 3x3 (v1.5): that 3x3 is dilated as the stage before, as in torchvision;
    - stride on the first 1x1 (the authors'), or two 3x3 convolutions: what follows the strided one is dilated already.

    All later blocks of the stage have the stage's dilation. Attention blocks stay as they are: they see the finer map.

    Source: Chen et al. 2017 (arXiv 1706.05587), section 3.1.
    """
    assert spec.output_stride is not None
    for path, before in _strides_before(spec).items():
        layer: Any = model.get_submodule(path)
        now = min(before, spec.output_stride)
        own = _one(layer.stride)
        stride, dilation = min(before * own, spec.output_stride) // now, before // now
        if (stride, dilation) == (own, 1):
            continue
        if isinstance(layer, Dilatable):
            layer.dilate(stride, dilation)
            continue
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, _LAYERS[type(layer)](layer, stride, dilation))


def _strides_before(spec: ModelSpec) -> dict[str, int]:
    """Path of each layer that could change, to the stride of the map that it gets in the undilated network."""
    side = 1024  # large enough that what unpadded convolutions cut off doesn't matter
    found: dict[str, int] = {}

    def watch(path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            found[path] = 1 << round(math.log2(side / args[0].shape[2]))

        return hook

    with torch.device("meta"), torch.no_grad():
        probe = replace(spec, output_stride=None).build().eval()
        attention = tuple(f"{path}." for path, module in probe.named_modules() if isinstance(module, Attention))
        for path, module in probe.named_modules():
            if (type(module) in _LAYERS or isinstance(module, Dilatable)) and not path.startswith(attention):
                module.register_forward_pre_hook(watch(path))
        probe.forward_features(torch.empty(1, spec.in_channels, side, side))
    return found


def _convolution(layer: nn.Conv2d, stride: int, dilation: int) -> nn.Conv2d:
    assert not isinstance(layer.padding, str)
    (high, wide), (down, right) = layer.kernel_size, layer.padding
    layer.stride = (stride, stride)
    layer.padding = (down * dilation, right * dilation)
    # One pixel wide, it has no distance to take.
    layer.dilation = (
        layer.dilation[0] * (dilation if high > 1 else 1),
        layer.dilation[1] * (dilation if wide > 1 else 1),
    )
    return layer


def _pool(layer: nn.MaxPool2d | nn.AvgPool2d, stride: int, dilation: int) -> DensePool:
    assert stride == 1
    return DensePool(layer, dilation)


_LAYERS: Final[dict[type[nn.Module], Callable[[Any, int, int], nn.Module]]] = {
    nn.Conv2d: _convolution,
    nn.MaxPool2d: _pool,
    nn.AvgPool2d: _pool,
}


def _one(value: Any) -> int:
    """The number of a square layer, which may be given once or twice."""
    if isinstance(value, int):
        return value
    assert len(set(value)) == 1, value
    return value[0]
