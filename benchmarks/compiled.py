"""Times a training step of each method with and without --compile, and the compilation.

    python benchmarks/compiled.py

The settings are the defaults, except for the learning rate. The losses of compiled and eager steps
from one seed are compared too. On a CPU, a C++ compiler is needed.
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

from train.engine import kept_steps
from train.engine.loop import TrainState
from train.engine.runtime import tune_cpu
from train.settings import Settings
from train.studies.timing import median_ratio, turns
from train.tables import markdown


@dataclass(frozen=True)
class Benchmark:
    """Time compiled and eager steps in turn."""

    rounds: int = 10
    """Number of timed rounds."""
    each: int = 10
    """Steps of each alternative in a round."""
    equal_steps: int = 100
    """Number of steps over which losses are compared."""
    device: str = "cpu"
    """Device to compute on."""


def prepare(settings: Settings, device: torch.device) -> tuple[TrainState, Any]:
    """Returns a training state that is warmed up and compiled, and its batches."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    objective, data = case(settings, device)
    training = TrainState(objective, settings, device, None)
    training.prepare(data)
    return training, data


def losses(training: TrainState, data: Any, steps: int) -> torch.Tensor:
    """Returns the losses of steps from a fixed seed, of shape (steps, number of losses)."""
    torch.manual_seed(1)
    # torch.stack copies: a replayed step overwrites the tensors that the previous one returned.
    rows = [torch.stack(list(training.stepper(data(i), i)[0].values())) for i in range(steps)]
    return torch.stack(rows)


def main(benchmark: Benchmark) -> None:
    """Times each method and prints a Markdown table."""
    tune_cpu()
    device = torch.device(benchmark.device)
    rows = []
    for name, kind in DEFAULTS.items():
        # At larger rates the first steps of some methods amplify rounding errors.
        settings = kind(learning_rate=1e-5)
        plain = prepare(replace(settings, compile="off"), device)
        with tempfile.TemporaryDirectory() as cache:
            # Caches of an earlier compilation would shorten the first warm-up.
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.environ[kept_steps.FOLDER] = cache
            first = prepare(replace(settings, compile="on"), device)
            compiled = prepare(replace(settings, compile="on"), device)
        expected, actual = (losses(*run, benchmark.equal_steps) for run in (plain, compiled))
        difference = ((expected - actual).abs() / expected.abs()).max().item()
        steps = {
            "as it is": lambda _, run=plain: run[0].train_step(run[1]),
            "compiled": lambda _, run=compiled: run[0].train_step(run[1]),
        }
        times = turns(steps, benchmark.rounds, benchmark.each)
        row: dict[str, object] = {"step of": name}
        row |= {f"{way}, ms": round(statistics.median(ms), 1) for way, ms in times.items()}
        row |= {"times as fast": f"{median_ratio(times['as it is'], times['compiled']):.2f}"}
        row |= {"warm-up, s": round(first[0].warm_up.seconds)}
        row |= {"again, s": round(compiled[0].warm_up.seconds, 1)}
        rows.append(row | {"losses differ by": f"{difference:.1e}"})
        print(rows[-1], flush=True)
    print(markdown(rows, list(rows[0])))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
