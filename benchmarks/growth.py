"""How the time and memory of a step grow with its sizes, with the exponents fitted.

    python benchmarks/growth.py

Each point is a process of its own: its memory is the most it had in a few steps of the loop, less
what it had before the first. An exponent is that of the upper half of a curve: 1 for linear.
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
    """Times steps of many sizes."""

    steps: int = 5
    """Steps that are timed at each, after two that are not."""
    out: Path = Path("runs/benchmarks")
    """Where the figure goes."""


def point(method: str, settings: dict[str, Any], steps: int) -> tuple[float, float]:
    """Milliseconds and megabytes of a step."""
    tune_cpu()
    torch.manual_seed(0)
    chosen = DEFAULTS[method](**settings)
    objective, batch = case(chosen)
    training = TrainState(objective, chosen, CPU, None)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    times = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        training.train_step(batch)
        times.append(time.perf_counter() - start)
    most = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 1e3 * statistics.median(times[2:]), (most - before) / 2**20


def exponent(sizes: tuple[int, ...], values: list[float]) -> float:
    """The slope of the upper half of a curve, both axes in logarithms."""
    upper = slice(len(sizes) // 2, None)
    return float(np.polyfit(np.log(sizes[upper]), np.log(values[upper]), 1)[0])


def figure(curves: dict[str, tuple[tuple[int, ...], list[float], list[float]]]) -> Figure:
    """Time and memory over the sizes, a column for each kind of size."""
    kinds = list(dict.fromkeys(name.split(", ")[0] + ", " + name.split(", ")[1] for name in curves))
    drawn = Figure(figsize=(3.2 * len(kinds), 5.6), layout="constrained")
    axes = drawn.subplots(2, len(kinds), squeeze=False)
    for name, (sizes, *values) in curves.items():
        kind = ", ".join(name.split(", ")[:2])
        for row, (each, unit) in enumerate(zip(values, ("ms a step", "MB"), strict=True)):
            axis = axes[row][kinds.index(kind)]
            label = name.removeprefix(kind).removeprefix(", ")
            slope = f"n^{exponent(sizes, each):.1f}"
            axis.loglog(sizes, each, "o-", label=f"{label}  {slope}".strip())
            axis.set(ylabel=unit, title=kind if row == 0 else "")
            axis.set_xticks(sizes, [str(size) for size in sizes], fontsize=8)
            axis.minorticks_off()
            axis.legend(frameon=False, fontsize=8)
    return drawn


def main(benchmark: Benchmark) -> None:
    """A row for each point, the exponents, and a figure."""
    rows, curves = [], {}
    for name, (method, varied, sizes, others) in CURVES.items():
        times, memories = [], []
        for size in sizes:
            # Forked anew: what one point leaves in memory is not there for the next.
            context = get_context("forkserver")
            with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
                settings = {varied: size, **others}
                taken, memory = pool.submit(point, method, settings, benchmark.steps).result()
            times.append(taken)
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
