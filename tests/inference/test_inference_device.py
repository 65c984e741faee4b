"""Which device a network runs on: in several processes of one machine, each has its own."""

from __future__ import annotations

import pytest
import torch

from senet.inference.device import default_device


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
