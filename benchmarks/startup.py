"""Times how long each command takes to print its help, and to log its first training step.

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
    """Start the command of every method."""

    times: int = 5
    """Number of starts, of which the median is printed."""


def help_of(method: str) -> float:
    """Returns the seconds that ``--help`` takes."""
    start = time.perf_counter()
    command = [sys.executable, "-m", f"train.{method}", "--help"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def first_step(method: str) -> float:
    """Returns the seconds from the start of the command to the first line of its log."""
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
    """Times each method and prints a Markdown table."""
    rows = []
    for method in METHODS:
        row: dict[str, object] = {"method": method}
        for name, measure in {"help, s": help_of, "first step, s": first_step}.items():
            seconds = [measure(method) for _ in range(benchmark.times)]
            row[name] = round(statistics.median(seconds), 2)
        rows.append(row)
    print(markdown(rows, list(rows[0])))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
