"""Determine which parameters serve a single operation, so that changing them changes nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from senet.graph.values import CONVOLUTIONS, NORMS
from senet.nn.modes import evaluation_mode

__all__ = ["ParameterUse"]


class ParameterUse:
    """The operations that read each parameter in one run, and the parameter's names.

    Parameters are identified by their memory. This includes weights shared by two layers, views of a weight, and
    weights that a function reads besides their layer.

    Args:
        model: Any network. It is left unchanged.
        inputs: The inputs of the run.
    """

    def __init__(self, model: nn.Module, inputs: Sequence[Any]) -> None:
        tensors = [t for m in model.modules() for t in (*m._parameters.values(), *m._buffers.values())]
        self._names = Counter(_memory(tensor) for tensor in tensors if _is_plain(tensor))
        self._reads = _reads(model, inputs, set(self._names))

    def is_alone(self, layer: nn.Module) -> bool:
        """Whether only the layer's own convolution or norm reads its weight and bias."""
        if parametrize.is_parametrized(layer):
            return False
        for name in ("weight", "bias"):
            parameter = layer._parameters.get(name)
            if parameter is not getattr(layer, name, None):
                return False  # computed in each pass, as by `weight_norm`, or not a parameter
            if parameter is not None and not (_is_writable(parameter) and self._serves(layer, parameter)):
                return False
        return True

    def _serves(self, layer: nn.Module, parameter: Tensor) -> bool:
        memory = _memory(parameter)
        if self._names[memory] != 1 or len(self._reads.get(memory, [])) != 1:
            return False
        [(operation, reader)] = self._reads[memory]
        return reader is layer and (operation in CONVOLUTIONS or any(norm in operation for norm in NORMS))


Read = tuple[str, nn.Module | None]


def _reads(model: nn.Module, inputs: Sequence[Any], memories: set[int]) -> dict[int, list[Read]]:
    """Map memory to the operations that read it, each with the module whose `forward` contains it."""
    recorder = _Recorder(memories)
    with ExitStack() as stack:
        for module in model.modules():
            before = module.register_forward_pre_hook(recorder.enter)
            after = module.register_forward_hook(recorder.leave)
            stack.callback(before.remove)
            stack.callback(after.remove)
        stack.enter_context(evaluation_mode(model))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        with recorder:
            model(*inputs)
    return recorder.reads


class _Recorder(TorchDispatchMode):
    def __init__(self, memories: set[int]) -> None:
        super().__init__()
        self.memories = memories
        self.reads: dict[int, list[Read]] = {}
        self.within: list[nn.Module] = []

    def enter(self, module: nn.Module, _: Any) -> None:
        self.within.append(module)

    def leave(self, module: nn.Module, _: Any, output: Any) -> None:
        del module, output
        self.within.pop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = str(func.overloadpacket.__name__).rstrip("_")
        for memory in (_memory(leaf) for leaf in tree_leaves((args, kwargs)) if _is_plain(leaf)):
            if memory in self.memories:
                self.reads.setdefault(memory, []).append((name, self.within[-1] if self.within else None))
        return func(*args, **(kwargs or {}))


def _is_plain(tensor: Any) -> bool:
    """Whether it is an ordinary strided tensor: not lazy, sharded or sparse."""
    return type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided


def _is_writable(tensor: Tensor) -> bool:
    """Whether each of its elements can be changed in place."""
    repeated = any(step == 0 and size > 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True))
    return _is_plain(tensor) and tensor.is_floating_point() and not tensor.is_inference() and not repeated


def _memory(tensor: Any) -> int:
    return tensor.untyped_storage()._cdata
