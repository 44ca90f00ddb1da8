"""This process: its rank among those that torchrun started, and the processors that it may use."""

from __future__ import annotations

import os
from typing import Any


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


def usable_processors() -> int:
    """The number of processors that this process may use, at least 1."""
    # Not every system can bind a process to processors.
    affinity: Any = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def spare_processors() -> int:
    """The number of processors that this process may use, beside one."""
    return usable_processors() - 1
