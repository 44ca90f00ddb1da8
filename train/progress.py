"""Progress of what takes more than a few seconds: a bar on a terminal, else occasional lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from train import processes

T = TypeVar("T")

SECONDS = 10.0
"""The shortest time between two lines, in seconds."""


def progress(items: Iterable[T], name: str, total: int, unit: str = "step") -> Iterator[T]:
    """Yields items, and shows on standard error how many are done.

    On a terminal it is a bar that goes when all are done. Elsewhere lines are at least
    :data:`SECONDS` apart, so that what takes less prints none. Of several processes the first one
    alone shows it.

    Args:
        items: The items.
        name: What is done, at the beginning of the bar and of every line.
        total: The number of items.
        unit: What an item is called.

    Example:
        >>> list(progress("abc", "k-means", total=3))
        ['a', 'b', 'c']
    """
    silent = processes.rank() > 0
    terminal = sys.stderr.isatty()
    bar = tqdm(
        items, desc=name, total=total, unit=unit, leave=False, disable=silent or not terminal
    )
    start = last = time.monotonic()
    for done, item in enumerate(bar):
        now = time.monotonic()
        if now - last >= SECONDS and not (silent or terminal):
            last = now
            left = tqdm.format_interval((now - start) / max(done, 1) * (total - done))
            print(
                f"{name}: {unit} {done:,} of {total:,}; about {left} left",
                file=sys.stderr,
                flush=True,
            )
        yield item
