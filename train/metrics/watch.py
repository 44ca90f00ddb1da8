"""What is watched of a method: numbers while it trains, results and figures at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from train import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from train.metrics.goals import Goal


class TrainingLog(NamedTuple):
    """What a run folder has of its training.

    Attributes:
        history: By the name of a metric, the steps at which it was logged, and its values.
        stages: The steps at which :meth:`Watch.snapshot` was kept, and what it returned.
    """

    history: Mapping[str, tuple[np.ndarray, np.ndarray]]
    stages: Sequence[tuple[int, Mapping[str, np.ndarray]]]


class Watch:
    """Evaluates, measures and draws an objective. It writes no files; every method is optional.

    While :meth:`evaluate` and :meth:`snapshot` run, the objective is in evaluation mode, without
    gradients, and random numbers are forked, so that watching cannot change training.
    """

    PANELS: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    """For the figure of curves: by the label of each panel's axis, what it calls each metric."""

    def evaluate(self, step: int) -> Mapping[str, float]:
        """Returns metrics of held-out data, every ``eval_every`` steps."""
        return {}

    def snapshot(self) -> Mapping[str, np.ndarray]:
        """Returns arrays that the run folder keeps of an evaluation, for figures of stages."""
        return {}

    def measure(self) -> Mapping[str, Any]:
        """Returns results, after the last step.

        Use :class:`~train.metrics.measuring.Measures`, a mapping, where one measure may fail and
        the others are to be had.
        """
        return {}

    def goals(self) -> Sequence[Goal]:
        """Returns what the results have to reach for the run to have worked."""
        return ()

    def figures(self, log: TrainingLog) -> Mapping[str, Callable[[], Figure]]:
        """Returns functions that draw figures, by the figures' names.

        Args:
            log: What was logged and kept while training.
        """
        if not self.PANELS:
            return {}
        return {"curves": lambda: plots.curves(log.history, self.PANELS)}
