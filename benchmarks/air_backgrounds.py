"""Counts digits on other backgrounds than black: white, grey, noisy, and photographs.

    python benchmarks/air_backgrounds.py
    python benchmarks/air_backgrounds.py --backgrounds white --seeds 1

The scenes are the default ones of ``train.air``, on a background that the run is not told. White:
the images inverted. Grey: white digits on a level of each scene, from a quarter to two thirds.
Noisy: Normal noise of standard deviation 0.1, without values below black, is added. Photographs:
white digits on patches of scikit-learn's and scikit-image's pictures, in grey, darkened by half.
Each training is a ``python -m train.air``. Finished runs are not repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from repeat import results

from train.data import datasets
from train.data.scenes import Scenes, make_scenes
from train.tables import markdown

MEASURES = ("count_accuracy", "count_accuracy_map", "box_iou", "ap_50", "train_seconds")


@dataclass(frozen=True)
class Benchmark:
    """Train AIR on scenes with each background, and print a table."""

    backgrounds: tuple[str, ...] = ("white", "grey", "noisy", "photographs")
    """Backgrounds."""
    seeds: int = 3
    """Number of seeds, counted from 0."""
    steps: int = 2_000
    """Training steps of a run."""
    train_scenes: int = 20_000
    """Number of training scenes."""
    test_scenes: int = 2_000
    """Number of held-out scenes, of held-out digits."""
    out: Path = Path("runs/benchmarks")
    """Folder that scenes and runs are written to."""


def on_background(background: str, scenes: Scenes, seed: int) -> np.ndarray:
    """Puts scenes on a background; returns images of shape (M, H, W), uint8."""
    ink = scenes.images.squeeze(1).numpy() / 255
    rng = np.random.default_rng(seed)
    if background == "white":
        images = 1 - ink
    elif background == "grey":
        level = rng.uniform(0.25, 0.65, (len(ink), 1, 1))
        images = level + (1 - level) * ink
    elif background == "noisy":
        images = (ink + 0.1 * rng.standard_normal(ink.shape)).clip(0, 1)
    elif background == "photographs":
        from photographs import grey_patches

        under = 0.5 * grey_patches(len(ink), ink.shape[-1], rng)
        images = under + (1 - under) * ink
    else:
        raise SystemExit(f"--backgrounds {background}: give white, grey, noisy or photographs")
    return (255 * images).round().astype(np.uint8)


def write(benchmark: Benchmark, background: str) -> Path:
    """Writes training and held-out scenes to a folder, unless they are there."""
    folder = benchmark.out / f"air-scenes-{background}"
    if not (folder / "test.npz").exists():
        folder.mkdir(parents=True, exist_ok=True)
        digits = datasets.load("mnist5k", Path("data"), "test")
        numbers = {"train": benchmark.train_scenes, "test": benchmark.test_scenes}
        for seed, (split, images) in enumerate(zip(numbers, digits, strict=True)):
            scenes = make_scenes(images.images, numbers[split], seed=seed)
            np.savez(
                folder / f"{split}.npz",
                images=on_background(background, scenes, seed),
                counts=scenes.counts.numpy(),
                boxes=scenes.boxes.numpy(),
            )
    return folder


def main(benchmark: Benchmark) -> None:
    """Trains the runs, and prints a Markdown table."""
    rows = []
    for background in benchmark.backgrounds:
        data = write(benchmark, background)
        for seed in range(benchmark.seeds):
            run = benchmark.out / f"air-on-{background}-{seed}"
            flags = ["--data", str(data), "--seed", str(seed), "--steps", str(benchmark.steps)]
            measured = results("air", run, [*flags, "--iw-scenes", "20"])
            rows.append({"background": background, "seed": seed})
            rows[-1] |= {name: round(measured[name], 4) for name in MEASURES}
            print(markdown(rows[-1:], list(rows[-1])).splitlines()[-1], flush=True)
    print(markdown(rows, list(rows[0])))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
