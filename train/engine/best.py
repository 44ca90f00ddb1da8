"""Selects the weights of the best evaluation, and stops training early."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from train.objective import Objective


class Best:
    """Keeps a copy of the weights with the lowest value of a metric, for early stopping.

    Args:
        metric: The name of the metric to minimise, among those that evaluations return.
        patience: How many evaluations in a row may bring no lower value before training stops:
            0 stops at the first one; ``None`` never stops.

    Attributes:
        value: The lowest value so far; infinity before the first evaluation. NaN is never lower.
        step: The number of steps done at that evaluation.
        waited: The number of evaluations since then.
        weights: Copies of the weights and buffers at that step, by name, on the training device;
            empty before the first evaluation.
    """

    STATE: ClassVar = ("value", "step", "waited", "weights")

    def __init__(self, metric: str, patience: int | None = None) -> None:
        self.metric = metric
        self.patience = patience
        self.value = math.inf
        self.step = 0
        self.waited = 0
        self.weights: dict[str, Tensor] = {}

    def update(self, step: int, metrics: Mapping[str, float], objective: Objective) -> None:
        """Compares an evaluation with the best one, and copies the weights if it is better.

        Args:
            step: The number of steps done.
            metrics: What the evaluation returned.
            objective: The module whose weights were evaluated.

        Raises:
            KeyError: If the metric is not among ``metrics``.
        """
        self.waited += 1
        if metrics[self.metric] < self.value:
            self.value, self.step, self.waited = metrics[self.metric], step, 0
            state = objective.state_dict()
            self.weights = {name: tensor.clone() for name, tensor in state.items()}

    @property
    def should_stop(self) -> bool:
        """Whether the patience is exhausted."""
        return self.patience is not None and self.waited > self.patience

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint saves, for :meth:`load_state_dict`."""
        return {name: getattr(self, name) for name in self.STATE}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        for name in self.STATE:
            setattr(self, name, state[name])
