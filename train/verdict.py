"""The end of a run: results, figures, and whether it worked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from train.engine.runs import Run
from train.errors import Interrupted
from train.metrics.measuring import Measures, attempt
from train.metrics.watch import TrainingLog, Watch


class Results(dict[str, Any]):
    """The contents of ``results.json``, and the lines that a person reads at the end of a run.

    Attributes:
        lines: The lines.
    """

    def __init__(self, values: Mapping[str, Any], lines: Sequence[str]) -> None:
        super().__init__(values)
        self.lines = tuple(lines)


def finish(run: Run, values: Mapping[str, Any], watch: Watch) -> Results:
    """Measures, draws and judges a run, and writes its figures and ``results.json``.

    Beside ``values`` and the measures, ``results.json`` has ``figures`` and ``reasons`` (see
    :func:`draw`); ``worked``, whether every goal is reached, or ``null`` if that depends on one
    that cannot be judged; ``verdict``, a sentence for each goal; and ``advice``, what to try where
    one is missed.

    Args:
        run: The run.
        values: What the training took.
        watch: What measures and draws it.

    Raises:
        InputError: If a file cannot be written.
        Interrupted: If Ctrl-C is pressed.
    """
    try:
        measures = watch.measure()
        figures, broken = draw(run, watch.figures(run_log(run)))
    except KeyboardInterrupt:
        raise Interrupted(
            "training is done and saved, but not all is measured; go on with the same command "
            f"and --resume --run-dir {run.directory}"
        ) from None
    reasons = getattr(measures, "reasons", {}) | broken
    results = {**values, **measures, "figures": figures, "reasons": reasons}
    goals = watch.goals()
    judged = [goal.judge(results) for goal in goals]
    unknown = not goals or (None in judged and False not in judged)
    results["worked"] = None if unknown else all(judged)
    results["verdict"] = [goal.sentence(results) for goal in goals]
    missed = [goal for goal, reached in zip(goals, judged, strict=True) if reached is False]
    results["advice"] = list(dict.fromkeys(goal.advice for goal in missed))
    return Results(run.finish(results), summary(run, results))


def run_log(run: Run) -> TrainingLog:
    """Reads what a run folder has of its training."""
    return TrainingLog(run.history(), run.stages())


def draw(
    run: Run, figures: Mapping[str, Callable[[], Figure]]
) -> tuple[dict[str, str | None], dict[str, str]]:
    """Draws figures and writes each to ``figures/NAME.png``, so that one that fails costs no other.

    Args:
        run: The run.
        figures: Functions that draw them, by name.

    Returns:
        By the figures' names their paths inside the run folder, ``None`` for one that failed; and
        by the paths of those that failed, why.

    Raises:
        InputError: If a file cannot be written.
    """
    paths: dict[str, str | None] = {}
    measures = Measures()
    for name, figure in figures.items():
        path = f"figures/{name}.png"
        outcome = attempt(lambda name=name, figure=figure: run.save_figure(name, figure()))
        paths[name] = None if outcome.reason else path
        measures.explain([path], outcome)
    return paths, measures.reasons


def summary(run: Run, results: Mapping[str, Any]) -> list[str]:
    """Returns the lines that a person reads at the end of a run.

    Args:
        run: The run.
        results: Its results, with the verdict.
    """
    words = {True: "worked", False: "did not work", None: "cannot be judged"}
    lines = [f"This run of {run.method} {words[results['worked']]}:"]
    lines += [f"  {sentence}" for sentence in results["verdict"]]
    lines += [f"  To try: {advice}" for advice in results["advice"]]
    reasons = results["reasons"]
    for reason in dict.fromkeys(reasons.values()):
        names = [name for name, why in reasons.items() if why == reason]
        lines.append(f"  Not taken: {', '.join(names)} ({reason})")
    drawn = [name for name, path in results["figures"].items() if path is not None]
    return [
        *lines,
        f"Weights: {run.directory / 'model.safetensors'}",
        f"Figures: {run.directory / 'figures'} ({', '.join(drawn) or 'none'})",
        f"Results: {run.directory / 'results.json'}",
    ]
