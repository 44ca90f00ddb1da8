"""Watches: what evaluates a method while it trains, and measures and draws it afterwards.

A watch is made before the first step, and what it imports delays that. So matplotlib, scikit-learn
and SciPy, which take seconds, are imported where something is drawn or measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from train.metrics.goals import Goal


class TrainingLog(NamedTuple):
    """What a run folder records of training.

    Attributes:
        history: By the name of a metric, the steps at which it was logged and its values, both of
            shape (n,).
        stages: For each evaluation, its step and the arrays that :meth:`Watch.snapshot` returned.
    """

    history: Mapping[str, tuple[np.ndarray, np.ndarray]]
    stages: Sequence[tuple[int, Mapping[str, np.ndarray]]]


class Watch:
    """Evaluates an objective, measures it, and draws its figures.

    Every method is optional, and none of them writes files. :meth:`evaluate` and :meth:`snapshot`
    are called in eval mode, without gradients and under a forked RNG, so that evaluating cannot
    change training.
    """

    PANELS: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    """Panels of the figure ``curves``: for each label of a vertical axis, the legend by metric."""

    def evaluate(self, step: int) -> Mapping[str, float]:
        """Returns metrics on held-out data; called every ``eval_every`` steps."""
        return {}

    def snapshot(self) -> Mapping[str, np.ndarray]:
        """Returns arrays to save with an evaluation, for figures of the stages of training."""
        return {}

    def measure(self) -> Mapping[str, Any]:
        """Returns the results by name; called after the last step.

        Return a :class:`~train.metrics.measuring.Measures`, which is a mapping, so that a measure
        that fails does not lose the others.
        """
        return {}

    def goals(self) -> Sequence[Goal]:
        """Returns the goals that the results must reach for the run to count as successful."""
        return ()

    def figures(self, log: TrainingLog) -> Mapping[str, Callable[[], Figure]]:
        """Returns functions that draw figures, by the names of the figures.

        Args:
            log: The metrics and snapshots of training.
        """
        if not self.PANELS:
            return {}
        from train import plots

        return {"curves": lambda: plots.curves(log.history, self.PANELS)}
