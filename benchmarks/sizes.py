"""Measures what a training step costs at several sizes of images, in grey and in colour.

Each method has its default settings but for the batch, and each case a process of its own, whose
peak memory is that of libraries (0.7 GB), weights, optimiser and step.

python -m benchmarks.sizes
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Literal

import torch
import tyro

from train.data.labelled import Images, Split, ValidationSplit
from train.data.scenes import Scenes
from train.engine.runtime import tune_cpu
from train.engine.state import TrainState
from train.methods import METHODS
from train.settings import Settings
from train.studies.timing import wait
from train.tables import markdown

SMALLEST = 64
"""Images of the data, or a batch if it is larger."""


@dataclass(frozen=True)
class Benchmark:
    """Train every method for a few steps on noise."""

    methods: tuple[str, ...] = ("ae", "icvae", "abc", "acai", "air")
    """Names of the methods."""
    sides: tuple[int, ...] = (32, 64, 128, 256)
    """Heights and widths of the images."""
    batch_size: int = 16
    """Images a step. Of ABC, a pair of stacks has as many in all."""
    steps: int = 5
    """Number of timed steps, after a first one."""
    threads: int = 1
    """Number of threads."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Device."""


def settings_of(method: str, batch_size: int, device: str) -> Settings:
    """Returns default settings but for the batch."""
    given = {"device": device, "compile": "off"}
    if method == "abc":
        return METHODS[method].settings(stack_size=batch_size // 2, withheld=(), **given)
    return METHODS[method].settings(batch_size=batch_size, **given)


def data_of(method: str, shape: tuple[int, int, int], n: int) -> Split | ValidationSplit:
    """Returns noise: scenes for AIR, else images of two classes."""
    pixels = torch.randint(0, 256, (n, *shape), dtype=torch.uint8)
    if method == "air":
        return Split(*[Scenes(pixels, None, None)] * 2)
    images = Images(pixels, torch.arange(n) % 2)
    return ValidationSplit(*[images] * 3) if method == "ae" else Split(images, images)


def peak(device: torch.device) -> float:
    """Returns the peak memory in MB: of the device if it is a GPU, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    # Linux has kilobytes, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def measure(method: str, shape: tuple[int, int, int], benchmark: Benchmark) -> dict[str, str]:
    """Trains a method for a few steps; returns a row of the table."""
    tune_cpu()
    torch.set_num_threads(benchmark.threads)
    device = torch.device(benchmark.device)
    record = METHODS[method]
    settings = settings_of(method, benchmark.batch_size, benchmark.device)
    data = data_of(method, shape, max(SMALLEST, 2 * benchmark.batch_size))
    settings = record.resolved(settings, data)
    objective, batches, _ = record.prepare(settings, data, device)
    training = TrainState(objective, settings, device, record.best(settings))
    training.prepare(batches)
    milliseconds = []
    for step in range(benchmark.steps + 1):
        wait()
        start = time.perf_counter()
        training.train_step(batches)
        wait()
        if step:
            milliseconds.append(1e3 * (time.perf_counter() - start))
    weights = sum(weight.numel() for weight in objective.parameters())
    return {
        "weights, millions": f"{weights / 1e6:.1f}",
        "ms a step": f"{statistics.median(milliseconds):.0f}",
        "peak memory, MB": f"{peak(device):.0f}",
    }


def main(benchmark: Benchmark) -> None:
    """Measures all cases and prints a Markdown table with a row for each."""
    rows = []
    for method in benchmark.methods:
        for side in benchmark.sides:
            for channels, colours in ((1, "grey"), (3, "colour")):
                # A new interpreter, which has not the memory of the case before.
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    row = pool.apply(measure, (method, (channels, side, side), benchmark))
                rows.append({"method": method, "images": f"{side}x{side} {colours}", **row})
                print(rows[-1], file=sys.stderr, flush=True)
    print(f"Batches of {benchmark.batch_size} images, {benchmark.device}:\n")
    print(markdown(rows, list(rows[0])))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
