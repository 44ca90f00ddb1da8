"""What --compile brings to a step of each method, and what it costs before the first.

    python benchmarks/compiled.py

The settings are the defaults. The CPU needs a C++ compiler.
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass

import torch
import tyro
from cases import CPU, DEFAULTS, case
from timing import turns

from train.loop import Training, compile_networks
from train.tables import markdown


@dataclass(frozen=True)
class Benchmark:
    """Times steps with compiled networks and without, in turn."""

    rounds: int = 10
    """Turns of each."""
    each: int = 10
    """Steps a turn."""


def main(benchmark: Benchmark) -> None:
    """A row for each method."""
    torch.set_flush_denormal(True)
    rows = []
    for name, kind in DEFAULTS.items():
        torch._dynamo.reset()
        training = {}
        for way in ("as it is", "compiled"):
            torch.manual_seed(0)
            settings = kind()
            objective, data = case(settings)
            if way == "compiled":
                compile_networks(objective, CPU)
            training[way] = (Training(objective, settings, CPU, None), data)
        steps = {
            way: lambda _, run=run, data=data: run.take(data)
            for way, (run, data) in training.items()
        }
        begun = time.perf_counter()
        steps["compiled"](0)
        warm_up = time.perf_counter() - begun
        times = turns(steps, benchmark.rounds, benchmark.each)
        pairs = zip(times["as it is"], times["compiled"], strict=True)
        ratio = statistics.median(plain / compiled for plain, compiled in pairs)
        row: dict[str, object] = {"step of": name}
        row |= {f"{way}, ms": round(statistics.median(each), 1) for way, each in times.items()}
        rows.append(row | {"times as fast": f"{ratio:.2f}", "first step, s": f"{warm_up:.0f}"})
        print(rows[-1], flush=True)
    print(markdown(rows, list(rows[0])))


if __name__ == "__main__":
    # What an earlier run compiled would make the first step look short.
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
    main(tyro.cli(Benchmark))
