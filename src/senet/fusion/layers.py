"""The layers of an optimized network: convolutions that took in their norms, and units that know their gate early."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.fusion.epilogue import Convolved, rescaled, version
from senet.nn import SqueezeExcite

__all__ = ["FoldedBranch", "FoldedConv", "FoldedUnit"]


@final
class FoldedConv(nn.Module):
    """A convolution that took in the norm behind it, and perhaps the ReLU behind that: `relu(conv(x) + added)`.

    Args:
        conv: The convolution; its padding must be zeros.
        norm: The norm, with running statistics; None: there was none.
        relu: A ReLU follows.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None, *, relu: bool) -> None:
        super().__init__()
        weight = conv.weight.detach().double()
        bias = weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach().double()
        if norm is not None:
            scale, offset = _affine(norm)
            weight, bias = weight * scale[:, None, None, None], bias * scale + offset
        kept = torch.channels_last if conv.weight.is_contiguous(memory_format=torch.channels_last) else None
        self.weight = nn.Parameter(_as(weight, conv.weight, kept), requires_grad=False)
        self.bias = nn.Parameter(_as(bias, conv.weight), requires_grad=False)
        assert not isinstance(conv.padding, str)
        self.stride, self.padding, self.dilation, self.groups = conv.stride, conv.padding, conv.dilation, conv.groups
        self.relu = relu
        self._prepared: tuple[Any, Tensor] | None = None

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        if _onednn(x) and (added is None or _added_inside(added)):
            return self._with_post_operations(x, added)
        y = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        y = y if added is None else y + added
        return torch.relu(y) if self.relu else y

    def _with_post_operations(self, x: Tensor, added: Tensor | None) -> Tensor:
        """Addition and ReLU while the convolution's result is still in registers."""
        shape = (self._prepared_weight(x), self.bias, self.padding, self.stride, self.dilation, self.groups)
        if added is None:
            act = "relu" if self.relu else "none"
            return torch.ops.mkldnn._convolution_pointwise(x, *shape, act, [], "")
        act_or_none = "relu" if self.relu else None
        return torch.ops.mkldnn._convolution_pointwise.binary(x, added, *shape, "add", 1.0, act_or_none, [], "")

    def _prepared_weight(self, x: Tensor) -> Tensor:
        """The weight in oneDNN's own layout, which it would else be brought into at each call."""
        weight = self.weight
        key = (weight.data_ptr(), version(weight), weight.dtype, torch.get_num_threads())
        if self._prepared is None or self._prepared[0] != key:
            shape = (self.padding, self.stride, self.dilation, self.groups, x.shape)
            self._prepared = key, torch.ops.mkldnn._reorder_convolution_weight(weight.detach(), *shape)
        return self._prepared[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_prepared": None}  # it can't be copied, and is made anew

    def extra_repr(self) -> str:
        """What `print` shows."""
        cout, cin, *kernel = self.weight.shape
        return f"{cin * self.groups}, {cout}, kernel={tuple(kernel)}, stride={self.stride}, relu={self.relu}"


@final
class FoldedBranch(nn.Module):
    """A residual branch of folded convolutions.

    Args:
        body: All but the last convolution.
        last: That one.
    """

    def __init__(self, body: nn.Module, last: FoldedConv) -> None:
        super().__init__()
        self.body = body
        self.last = last

    def forward(self, x: Tensor, inner: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        x = self.body(x)
        return self.last(inner(x) if inner else x)


@final
class FoldedUnit(nn.Module):
    """A residual unit, `relu(shortcut(x) + se(branch(x)))`, in as few passes over the maps as it takes.

    Behind a 1x1 convolution, which is linear in each pixel, the squeeze commutes with it: mean(W h + b) =
    W mean(h) + b. So the gate comes from the convolution's input, with the first linear layer merged into W. Behind
    a larger one it comes from its output, as everywhere.

    Args:
        branch: The branch.
        shortcut: The identity or a projection.
        se: The block; None in a plain network.
    """

    def __init__(self, branch: FoldedBranch, shortcut: nn.Module, se: SqueezeExcite | None) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut
        self.se = se
        self.early: nn.Linear | None = None
        self._end: Convolved | None = None
        if se is None:
            branch.last.relu = True  # after the sum, which it takes in
        elif branch.last.weight.shape[2:] == (1, 1) and branch.last.stride == (1, 1) and branch.last.groups == 1:
            self.early = _merged(se.fc1, branch.last)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        shortcut = self.shortcut(x)
        h = self.branch.body(x)
        last = self.branch.last
        if self.se is None:
            return last(h, shortcut)
        if self.early is None:
            y = last(h)
            return rescaled(y, self.se.gate(y).flatten(1), shortcut)
        if self._end is None:
            self._end = Convolved(last, self.early, self.se)
        return self._end(h, shortcut)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_end": None}  # it holds addresses, and is made anew


def _onednn(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and not torch.is_grad_enabled()
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and type(x) is Tensor
        and (x.dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def _added_inside(added: Tensor) -> bool:
    # In another memory format the operator adds by itself, which it can't do in bfloat16.
    return added.is_contiguous(memory_format=torch.channels_last)


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and offset of a norm that evaluates, (C,) each, float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    offset = -norm.running_mean.double() * scale
    return scale, offset if norm.bias is None else offset + norm.bias.detach().double()


def _merged(fc: nn.Linear, conv: FoldedConv) -> nn.Linear:
    """The linear layer behind a 1x1 convolution, as one layer: fc(W x + b)."""
    both = nn.Linear(conv.weight.shape[1], fc.out_features, device=fc.weight.device, dtype=fc.weight.dtype)
    first, weight = fc.weight.detach().double(), conv.weight.double().flatten(1)
    bias = first @ conv.bias.double()
    if fc.bias is not None:
        bias = bias + fc.bias.detach().double()
    both.weight = nn.Parameter(_as(first @ weight, fc.weight), requires_grad=False)
    both.bias = nn.Parameter(_as(bias, fc.weight), requires_grad=False)
    return both


def _as(value: Tensor, like: Tensor, kept: torch.memory_format | None = None) -> Tensor:
    return value.to(like.dtype).contiguous(memory_format=kept or torch.contiguous_format)
