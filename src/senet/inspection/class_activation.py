"""Class activation maps: where in an image a network sees the class that it predicts."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from senet.nn.modes import evaluation_mode

__all__ = ["class_activation"]


def class_activation(model: nn.Module, images: Tensor) -> tuple[Any, Tensor | None]:
    """Return the outputs, and the activation of the predicted class in the last feature map before the classifier.

    Hooks are removed and modes restored, also after an error.

    Args:
        model: Any network.
        images: (N, C, H, W), on the network's device.

    Returns:
        The outputs, and the maps (N, h, w), 0 where nothing speaks for the class. The maps are None if the outputs are
        not (N, classes), or no feature map leads to them.

    Source: Selvaraju et al. 2017 (Grad-CAM). For a network that ends in an average pool and one linear layer it equals
    Zhou et al. 2016 (CAM).

    Example:
        >>> import torch, senet
        >>> from senet.inspection.class_activation import class_activation
        >>> logits, maps = class_activation(senet.create_model("se_cifar_resnet20"), torch.rand(2, 3, 32, 32))
        >>> logits.shape, maps.shape
        (torch.Size([2, 10]), torch.Size([2, 8, 8]))
    """
    last: list[Tensor] = []

    def keep(_: nn.Module, args: Any, output: Any) -> None:
        del args
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            last[:] = [output]

    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(module.register_forward_hook(keep).remove)
        stack.enter_context(evaluation_mode(model))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        outputs = model(images.clone().requires_grad_())
        if not last or not isinstance(outputs, Tensor) or outputs.ndim != 2 or not last[0].requires_grad:
            return outputs, None
        [slopes] = torch.autograd.grad(outputs.max(1).values.sum(), last, allow_unused=True)
    if slopes is None:
        return outputs.detach(), None
    return outputs.detach().float(), (slopes.mean((2, 3), keepdim=True) * last[0]).sum(1).relu().detach()
