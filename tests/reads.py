"""Counts what a training reads from its device, in each of its steps."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data.dataloader import _BaseDataLoaderIter

OPERATORS = {"_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "is_nonzero", "equal", "masked_select"}
"""Operators whose result, or the shape of it, the host waits for."""

METHODS = {Tensor.tolist, Tensor.cpu, Tensor.numpy}
"""Methods that read tensors of a CPU without an operator."""


class Reads:
    """The lines that read tensors, by the number of the training step from 0."""

    def __init__(self) -> None:
        self.step = -1
        self.loading = 0
        self.found: dict[int, set[str]] = {}

    def note(self, name: str) -> None:
        if not self.loading:  # images are loaded on the host
            lines = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_stack()[:-3]]
            if any(line.startswith("adam.py") for line in lines):
                return  # it counts its steps on the host
            self.found.setdefault(self.step, set()).add(f"{name} in {' '.join(lines[-6:])}")

    def of_steps(self) -> dict[int, set[str]]:
        return {step: lines for step, lines in self.found.items() if step >= 0}

    @contextmanager
    def watching(self) -> Iterator[None]:
        with Operators(self), Methods(self):
            yield


class Operators(TorchDispatchMode):
    def __init__(self, reads: Reads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in OPERATORS:
            self.reads.note(func.overloadpacket.__name__)
        return func(*args, **kwargs or {})


class Methods(TorchFunctionMode):
    def __init__(self, reads: Reads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in METHODS:
            self.reads.note(func.__name__)
        return func(*args, **kwargs or {})


@contextmanager
def of_training(replace: Callable[[Any, str, Any], None] = setattr) -> Iterator[Reads]:
    """Count the reads of trainings within this context, whose progress and decisions never come by the clock.

    Args:
        replace: Sets an attribute. pytest's restores it.
    """
    from senet.training import progress, pulse
    from senet.training.module import TrainingModule

    reads = Reads()
    start, load = TrainingModule.on_train_batch_start, _BaseDataLoaderIter.__next__

    def next_step(self: TrainingModule, *given: Any) -> None:
        reads.step += 1
        start(self, *given)

    def loaded(self: Any) -> Any:
        reads.loading += 1
        try:
            return load(self)
        finally:
            reads.loading -= 1

    replace(TrainingModule, "on_train_batch_start", next_step)
    replace(_BaseDataLoaderIter, "__next__", loaded)
    replace(pulse, "PERIOD_S", 1e9)
    replace(progress, "REFRESH_S", 1e9)
    with reads.watching():
        yield reads
