"""Compares ACAI with its autoencoder trained without a critic, on MNIST or on lines.

    python benchmarks/acai_quality.py mnist --data-dir DIR_WITH_MNIST
    python benchmarks/acai_quality.py lines

Each run is a ``python -m train.acai``. Finished runs are not repeated. A second table and a figure
show the evaluations during training.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from repeat import results

from train.engine.runs import Run
from train.plots import versus
from train.tables import markdown

PANELS = {
    "held_out_mse": "squared error a pixel, held out",
    "probe_accuracy": "linear probe, 10,000 codes",
    "cluster_accuracy": "k-means, 10,000 codes",
}
PROTOCOLS = {
    "mnist": "--data mnist --eval-every 1000",
    # With the defaults for digits, interpolations jump from one line to the other halfway.
    "lines": "--data lines --eval-every 1000 --critic-weight 0.125 "
    "--learning-rate 2e-4 --decay none",
}
MEASURES = {
    "mnist": ("reconstruction_mse", "probe_accuracy", "cluster_accuracy"),
    "lines": ("reconstruction_mse", "mean_distance", "smoothness"),
}


@dataclass(frozen=True)
class Benchmark:
    """Train with and without a critic, and print a table and draw a figure of both."""

    protocol: tyro.conf.Positional[Literal["mnist", "lines"]]
    """Data that the runs are trained on."""
    seeds: int = 1
    """Number of seeds, counted from 0."""
    data_dir: Path = Path("data")
    """Folder of downloaded data sets."""
    out: Path = Path("runs/benchmarks")
    """Folder that the runs and the figure are written to."""
    name: str = "default"
    """Label in the names of the runs and the figure; choose another one with --extra."""
    extra: str = ""
    """Additional flags of every run."""


def main(benchmark: Benchmark) -> None:
    """Trains the runs, prints Markdown tables and draws a figure."""
    rows, histories, evaluations = [], {}, []
    for name, flags in {"ACAI": "", "without critic": "--no-critic"}.items():
        for seed in range(benchmark.seeds):
            kind = f"{benchmark.protocol}-{benchmark.name}-{'critic' if not flags else 'alone'}"
            run = benchmark.out / f"acai-{kind}-{seed}"
            command = ["--data-dir", str(benchmark.data_dir), "--seed", str(seed)]
            command += shlex.split(f"{PROTOCOLS[benchmark.protocol]} {flags} {benchmark.extra}")
            rows.append({"run": name, "seed": seed} | results("acai", run, command))
            history = histories[f"{name}, seed {seed}"] = Run(run, "acai").history()
            for i, step in enumerate(history["held_out_mse"][0]):
                metrics = {key: history[key][1][i] for key in PANELS if key in history}
                evaluations.append({"run": name, "seed": seed, "step": int(step)} | metrics)
    columns = ["run", "seed", "steps", "train_seconds", *MEASURES[benchmark.protocol]]
    print(markdown(rows, columns))
    print()
    print(markdown(evaluations, list(evaluations[0])))
    panels = {key: label for key, label in PANELS.items() if key in evaluations[0]}
    path = benchmark.out / f"acai-{benchmark.protocol}-{benchmark.name}.png"
    versus(histories, panels).savefig(path, dpi=150)


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
