"""The autoencoder's error: the defaults, beside the settings of the tutorial that it is known from.

    python benchmarks/ae_quality.py --data-dir DIR_WITH_MNIST

Both are one ``python -m train.ae``; runs that are there already are not made again. The tutorial's
stops at the fifth evaluation, an epoch apart, without a lower error; what it had reached after ten
epochs, and in what time, is read from its log.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import tyro
from repeat import results

from train.engine.runs import Run
from train.tables import markdown

# Of MNIST's 60,000 images a twelfth chooses the checkpoint; an epoch is the others. A patience of
# five ends, as Keras counts, at the fifth evaluation in a row without a lower error: four may pass.
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
    """Trains autoencoders with the defaults and with the tutorial's settings."""

    data_dir: Path = Path("data")
    """Where downloaded data sets are kept."""
    seeds: int = 1
    """How many seeds, from 0."""
    out: Path = Path("runs/benchmarks")
    """Where the runs go."""
    extra: str = ""
    """Further flags for each run."""


def ten_epochs(run: Path) -> dict[str, float]:
    """The validation error that a run had after ten epochs of 64, and the seconds it took."""
    history = Run(run, "ae").history()
    found = {}
    for name, metric in {"mse": "validation_mse", "seconds": "train_seconds"}.items():
        steps, values = history[metric]
        found[f"ten_epochs_{name}"] = float(values[steps <= 10 * EPOCH][-1])
    return found


def main(benchmark: Benchmark) -> None:
    """Makes the runs and prints a table in Markdown."""
    rows = []
    for name, flags in PROTOCOLS.items():
        for seed in range(benchmark.seeds):
            run = benchmark.out / f"ae-{name.split(chr(39))[0]}-{seed}"
            own = ["--data", "mnist", "--data-dir", str(benchmark.data_dir), "--seed", str(seed)]
            found = results("ae", run, [*own, *shlex.split(f"{flags} {benchmark.extra}")])
            early = ten_epochs(run) if flags else dict.fromkeys(MEASURES[2:])
            rows.append({"run": name, "seed": seed} | found | early)
    print(markdown(rows, [*COLUMNS, *MEASURES]))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
