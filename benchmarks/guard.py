"""Says which steps a change has made slower or faster, against another revision, in five minutes.

    python benchmarks/guard.py
    python benchmarks/guard.py --base v0.1.0 --minutes 10

The base is checked out into a temporary folder. Two processes, one for each side, do the same work
in turn, a moment each, in seconds of the processor, which other programs change little. A row has
the median of the rounds' ratios, with an interval that covers it in 95%. It has moved if the whole
interval is further from 1 than the tolerance. The exit status is 1 if anything is slower. Sources
of the working tree are measured as they are, committed or not; what is timed, and how, is the
working tree's on both sides.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from answering import ROOT, Worker
from guard_worker import WORKS

from train.errors import require
from train.studies.timing import median_interval, ratios
from train.tables import markdown

TURN = 0.1
"""Seconds of a turn, if several repeats fit into it."""
FEWEST = 8
"""Rounds that are timed at least, with which the interval means something."""


@dataclass(frozen=True)
class Benchmark:
    """Time steps of the working tree and of another revision in turn."""

    base: str = "HEAD"
    """The revision to compare with."""
    minutes: float = 5.0
    """Minutes to spend, checking out and imports apart."""
    works: tuple[str, ...] = tuple(WORKS)
    """What to time."""
    tolerance: float = 0.03
    """The change that does not matter, as a fraction."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.works if name not in WORKS]
        require(not unknown, f"--works {unknown[:1]} is not known: give some of {', '.join(WORKS)}")


class Steps(Worker):
    """A process that takes steps with the library of one tree."""

    def __init__(self, tree: Path) -> None:
        super().__init__("guard_worker.py", tree, OMP_NUM_THREADS="1")

    def __call__(self, name: str, repeats: int) -> float | None:
        """Returns the processor's seconds a repeat; ``None`` if this tree cannot do it."""
        self.ask(name, repeats)
        return self.answer()


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """The tree of a revision, in a temporary folder."""
    git = ["git", "-C", str(ROOT)]
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "tree.tar"
        found = subprocess.run([*git, "archive", "-o", archive, revision], capture_output=True)
        require(
            found.returncode == 0,
            f"--base {revision} cannot be checked out ({found.stderr.decode().strip()}): "
            "name a commit, a branch or a tag",
        )
        tree = Path(folder) / "tree"
        tree.mkdir()
        subprocess.run(["tar", "-xf", archive, "-C", tree], check=True)
        yield tree


def compared(name: str, sides: dict[str, Steps], benchmark: Benchmark) -> dict[str, Any]:
    """Times one work on both sides in turn, and returns a row of the table."""
    row: dict[str, Any] = {"what": name}
    end = time.perf_counter() + 60 * benchmark.minutes / len(benchmark.works)
    # The first call makes it, the second is warm.
    for repeats in (1, 1):
        first = {side: worker(name, repeats) for side, worker in sides.items()}
    if None in first.values():
        missing = ", ".join(side for side, seconds in first.items() if seconds is None)
        return row | {"verdict": f"not in {missing}"}
    repeats = max(1, round(TURN / max(first.values())))
    times: dict[str, list[float]] = {side: [] for side in sides}
    order = list(sides)
    while time.perf_counter() < end or len(times["base"]) < FEWEST:
        for side in order:
            times[side].append(sides[side](name, repeats))
        order.reverse()
    by_round = ratios(times["now"], times["base"])
    low, high = median_interval(by_round)
    verdict = "same"
    if low > 1 + benchmark.tolerance:
        verdict = "slower"
    elif high < 1 - benchmark.tolerance:
        verdict = "faster"
    return row | {
        "base, ms": round(1e3 * statistics.median(times["base"]), 2),
        "now, ms": round(1e3 * statistics.median(times["now"]), 2),
        "ratio": round(statistics.median(by_round), 3),
        "interval": f"{low:.3f} to {high:.3f}",
        "rounds": len(by_round),
        "verdict": verdict,
    }


def main(benchmark: Benchmark) -> int:
    """Times all works, prints a Markdown table, and returns 1 if one is slower."""
    rows = []
    with checked_out(benchmark.base) as tree, ExitStack() as stack:
        sides = {"base": Steps(tree), "now": Steps(ROOT)}
        for worker in sides.values():
            stack.callback(worker.process.kill)
        for name in benchmark.works:
            rows.append(compared(name, sides, benchmark))
            print(f"{name}: {rows[-1]['verdict']}", file=sys.stderr, flush=True)
    columns = ["what", "base, ms", "now, ms", "ratio", "interval", "rounds", "verdict"]
    print(markdown([dict.fromkeys(columns) | row for row in rows], columns))
    return int(any(row["verdict"] == "slower" for row in rows))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Benchmark)))
