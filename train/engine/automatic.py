"""When ``--compile auto`` takes compiled steps on a CPU: if they save more than they cost.

How long a step takes is measured, and so is whether a compiled one is faster, once it is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from train import processes
from train.engine import ahead
from train.engine.compiled import has_compiler
from train.processes import spare_processors
from train.settings import Settings

FEWEST = 300
"""Runs of fewer steps take none that are compiled, and time none."""

KEPT_SECONDS = 30.0
"""A step that an earlier run has kept is taken if the steps left take longer, uncompiled. To load
and to compare it takes as long as seven steps and two seconds."""

SECONDS = 600.0
"""A step is compiled in the background if the steps left take longer, uncompiled. The compiler
takes up to two minutes of a processor, and the step of the autoencoder gains 7%."""

FREE = 0.9
"""No processor is spare where steps get a smaller share of one than this."""

FASTER = 0.95
"""A compiled step takes over if it takes less than this fraction of the time."""

ROUNDS = 3
"""How often each step is timed."""


def applies(settings: Settings, device: torch.device, done: int, compiled_from: int | None) -> bool:
    """Whether there is something to decide, before any step is timed.

    A run that is resumed goes on as it was: with compiled steps, or without.

    Args:
        settings: ``compile`` and ``steps``.
        device: The device of the training.
        done: The number of steps done.
        compiled_from: That of the first compiled step, if there is one.
    """
    return (
        settings.compile == "auto"
        and device.type == "cpu"
        and processes.size() == 1
        and ahead.is_available()
        and (compiled_from is not None or (done == 0 and settings.steps >= FEWEST))
    )


def takes_kept(seconds: float) -> bool:
    """Whether to take a kept step where the steps left take so many seconds, uncompiled."""
    return seconds > KEPT_SECONDS


def compiles(seconds: float, share: float) -> bool:
    """Whether to compile in the background.

    Args:
        seconds: How long the steps left take, uncompiled.
        share: The share of a processor that this process gets.
    """
    is_spare = spare_processors() > 0 and share > FREE
    return seconds > SECONDS and is_spare and has_compiler()


def share_of(step: Callable[[], object]) -> float:
    """Returns the share of a processor that this thread gets while it takes steps."""
    start, used = time.perf_counter(), time.thread_time()
    for _ in range(ROUNDS):
        step()
    return (time.thread_time() - used) / (time.perf_counter() - start)


def seconds_of(*steps: Callable[[], object]) -> list[float]:
    """Returns the shortest time that each step takes; they take turns."""
    times: list[list[float]] = [[] for _ in steps]
    for _ in range(ROUNDS):
        for step, seconds in zip(steps, times, strict=True):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
    return [min(seconds) for seconds in times]
