"""Leakage against reconstruction: each term of ICVAE, VAE and CVAE, at two sizes of code.

    python benchmarks/icvae_frontier.py --data-dir DIR_WITH_MNIST --seeds 3

Each point is a ``python -m train.icvae``; runs that are there already are not made again.
"""

from __future__ import annotations

import csv
import shlex
import statistics
from dataclasses import dataclass
from pathlib import Path

import tyro
from repeat import results

from train.plots import tradeoff
from train.tables import markdown

NONE = "--invariance none --weight 0"
# The squared error summed over pixels, Adam at 5e-4: the settings of the tutorial that this
# method is known from, for 16 of its 100 epochs.
SEED = (
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
    "tutorial's settings": [SEED],
}
MEASURES = ("leakage", "leakage_linear", "leakage_parameters", "reconstruction_mse", "elbo")
COLUMNS = ("z_dim", "term", "flags", *MEASURES, "worst_leakage")


@dataclass(frozen=True)
class Frontier:
    """Trains ICVAE with each term and weight, and tables and plots the results."""

    data_dir: Path = Path("data")
    """Where downloaded data sets are kept."""
    seeds: int = 3
    """How many seeds, from 0."""
    z_dims: tuple[int, ...] = (2, 16)
    """Sizes of the code."""
    terms: tuple[str, ...] = tuple(GRID)
    """Which rows of the grid."""
    out: Path = Path("runs/benchmarks/icvae")
    """Where the runs, the table and the figure go."""
    extra: str = ""
    """Further flags for each run."""


def main(settings: Frontier) -> None:
    """Makes the runs, a table in Markdown, a CSV and a figure."""
    rows = []
    for z_dim in settings.z_dims:
        for term in settings.terms:
            for number, flags in enumerate(GRID[term]):
                found = []
                for seed in range(settings.seeds):
                    run = settings.out / f"{term.split()[0].strip(chr(39))}-{number}-{z_dim}-{seed}"
                    own = ["--data", "mnist", "--data-dir", str(settings.data_dir)]
                    own += ["--z-dim", str(z_dim), "--seed", str(seed)]
                    own += shlex.split(f"{flags} {settings.extra}")
                    found.append(results("icvae", run, own))
                means = {key: statistics.fmean(one[key] for one in found) for key in MEASURES}
                worst = max(one["leakage"] for one in found)
                row = {"term": term, "flags": flags, "weight": weight(flags), "z_dim": z_dim}
                rows.append(row | means | {"worst_leakage": worst, "chance": found[0]["chance"]})
    print(markdown(rows, COLUMNS))
    with (settings.out / "frontier.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    tradeoff(rows).savefig(settings.out / "frontier.png", dpi=150)


def weight(flags: str) -> float:
    """The weight that flags name, which orders a line's points."""
    words = shlex.split(flags)
    return float(words[words.index("--weight") + 1])


if __name__ == "__main__":
    main(tyro.cli(Frontier))
