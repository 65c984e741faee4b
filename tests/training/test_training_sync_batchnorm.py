"""Two processes with half of each batch are one with the whole, in float64, where nothing but rounding is left."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from processes import both
from torch import Tensor, nn

import senet
from senet.training.sync_batchnorm import SyncBatchNormPlugin

STEPS, BATCH, LR = 12, 12, 0.1


def batches() -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(STEPS, BATCH, 3, 16, 16, generator=draw, dtype=torch.float64)
    return list(zip(images, torch.randint(10, (STEPS, BATCH), generator=draw), strict=True))


def built() -> nn.Module:
    torch.manual_seed(1)
    model = senet.create_model("se_cifar_resnet20", num_classes=10, depth=1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # nothing starts with a gamma of zero, which would hide its branch
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.double()


def trained(model: nn.Module, rank: int, world: int) -> dict[str, Any]:
    """Losses of this process's share, and where the weights and statistics end."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    losses = []
    for images, labels in batches():
        loss = F.cross_entropy(model(images[rank::world]), labels[rank::world])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    state = {key.removeprefix("module."): value.clone() for key, value in model.state_dict().items()}
    return {"losses": losses, "state": state}


def process(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    found = {}
    for norms in ("shared", "own"):
        model = built()
        if norms == "shared":
            SyncBatchNormPlugin().apply(model)
        found[norms] = trained(nn.parallel.DistributedDataParallel(model), rank, 2)
    torch.save(found, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found, with shared norms and with its own."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    both(process, port, str(folder))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module")
def of_one() -> dict[str, Any]:
    return trained(built(), 0, 1)


def common(of_two: list[dict[str, Any]], norms: str) -> list[float]:
    return [sum(pair) / 2 for pair in zip(*(found[norms]["losses"] for found in of_two), strict=True)]


def test_two_processes_are_one(of_one: dict[str, Any], of_two: list[dict[str, Any]]) -> None:
    losses = common(of_two, "shared")
    assert max(losses) - min(losses) > 0.1, "it learns"
    assert losses == pytest.approx(of_one["losses"], abs=1e-9)
    for found in of_two:
        for key, value in of_one["state"].items():
            assert torch.allclose(found["shared"]["state"][key], value, rtol=0, atol=1e-9), key


def test_norms_of_each_process_for_itself_are_something_else(
    of_one: dict[str, Any], of_two: list[dict[str, Any]]
) -> None:
    assert abs(common(of_two, "own")[0] - of_one["losses"][0]) > 1e-4
