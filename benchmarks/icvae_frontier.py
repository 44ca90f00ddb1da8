"""Measures the trade-off of leakage and reconstruction: VAE, CVAE, and each penalty.

    python benchmarks/icvae_frontier.py --data-dir DIR_WITH_MNIST --seeds 3

Each point is a ``python -m train.icvae`` for each seed. The table has means and standard
deviations. Finished runs are not repeated.
"""

from __future__ import annotations

import csv
import shlex
import statistics
from dataclasses import dataclass
from pathlib import Path

import tyro
from repeat import results
from seeds import mean_and_deviation

from train.plots import tradeoff
from train.tables import markdown

NONE = "--invariance none --weight 0"
# The tutorial's settings: the squared error summed over pixels, and Adam at 5e-4. It trains for 100
# epochs, these runs for 16.
TUTORIAL = (
    "--invariance pairwise --weight 1 --learning-rate 5e-4 --decay none --batch-size 32 "
    "--steps 30000 --eval-every 10000 --checkpoint-every 10000"
)
GRID = {
    "VAE": [f"{NONE} --condition none"],
    "CVAE": [f"{NONE} --beta {beta}" for beta in (0.1, 1)],
    "pairwise": [f"--invariance pairwise --weight {w}" for w in (0.1, 1, 10)],
    "kt": [f"--invariance kt --weight {w}" for w in (1, 10)],
    "direct": [f"--invariance direct --weight {w}" for w in (3, 10, 30)],
    "echo": [f"--invariance echo --weight {w}" for w in (0.1, 1)],
    "mmd": ["--invariance mmd --weight 1000"],
    "club": ["--invariance club --weight 10"],
    "adversarial": ["--invariance adversarial --weight 10"],
    "tutorial's settings": [TUTORIAL],
}
DECIMALS = {
    "leakage": 3,
    "leakage_linear": 3,
    "leakage_parameters": 3,
    "reconstruction_mse": 4,
    "elbo": 1,
}
"""The measures, and the decimals of each."""
COLUMNS = ("z_dim", "term", "flags", *DECIMALS, "worst_leakage")


@dataclass(frozen=True)
class Frontier:
    """Train ICVAE with each penalty and weight, and print a table and draw a figure."""

    data_dir: Path = Path("data")
    """Folder of downloaded data sets."""
    seeds: int = 3
    """Number of seeds, counted from 0."""
    z_dims: tuple[int, ...] = (2, 16)
    """Sizes of the code."""
    terms: tuple[str, ...] = tuple(GRID)
    """Penalties to train with, by their names in the grid."""
    out: Path = Path("runs/benchmarks/icvae")
    """Folder that the runs, the table and the figure are written to."""
    extra: str = ""
    """Additional flags of every run."""


def main(settings: Frontier) -> None:
    """Trains the runs, prints a Markdown table, and writes a CSV file and a figure."""
    rows, written = [], []
    for z_dim in settings.z_dims:
        for term in settings.terms:
            for number, flags in enumerate(GRID[term]):
                measures = []
                for seed in range(settings.seeds):
                    run = settings.out / f"{term.split()[0].strip(chr(39))}-{number}-{z_dim}-{seed}"
                    command = ["--data", "mnist", "--data-dir", str(settings.data_dir)]
                    command += ["--z-dim", str(z_dim), "--seed", str(seed)]
                    command += shlex.split(f"{flags} {settings.extra}")
                    measures.append(results("icvae", run, command))
                values = {key: [run[key] for run in measures] for key in DECIMALS}
                means = {key: statistics.fmean(numbers) for key, numbers in values.items()}
                worst = max(run["leakage"] for run in measures)
                row = {"term": term, "flags": flags, "weight": weight(flags), "z_dim": z_dim}
                row |= {"worst_leakage": worst, "chance": measures[0]["chance"]}
                rows.append(row | means)
                texts = {key: mean_and_deviation(values[key], n) for key, n in DECIMALS.items()}
                written.append(row | texts)
                print(markdown(written[-1:], COLUMNS).splitlines()[-1], flush=True)
    print(markdown(written, COLUMNS))
    with (settings.out / "frontier.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    tradeoff(rows).savefig(settings.out / "frontier.png", dpi=150)


def weight(flags: str) -> float:
    """Reads the weight of the penalty from flags; it orders the points of a line."""
    words = shlex.split(flags)
    return float(words[words.index("--weight") + 1])


if __name__ == "__main__":
    main(tyro.cli(Frontier))
