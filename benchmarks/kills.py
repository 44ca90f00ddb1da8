"""Kills runs of every method and estimator at random, resumes them, and compares their files.

    python -m benchmarks.kills --kills 200

Each run is killed with SIGKILL at up to four random moments and resumed each time. When it has
finished, its weights, log and results must equal those of an uninterrupted run byte for byte,
except for measured times.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from tests.kills import CASES, Case
from train.tables import markdown


@dataclass(frozen=True)
class Benchmark:
    """Kill and resume runs until the number of kills is reached."""

    kills: int = 200
    """Total number of kills."""
    seed: int = 0
    """Seed of the random moments."""


def main(benchmark: Benchmark) -> None:
    """Prints a Markdown table with a row for each case; raises at the first run that differs."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for i, name in enumerate(CASES):
            case_folder = Path(folder) / str(i)
            case_folder.mkdir()
            case = Case(name, case_folder)
            kills = runs = 0
            while kills < benchmark.kills / len(CASES):
                kills += case.survive(4, seed=1_000 * benchmark.seed + runs)
                runs += 1
            rows.append({"run": name, "kills": kills, "runs": runs, "identical": runs})
            print(rows[-1], flush=True)
    total = {"run": "all", **{key: sum(row[key] for row in rows) for key in list(rows[0])[1:]}}
    print(markdown([*rows, total], list(rows[0])))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
