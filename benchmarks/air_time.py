"""Times AIR, and the approach of Pyro's example, until 98% of held-out counts are right.

    python benchmarks/air_time.py

The reference follows Pyro's example, on the same scenes and with the same training loop: a
recurrent guide that reads the full image and regresses positions, and TraceGraph_ELBO with a
network as baseline, at two learning rates. Finished runs are not repeated.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from repeat import results

from train.engine.runs import Run
from train.tables import markdown

REFERENCE = (
    "--estimator tracegraph --baseline network --guide recurrent --anchors 0 --decay none "
    "--eval-every 500"
)
RUNS = {
    "default": "--eval-every 50 --compile off",
    "default, compiled": "--eval-every 50 --compile on",
    "Pyro's way, rate 1e-4": f"{REFERENCE} --learning-rate 1e-4",
    "Pyro's way, rate 1e-3": f"{REFERENCE} --learning-rate 1e-3",
}


@dataclass(frozen=True)
class Benchmark:
    """Train runs of AIR, and print when each reaches an accuracy of the counts."""

    accuracy: float = 0.98
    """Accuracy of the counts to reach, on 1,000 held-out scenes."""
    reference_steps: int = 10_500
    """Training steps of the reference."""
    seed: int = 0
    """Seed of every run."""
    out: Path = Path("runs/benchmarks")
    """Folder that the runs are written to."""


def reached(run: Run, accuracy: float, warm_up: float) -> tuple[int, float] | None:
    """Returns step and seconds of the first evaluation that reaches the accuracy, or ``None``.

    Args:
        run: The run.
        accuracy: The accuracy of the counts to reach, from 0 to 1.
        warm_up: Seconds before the first step, which are added.
    """
    history = run.history()
    steps, accuracies = history["held_out_count_accuracy"]
    successes = steps[accuracies >= accuracy]
    if not len(successes):
        return None
    step = successes[0]
    return int(step), warm_up + float(np.interp(step, *history["train_seconds"]))


def main(benchmark: Benchmark) -> None:
    """Trains the runs and prints a Markdown table with a row for each."""
    rows: list[dict[str, Any]] = []
    first = None
    for name, flags in RUNS.items():
        directory = benchmark.out / f"air-time-{name.replace(' ', '-').replace(chr(39), '')}"
        command = ["--seed", str(benchmark.seed), *shlex.split(flags)]
        if "Pyro" in name:
            command += ["--steps", str(benchmark.reference_steps)]
        measures = results("air", directory, command)
        warm_up = measures["warm_up_seconds"]
        success = reached(Run(directory, "air"), benchmark.accuracy, warm_up)
        step, seconds = success or (None, warm_up + measures["train_seconds"])
        first = first or seconds
        rows.append(
            {
                "run": name,
                "step": step or f"not by {measures['steps']:,}",
                "seconds": round(seconds),
                "warm-up seconds": round(warm_up),
                "times the first": f"{'' if success else 'more than '}{seconds / first:.0f}",
                "count_accuracy at the end": measures["count_accuracy"],
            }
        )
    print(markdown(rows, list(rows[0])))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
