"""Output stride: the last stages keep the resolution and use dilated layers instead ("a trous")."""

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
    """A layer of a network family with its own stride or dilation."""

    stride: int

    def dilate(self, stride: int, dilation: int) -> None:
        """Set the stride, and multiply the distance between neighboring pixels by `dilation`."""


@final
class DensePool(nn.Module):
    """A pool with its stride removed. It adds the windows at all pixels in between.

    A pool that rounds up, or whose windows don't overlap, keeps the size: its last windows are cropped at the border.
    Any other pool reduces the size by as much as before.

    Args:
        pool: The pool that it replaces.
        dilation: Distance between the pixels of a window.

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
        """Return the pooled feature map: (N, C, H, W) -> (N, C, H', W')."""
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
        """Return the options that `print(layer)` shows."""
        kind = "average" if self.average else "maximum"
        return f"{kind}, kernel={self.kernel}, padding={self.padding}+{self.beyond}, dilation={self.dilation}"


def dilate(model: nn.Module, spec: ModelSpec) -> None:
    """Limit the stride of a network's feature maps to `spec.output_stride`, in place.

    One rule applies to all layers. Where the original network has stride s and the dilated one has stride t (t =
    output_stride), a layer's pixels lie s/t apart. A layer stride that would increase t is removed. So at every
    (s/t)-th pixel the feature map is unchanged, and the same checkpoint fits both. The first block that loses its
    stride has one of two forms:

    - stride on the 3x3 (v1.5): this 3x3 has the dilation of the stage before, as in torchvision.
    - stride on the first 1x1 (the authors'), or two 3x3 convolutions: the layers after the strided one are dilated.

    All later blocks of the stage have the stage's dilation. Attention blocks are unchanged and get a finer feature map.

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
    """Map the path of each layer that could change to the stride of its input in the undilated network."""
    side = 1024  # large enough to ignore the borders lost in unpadded convolutions
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
    # A dimension of one pixel has no dilation.
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
    """Return the number of a square layer, given as one number or two equal ones."""
    if isinstance(value, int):
        return value
    assert len(set(value)) == 1, value
    return value[0]
