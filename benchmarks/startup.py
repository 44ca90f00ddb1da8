"""Seconds from the command to its help, and to the first step on the default data.

python benchmarks/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from train.tables import markdown

METHODS = ("air", "icvae", "abc", "acai", "ae")


@dataclass(frozen=True)
class Benchmark:
    """Starts every method."""

    times: int = 5
    """How often; medians are shown."""


def help_of(method: str) -> float:
    """Until ``--help`` is done."""
    start = time.perf_counter()
    command = [sys.executable, "-m", f"train.{method}", "--help"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def first_step(method: str) -> float:
    """Until the first step is in the log."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "run" / "metrics.jsonl"
        command = [sys.executable, "-m", f"train.{method}", "--run-dir", str(log.parent)]
        start = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--log-every", "1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            while not (log.exists() and log.stat().st_size):
                if process.poll() is not None:
                    raise SystemExit(f"train.{method} ended with status {process.returncode}")
                time.sleep(0.01)
            return time.perf_counter() - start
        finally:
            process.kill()
            process.wait()


def main(benchmark: Benchmark) -> None:
    """A row for each method."""
    rows = []
    for method in METHODS:
        row: dict[str, object] = {"method": method}
        for name, measure in {"help, s": help_of, "first step, s": first_step}.items():
            taken = [measure(method) for _ in range(benchmark.times)]
            row[name] = round(statistics.median(taken), 2)
        rows.append(row)
    print(markdown(rows, list(rows[0])))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
