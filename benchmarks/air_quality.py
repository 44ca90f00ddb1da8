"""Measures AIR over several seeds: accuracy of the counts, ELBO and boxes.

    python benchmarks/air_quality.py default --seeds 10
    python benchmarks/air_quality.py pyro --seeds 3 --data-dir DIR_WITH_MNIST
    python benchmarks/air_quality.py tracegraph --seeds 3

Each run is a ``python -m train.air``. Finished runs are not repeated.
"""

from __future__ import annotations

import shlex
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from repeat import results

# The scenes of Pyro's example: digits of side 28 / (1.3 +- 0.1) pixels, which overlap only where
# their sum is no brighter than white.
PYRO = (
    "--data mnist --digit-shrink 1.3 0.1 --overlap dim --likelihood-scale 0.3 --steps 10400 "
    "--batch-size 128 --what-dim 50 --what-hidden 800 --window-size 28 --presence-prior 0.003 "
    "--anneal-steps 2000 --train-scenes 300000 --clip-norm 100"
)
PROTOCOLS = {
    "default": "",
    "residual": "--guide residual",
    "convolutional": "--guide convolutional",
    "pyro": PYRO,
    "tracegraph": "--estimator tracegraph --baseline network --steps 10000",
}
MEASURES = ("count_accuracy", "count_accuracy_map", "elbo", "iw_bound", "box_iou", "train_seconds")


@dataclass(frozen=True)
class Benchmark:
    """Train AIR with several seeds, and print a table of the results."""

    protocol: tyro.conf.Positional[Literal[tuple(PROTOCOLS)]]
    """Settings of the runs, as the documentation names them."""
    seeds: int = 10
    """Number of seeds, counted from 0."""
    data_dir: Path = Path("data")
    """Folder of downloaded data sets."""
    out: Path = Path("runs/benchmarks")
    """Folder that the runs are written to."""
    extra: str = ""
    """Additional flags of every run."""


def main(benchmark: Benchmark) -> None:
    """Trains the runs and prints a Markdown table."""
    flags = shlex.split(f"{PROTOCOLS[benchmark.protocol]} {benchmark.extra}")
    rows = []
    for seed in range(benchmark.seeds):
        run = benchmark.out / f"air-{benchmark.protocol}-{seed}"
        seeded = [*flags, "--seed", str(seed), "--data-dir", str(benchmark.data_dir)]
        measures = results("air", run, seeded)
        rows.append([measures[name] for name in MEASURES])
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
