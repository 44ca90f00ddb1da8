"""Steps timed in turn, in one run, beside the first of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

from train.studies.timing import turns, wait

__all__ = ["race", "ratio", "turns", "wait"]


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the ratios of two columns of :func:`turns`, pair by pair: speed drifts."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def race(steps: Mapping[str, Callable[[int], object]], what: str, rounds: int, each: int) -> None:
    """Prints a table in Markdown: milliseconds, and the speed beside the first one's.

    Args:
        steps: See :func:`turns`.
        what: What a step is of.
        rounds: See :func:`turns`.
        each: The number of steps in a turn.
    """
    times = turns(steps, rounds, each)
    base = next(iter(times.values()))
    print(f"| step of {what} | ms, median | images a second beside the first |")
    print("| --- | --- | --- |")
    for name, taken in times.items():
        print(f"| {name} | {statistics.median(taken):.1f} | {ratio(base, taken):.2f} times |")
