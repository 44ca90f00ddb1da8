"""Times alternatives in turn, because the speed of a machine drifts."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch


def turns(
    steps: Mapping[str, Callable[[int], object]],
    rounds: int,
    repeats: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Times steps in turn, each round in another order.

    Args:
        steps: Functions by name, called with the index of the repeat.
        rounds: The number of timed rounds. Every function has one turn in a round. An additional
            round before them warms up and is not timed.
        repeats: The number of calls in a turn.
        clock: Returns seconds. :func:`time.process_time` does not count what other programs use,
            and counts every thread.

    Returns:
        By name, the mean milliseconds per call in each round.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for turn in range(rounds + 1):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = clock()
            for i in range(repeats):
                steps[name](i)
            wait()
            if turn:
                times[name].append((clock() - start) / repeats * 1e3)
    return times


def median_milliseconds(
    steps: Mapping[str, Callable[[int], object]], rounds: int
) -> dict[str, float]:
    """Returns the median time of a call of each function in milliseconds: see :func:`turns`."""
    return {name: statistics.median(times) for name, times in turns(steps, rounds).items()}


def median_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """Returns the median over the rounds of :func:`turns` of the ratio of two functions' times."""
    return statistics.median(ratios(numerator, denominator))


def ratios(numerator: Sequence[float], denominator: Sequence[float]) -> list[float]:
    """Returns the ratio of two functions' times in each round of :func:`turns`."""
    return [a / b for a, b in zip(numerator, denominator, strict=True)]


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Returns an interval that covers the median with a probability of 95%, or more.

    Its ends are two of the values, whatever their distribution: of :math:`n` independent values a
    number that is binomial is below the median. Of fewer than 6 values it is all of them, which
    cover it with a lower probability.
    """
    n, below, tail = len(values), 0, 0.0
    while 2 * (tail + math.comb(n, below) / 2**n) <= 0.05:
        tail += math.comb(n, below) / 2**n
        below += 1
    ordered = sorted(values)
    cut = max(below - 1, 0)
    return ordered[cut], ordered[n - 1 - cut]


def wait() -> None:
    """Waits until a GPU has finished all queued work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
