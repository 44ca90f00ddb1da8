"""Measures ABC over several seeds, with the defaults or the settings of its tutorial.

    python benchmarks/abc_quality.py default --data-dir DIR_WITH_MNIST
    python benchmarks/abc_quality.py tutorial --data-dir DIR_WITH_MNIST

Each run is a ``python -m train.abc``. Finished runs are not repeated.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from repeat import results as run_results

from train.tables import markdown

PROTOCOLS = {
    "default": "",
    "tutorial": "--steps 500 --batch-size 1 --stack-size 64 --embed-dim 8 --learning-rate 1e-4 "
    "--decay none --views 1 --curated both --temperature 1 --no-normalise --network deep",
}
MEASURES = (
    "class_accuracy",
    "class_accuracy_untrained",
    "class_accuracy_pca",
    "class_accuracy_morphometrics",
    "slant",
    "thickness",
    "width",
    "slant_withheld",
    "thickness_withheld",
    "retrieval_error",
    "retrieval_error_random",
    "retrieval_error_oracle",
    "retrieval_error_withheld",
    "retrieval_error_random_withheld",
    "retrieval_error_oracle_withheld",
    "train_seconds",
)


@dataclass(frozen=True)
class Benchmark:
    """Train ABC with several seeds, and print a table with a row for each measure."""

    protocol: tyro.conf.Positional[Literal["default", "tutorial"]]
    """Settings of the runs, as the documentation names them."""
    seeds: int = 3
    """Number of seeds, counted from 0."""
    data_dir: Path = Path("data")
    """Folder of downloaded data sets."""
    out: Path = Path("runs/benchmarks")
    """Folder that the runs are written to."""
    extra: str = ""
    """Additional flags of every run."""


def flatten_styles(results: dict[str, Any]) -> dict[str, Any]:
    """Adds the :math:`R^2` of each style to results, as a measure by the style's name."""
    styles = {
        f"{style}{group}": value
        for group in ("", "_withheld")
        for style, value in results[f"style_r2{group}"].items()
    }
    return results | styles


def main(benchmark: Benchmark) -> None:
    """Trains the runs and prints a Markdown table."""
    flags = shlex.split(f"{PROTOCOLS[benchmark.protocol]} {benchmark.extra}")
    flags += ["--data", "mnist", "--data-dir", str(benchmark.data_dir)]
    results_of_seeds = {
        f"seed {seed}": flatten_styles(
            run_results(
                "abc",
                benchmark.out / f"abc-{benchmark.protocol}-{seed}",
                [*flags, "--seed", str(seed)],
            )
        )
        for seed in range(benchmark.seeds)
    }
    rows = [
        {"measure": name} | {seed: results[name] for seed, results in results_of_seeds.items()}
        for name in MEASURES
    ]
    print("python -m train.abc", *flags)
    print(markdown(rows, ["measure", *results_of_seeds]))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
