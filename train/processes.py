"""The rank of this process among those that torchrun started, from its environment variables."""

from __future__ import annotations

import os


def rank() -> int:
    """The rank of this process, from 0; 0 without torchrun."""
    return int(os.environ["RANK"]) if size() > 1 else 0


def size() -> int:
    """The number of processes (the world size); 1 without torchrun."""
    # SLURM and MPI set WORLD_SIZE too, for programs that do not use torch.distributed.
    return int(os.environ.get("WORLD_SIZE", "1")) if "MASTER_ADDR" in os.environ else 1


def local_rank() -> int:
    """The rank of this process among those on this machine, from 0; 0 without torchrun."""
    return int(os.environ.get("LOCAL_RANK", "0")) if size() > 1 else 0
