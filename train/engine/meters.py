"""Measures training: means of losses and metrics, and seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from train.engine import parallel

MOST = 64
"""The most steps whose values a :class:`Meter` keeps apart."""


class Meter:
    """Sums losses and metrics on the device, and remembers the first step with NaN or infinity.

    :meth:`add` does not wait for the device; the other methods do.
    """

    names: list[str]
    sums: Tensor
    steps: int
    nonfinite_step: Tensor
    nonfinite_values: Tensor

    def __init__(self) -> None:
        # Of the last steps, which are summed together: a step has one operation less for each.
        self.values: list[Tensor] = []
        self.last_step = 0
        self._start([], torch.zeros(0))

    def add(self, step: int, losses: Mapping[str, Tensor], metrics: Mapping[str, Tensor]) -> None:
        """Adds the values of one step.

        Args:
            step: The number of steps done, from 1.
            losses: Losses by name, of shape (); :meth:`read` names them ``NAME_loss``.
            metrics: Metrics by name, of shape (). The names are those of every step.
        """
        named = {f"{name}_loss": loss for name, loss in losses.items()} | dict(metrics)
        # Copies: the next step may overwrite what it returns.
        values = torch.stack([value.float() for value in named.values()])
        if not self.names:
            self._start(list(named), torch.zeros_like(values))
        self.values.append(values)
        self.last_step = step
        if len(self.values) == MOST:
            self._sum()

    def _sum(self) -> None:
        """Sums the values of the last steps."""
        if not self.values:
            return
        rows = torch.stack(self.values)
        # One after another, so that a resumed run has the sums of one without a break.
        for row in rows:
            self.sums += row
        self.steps += len(rows)
        nonfinite = ~rows.isfinite().all(dim=1)
        first = nonfinite.long().argmax()
        row = rows.index_select(0, first.reshape(1)).squeeze(0)
        is_first = (self.nonfinite_step == 0) & nonfinite.any()
        step = self.last_step - len(rows) + 1 + first
        self.nonfinite_step = torch.where(is_first, step, self.nonfinite_step)
        self.nonfinite_values = torch.where(is_first, row, self.nonfinite_values)
        self.values.clear()

    def read(self) -> dict[str, float]:
        """Returns the means over steps and ranks since the last reading, and starts new ones."""
        self._sum()
        parallel.all_reduce_mean([self.sums])
        means = (self.sums / self.steps).tolist()
        self.sums.zero_()
        self.steps = 0
        return dict(zip(self.names, means, strict=True))

    def nonfinite(self) -> tuple[int, list[str]]:
        """Returns the first step at which a value was not finite, and the names of such values.

        Returns:
            The step, from 1, and the names; 0 and an empty list if all values were finite.
        """
        self._sum()
        step = int(self.nonfinite_step)
        if not step:
            return 0, []
        finite = self.nonfinite_values.isfinite().tolist()
        return step, [name for name, ok in zip(self.names, finite, strict=True) if not ok]

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint saves: the names, the sums and the number of steps in them."""
        self._sum()
        return {"names": self.names, "sums": self.sums, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self._start(state["names"], state["sums"], state["steps"])

    def _start(self, names: list[str], sums: Tensor, steps: int = 0) -> None:
        self.names, self.sums, self.steps = names, sums, steps
        # 0 while all values are finite.
        self.nonfinite_step = torch.zeros((), dtype=torch.long, device=self.sums.device)
        self.nonfinite_values = torch.zeros_like(self.sums)
        self.values.clear()


class Stopwatch(AbstractContextManager["Stopwatch"]):
    """Sums the wall-clock time spent inside its ``with`` blocks.

    Attributes:
        seconds: The sum, in seconds.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.start = 0.0

    def __enter__(self) -> Stopwatch:
        self.start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self.start
