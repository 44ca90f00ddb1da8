"""Measures the resident memory of long runs of every method, to find leaks.

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
    """Train a small model of each method, and read the memory of its process meanwhile."""

    steps: int = 20_000
    """Number of training steps."""
    cases: tuple[str, ...] = ("ae", "acai", "abc", "icvae", "air", "air network", "air iw")
    """Names of the runs, from CASES in tests/kills.py."""


def follow(name: str, steps: int, folder: Path) -> dict[str, float | str]:
    """Trains one run; returns its memory after 500 steps, half of the steps and all of them."""
    method, *flags = case(name, folder)
    run = folder / "run"
    intervals = ["--log-every", "250", "--eval-every", str(10 * steps)]
    intervals += ["--checkpoint-every", "5000"]
    flags += ["--device", "cpu", "--batch-size", "8", "--steps", str(steps), *intervals]
    process = doors.start(method, *flags, "--run-dir", str(run), said=folder / "said")
    log, megabytes = run / "metrics.jsonl", {}
    while process.is_alive() and steps not in megabytes:
        time.sleep(0.02)
        # Each line is written in one call, so the last one is complete.
        lines = log.read_text().splitlines() if log.exists() else []
        if lines:
            megabytes.setdefault(
                json.loads(lines[-1])["step"], doors.memory_of(process.pid, 1) / 1024**2
            )
    if doors.finish(process):
        raise SystemExit((folder / "said").read_text())
    row = {f"MB at {step:,}": round(megabytes[step], 1) for step in (500, steps // 2, steps)}
    return {"run": name, **row, "growth, MB": round(megabytes[steps] - megabytes[500], 1)}


def main(benchmark: Benchmark) -> None:
    """Trains the runs and prints a Markdown table with a row for each."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for i, name in enumerate(benchmark.cases):
            run_folder = Path(folder) / str(i)
            run_folder.mkdir()
            rows.append(follow(name, benchmark.steps, run_folder))
            print(rows[-1], flush=True)
    print(markdown(rows, list(rows[0])))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
