"""Timing networks on an accelerator. The meta device stands in for it: it runs networks without computing."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from senet.deploy.bench import bench, machine
from senet.errors import SenetError, UnknownNameError


@pytest.fixture
def waits(monkeypatch):
    """Make the meta device the accelerator, and return the devices that something waited for."""
    found: list[torch.device | None] = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("meta"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "synchronize", found.append)
    monkeypatch.setattr(torch, "meta", SimpleNamespace(get_device_name=lambda _: "Stand-in"), raising=False)
    return found


def test_networks_run_on_the_device(waits, monkeypatch):
    seen: set[torch.device] = set()
    call = torch.nn.Conv2d.forward
    monkeypatch.setattr(torch.nn.Conv2d, "forward", lambda self, x: (seen.add(x.device), call(self, x))[1])
    names = ["se_cifar_resnet20", "cifar_resnet20"]
    rows = bench(names, runtimes=("eager", "optimized"), size=(16, 16), seconds=0, device="meta", batch_sizes=(1, 4))
    assert [(row.network, row.runtime, row.device, row.batch) for row in rows] == [
        (name, runtime, "meta", batch) for batch in (1, 4) for name in names for runtime in ("eager", "optimized")
    ]
    assert seen == {torch.device("meta")}
    assert set(waits) == {torch.device("meta")}
    assert len(waits) >= 2 * len(rows) * rows[0].rounds
    assert machine("meta")["accelerator"] == "Stand-in (meta)"


def test_the_cpu_is_the_default(waits):
    [row] = bench(["cifar_resnet20"], size=(16, 16), seconds=0)
    assert row.device == "cpu"
    assert not waits
    assert "accelerator" not in machine()


def test_tf32_is_stated_on_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A100")
    found = machine("cuda:0")
    assert (found["accelerator"], found["TF32 in"]) == ("A100 (cuda:0)", "convolutions")


def test_devices_of_this_machine(waits, tmp_path):
    bench(["cifar_resnet20"], size=(16, 16), seconds=0, device="meta:1")
    with pytest.raises(UnknownNameError, match=r"unknown device 'meta:2'.*meta:1"):
        bench(["cifar_resnet20"], device="meta:2")
    with pytest.raises(UnknownNameError, match="unknown device 'cuda'"):
        bench(["cifar_resnet20"], device="cuda")
    (tmp_path / "net.onnx").touch()
    with pytest.raises(SenetError, match=r"net\.onnx: exported files run on the CPU"):
        bench([str(tmp_path / "net.onnx")], device="meta")
