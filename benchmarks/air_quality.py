"""How well AIR counts: trains it with several seeds, one run after another, and tables the results.

    python benchmarks/air_quality.py default --seeds 10
    python benchmarks/air_quality.py pyro --seeds 3 --data-dir DIR_WITH_MNIST
    python benchmarks/air_quality.py tracegraph --seeds 3

Each run is a ``python -m train.air``; runs that are there already are not made again.
"""

from __future__ import annotations

import shlex
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from repeat import results

# The scenes of Pyro's example: digits of size 28 / (1.3 +- 0.1), no pixel's sum above white.
PYRO = (
    "--data mnist --digit-shrink 1.3 0.1 --overlap dim --likelihood-scale 0.3 --steps 10400 "
    "--batch-size 128 --what-dim 50 --what-hidden 800 --window-size 28 --presence-prior 0.003 "
    "--anneal-steps 2000 --train-scenes 300000 --clip-norm 100"
)
PROTOCOLS = {
    "default": "",
    "pyro": PYRO,
    "tracegraph": "--estimator tracegraph --baseline network --steps 10000",
}
MEASURES = ("count_accuracy", "count_accuracy_map", "elbo", "iw_bound", "box_iou", "train_seconds")


@dataclass(frozen=True)
class Benchmark:
    """Trains AIR with several seeds and tables the results."""

    protocol: tyro.conf.Positional[Literal["default", "pyro", "tracegraph"]]
    """Which of the runs in the README."""
    seeds: int = 10
    """How many seeds, from 0."""
    data_dir: Path = Path("data")
    """Where downloaded data sets are kept."""
    out: Path = Path("runs/benchmarks")
    """Where the runs go."""
    extra: str = ""
    """Further flags for each run."""


def main(benchmark: Benchmark) -> None:
    """Makes the runs and prints a table in Markdown."""
    flags = shlex.split(f"{PROTOCOLS[benchmark.protocol]} {benchmark.extra}")
    rows = []
    for seed in range(benchmark.seeds):
        run = benchmark.out / f"air-{benchmark.protocol}-{seed}"
        own = ["--seed", str(seed), "--data-dir", str(benchmark.data_dir)]
        found = results("air", run, [*flags, *own])
        rows.append([found[name] for name in MEASURES])
    print("python -m train.air", *flags)
    print("| seed |", " | ".join(MEASURES), "|")
    print("| --- " * (len(MEASURES) + 1) + "|")
    for seed, row in enumerate(rows):
        print(f"| {seed} |", " | ".join(f"{value:.4g}" for value in row), "|")
    columns = list(zip(*rows, strict=True))
    for name, summary in (("lowest", min), ("mean", statistics.fmean), ("highest", max)):
        print(f"| {name} |", " | ".join(f"{summary(column):.4g}" for column in columns), "|")


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
