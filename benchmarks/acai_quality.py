"""ACAI and the same autoencoder without its critic, at equal steps: on MNIST, and on lines.

    python benchmarks/acai_quality.py mnist --data-dir DIR_WITH_MNIST
    python benchmarks/acai_quality.py lines

Each run is a ``python -m train.acai``; runs that are there already are not made again. A table and
a figure have what was found on the way.
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
    # With the critic's weight and rate of digits, lines jump halfway from one to the other.
    "lines": "--data lines --eval-every 1000 --critic-weight 0.125 "
    "--learning-rate 2e-4 --decay none",
}
MEASURES = {
    "mnist": ("reconstruction_mse", "probe_accuracy", "cluster_accuracy"),
    "lines": ("reconstruction_mse", "mean_distance", "smoothness"),
}


@dataclass(frozen=True)
class Benchmark:
    """Trains with a critic and without, and tables and plots both."""

    protocol: tyro.conf.Positional[Literal["mnist", "lines"]]
    """The data."""
    seeds: int = 1
    """How many seeds, from 0."""
    data_dir: Path = Path("data")
    """Where downloaded data sets are kept."""
    out: Path = Path("runs/benchmarks")
    """Where the runs, the table and the figure go."""
    name: str = "default"
    """Name of what --extra makes of the runs."""
    extra: str = ""
    """Further flags for each run."""


def main(benchmark: Benchmark) -> None:
    """Makes the runs, a table in Markdown and a figure."""
    rows, histories, way = [], {}, []
    for name, flags in {"ACAI": "", "without critic": "--no-critic"}.items():
        for seed in range(benchmark.seeds):
            kind = f"{benchmark.protocol}-{benchmark.name}-{'critic' if not flags else 'alone'}"
            run = benchmark.out / f"acai-{kind}-{seed}"
            own = ["--data-dir", str(benchmark.data_dir), "--seed", str(seed)]
            own += shlex.split(f"{PROTOCOLS[benchmark.protocol]} {flags} {benchmark.extra}")
            rows.append({"run": name, "seed": seed} | results("acai", run, own))
            history = histories[f"{name}, seed {seed}"] = Run(run, "acai").history()
            for i, step in enumerate(history["held_out_mse"][0]):
                found = {key: history[key][1][i] for key in PANELS if key in history}
                way.append({"run": name, "seed": seed, "step": int(step)} | found)
    columns = ["run", "seed", "steps", "train_seconds", *MEASURES[benchmark.protocol]]
    print(markdown(rows, columns))
    print()
    print(markdown(way, list(way[0])))
    panels = {key: label for key, label in PANELS.items() if key in way[0]}
    path = benchmark.out / f"acai-{benchmark.protocol}-{benchmark.name}.png"
    versus(histories, panels).savefig(path, dpi=150)


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
