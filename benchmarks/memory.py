"""The memory of long runs of every method, from outside, while their logs are followed.

python -m benchmarks.memory --steps 20000
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from tests import doors
from tests.kills import case
from train.tables import markdown


@dataclass(frozen=True)
class Benchmark:
    """Trains a small model of each method, and looks at its memory on the way."""

    steps: int = 20_000
    """How long runs are."""
    cases: tuple[str, ...] = ("ae", "acai", "abc", "icvae", "air", "air network", "air iw")
    """Which runs, of those in tests/kills.py."""


def follow(name: str, steps: int, folder: Path) -> dict[str, float | str]:
    """Memory after 500 steps, half of the steps and all of them."""
    method, *flags = case(name, folder)
    run = folder / "run"
    often = ["--log-every", "250", "--eval-every", str(10 * steps), "--checkpoint-every", "5000"]
    flags += ["--device", "cpu", "--batch-size", "8", "--steps", str(steps), *often]
    process = doors.start(method, *flags, "--run-dir", str(run), said=folder / "said")
    log, seen = run / "metrics.jsonl", {}
    while process.is_alive() and steps not in seen:
        time.sleep(0.02)
        # A line is there whole, or not at all.
        lines = log.read_text().splitlines() if log.exists() else []
        if lines:
            seen.setdefault(
                json.loads(lines[-1])["step"], doors.memory_of(process.pid, 1) / 1024**2
            )
    if doors.finish(process):
        raise SystemExit((folder / "said").read_text())
    row = {f"MB at {step:,}": round(seen[step], 1) for step in (500, steps // 2, steps)}
    return {"run": name, **row, "growth, MB": round(seen[steps] - seen[500], 1)}


def main(benchmark: Benchmark) -> None:
    """A row for each run."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for i, name in enumerate(benchmark.cases):
            place = Path(folder) / str(i)
            place.mkdir()
            rows.append(follow(name, benchmark.steps, place))
            print(rows[-1], flush=True)
    print(markdown(rows, list(rows[0])))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
