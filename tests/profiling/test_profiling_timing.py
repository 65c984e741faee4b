"""Durations on a device that computes while Python goes on. The device is simulated, so the right times are known."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import senet
from senet.inspection.latency import latency
from senet.nn import SqueezeExcite
from senet.profiling import time_interleaved
from senet.profiling.timing import now, seconds_of

IMAGES = torch.rand(2, 3, 8, 8)


class QueueingDevice:
    """An accelerator named "cpu". Its work takes time only when something waits for it."""

    def __init__(self, monkeypatch) -> None:
        self.clock, self.queued, self.waits = 0.0, 0.0, []
        for name, value in {
            "is_available": lambda: True,
            "current_accelerator": lambda: torch.device("cpu"),
            "device_count": lambda: 1,
            "synchronize": self.wait,
        }.items():
            monkeypatch.setattr(torch.accelerator, name, value)
        monkeypatch.setattr(time, "perf_counter", self.read)

    def queue(self, seconds: float) -> None:
        self.queued += seconds

    def wait(self, device=None) -> None:
        self.waits.append(device)
        self.clock += self.queued
        self.queued = 0.0

    def read(self) -> float:
        self.clock += 1e-9
        return self.clock


@pytest.fixture
def device(monkeypatch):
    return QueueingDevice(monkeypatch)


class Costly(nn.Module):
    """A network whose parts queue work: 0.5 s in all else, and 0.25 s in each gate."""

    def __init__(self, device: QueueingDevice) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.gates = nn.ModuleList(SqueezeExcite(8, 2) for _ in range(2))
        self.body, self.fc = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)
        self.body.register_forward_hook(lambda *_: device.queue(0.5))
        for gate in self.gates:
            gate.fc1.register_forward_hook(lambda *_: device.queue(0.25))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.gates[0](self.norm(self.first(x)))
        return self.fc(self.gates[1](torch.relu(self.body(x))).mean((2, 3)))


@pytest.fixture
def network(device):
    torch.manual_seed(0)
    return Costly(device).eval()


def test_interleaved_runs_wait_for_their_own_work(device):
    found = time_interleaved({"a": lambda: device.queue(0.5), "b": lambda: device.queue(1.0)}, seconds=0)
    assert found["a"].ms == pytest.approx(500)
    assert found["b"].ms == pytest.approx(1000)
    assert found["b"].ratio == pytest.approx(2)


def test_earlier_work_is_no_part_of_a_run(device):
    device.queue(3.0)
    assert seconds_of(lambda: device.queue(0.5)) == pytest.approx(0.5)


def test_the_device_of_the_computation_is_waited_for(device):
    now(torch.device("cpu", 0))
    assert device.waits == [torch.device("cpu", 0)]
    now(torch.device("meta"))  # not the accelerator
    assert len(device.waits) == 1
    now()
    assert device.waits[1:] == [None]


def test_the_report_of_freeze(network):
    report = senet.freeze(network, [IMAGES])
    assert report.latency_ms == pytest.approx((1000, 500))


@pytest.mark.parametrize(("limit", "frozen"), [(1100, 0), (900, 1), (600, 2)])
def test_the_budget_of_prune(network, limit, frozen):
    report = senet.prune(network, [IMAGES], {"latency_ms": limit})
    assert sum(gate.frozen for gate in report.gates) == frozen
    assert report.budget_met


def test_the_shares_of_an_inspection(network):
    whole, shares = latency(network, {str(i): gate for i, gate in enumerate(network.gates)}, IMAGES)
    assert whole == pytest.approx(1000)
    assert shares == pytest.approx({"0": 0.25, "1": 0.25})


def test_the_report_of_an_export(device, network):
    from senet.deploy.exporting import _latency_ms

    assert _latency_ms(network, IMAGES) == pytest.approx(1000)


def test_no_other_module_reads_the_clock():
    """Wall-clock time (`time.monotonic`) is for intervals and for whole commands, whose results are on the host."""
    source = Path(senet.__file__).parent
    reads = re.compile(r"perf_counter|process_time|time\.time\(|\bEvent\(enable_timing")
    found = {str(file.relative_to(source)) for file in source.rglob("*.py") if reads.search(file.read_text())}
    assert found == {"profiling/timing.py"}
