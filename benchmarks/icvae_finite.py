"""Measures ICVAE with finite codes: what adversaries read in them, and what nobody exceeds.

    python benchmarks/icvae_finite.py --data-dir DIR_WITH_MNIST

A row for each grid of codes: means and standard deviations over seeds. Each run is a ``python -m
train.icvae``. Finished runs are not repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from repeat import results
from seeds import mean_and_deviation

from train.tables import markdown

MEASURES = ("leakage", "leakage_bound", "leakage_auc", "chance", "reconstruction_mse")


@dataclass(frozen=True)
class Benchmark:
    """Train ICVAE with finite codes, and print a table."""

    grids: tuple[tuple[int, int], ...] = ((2, 16), (3, 8))
    """Size of the code, and levels of each of its numbers."""
    weight: float = 10.0
    """Weight of the direct term."""
    seeds: int = 3
    """Number of seeds, counted from 0."""
    data_dir: Path = Path("data")
    """Folder of downloaded data sets."""
    evaluate_on: Literal["test", "validation"] = "test"
    """Held-out images. validation: some of the training images, to select settings with."""
    out: Path = Path("runs/benchmarks")
    """Folder that the runs are written to."""


def main(benchmark: Benchmark) -> None:
    """Trains the runs, and prints a Markdown table."""
    rows = []
    for z_dim, levels in benchmark.grids:
        measured = []
        for seed in range(benchmark.seeds):
            name = (
                f"icvae-finite-{benchmark.evaluate_on}-{z_dim}-{levels}-{benchmark.weight}-{seed}"
            )
            flags = ["--data", "mnist", "--data-dir", str(benchmark.data_dir), "--seed", str(seed)]
            flags += ["--z-dim", str(z_dim), "--levels", str(levels)]
            flags += ["--weight", str(benchmark.weight), "--evaluate-on", benchmark.evaluate_on]
            measured.append(results("icvae", benchmark.out / name, flags))
        row = {"z": f"{z_dim} numbers of {levels} values", "codes": levels**z_dim}
        rows.append(
            row | {key: mean_and_deviation([run[key] for run in measured], 4) for key in MEASURES}
        )
    print(markdown(rows, list(rows[0])))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
