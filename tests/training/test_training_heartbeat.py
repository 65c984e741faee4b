"""Which errors mean the loss of another process: those of an exchange, if the process is really gone."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch.distributed as dist

from senet.training.heartbeat import Heartbeat

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:561] "
NCCL = "NCCL error in: ProcessGroupNCCL.cpp:94, "
MEMORY = NCCL + "unhandled cuda error (run with NCCL_DEBUG=INFO for details)\nCuda failure 'out of memory'"

OWN = {
    "no NCCL": RuntimeError("Distributed package doesn't have NCCL built in"),
    "a name": RuntimeError("the broken pipe of gloo's NCCL was closed by peer review"),
    "memory": dist.DistBackendError(MEMORY),
    "usage": dist.DistBackendError(NCCL + "invalid usage, Duplicate GPU detected : rank 0 and rank 1 both on CUDA"),
    "gloo": RuntimeError(GLOO + "op.preamble.length <= op.nbytes. 4096 vs 4"),
}
"""Errors of the process itself."""

CLOSED = {
    "gloo": RuntimeError(GLOO + "Connection closed by peer [127.0.0.1]:1202. A remote worker may have crashed."),
    "NCCL": dist.DistBackendError(
        NCCL + "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely."
    ),
    "store": dist.DistNetworkError("failed to recv, got 0 bytes"),
}


@pytest.fixture
def heartbeat() -> Heartbeat:
    one = Heartbeat("resume it")
    one._thread = threading.Thread(target=str)
    one._thread.start()
    one._store, one._rank = dist.HashStore(), 1  # type: ignore[assignment]
    return one


def left(heartbeat: Heartbeat) -> str:
    return heartbeat._store.get("1").decode() if heartbeat._store.check(["1"]) else ""


@pytest.mark.parametrize("error", OWN.values(), ids=OWN)
def test_an_error_of_its_own_is_sent_to_the_others(heartbeat: Heartbeat, error: RuntimeError) -> None:
    assert not heartbeat.explain(error, 0.2)
    heartbeat.on_exception(None, None, error)  # type: ignore[arg-type]
    assert left(heartbeat) == f"failed {str(error).splitlines()[0]}"


@pytest.mark.parametrize("error", CLOSED.values(), ids=CLOSED)
def test_a_closed_connection_is_a_loss(heartbeat: Heartbeat, error: RuntimeError) -> None:
    assert heartbeat.explain(error, 0.2) == "the connection to another process of this training was lost; resume it"
    heartbeat.on_exception(None, None, error)  # type: ignore[arg-type]
    assert not left(heartbeat)


@pytest.mark.parametrize("name", ["memory", "gloo"])
def test_the_heartbeat_knows_which_process_is_gone(heartbeat: Heartbeat, name: str) -> None:
    find: Callable[[], None] = lambda: setattr(heartbeat, "failure", "process 0 was killed")  # noqa: E731
    threading.Timer(0.2, find).start()
    heartbeat.on_exception(None, None, OWN[name])  # type: ignore[arg-type]
    assert heartbeat.explain(OWN[name]) == "process 0 was killed; resume it"
    assert not left(heartbeat)


def test_a_single_process_has_no_other_one() -> None:
    assert not Heartbeat("resume it").explain(CLOSED["gloo"])
