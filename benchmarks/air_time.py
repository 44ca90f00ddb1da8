"""Seconds of training until AIR counts 98% of held-out scenes right, beside Pyro's way to do it.

    python benchmarks/air_time.py

The reference is what Pyro's example does, on the same scenes and in the same loop: a recurrent
guide that sees the whole image and regresses places, and TraceGraph_ELBO with a network as its
baseline, at the example's rate and at ours. Runs that are there already are not made again.
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
    "default": "--eval-every 50",
    "default, compiled": "--eval-every 50 --compile on",
    "Pyro's way, rate 1e-4": f"{REFERENCE} --learning-rate 1e-4",
    "Pyro's way, rate 1e-3": f"{REFERENCE} --learning-rate 1e-3",
}


@dataclass(frozen=True)
class Benchmark:
    """Trains until the count is right."""

    accuracy: float = 0.98
    """What is to be reached, on 1,000 held-out scenes."""
    reference_steps: int = 10_500
    """How long the reference may take."""
    seed: int = 0
    """Seed of all."""
    out: Path = Path("runs/benchmarks")
    """Where the runs go."""


def reached(run: Run, accuracy: float, warm_up: float) -> tuple[int, float] | None:
    """The step of the first evaluation that has the accuracy, and the seconds until then."""
    history = run.history()
    steps, accuracies = history["held_out_count_accuracy"]
    there = steps[accuracies >= accuracy]
    if not len(there):
        return None
    return int(there[0]), warm_up + float(np.interp(there[0], *history["train_seconds"]))


def main(benchmark: Benchmark) -> None:
    """A row for each run."""
    rows: list[dict[str, Any]] = []
    first = None
    for name, flags in RUNS.items():
        directory = benchmark.out / f"air-time-{name.replace(' ', '-').replace(chr(39), '')}"
        own = ["--seed", str(benchmark.seed), *shlex.split(flags)]
        if "Pyro" in name:
            own += ["--steps", str(benchmark.reference_steps)]
        found = results("air", directory, own)
        warm_up = found["warm_up_seconds"]
        there = reached(Run(directory, "air"), benchmark.accuracy, warm_up)
        step, seconds = there or (None, warm_up + found["train_seconds"])
        first = first or seconds
        rows.append(
            {
                "run": name,
                "step": step or f"not by {found['steps']:,}",
                "seconds": round(seconds),
                "of them before the first": round(warm_up),
                "times the first": f"{'' if there else 'more than '}{seconds / first:.0f}",
                "count_accuracy at the end": found["count_accuracy"],
            }
        )
    print(markdown(rows, list(rows[0])))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
