"""ABC's protocol over several seeds: the defaults, or the settings it is known from.

    python benchmarks/abc_quality.py default --data-dir DIR_WITH_MNIST
    python benchmarks/abc_quality.py tutorial --data-dir DIR_WITH_MNIST

Each run is a ``python -m train.abc``; runs that are there already are not made again.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from repeat import results

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
    """Trains ABC with several seeds and tables the results, a row for each measure."""

    protocol: tyro.conf.Positional[Literal["default", "tutorial"]]
    """Which of the runs in the README."""
    seeds: int = 3
    """How many seeds, from 0."""
    data_dir: Path = Path("data")
    """Where downloaded data sets are kept."""
    out: Path = Path("runs/benchmarks")
    """Where the runs go."""
    extra: str = ""
    """Further flags for each run."""


def flat(found: dict[str, Any]) -> dict[str, Any]:
    """Results with the styles as measures of their own."""
    styles = {
        f"{style}{group}": value
        for group in ("", "_withheld")
        for style, value in found[f"style_r2{group}"].items()
    }
    return found | styles


def main(benchmark: Benchmark) -> None:
    """Makes the runs and prints a table in Markdown."""
    flags = shlex.split(f"{PROTOCOLS[benchmark.protocol]} {benchmark.extra}")
    flags += ["--data", "mnist", "--data-dir", str(benchmark.data_dir)]
    seeds = {
        f"seed {seed}": flat(
            results(
                "abc",
                benchmark.out / f"abc-{benchmark.protocol}-{seed}",
                [*flags, "--seed", str(seed)],
            )
        )
        for seed in range(benchmark.seeds)
    }
    rows = [
        {"measure": name} | {seed: found[name] for seed, found in seeds.items()}
        for name in MEASURES
    ]
    print("python -m train.abc", *flags)
    print(markdown(rows, ["measure", *seeds]))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
