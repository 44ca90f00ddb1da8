"""Steps timed in turn, in one run, beside the first of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch


def turns(
    steps: Mapping[str, Callable[[int], object]], rounds: int, each: int
) -> dict[str, list[float]]:
    """Milliseconds a step, of each turn.

    Args:
        steps: By name, what takes a step, called with its number.
        rounds: How often all take their turn; one before is not counted.
        each: Steps a turn.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            for i in range(each):
                step(i)
            wait()
            if turn:
                times[name].append((time.perf_counter() - start) / each * 1e3)
    return times


def wait() -> None:
    """Until all that was asked of a GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the ratios of two columns of :func:`turns`, pair by pair: speed drifts."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def race(steps: Mapping[str, Callable[[int], object]], what: str, rounds: int, each: int) -> None:
    """Prints a table in Markdown: milliseconds, and the speed beside the first one's.

    Args:
        steps: See :func:`turns`.
        what: What a step is of.
        rounds: See :func:`turns`.
        each: See :func:`turns`.
    """
    times = turns(steps, rounds, each)
    base = next(iter(times.values()))
    print(f"| step of {what} | ms, median | images a second beside the first |")
    print("| --- | --- | --- |")
    for name, taken in times.items():
        print(f"| {name} | {statistics.median(taken):.1f} | {ratio(base, taken):.2f} times |")
