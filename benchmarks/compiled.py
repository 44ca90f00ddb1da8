"""What --compile brings to a step of each method, and what it costs before the first.

    python benchmarks/compiled.py

The settings are the defaults. Compiled steps must first do what the others do: a hundred of each
from one seed, random numbers included. A CPU needs a C++ compiler.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from dataclasses import dataclass, replace
from typing import Any

import torch
import tyro
from cases import DEFAULTS, case
from timing import ratio, turns

from train.engine.loop import TrainState
from train.engine.runtime import tune_cpu
from train.settings import Settings
from train.tables import markdown


@dataclass(frozen=True)
class Benchmark:
    """Times compiled steps and others, in turn."""

    rounds: int = 10
    """Turns of each."""
    each: int = 10
    """Steps a turn."""
    equal_steps: int = 100
    """Over how many steps losses are compared."""
    device: str = "cpu"
    """Where to compute."""


def begun(settings: Settings, device: torch.device) -> tuple[TrainState, Any]:
    """A run that is ready for its first step, and its data."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    objective, data = case(settings, device)
    training = TrainState(objective, settings, device, None)
    training.prepare(data)
    return training, data


def losses(training: TrainState, data: Any, steps: int) -> torch.Tensor:
    """The losses of steps from one seed, of shape (steps, *)."""
    torch.manual_seed(1)
    # Copied at once: what a replayed step returns is written over by the next one.
    taken = [torch.stack(list(training.stepper(data(i), i)[0].values())) for i in range(steps)]
    return torch.stack(taken)


def main(benchmark: Benchmark) -> None:
    """A row for each method."""
    tune_cpu()
    device = torch.device(benchmark.device)
    rows = []
    for name, kind in DEFAULTS.items():
        # At larger rates the first steps of some methods make much of a rounding error.
        chosen = kind(learning_rate=1e-5)
        plain = begun(replace(chosen, compile="off"), device)
        with tempfile.TemporaryDirectory() as cache:
            # What an earlier run compiled would make the first warm-up look short.
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
            first = begun(replace(chosen, compile="on"), device)
            compiled = begun(replace(chosen, compile="on"), device)
        apart = [losses(*way, benchmark.equal_steps) for way in (plain, compiled)]
        differs = ((apart[0] - apart[1]).abs() / apart[0].abs()).max().item()
        steps = {
            "as it is": lambda _, run=plain: run[0].train_step(run[1]),
            "compiled": lambda _, run=compiled: run[0].train_step(run[1]),
        }
        times = turns(steps, benchmark.rounds, benchmark.each)
        row: dict[str, object] = {"step of": name}
        row |= {f"{way}, ms": round(statistics.median(each), 1) for way, each in times.items()}
        row |= {"times as fast": f"{ratio(times['as it is'], times['compiled']):.2f}"}
        row |= {"warm-up, s": round(first[0].warm_up.seconds)}
        row |= {"again, s": round(compiled[0].warm_up.seconds)}
        rows.append(row | {"losses differ by": f"{differs:.1e}"})
        print(rows[-1], flush=True)
    print(markdown(rows, list(rows[0])))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
