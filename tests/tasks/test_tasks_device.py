"""Training steps on a GPU that isn't there: tensors without values, which nobody can read and any transfer shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from senet.data import Batch, DenseBatch
from senet.data.augmentation import Augmentation
from senet.preprocessing import Preprocessing
from senet.tasks import task_named
from senet.tasks.means import Mean
from senet.training.recipe import Recipe

GPU = torch.device("cuda", 0)


class Transfers(TorchDispatchMode):
    """Notes each operation that moves a tensor between the host and the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        y = func(*args, **kwargs or {})
        if func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            other = args[1] if func.overloadpacket is torch.ops.aten.copy_ else args[0]
            if y.device.type != other.device.type:
                self.found.append(str(func))
        return y


@contextmanager
def no_transfers() -> Iterator[None]:
    with Transfers() as transfers:
        yield
    assert not transfers.found


@pytest.fixture
def device() -> Iterator[FakeTensorMode]:
    """Whose tensors are on a GPU."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    yield FakeTensorMode(allow_non_fake_inputs=True)
    torch.__future__.set_overwrite_module_params_on_conversion(False)


def classified() -> tuple[Any, nn.Module, Batch]:
    recipe = Recipe(label_smoothing=0.1)
    objective = task_named("classification").objective("abcdefgh", recipe, preprocessing=Preprocessing(size=(8, 8)))
    images = torch.randint(255, (4, 3, 8, 8), dtype=torch.uint8)
    batch = Batch(images, torch.arange(4), torch.arange(4), torch.ones(4, dtype=torch.bool), [], (0, 0))
    return objective, nn.Sequential(nn.Conv2d(3, 8, 8), nn.Flatten()), batch


def segmented() -> tuple[Any, nn.Module, DenseBatch]:
    recipe = Recipe(augmentation=Augmentation(crop="none"))
    objective = task_named("segmentation").objective("abc", recipe, preprocessing=Preprocessing(size=(8, 8)))
    images, masks = list(torch.rand(2, 3, 8, 8)), torch.zeros(2, 8, 8, dtype=torch.uint8)
    targets, valid = [{"mask": mask} for mask in masks], torch.ones(2, dtype=torch.bool)
    batch = DenseBatch(images, targets, torch.arange(2), valid, [], (0, 0))
    return objective, nn.Conv2d(3, 3, 1), batch


def moved(part: Any, mode: FakeTensorMode) -> Any:
    if isinstance(part, nn.Module):
        return part._apply(lambda t: moved(t, mode))
    if isinstance(part, Tensor):
        fake = mode.from_tensor(part, static_shapes=True)
        with mode:
            return nn.Parameter(fake.to(GPU)) if isinstance(part, nn.Parameter) else fake.to(GPU)
    return tree_map_only(Tensor, lambda t: moved(t, mode), part)


@pytest.mark.parametrize(
    "made",
    [classified, segmented],
)
def test_a_training_step_never_waits_for_the_device(made: Any, device: FakeTensorMode) -> None:
    objective, model, batch = (moved(part, device) for part in made())
    with device, no_transfers():
        loss = objective.training_step(model, batch)["loss"]
    assert loss.device == GPU


def test_a_validation_step_of_a_classifier_never_waits_for_the_device(device: FakeTensorMode) -> None:
    objective, model, batch = (moved(part, device) for part in classified())
    with device, no_transfers(), torch.no_grad():
        objective.validation_step(model, batch)
    assert objective.val_loss.total.device == GPU


def test_means() -> None:
    mean = Mean()
    mean.update(torch.tensor([1.0, 2.0]), weight=3)
    mean.update(torch.tensor([4.0, torch.nan]), weight=torch.tensor([True, False]))
    mean.update(torch.tensor([True, False, True]))
    assert mean.compute() == (9 + 4 + 2) / (6 + 1 + 3)
    mean.update(torch.tensor(torch.nan))
    assert mean.compute().isnan()
    mean.reset()
    mean.update(torch.tensor(7.0))
    assert mean.compute() == 7
