"""Which device a network runs on: in several processes of one machine, each has its own."""

from __future__ import annotations

import pytest
import torch

import senet
from senet.inference.device import default_device, running


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
    return monkeypatch


@pytest.mark.parametrize(
    ("environment", "device"),
    [
        ({}, "cuda"),
        ({"LOCAL_RANK": "0"}, "cuda:0"),
        ({"LOCAL_RANK": "2"}, "cuda:2"),
        ({"SLURM_LOCALID": "3"}, "cuda:3"),
        ({"LOCAL_RANK": "1", "SLURM_LOCALID": "0"}, "cuda:1"),
        ({"SLURM_LOCALID": "5"}, "cuda"),
    ],
    ids=["one process", "first", "third", "srun", "torchrun in a job", "each sees its own devices only"],
)
def test_each_process_has_its_own(four_gpus: pytest.MonkeyPatch, environment: dict[str, str], device: str) -> None:
    for name, value in environment.items():
        four_gpus.setenv(name, value)
    assert default_device() == torch.device(device)


def test_without_a_gpu_all_have_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert default_device() == torch.device("cpu")


def test_an_optimized_network_runs() -> None:
    """Its packed weights have five dimensions, for which there is no channels_last."""
    torch.manual_seed(0)
    network = senet.create_model("se_cifar_resnet20", depth=1).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    optimized, _ = senet.optimize(network)
    images = torch.rand(2, 3, 32, 32)
    with running(optimized, "32", torch.device("cpu")):
        found = optimized(images)
    with running(network, "32", torch.device("cpu")):
        assert torch.allclose(found, network(images), rtol=1e-4, atol=1e-5)
    assert network.stem[0].weight.is_contiguous(memory_format=torch.channels_last)
