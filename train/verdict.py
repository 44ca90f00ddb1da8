"""Whether a run worked, in ``results.json`` and in the lines that a person reads last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from train.engine.runs import Run
from train.metrics.goals import Goal
from train.metrics.measuring import Measures


class Results(dict[str, Any]):
    """What ``results.json`` holds, and the lines that a person reads at the end of a run.

    Attributes:
        lines: The lines.
    """

    def __init__(self, values: Mapping[str, Any], lines: Sequence[str]) -> None:
        super().__init__(values)
        self.lines = tuple(lines)


def finish(
    run: Run, values: Mapping[str, Any], measures: Measures, goals: Sequence[Goal]
) -> Results:
    """Judges a run, and writes its ``results.json``.

    Beside what it is given the file has ``worked``, which is whether every goal is reached, and
    ``null`` if that depends on one that cannot be judged; ``verdict``, a sentence for each goal;
    and ``advice``, what to try where one is missed.

    Args:
        run: The run.
        values: What the training took.
        measures: What was measured and drawn.
        goals: What is to be reached.
    """
    results = {**values, **measures.results()}
    judged = [goal.judge(results) for goal in goals]
    unknown = not goals or (None in judged and False not in judged)
    results["worked"] = None if unknown else all(judged)
    results["verdict"] = [goal.sentence(results) for goal in goals]
    missed = [goal for goal, each in zip(goals, judged, strict=True) if each is False]
    results["advice"] = list(dict.fromkeys(goal.advice for goal in missed))
    return Results(run.finish(results), summary(run, results))


def summary(run: Run, results: Mapping[str, Any]) -> list[str]:
    """The lines that a person reads at the end of a run.

    Args:
        run: The run.
        results: Its results, with the verdict.
    """
    said = {True: "worked", False: "did not work", None: "cannot be judged"}
    lines = [f"This run of {run.method} {said[results['worked']]}:"]
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
