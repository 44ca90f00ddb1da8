"""Compares the autoencoder's error under the defaults and under the settings of its tutorial.

    python benchmarks/ae_quality.py --data-dir DIR_WITH_MNIST

Each run is a ``python -m train.ae``. Finished runs are not repeated. With the tutorial's settings,
training stops after five epochs in a row without a lower validation error. The error and the time
after ten epochs are read from the log.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import tyro
from repeat import results

from train.engine.runs import Run
from train.tables import markdown

# A twelfth of MNIST's 60,000 training images is for validation; an epoch is a pass over the others.
# With a patience of five, Keras stops at the fifth evaluation in a row without a lower error.
# train.ae stops at the first one beyond its --patience, which is therefore 4.
EPOCH = 55_000 // 64
TUTORIAL = (
    "--network conv --optimiser rmsprop --learning-rate 3e-4 --decay none --batch-size 64 "
    f"--steps {100 * EPOCH} --eval-every {EPOCH} --checkpoint-every {EPOCH} --patience 4"
)
PROTOCOLS = {"default": "", "tutorial's settings": TUTORIAL}
COLUMNS = ("run", "seed", "steps", "best_step", "train_seconds", "reconstruction_mse")
MEASURES = ("probe_accuracy", "cluster_accuracy", "ten_epochs_mse", "ten_epochs_seconds")


@dataclass(frozen=True)
class Benchmark:
    """Train autoencoders with the defaults and with the tutorial's settings."""

    data_dir: Path = Path("data")
    """Folder of downloaded data sets."""
    seeds: int = 1
    """Number of seeds, counted from 0."""
    out: Path = Path("runs/benchmarks")
    """Folder that the runs are written to."""
    extra: str = ""
    """Additional flags of every run."""


def ten_epochs(run: Path) -> dict[str, float]:
    """Reads validation error and training seconds after ten epochs from a run's log."""
    history = Run(run, "ae").history()
    measures = {}
    for name, metric in {"mse": "validation_mse", "seconds": "train_seconds"}.items():
        steps, values = history[metric]
        measures[f"ten_epochs_{name}"] = float(values[steps <= 10 * EPOCH][-1])
    return measures


def main(benchmark: Benchmark) -> None:
    """Trains the runs and prints a Markdown table."""
    rows = []
    for name, flags in PROTOCOLS.items():
        for seed in range(benchmark.seeds):
            run = benchmark.out / f"ae-{name.split(chr(39))[0]}-{seed}"
            command = ["--data", "mnist", "--data-dir", str(benchmark.data_dir)]
            command += ["--seed", str(seed), *shlex.split(f"{flags} {benchmark.extra}")]
            measures = results("ae", run, command)
            early = ten_epochs(run) if flags else dict.fromkeys(MEASURES[2:])
            rows.append({"run": name, "seed": seed} | measures | early)
    print(markdown(rows, [*COLUMNS, *MEASURES]))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
