"""Measures training on data larger than memory: peak memory, speed beside data in memory, decoding.

    python -m benchmarks.streams --images 1000000

Speeds of one table are measured in turn, in one process.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image
from torch.utils.data import Dataset

from pyro_models.shapes import Shape
from train.ae import METHOD
from train.data import opening
from train.data.labelled import Images
from train.data.options import DataOptions
from train.data.streaming.adapters import as_split
from train.data.streaming.stored import StoredImages
from train.engine.state import local_batch
from train.engine.steps import Stepper
from train.settings.ae import AESettings
from train.studies.timing import median_ratio, turns
from train.tables import markdown

CHUNK = 50_000
"""Images that are written at once."""

WORKERS = tuple(n for n in (0, 1, 2, 4, 8) if n <= max(2, len(os.sched_getaffinity(0))))
"""Numbers of workers that are compared."""


@dataclass(frozen=True)
class Benchmark:
    """Measure memory and speed of training on images on disk."""

    images: int = 1_000_000
    """Images of 28x28 in the .npy file whose peak memory is measured."""
    steps: int = 2_000
    """Training steps of the run whose peak memory is measured."""
    timed: int = 60_000
    """Images of the data whose speed is measured."""
    files: int = 2_000
    """Image files of 64x64 that are decoded."""
    rounds: int = 7
    """Rounds of a table; medians are over these."""
    repeats: int = 60
    """Batches of each kind in a round."""
    batch_size: int = 128
    """Images in a batch."""


class Items(Dataset):
    """A map-style data set as people write it: a tensor and a number an item."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images
        self.targets = [0, 1] * (len(images) // 2)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.images[i].float() / 255, self.targets[i]


def write(path: Path, number: int) -> None:
    """Writes random images 28x28 to an ``.npy`` file, some at a time."""
    random = np.random.default_rng(0)
    array = np.lib.format.open_memmap(path, "w+", np.uint8, (number, 28, 28))
    for start in range(0, number, CHUNK):
        size = min(CHUNK, number - start)
        array[start : start + size] = random.integers(0, 256, (size, 28, 28), dtype=np.uint8)


def peak(*flags: str) -> dict[str, str]:
    """Trains the autoencoder in a process of its own; returns its peak memory and its time."""
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "train.ae", "--device", "cpu", *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    highest = 0
    while process.poll() is None:
        highest = max(highest, high_water(process.pid))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"train.ae {' '.join(flags)} ended with status {process.returncode}")
    return {
        "peak resident memory, MB": f"{highest / 1e6:,.0f}",
        "seconds": f"{time.monotonic() - start:.0f}",
    }


def high_water(pid: int) -> int:
    """Returns the most bytes that a process has had in memory; 0 if it has ended.

    The kernel's ``ru_maxrss`` of a child includes the parent's memory before the program began.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    sizes = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(sizes[0]) if sizes else 0


def memory(benchmark: Benchmark, folder: Path) -> None:
    """Prints the peak memory of a run on many images, and on the 5,000 of mnist5k."""
    write(folder / "many.npy", benchmark.images)
    cases = {
        f"{benchmark.images:,} images, .npy": ("--data", str(folder / "many.npy")),
        "5,000 images, mnist5k": ("--data", "mnist5k"),
    }
    rows = []
    for name, flags in cases.items():
        steps = ("--steps", str(benchmark.steps), "--run-dir", str(folder / name[:5]))
        rows.append({"train.ae on": name, **peak(*flags, *steps)})
        print(rows[-1], flush=True)
    print(markdown(rows, list(rows[0])), flush=True)


def training(images: Images, settings: AESettings) -> Callable[[int], object]:
    """Returns a function that trains the autoencoder for one step."""
    batches = images.batches(settings.batch_size, 0, "cpu")
    objective = METHOD.build(settings, {"shape": images.shape.outside})
    stepper = Stepper(objective, settings, torch.device("cpu"))
    return following(lambda step: stepper(local_batch(batches, step), step))


def reading(images: Images, settings: AESettings) -> Callable[[int], object]:
    """Returns a function that reads a batch and does nothing with it."""
    batches = images.batches(settings.batch_size, 0, "cpu")
    return following(lambda step: local_batch(batches, step))


def following(step: Callable[[int], object]) -> Callable[[int], object]:
    """Returns a function that takes one step after the other, whatever its argument."""
    steps: Iterator[int] = iter(range(2**31))
    return lambda _: step(next(steps))


def speed(benchmark: Benchmark, folder: Path) -> None:
    """Prints the speed of training, and of reading alone, from disk and from memory."""
    path = folder / "timed.npy"
    write(path, benchmark.timed)
    in_memory = torch.from_numpy(np.load(path)).unsqueeze(1)
    cases = {"in memory": Images(in_memory, None)}
    contents = opening.read(str(path), DataOptions(in_memory="never"))
    cases[".npy on disk"] = Images(contents.images, None)
    for workers in WORKERS:
        split = as_split((Items(in_memory),) * 2, options=DataOptions(workers=workers))
        cases[f"Dataset, {workers} workers"] = split.train
    kinds = {"training": training, "reading alone": reading}
    for kind, make in kinds.items():
        settings = AESettings(batch_size=benchmark.batch_size, compile="off")
        steps = {name: make(images, settings) for name, images in cases.items()}
        times = turns(steps, benchmark.rounds, benchmark.repeats)
        rows = [
            {
                f"{kind}, images": name,
                "ms a batch": f"{statistics.median(milliseconds):.2f}",
                "images a second": f"{rate(milliseconds, benchmark.batch_size):,.0f}",
                "relative to memory": f"{median_ratio(times['in memory'], milliseconds):.2f}",
            }
            for name, milliseconds in times.items()
        ]
        print(markdown(rows, list(rows[0])), flush=True)


def rate(milliseconds: list[float], batch_size: int) -> float:
    """Returns images a second, the median of rounds."""
    return batch_size / statistics.median(milliseconds) * 1e3


def decoding(benchmark: Benchmark, folder: Path) -> None:
    """Prints the speed of decoding JPEG and PNG files by the number of workers."""
    random, shape = np.random.default_rng(0), Shape(3, 64, 64)
    smooth = random.integers(0, 256, (benchmark.files, 8, 8, 3), dtype=np.uint8)
    for suffix in ("png", "jpg"):
        (folder / suffix).mkdir()
        for i, image in enumerate(smooth):
            picture = Image.fromarray(image).resize(shape.sides, Image.Resampling.BICUBIC)
            picture.save(folder / suffix / f"{i:06d}.{suffix}")
    rows = []
    for suffix in ("png", "jpg"):
        contents = opening.read(str(folder / suffix), DataOptions(in_memory="never"))
        steps = {}
        for workers in WORKERS:
            images: StoredImages = contents.images.select(slice(None))
            images.workers = workers
            settings = AESettings(batch_size=benchmark.batch_size, compile="off")
            steps[f"{workers} workers"] = reading(Images(images, None), settings)
        times = turns(steps, benchmark.rounds, 12)
        rows.append(
            {"files of 64x64 in colour": suffix}
            | {name: f"{rate(ms, benchmark.batch_size):,.0f}" for name, ms in times.items()}
        )
    print("Images decoded a second:")
    print(markdown(rows, list(rows[0])), flush=True)


def main(benchmark: Benchmark) -> None:
    """Measures all, and prints a Markdown table of each."""
    with tempfile.TemporaryDirectory() as folder:
        decoding(benchmark, Path(folder))
        speed(benchmark, Path(folder))
        memory(benchmark, Path(folder))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
