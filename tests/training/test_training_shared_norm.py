"""Two processes with half of each batch are one with the whole, in float64, where nothing but rounding is left."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import senet
from senet.training.shared_norm import SharedStatistics

STEPS, BATCH, LR = 12, 12, 0.1


def batches() -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(STEPS, BATCH, 3, 16, 16, generator=draw, dtype=torch.float64)
    return list(zip(images, torch.randint(10, (STEPS, BATCH), generator=draw), strict=True))


def built(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(1)
    model = senet.create_model("se_cifar_resnet20", num_classes=10, depth=1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # nothing starts with a gamma of zero, which would hide its branch
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.to(dtype)


def trained(model: nn.Module, rank: int, world: int, dtype: torch.dtype) -> dict[str, Any]:
    """Losses of this process's share, and where the weights and statistics end."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    losses = []
    for images, labels in batches():
        loss = F.cross_entropy(model(images[rank::world].to(dtype)), labels[rank::world])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    return {"losses": losses, "state": {key: value.clone() for key, value in model.state_dict().items()}}


def process(rank: int, port: int, shared: bool, dtype: torch.dtype, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    model = built(dtype)
    if shared:
        SharedStatistics().apply(model)
    found = trained(nn.parallel.DistributedDataParallel(model), rank, 2, dtype)
    torch.save(found, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def of_two(folder: Path, shared: bool, dtype: torch.dtype) -> tuple[list[float], dict[str, Tensor]]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    torch.multiprocessing.spawn(process, (port, shared, dtype, str(folder)), nprocs=2)
    both = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    losses = [sum(pair) / 2 for pair in zip(*(found["losses"] for found in both), strict=True)]
    return losses, {key.removeprefix("module."): value for key, value in both[0]["state"].items()}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_two_processes_are_one(dtype, tolerance, tmp_path: Path) -> None:
    expected = trained(built(dtype), 0, 1, dtype)
    losses, state = of_two(tmp_path, True, dtype)
    assert losses[0] == pytest.approx(expected["losses"][0], abs=1e-6)
    assert max(losses) - min(losses) > 0.1, "it learns"
    if dtype == torch.float64:
        assert losses == pytest.approx(expected["losses"], abs=tolerance)
        for key, value in expected["state"].items():
            assert torch.allclose(state[key], value, rtol=0, atol=tolerance), key
    else:  # rounding grows with every step; the first ones show that it is nothing else
        assert losses[:4] == pytest.approx(expected["losses"][:4], abs=tolerance)


def test_norms_of_each_process_for_itself_are_something_else(tmp_path: Path) -> None:
    expected = trained(built(torch.float64), 0, 1, torch.float64)
    losses, _ = of_two(tmp_path, False, torch.float64)
    assert abs(losses[0] - expected["losses"][0]) > 1e-4
