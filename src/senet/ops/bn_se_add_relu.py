"""`senet::bn_se_add_relu`: the residual epilogue (batch norm, attention, sum, ReLU) as one operator.

Batch norm reads the whole feature map for its statistics. The sums of each image in this pass also give the squeeze,
since mean(norm(x)) = norm(mean(x)). A second pass writes `relu(s * norm(x) + shortcut)`. In the backward pass, one
pass computes the gradient before the ReLU and two sums, which determine all small gradients. A second one computes the
gradient of x. The backward pass needs x, the result, and vectors of shape (N, C), but neither norm(x) nor the rescaled
feature map.

Source: Hu et al. 2018, eqs. 2-4 and Fig. 3; the authors fuse scale and addition in inference ("Axpy").
"""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from senet.ops.arguments import Signature, eager, is_observed, loop_over_batch, memory_format, needs_gradient
from senet.ops.backend import backend_for
from senet.ops.batch_norm import affine, contiguous, moments, norm_gradients, normalize, unbiased
from senet.ops.gate_functions import GATE_FUNCTIONS, GATE_SLOPES

__all__ = ["SIGNATURE", "bn_se_add_relu", "definition", "derivative"]

SIGNATURE: Final = Signature(
    "bn_se_add_relu",
    (
        ("x", "NCHW"),
        ("shortcut", "NCHW"),
        ("gamma", "C"),
        ("beta", "C"),
        ("mean", "C"),
        ("var", "C"),
        ("w1", "KC"),
        ("b1", "K"),
        ("w2", "CK"),
        ("b2", "C"),
    ),
    optional=frozenset(("shortcut", "gamma", "beta", "mean", "var", "w1", "b1", "w2", "b2")),
    gpu=True,
)
_TENSORS: Final = len(SIGNATURE.tensors)


def bn_se_add_relu(
    x: Tensor,
    shortcut: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    w1: Tensor | None,
    b1: Tensor | None,
    w2: Tensor | None,
    b2: Tensor | None,
    training: bool,
    eps: float,
    gate: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return `relu(s * batch_norm(x) + shortcut)`, with the gate s of Squeeze-and-Excitation if `w1` is given.

    Args:
        x: (N, C, H, W), float32, bfloat16 or float16; all parameters are float32.
        shortcut: (N, C, H, W). None is zero.
        gamma: (C,), the norm's weight. None is one.
        beta: (C,), the norm's bias. None is zero.
        mean: (C,), not used in training.
        var: (C,), not used in training.
        w1: (K, C), weight of the first linear layer. None means no gate.
        b1: (K,). None is zero.
        w2: (C, K), weight of the second linear layer.
        b2: (C,). None is zero.
        training: Whether the norm uses the statistics of the batch.
        eps: Epsilon of the norm.
        gate: Number of the gate's function in `GATE_FUNCTIONS`.

    Returns:
        The result in the memory format of x; mean and unbiased variance of the batch, (2, C), in training; and the
        values for the backward pass.

    Raises:
        ValueError: Sizes, types or devices don't match.

    Example:
        >>> import torch
        >>> from senet.ops import bn_se_add_relu
        >>> x, shortcut, mean, var = torch.randn(2, 8, 4, 4), torch.randn(2, 8, 4, 4), torch.zeros(8), torch.ones(8)
        >>> no_gate = (None, None, None, None)
        >>> y, _, _ = bn_se_add_relu(x, shortcut, None, None, mean, var, *no_gate, training=False, eps=0.0, gate=0)
        >>> torch.allclose(y, torch.relu(x + shortcut))
        True
    """
    tensors = (x, shortcut, gamma, beta, mean, var, w1, b1, w2, b2)
    arguments = (*tensors, training, eps, gate)
    if is_observed():
        return torch.ops.senet.bn_se_add_relu(*arguments)
    if needs_gradient(tensors):
        return _Derived.apply(*arguments)
    return _compute(*arguments)


# --- the operator -------------------------------------------------------------------------------------------------


@torch.library.custom_op("senet::bn_se_add_relu_backward", mutates_args=())
def _backward_operator(
    dy: Tensor,
    x: Tensor,
    y: Tensor | None,
    saved: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    w1: Tensor | None,
    b1: Tensor | None,
    w2: Tensor | None,
    b2: Tensor | None,
    training: bool,
    eps: float,
    gate: int,
) -> list[Tensor]:
    found = _compute_backward(dy, x, y, saved, gamma, beta, mean, var, w1, b1, w2, b2, training, eps, gate)
    return [x.new_empty(0) if t is None else t for t in found]


@_backward_operator.register_fake
def _(_dy: Tensor, x: Tensor, y: Tensor | None, _saved: Tensor, *others: Any) -> list[Tensor]:
    gamma, beta, _mean, _var, *layers = others[:8]
    found = _gradients(x, y, gamma, beta, *layers)
    return [x.new_empty(0) if t is None else t for t in found]


def _outputs(x: Tensor, w1: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    n, c = x.shape[:2]
    saved = 3 * c + (0 if w1 is None else 2 * n * c + n * w1.shape[0])
    y = torch.empty_like(x, memory_format=memory_format(x))
    return y, x.new_empty((2, c), dtype=torch.float32), x.new_empty((saved,), dtype=torch.float32)


def _gradients(x: Tensor, y: Tensor | None, *parameters: Tensor | None) -> list[Tensor | None]:
    """Allocate the gradients of x, shortcut and the parameters."""
    layout = memory_format(x)
    feature_maps = [None if t is None else torch.empty_like(t, memory_format=layout) for t in (x, y)]
    return [*feature_maps, *(None if p is None else p.new_empty(p.shape) for p in parameters)]


# --- by a back end ------------------------------------------------------------------------------------------------


def _check(
    x: Tensor, shortcut: Tensor | None, parameters: tuple[Tensor | None, ...], training: bool, gate: int
) -> None:
    _, _, mean, var, w1, b1, w2, b2 = parameters
    SIGNATURE.check((x, shortcut, *parameters))
    if not training and (mean is None or var is None):
        raise ValueError("bn_se_add_relu: mean and var are required in evaluation mode")
    SIGNATURE.check_gate(w1, b1, w2, b2, gate)
    if training and x.numel() == x.shape[1]:
        raise ValueError(f"bn_se_add_relu: expected more than 1 value per channel when training, got {tuple(x.shape)}")


def _compute(x: Tensor, shortcut: Tensor | None, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    parameters, (training, eps, gate) = others[:8], others[8:]
    _check(x, shortcut, parameters, training, gate)
    layout = memory_format(x)
    backend = backend_for(x)
    if backend is None or not x.numel():
        y, statistics, saved = _plain(x, shortcut, *others)
        return y.contiguous(memory_format=layout), statistics, saved
    x = x.contiguous(memory_format=layout)
    shortcut = None if shortcut is None else shortcut.contiguous(memory_format=layout)
    parameters = contiguous(parameters)
    outputs = _outputs(x, parameters[4])
    backend.step.forward(x, shortcut, parameters, (training, eps, gate), outputs)
    return outputs


def _compute_backward(
    dy: Tensor, x: Tensor, y: Tensor | None, saved: Tensor, *others: Any
) -> tuple[Tensor | None, ...] | list[Tensor | None]:
    """Return the gradients of x, shortcut, gamma, beta, w1, b1, w2, b2. None for missing ones."""
    parameters, (training, eps, gate) = others[:8], others[8:]
    _check(x, y, parameters, training, gate)
    if dy.shape != x.shape or saved.shape != _outputs(x, parameters[4])[2].shape or saved.dtype is not torch.float32:
        raise ValueError("bn_se_add_relu_backward: dy or saved doesn't match the forward pass")
    backend = backend_for(x)
    if backend is None or not x.numel():
        return derivative(dy, x, y, *others)
    layout = memory_format(x)
    dy, x = (t.to(x.dtype).contiguous(memory_format=layout) for t in (dy, x))
    y = None if y is None else y.contiguous(memory_format=layout)
    saved, parameters = saved.contiguous(), contiguous(parameters)
    gamma, beta, _mean, _var, *layers = parameters
    gradients = _gradients(x, y, gamma, beta, *layers)
    backend.step.backward((dy, x, y, saved), (gamma, beta, None, None, *layers), (training, eps, gate), gradients)
    return gradients


_operator = torch.library.custom_op(
    "senet::bn_se_add_relu",
    _compute,
    mutates_args=(),
    schema=torch.library.infer_schema(bn_se_add_relu, mutates_args=()),
)


@_operator.register_fake
def _(x: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(x, others[5])


# --- the derivative -----------------------------------------------------------------------------------------------


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, shortcut, *parameters, ctx.training, ctx.eps, ctx.gate = inputs
    y, statistics, saved = output
    ctx.mark_non_differentiable(statistics, saved)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, None if shortcut is None else y, saved, *parameters)


def _backward(ctx: Any, dy: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if dy is None:
        return (None,) * (_TENSORS + 3)
    x, y, saved, *parameters = ctx.saved_tensors
    options = (*parameters, ctx.training, ctx.eps, ctx.gate)
    found: Any
    if torch.compiler.is_compiling():
        packed = torch.ops.senet.bn_se_add_relu_backward(dy, x, y, saved, *options)
        tensors = (x, y, *parameters[:2], *parameters[4:])
        found = [None if t is None else g for g, t in zip(packed, tensors, strict=True)]
    elif torch.is_grad_enabled() or not eager(dy) or type(dy) is not Tensor:
        found = derivative(dy, x, y, *options)  # for second derivatives or batched gradients
    else:
        found = _compute_backward(dy, x, y, saved, *options)
    return (*found[:4], None, None, *found[4:], None, None, None)


_operator.register_autograd(_backward, setup_context=_keep)


class _Derived(torch.autograd.Function):
    """The operator with its derivative, without the dispatcher. It takes 10 us per call, a custom operator 60 us."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Any:
        output = _compute(*arguments)
        _keep(ctx, arguments, output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return _backward(ctx, *gradients)


# --- the definition -----------------------------------------------------------------------------------------------


def definition(x: Tensor, shortcut: Tensor | None, *others: Any) -> Tensor:
    """Compute the operator in plain PyTorch: any device, any type, differentiable twice.

    Args:
        x: (N, C, H, W).
        shortcut: (N, C, H, W). None is zero.
        others: The other arguments of `bn_se_add_relu`.

    Returns:
        (N, C, H, W), of the type of x. Half precision is computed in float32, as in the kernel.
    """
    return _plain(x, shortcut, *others)[0]


def _plain(x: Tensor, shortcut: Tensor | None, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    gamma, beta, mean, var, w1, b1, w2, b2, training, eps, gate = others
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    mean, var, inverse = moments(wide, mean, var, training, eps)
    v = affine(normalize(wide, mean, inverse), gamma, beta)
    saved = [mean, torch.zeros_like(mean), inverse]
    if w1 is not None:
        hidden = torch.relu(F.linear(v.mean((2, 3)), w1, b1))
        s = GATE_FUNCTIONS[gate](F.linear(hidden, w2, b2))
        v = v * s[:, :, None, None]
        saved += [(wide.mean((2, 3)) - mean).flatten(), s.flatten(), hidden.flatten()]
    y = torch.relu(v if shortcut is None else v + shortcut).to(x.dtype)
    return y, torch.stack([mean, unbiased(x, var)]).detach(), torch.cat(saved).detach()


def derivative(dy: Tensor, x: Tensor, y: Tensor | None, *others: Any) -> tuple[Tensor | None, ...]:
    """Compute the gradients in plain PyTorch. They are differentiable, and don't need the shortcut's values.

    The result is `mask * (scaled + shortcut)`, with a constant mask of zeros and ones.

    Args:
        dy: Gradient of the result, (N, C, H, W).
        x: As in `bn_se_add_relu`.
        y: The result, if there was a shortcut.
        others: The parameters and options of `bn_se_add_relu`.

    Returns:
        The gradients of x, shortcut, gamma, beta, w1, b1, w2, b2. None for missing ones.
    """
    gamma, beta, mean, var, w1, b1, w2, b2, training, eps, gate = others
    kind = torch.promote_types(x.dtype, torch.float32)
    wide = x.to(kind)
    mean, _, inverse = moments(wide, mean, var, training, eps)
    normalized = normalize(wide, mean, inverse)
    v = affine(normalized, gamma, beta)
    dw1 = db1 = dw2 = db2 = None
    if w1 is not None:
        z = v.mean((2, 3))
        hidden = torch.relu(F.linear(z, w1, b1))
        u = F.linear(hidden, w2, b2)
        s = GATE_FUNCTIONS[gate](u)
    sign = y if y is not None else v if w1 is None else v * s[:, :, None, None]
    dv = masked = torch.where(sign <= 0, 0.0, dy.to(kind))
    if w1 is not None:
        du = (masked * v).sum((2, 3)) * GATE_SLOPES[gate](u)
        dhidden = torch.where(hidden > 0, du @ w2, 0.0)
        dw2, db2 = du.transpose(0, 1) @ hidden, None if b2 is None else du.sum(0)
        dw1, db1 = dhidden.transpose(0, 1) @ z, None if b1 is None else dhidden.sum(0)
        of_mean = (dhidden @ w1) / (x.shape[2] * x.shape[3])
        dv = masked * s[:, :, None, None] + of_mean[:, :, None, None]
    dx, dgamma, dbeta = norm_gradients(dv, normalized, inverse, gamma, training)
    return (
        dx.to(x.dtype),
        None if y is None else masked.to(x.dtype),
        None if gamma is None else dgamma,
        None if beta is None else dbeta,
        dw1,
        db1,
        dw2,
        db2,
    )


# --- batching rule ------------------------------------------------------------------------------------------------


@torch.library.register_vmap("senet::bn_se_add_relu")
def _(info: Any, dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
    found = loop_over_batch(torch.ops.senet.bn_se_add_relu, info, dims, arguments)
    return tuple(map(torch.stack, zip(*found, strict=True))), (0, 0, 0)


@torch.library.register_vmap("senet::bn_se_add_relu_backward")
def _(info: Any, dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
    found = loop_over_batch(torch.ops.senet.bn_se_add_relu_backward, info, dims, arguments)
    stacked = list(map(torch.stack, zip(*found, strict=True)))
    return stacked, [0] * len(stacked)
