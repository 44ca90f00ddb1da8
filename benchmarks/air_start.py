"""Times AIR from the command until 98% of held-out counts are right, compiled and not.

    python benchmarks/air_start.py

Everything counts: imports, data, checks, the compiler, and the evaluations every 50 steps. A run
ends when it is there. The compiler begins with empty caches, and the last run finds what the second
one has kept.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from train.engine import kept_steps
from train.tables import markdown

WAYS = {
    "default": ("off", "a"),
    "compiled for the first time": ("on", "b"),
    "compiled in the background": ("background", "c"),
    "compiled before": ("on", "b"),
}
"""Rows: the value of --compile, and a name for the caches."""


@dataclass(frozen=True)
class Benchmark:
    """Train AIR until the counts are right, in each way of compiling."""

    accuracy: float = 0.98
    """Accuracy of the counts to reach, on 1,000 held-out scenes."""
    ways: tuple[str, ...] = tuple(WAYS)
    """Rows of the table, in order."""
    seed: int = 0
    """Seed of every run."""
    steps: int = 3_000
    """Most training steps."""
    data_dir: Path | None = None
    """Folder of MNIST; None: that of the command."""


def lines(log: Path) -> list[dict[str, Any]]:
    """Returns the complete lines of a log that may still be written."""
    text = log.read_text() if log.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def reach(command: list[str], environment: dict[str, str], benchmark: Benchmark) -> dict[str, Any]:
    """Runs a command until the accuracy is reached, and returns a row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "run" / "metrics.jsonl"
        start = time.perf_counter()
        with (Path(folder) / "errors").open("w+") as errors:
            process = subprocess.Popen(
                [*command, "--run-dir", str(log.parent)],
                env={**os.environ, **environment},
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
            first = None
            try:
                while True:
                    ended = process.poll() is not None
                    found = lines(log)
                    first = first or (found and time.perf_counter() - start) or None
                    success = [
                        line["step"]
                        for line in found
                        if line.get("held_out_count_accuracy", 0) >= benchmark.accuracy
                    ]
                    if success or ended:
                        break
                    time.sleep(0.02)
                seconds = time.perf_counter() - start
            finally:
                process.terminate()
                process.wait()
            errors.seek(0)
            said = [line for line in errors if "steps are compiled from step" in line]
    return {
        "seconds": round(seconds, 1),
        "step": success[0] if success else f"not by {benchmark.steps:,}",
        "seconds until the log of step 50": round(first or seconds, 1),
        "compiled from": said[0].split("step ")[1].split(" ")[0] if said else "",
    }


def main(benchmark: Benchmark) -> None:
    """Times each way and prints a Markdown table."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for way in benchmark.ways:
            compiles, caches = WAYS[way]
            environment = {
                name: str(Path(folder) / caches / name)
                for name in (kept_steps.FOLDER, "TORCHINDUCTOR_CACHE_DIR")
            }
            command = [
                *(sys.executable, "-m", "train.air", "--eval-every", "50", "--compile", compiles),
                *("--seed", str(benchmark.seed), "--steps", str(benchmark.steps)),
            ]
            if benchmark.data_dir is not None:
                command += ["--data-dir", str(benchmark.data_dir)]
            rows.append({"run": way} | reach(command, environment, benchmark))
            print(rows[-1], flush=True)
    print(markdown(rows, list(rows[0])))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
