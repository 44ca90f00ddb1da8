"""How far a run is: a bar on a terminal, else a line from time to time."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager

from tqdm import tqdm

SECONDS = 10.0
"""Lines are at least so far apart in time."""
LINES = 20
"""A run prints about so many lines at most."""


class Progress(AbstractContextManager["Progress"]):
    """Tells a person how far a run is, on standard error.

    On a terminal it is a bar. Elsewhere it is a line with the step, what was last measured, and the
    time taken and left; a line comes at most every :data:`SECONDS`, and about :data:`LINES` come in
    a run, so that a run of a few seconds prints none.

    Args:
        name: What runs.
        steps: The steps of the whole run.
        done: The steps that are done already.
        shown: Whether anything is shown.
    """

    def __init__(self, name: str, steps: int, done: int = 0, *, shown: bool = True) -> None:
        terminal = sys.stderr.isatty()
        self.name = name
        self.steps = steps
        self.first = done
        self.lines = shown and not terminal
        self.begun = self.last_time = time.monotonic()
        self.last_step = done
        self.metrics: dict[str, float] = {}
        self.bar = tqdm(
            total=steps, initial=done, desc=name, unit="step", disable=not (shown and terminal)
        )
        self.bar.set_postfix_str("warming up")

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def advance(self) -> None:
        """Counts a step."""
        self.bar.update()

    def show(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes in metrics of a step, and shows them when it is time.

        Args:
            step: The steps done.
            metrics: What to show beside what was shown before, by name.
        """
        self.metrics |= metrics
        self.bar.set_postfix({name: f"{value:.4g}" for name, value in self.metrics.items()})
        if not self.lines:
            return
        now = time.monotonic()
        if now - self.last_time < SECONDS or step - self.last_step < self.steps / LINES:
            return
        self.last_time, self.last_step = now, step
        taken = now - self.begun
        left = taken / max(step - self.first, 1) * (self.steps - step)
        values = "".join(f", {name} {value:.4g}" for name, value in self.metrics.items())
        clock = tqdm.format_interval
        print(
            f"{self.name}: step {step:,} of {self.steps:,}{values}; "
            f"{clock(taken)} taken, about {clock(left)} left",
            file=sys.stderr,
            flush=True,
        )
