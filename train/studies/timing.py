"""Times alternatives in turn, because the speed of a machine drifts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch


def turns(
    steps: Mapping[str, Callable[[int], object]], rounds: int, repeats: int = 1
) -> dict[str, list[float]]:
    """Times steps in turn.

    Args:
        steps: Functions by name, called with the index of the repeat.
        rounds: The number of timed rounds. Every function has one turn in a round. An additional
            round before them warms up and is not timed.
        repeats: The number of calls in a turn.

    Returns:
        By name, the mean milliseconds per call in each round.
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


def median_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """Returns the median over the rounds of :func:`turns` of the ratio of two functions' times."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def wait() -> None:
    """Waits until a GPU has finished all queued work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
