"""Which of the processes that torchrun started this one is."""

from __future__ import annotations

import os


def rank() -> int:
    """Which process this is, from 0."""
    return int(os.environ["RANK"]) if size() > 1 else 0


def size() -> int:
    """How many processes there are."""
    # Schedulers set a number of processes too, for programs that meet in another way.
    return int(os.environ.get("WORLD_SIZE", "1")) if "MASTER_ADDR" in os.environ else 1


def local_rank() -> int:
    """Which of this machine's processes this is, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0")) if size() > 1 else 0
