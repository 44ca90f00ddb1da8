"""Measures how time and memory of a training step grow with sizes, and fits exponents.

    python benchmarks/growth.py

Each point is measured in a fresh process, in seconds of the processor on one core. Its memory is
the peak of the process, minus its memory before the first step. Exponents are fitted to the upper
half of a curve; 1 is linear growth, and where a side of images grows, 2 is linear in pixels.
"""

from __future__ import annotations

import contextlib
import io
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
from growth_works import Make, from_disk, from_workers, step, table_read, table_step
from matplotlib.figure import Figure

from train.engine.runtime import tune_cpu
from train.tables import markdown

BATCHES = (16, 64, 256, 1024, 4096)
STACKS = (32, 64, 128, 256, 512, 1024)
COLUMNS = 4
"""Kinds of sizes beside each other in the figure."""
OBJECTS = (1, 2, 3, 4, 6, 8, 12)
CANVASES = (50, 71, 100, 141, 200)
SIDES = (28, 56, 112, 224)
AIR_IMAGES = {"batch_size": 16, "composition": "mixture", "background": "constant"}
LOCAL: dict[str, Any] = {"guide": "convolutional"}
Curve = tuple[Make, str, tuple[int, ...], dict[str, Any]]
CURVES: dict[str, Curve] = {
    "AIR, batch": (step("air"), "batch_size", BATCHES, {}),
    "AIR, objects": (step("air"), "max_objects", OBJECTS, {"guide": "residual"}),
    "AIR, objects, convolutional": (step("air"), "max_objects", OBJECTS, LOCAL),
    "AIR, objects, colour": (
        *(step("air", 3), "max_objects", OBJECTS),
        {"side": 50, **LOCAL, **AIR_IMAGES},
    ),
    "AIR, canvas' side": (step("air"), "canvas_size", CANVASES, {}),
    "AIR, canvas' side, convolutional": (step("air"), "canvas_size", CANVASES, LOCAL),
    "AIR, canvas' side, colour": (step("air", 3), "side", CANVASES, {**LOCAL, **AIR_IMAGES}),
    "ABC, stack, l2sq": (step("abc"), "stack_size", STACKS, {"similarity": "l2sq"}),
    "ABC, stack, l1": (step("abc"), "stack_size", STACKS, {"similarity": "l1"}),
    "ABC, stack, linf": (step("abc"), "stack_size", STACKS, {"similarity": "linf"}),
    "ABC, image's side, colour": (step("abc", 3), "side", SIDES, {"stack_size": 16}),
    "ICVAE, batch, pairwise": (step("icvae"), "batch_size", BATCHES, {"invariance": "pairwise"}),
    "ICVAE, batch, direct": (step("icvae"), "batch_size", BATCHES, {"invariance": "direct"}),
    "ICVAE, image's side, colour": (step("icvae", 3), "side", SIDES, {"batch_size": 64}),
    "AE, image's side, grey": (step("ae", 1), "side", SIDES, {"batch_size": 16}),
    "AE, image's side, colour": (step("ae", 3), "side", SIDES, {"batch_size": 16}),
    "ACAI, image's side, grey": (step("acai", 1), "side", (32, 64, 128, 256), {"batch_size": 2}),
    "ACAI, image's side, colour": (step("acai", 3), "side", (32, 64, 128, 256), {"batch_size": 2}),
    "table, batch": (table_step, "batch_size", BATCHES, {}),
    "table, columns": (table_step, "columns", (4, 8, 16, 32, 64, 128), {"batch_size": 256}),
    "table read, rows": (table_read, "rows", (1_000, 4_000, 16_000, 64_000, 256_000), {}),
    "table read, columns": (table_read, "columns", (4, 8, 16, 32, 64, 128), {"rows": 4_000}),
    "disk, batch": (from_disk, "batch_size", BATCHES, {"images": 20_000}),
    "disk, images": (from_disk, "images", (10_000, 40_000, 160_000), {"batch_size": 128}),
    "data set, processes": (from_workers, "workers", (1, 2), {"batch_size": 128}),
}
"""By name what does the work, the size that varies, its values, and other settings. Curves whose
names begin alike up to the second comma share axes."""


@dataclass(frozen=True)
class Benchmark:
    """Measure training steps of many sizes."""

    curves: tuple[str, ...] = tuple(CURVES)
    """Names of the curves to measure."""
    steps: int = 5
    """Timed steps of each size, after two that warm up."""
    out: Path = Path("runs/benchmarks")
    """Folder that the figure is written to."""


def point(name: str, settings: dict[str, Any], steps: int) -> tuple[float, float]:
    """Returns median milliseconds of the processor and peak megabytes (MiB) of a step."""
    tune_cpu()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # The library says what it makes of data, of tables in many lines.
    with contextlib.redirect_stderr(io.StringIO()):
        work = CURVES[name][0](settings)
        before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        times = []
        for _ in range(steps + 2):
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 1e3 * statistics.median(times[2:]), (peak - before) / 2**20


def exponent(sizes: tuple[int, ...], values: list[float]) -> float:
    """Fits a line to the upper half of a curve on log-log axes; returns its slope."""
    upper = slice(len(sizes) // 2, None)
    return float(np.polyfit(np.log(sizes[upper]), np.log(values[upper]), 1)[0])


def figure(curves: dict[str, tuple[tuple[int, ...], list[float], list[float]]]) -> Figure:
    """Plots time and memory against size: of each kind of size one above the other."""
    kinds = list(dict.fromkeys(", ".join(name.split(", ")[:2]) for name in curves))
    columns = min(COLUMNS, len(kinds))
    bands = -(-len(kinds) // columns)
    growth = Figure(figsize=(3.2 * columns, 5.6 * bands), layout="constrained")
    axes = growth.subplots(2 * bands, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_visible(False)
    for name, (sizes, *values) in curves.items():
        kind = ", ".join(name.split(", ")[:2])
        for row, (curve, unit) in enumerate(zip(values, ("ms a step", "MB"), strict=True)):
            band, column = divmod(kinds.index(kind), columns)
            axis = axes[2 * band + row][column]
            axis.set_visible(True)
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
    for name in benchmark.curves:
        _, varied, sizes, others = CURVES[name]
        times, memories = [], []
        for size in sizes:
            # A process for each point, so that memory of one point does not count for the next.
            context = get_context("forkserver")
            with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
                settings = {varied: size, **others}
                time_ms, memory = pool.submit(point, name, settings, benchmark.steps).result()
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
    get_context("forkserver").set_forkserver_preload(["growth_works", "train.engine.loop"])
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", "0")
    main(tyro.cli(Benchmark))
