"""Measures how time and memory of a training step grow with sizes, and fits exponents.

    python benchmarks/growth.py

Each point is measured in a fresh process. Its memory is the peak of the process, minus its memory
before the first training step. Exponents are fitted to the upper half of a curve; 1 is linear
growth.
"""

from __future__ import annotations

import os
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from cases import CPU, DEFAULTS, case
from matplotlib.figure import Figure

from train.engine.loop import TrainState
from train.engine.runtime import tune_cpu
from train.tables import markdown

BATCHES = (16, 64, 256, 1024, 4096)
STACKS = (32, 64, 128, 256, 512, 1024)
CURVES: dict[str, tuple[str, str, tuple[int, ...], dict[str, Any]]] = {
    "AIR, batch": ("air", "batch_size", BATCHES, {}),
    "AIR, objects": ("air", "max_objects", (1, 2, 3, 4, 6, 8, 12), {}),
    "AIR, canvas' side": ("air", "canvas_size", (50, 71, 100, 141, 200), {}),
    "ABC, stack, l2sq": ("abc", "stack_size", STACKS, {"similarity": "l2sq"}),
    "ABC, stack, l1": ("abc", "stack_size", STACKS, {"similarity": "l1"}),
    "ABC, stack, linf": ("abc", "stack_size", STACKS, {"similarity": "linf"}),
    "ICVAE, batch, pairwise": ("icvae", "batch_size", BATCHES, {"invariance": "pairwise"}),
    "ICVAE, batch, direct": ("icvae", "batch_size", BATCHES, {"invariance": "direct"}),
}


@dataclass(frozen=True)
class Benchmark:
    """Measure training steps of many sizes."""

    steps: int = 5
    """Timed steps of each size, after two warm-up steps."""
    out: Path = Path("runs/benchmarks")
    """Folder that the figure is written to."""


def point(method: str, settings: dict[str, Any], steps: int) -> tuple[float, float]:
    """Returns median milliseconds and peak megabytes (MiB) of a training step."""
    tune_cpu()
    torch.manual_seed(0)
    method_settings = DEFAULTS[method](**settings)
    objective, batch = case(method_settings)
    training = TrainState(objective, method_settings, CPU, None)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    times = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        training.train_step(batch)
        times.append(time.perf_counter() - start)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 1e3 * statistics.median(times[2:]), (peak - before) / 2**20


def exponent(sizes: tuple[int, ...], values: list[float]) -> float:
    """Fits a line to the upper half of a curve on log-log axes; returns its slope."""
    upper = slice(len(sizes) // 2, None)
    return float(np.polyfit(np.log(sizes[upper]), np.log(values[upper]), 1)[0])


def figure(curves: dict[str, tuple[tuple[int, ...], list[float], list[float]]]) -> Figure:
    """Plots time and memory against size, in a column for each kind of size."""
    kinds = list(dict.fromkeys(name.split(", ")[0] + ", " + name.split(", ")[1] for name in curves))
    growth = Figure(figsize=(3.2 * len(kinds), 5.6), layout="constrained")
    axes = growth.subplots(2, len(kinds), squeeze=False)
    for name, (sizes, *values) in curves.items():
        kind = ", ".join(name.split(", ")[:2])
        for row, (curve, unit) in enumerate(zip(values, ("ms a step", "MB"), strict=True)):
            axis = axes[row][kinds.index(kind)]
            label = name.removeprefix(kind).removeprefix(", ")
            slope = f"n^{exponent(sizes, curve):.1f}"
            axis.loglog(sizes, curve, "o-", label=f"{label}  {slope}".strip())
            axis.set(ylabel=unit, title=kind if row == 0 else "")
            axis.set_xticks(sizes, [str(size) for size in sizes], fontsize=8)
            axis.minorticks_off()
            axis.legend(frameon=False, fontsize=8)
    return growth


def main(benchmark: Benchmark) -> None:
    """Measures every curve, prints a Markdown table with exponents, and draws a figure."""
    rows, curves = [], {}
    for name, (method, varied, sizes, others) in CURVES.items():
        times, memories = [], []
        for size in sizes:
            # A process for each point, so that memory of one point does not count for the next.
            context = get_context("forkserver")
            with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
                settings = {varied: size, **others}
                time_ms, memory = pool.submit(point, method, settings, benchmark.steps).result()
            times.append(time_ms)
            memories.append(memory)
        curves[name] = (sizes, times, memories)
        rows.append(
            {
                "step of": name,
                "from": sizes[0],
                "to": sizes[-1],
                "ms": f"{times[0]:.0f} to {times[-1]:,.0f}",
                "time grows as": f"n^{exponent(sizes, times):.2f}",
                "MB": f"{memories[0]:.0f} to {memories[-1]:,.0f}",
                "memory grows as": f"n^{exponent(sizes, memories):.2f}",
            }
        )
        print(rows[-1], flush=True)
    print(markdown(rows, list(rows[0])))
    benchmark.out.mkdir(parents=True, exist_ok=True)
    figure(curves).savefig(benchmark.out / "growth.png", dpi=150)


if __name__ == "__main__":
    get_context("forkserver").set_forkserver_preload(["cases", "train.engine.loop"])
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", "0")
    main(tyro.cli(Benchmark))
