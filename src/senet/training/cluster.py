"""Where the processes of a distributed training run, and who started them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from senet.errors import SenetError
from senet.training.recipe import RunOptions

__all__ = ["Launched", "is_first_process", "launched", "placed"]

RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
"""What says where the first of several machines is, and which of them this one is."""


@dataclass(frozen=True)
class Launched:
    """Processes that somebody else has started, of which this is one.

    Attributes:
        by: Who.
        devices: Processes on each machine, one a device.
        nodes: Machines.
    """

    by: str
    devices: int
    nodes: int


def launched(environment: Mapping[str, str] = os.environ) -> Launched | None:
    """What `torchrun` or SLURM's `srun` says of the processes that it started; None where nobody did.

    Args:
        environment: Its variables.
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
    """The options with the devices and nodes on which the processes were started.

    Raises:
        SenetError: The user asked for others, or for several machines without saying where the first one is.
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
            raise SenetError(f"--{name} {asked}, but {found.by} has started {started}; leave --{name} out")
    return replace(run, devices=found.devices, nodes=found.nodes)


def is_first_process() -> bool:
    """Whether this is the process of a distributed run that speaks and writes."""
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    # Until the processes have met, Lightning knows this one's number on its machine only.
    return getattr(rank_zero_only, "rank", 0) == 0 and os.environ.get("NODE_RANK", "0") == "0"
