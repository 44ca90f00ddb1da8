"""Times of alternatives, measured in turn: the speed of a machine drifts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def turns(
    steps: Mapping[str, Callable[[int], object]], rounds: int, repeats: int = 1
) -> dict[str, list[float]]:
    """Times steps in turn.

    Args:
        steps: Functions by name, called with the index of the repeat.
        rounds: The number of timed rounds. In each, every function has one turn. One more round
            before them warms up.
        repeats: The number of calls in a turn.

    Returns:
        By name, the milliseconds per call in each round.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            for i in range(repeats):
                step(i)
            wait()
            if turn:
                times[name].append((time.perf_counter() - start) / repeats * 1e3)
    return times


def median_milliseconds(
    steps: Mapping[str, Callable[[int], object]], rounds: int
) -> dict[str, float]:
    """Returns the median time of a call of each function in milliseconds: see :func:`turns`."""
    return {name: statistics.median(times) for name, times in turns(steps, rounds).items()}


def wait() -> None:
    """Waits until a GPU has done all its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
