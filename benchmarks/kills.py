"""Kills runs of every method and estimator, goes on with them, and compares what they leave.

    python -m benchmarks.kills --kills 200

Each run is killed at four random moments, with SIGKILL, and gone on with each time; at the end its
weights, log and results must be those of a run that was never stopped, byte for byte but for times.
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
    """Kills runs until there were enough kills."""

    kills: int = 200
    """How many kills in all."""
    seed: int = 0
    """Seed of the moments."""


def main(benchmark: Benchmark) -> None:
    """A row for each method and estimator; ends at the first run that is not the same."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for i, name in enumerate(CASES):
            place = Path(folder) / str(i)
            place.mkdir()
            case = Case(name, place)
            kills = runs = 0
            while kills < benchmark.kills / len(CASES):
                kills += case.survive(4, seed=1_000 * benchmark.seed + runs)
                runs += 1
            rows.append({"run": name, "kills": kills, "runs": runs, "the same": runs})
            print(rows[-1], flush=True)
    total = {"run": "all", **{key: sum(row[key] for row in rows) for key in list(rows[0])[1:]}}
    print(markdown([*rows, total], list(rows[0])))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
