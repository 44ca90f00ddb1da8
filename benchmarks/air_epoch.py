"""Times an epoch of AIR and of Pyro's example: 60,000 scenes in batches of 64.

    python benchmarks/air_epoch.py
    python benchmarks/air_epoch.py --device cuda

All variants have the sizes of Pyro's example, which is the reference. "Pyro's way, our networks" is
this project's model and recurrent guide with TraceGraph_ELBO and a network as baseline. The first
steps of each variant are not timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import tyro
from air_step import SIZE, WHAT, WINDOW, N, reference
from cases import case

from train.air import AIRSettings
from train.data.batches import Batches
from train.engine.loop import TrainState
from train.engine.runtime import tune_cpu
from train.studies.timing import wait
from train.tables import markdown

SIZES = AIRSettings(
    canvas_size=SIZE,
    max_objects=N,
    window_size=WINDOW,
    what_dim=WHAT,
    what_hidden=200,
    guide_hidden=256,
)
PYRO = {"estimator": "tracegraph", "baseline": "network", "guide": "recurrent", "anchors": 0}


@dataclass(frozen=True)
class Benchmark:
    """Time an epoch of each variant."""

    scenes: int = 60_000
    """Number of scenes in an epoch."""
    device: str = "cpu"
    """Device to compute on."""


def example(batches: Batches, device: torch.device) -> tuple[Callable[[int], object], float]:
    """Returns a function that trains Pyro's example for one step, and its warm-up time (none)."""
    step = reference(device)
    return lambda i: step(batches(i)[0].squeeze(1)), 0.0


def ours(
    batches: Batches, device: torch.device, **changes: object
) -> tuple[Callable[[int], object], float]:
    """Returns a function that trains AIR for one step, and its warm-up time in seconds."""
    settings = replace(SIZES, **changes)
    training = TrainState(case(settings, device)[0], settings, device, None)
    training.prepare(batches)
    return lambda _: training.train_step(batches), training.warm_up.seconds


def main(benchmark: Benchmark) -> None:
    """Times each variant and prints a Markdown table."""
    tune_cpu()
    device = torch.device(benchmark.device)
    scenes = torch.randint(0, 256, (benchmark.scenes, 1, SIZE, SIZE), dtype=torch.uint8)
    batches = Batches((scenes,), 64, 0, device)
    variants = {
        "Pyro's example": lambda: example(batches, device),
        "Pyro's way, our networks": lambda: ours(batches, device, **PYRO, compile="off"),
        "default": lambda: ours(batches, device, compile="off"),
        "default, compiled": lambda: ours(batches, device, compile="on"),
        "default, compiled, bf16": lambda: ours(batches, device, compile="on", precision="bf16"),
    }
    rows = []
    for name, variant in variants.items():
        torch.manual_seed(0)
        step, warm_up = variant()
        for i in range(5):
            step(i)
        wait()
        start = time.perf_counter()
        for i in range(batches.steps_per_epoch):
            step(i)
        wait()
        seconds = time.perf_counter() - start
        rows.append({"variant": name, "seconds": seconds, "warm-up, s": warm_up})
        print(rows[-1], flush=True)
    base = rows[0]["seconds"]
    rows = [row | {"times as fast": base / row["seconds"]} for row in rows]
    print(markdown(rows, list(rows[0])))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
