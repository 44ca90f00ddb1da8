"""Compares ACAI in colour with its autoencoder trained without a critic, on patches of photographs.

    python benchmarks/acai_colour.py
    python benchmarks/acai_colour.py --data cifar10 --data-dir DIR

The paper's protocol for 32x32 pixels: linear probe of the class, k-means against the class; and
how far the image halfway between two codes is from the nearest training image. The class of a patch
is its photograph. Each run is a ``python -m train.acai``, and each seed has a
``python -m train.compare``. Finished runs are not repeated.
"""

from __future__ import annotations

import csv
import shlex
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import photographs
import tyro
from repeat import results

from train.compare import CompareSettings
from train.compare import main as compare
from train.tables import markdown

MEASURES = ("reconstruction_mse", "probe_accuracy", "cluster_accuracy", "interpolation")


@dataclass(frozen=True)
class Benchmark:
    """Train with and without a critic, and print a table of means over seeds."""

    data: str = "patches"
    """patches: of photographs that scikit-learn and scikit-image ship. Or --data of train.acai."""
    data_dir: Path = Path("data")
    """Folder of downloaded data sets."""
    steps: int = 3_000
    """Number of training steps."""
    seeds: int = 3
    """Number of seeds, counted from 0."""
    z_dim: int = 32
    """Size of a code."""
    out: Path = Path("runs/benchmarks")
    """Folder that the runs are written to."""
    extra: str = ""
    """Additional flags of every run."""


def main(benchmark: Benchmark) -> None:
    """Trains the runs and prints a Markdown table."""
    data = benchmark.data
    if data == "patches":
        data = str(photographs.write(benchmark.out / "patches"))
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for seed in range(benchmark.seeds):
        runs = {}
        for name, flag in {"ACAI": "--critic", "without critic": "--no-critic"}.items():
            kind = "critic" if flag == "--critic" else "alone"
            run = benchmark.out / f"acai-colour-{benchmark.data}-{kind}-{seed}"
            flags = ["--data", data, "--data-dir", str(benchmark.data_dir), "--seed", str(seed)]
            flags += ["--steps", str(benchmark.steps), "--z-dim", str(benchmark.z_dim), flag]
            results("acai", run, [*flags, *shlex.split(benchmark.extra)])
            runs[run.name] = (name, run)
        folder = benchmark.out / f"acai-colour-{benchmark.data}-compare-{seed}"
        if not (folder / "comparison.csv").exists():
            paths = tuple(run for _, run in runs.values())
            options = {"data": data, "data_dir": benchmark.data_dir, "seed": seed}
            compare(CompareSettings(runs=paths, run_dir=folder, **options))
        with (folder / "comparison.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                name = runs.get(row["method"], (row["method"],))[0]
                if row["measure"] in MEASURES and row["value"]:
                    values[name][row["measure"]].append(float(row["value"]))
    rows = [
        {"method": name}
        | dict.fromkeys(MEASURES)
        | {
            measure: f"{np.mean(seeds):.4g} ± {np.std(seeds, ddof=len(seeds) > 1):.2g}"
            for measure, seeds in measured.items()
        }
        for name, measured in values.items()
    ]
    print(markdown(rows, ["method", *MEASURES]))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
