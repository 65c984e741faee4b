"""Devices and nodes of a distributed training, and the program that started its processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from senet.errors import SenetError
from senet.training.recipe import RunOptions

__all__ = ["Launched", "is_first_process", "launched", "placed"]

RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
"""Environment variables with the address of the first machine and the number of this one."""


@dataclass(frozen=True)
class Launched:
    """The processes started by a launcher, this one among them.

    Attributes:
        by: Name of the launcher.
        devices: Number of processes on each machine, one per device.
        nodes: Number of machines.
    """

    by: str
    devices: int
    nodes: int


def launched(environment: Mapping[str, str] = os.environ) -> Launched | None:
    """Detect the processes started by `torchrun` or SLURM's `srun`, None without a launcher.

    Args:
        environment: Environment variables.
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        devices = int(environment["LOCAL_WORLD_SIZE"])
        return Launched("torchrun", devices, int(environment["WORLD_SIZE"]) // devices)
    by_hand = environment.get("SLURM_JOB_NAME") in ("bash", "interactive")
    if "SLURM_NTASKS" in environment and "SLURM_PROCID" in environment and not by_hand:
        nodes = int(environment.get("SLURM_NNODES", 1))
        tasks = environment.get("SLURM_NTASKS_PER_NODE") or int(environment["SLURM_NTASKS"]) // nodes
        return Launched("srun", int(tasks), nodes)
    return None


def placed(run: RunOptions, environment: Mapping[str, str] = os.environ) -> RunOptions:
    """Return the options with the launcher's devices and nodes.

    Raises:
        SenetError: The user's numbers differ from the launcher's, or several machines lack the first one's address.
    """
    found = launched(environment)
    if found is None:
        missing = [name for name in RENDEZVOUS if name not in environment]
        if run.nodes > 1 and missing:
            raise SenetError(
                f"--nodes {run.nodes} needs {', '.join(missing)} in the environment: address and port of the first "
                "machine, and this one's number (0, 1, ...); torchrun and SLURM's srun set them"
            )
        return run
    for name, asked, started in (("devices", run.devices, found.devices), ("nodes", run.nodes, found.nodes)):
        if asked not in (started, getattr(RunOptions(), name)):
            raise SenetError(f"--{name} {asked}, but {found.by} has started {started}; omit --{name}")
    return replace(run, devices=found.devices, nodes=found.nodes)


def is_first_process() -> bool:
    """Whether this is the process of a distributed run that prints and writes."""
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    # Until the processes are connected, Lightning knows this one's number on its machine only.
    return getattr(rank_zero_only, "rank", 0) == 0 and os.environ.get("NODE_RANK", "0") == "0"
