"""Finishes a run: measures it, draws its figures, and judges whether training succeeded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from train.engine.runs import Run
from train.errors import Interrupted
from train.metrics.measuring import Measures, attempt
from train.metrics.watch import TrainingLog, Watch

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Results(dict[str, Any]):
    """The contents of ``results.json``, and a summary of the run in text.

    Attributes:
        lines: The lines of the summary, which commands print at the end.
    """

    def __init__(self, values: Mapping[str, Any], lines: Sequence[str]) -> None:
        super().__init__(values)
        self.lines = tuple(lines)


def finish(run: Run, values: Mapping[str, Any], watch: Watch) -> Results:
    """Measures, draws and judges a run, and writes its figures and ``results.json``.

    In addition to ``values`` and the measures, ``results.json`` contains

    - ``figures`` and ``reasons``: see :func:`draw`;
    - ``worked``: whether every goal is reached; ``null`` if there is no goal, or if no goal is
      missed but one cannot be judged;
    - ``verdict``: a sentence for each goal;
    - ``advice``: what to try for each goal that is missed.

    Args:
        run: The run.
        values: Results of training, such as its number of steps and seconds.
        watch: The watch that measures and draws the run.

    Raises:
        InputError: If a file cannot be written.
        Interrupted: If Ctrl-C is pressed.
    """
    try:
        measures = watch.measure()
        figures, failures = draw(run, watch.figures(run_log(run)))
    except KeyboardInterrupt:
        raise Interrupted(
            "training is finished and saved, but not all is measured; to finish, repeat the "
            f"command with --resume --run-dir {run.directory}"
        ) from None
    reasons = getattr(measures, "reasons", {}) | failures
    results = {**values, **measures, "figures": figures, "reasons": reasons}
    goals = watch.goals()
    reached = [goal.judge(results) for goal in goals]
    undecided = not goals or (None in reached and False not in reached)
    results["worked"] = None if undecided else all(reached)
    results["verdict"] = [goal.sentence(results) for goal in goals]
    missed = [goal for goal, success in zip(goals, reached, strict=True) if success is False]
    results["advice"] = list(dict.fromkeys(goal.advice for goal in missed))
    return Results(run.finish(results), summary(run, results))


def run_log(run: Run) -> TrainingLog:
    """Reads the training log of a run folder."""
    return TrainingLog(run.history(), run.stages())


def draw(
    run: Run, figures: Mapping[str, Callable[[], Figure]]
) -> tuple[dict[str, str | None], dict[str, str]]:
    """Draws figures, and writes each to ``figures/NAME.png``; failures do not lose the others.

    Args:
        run: The run.
        figures: Functions that draw the figures, by name.

    Returns:
        The paths of the figures inside the run folder by name, ``None`` for a figure that failed;
        and the reasons of failures, by path.

    Raises:
        InputError: If a file cannot be written.
    """
    paths: dict[str, str | None] = {}
    measures = Measures()
    for name, figure in figures.items():
        path = f"figures/{name}.png"

        def save(name: str = name, figure: Callable[[], Figure] = figure) -> None:
            run.save_figure(name, figure())

        outcome = attempt(save)
        paths[name] = None if outcome.reason else path
        measures.report([path], outcome)
    return paths, measures.reasons


def summary(run: Run, results: Mapping[str, Any]) -> list[str]:
    """Returns the lines of text that summarise a run.

    Args:
        run: The run.
        results: Its results, with the verdict.
    """
    outcomes = {True: "worked", False: "did not work", None: "cannot be judged"}
    lines = [f"This run of {run.method} {outcomes[results['worked']]}:"]
    lines += [f"  {sentence}" for sentence in results["verdict"]]
    lines += [f"  To try: {advice}" for advice in results["advice"]]
    reasons = results["reasons"]
    for reason in dict.fromkeys(reasons.values()):
        names = [name for name, why in reasons.items() if why == reason]
        lines.append(f"  Missing: {', '.join(names)} ({reason})")
    drawn = [name for name, path in results["figures"].items() if path is not None]
    return [
        *lines,
        f"Weights: {run.directory / 'model.safetensors'}",
        f"Figures: {run.directory / 'figures'} ({', '.join(drawn) or 'none'})",
        f"Results: {run.directory / 'results.json'}",
    ]
