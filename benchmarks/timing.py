"""Prints a table of times that are measured in turn."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

from train.studies.timing import median_ratio, turns


def print_times(
    steps: Mapping[str, Callable[[int], object]], batch: str, rounds: int, repeats: int
) -> None:
    """Prints a Markdown table of milliseconds a step, and of speed relative to the first step.

    Args:
        steps: See :func:`train.studies.timing.turns`.
        batch: What a step trains on, such as ``64 images``.
        rounds: See :func:`train.studies.timing.turns`.
        repeats: See :func:`train.studies.timing.turns`.
    """
    times = turns(steps, rounds, repeats)
    reference = next(iter(times.values()))
    print(f"| step of {batch} | ms, median | images a second, relative to the first |")
    print("| --- | --- | --- |")
    for name, milliseconds in times.items():
        speed = median_ratio(reference, milliseconds)
        print(f"| {name} | {statistics.median(milliseconds):.1f} | {speed:.2f} times |")
