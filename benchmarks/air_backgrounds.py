"""Counts digits on other backgrounds than black: white, grey, noisy, photographs, a fixed camera.

    python benchmarks/air_backgrounds.py
    python benchmarks/air_backgrounds.py --backgrounds white --seeds 1
    python benchmarks/air_backgrounds.py --evaluate-on validation --first-seed 100 --seeds 1

The scenes are the default ones of ``train.air``, on a background that the run is not told. White:
the images inverted. Grey: white digits on a level of each scene, from a quarter to two thirds.
Noisy: Normal noise of standard deviation 0.1, without values below black, is added. Photographs:
white digits on patches of scikit-learn's and scikit-image's pictures, in grey, darkened by half;
each scene has another patch. Camera: the same on one picture, that of all scenes. Settings are
chosen with the digits of the validation split and other seeds. Each training is a
``python -m train.air``. Finished runs are not repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from PIL import Image
from repeat import results

from train.data import datasets
from train.data.scenes import Scenes, make_scenes
from train.tables import markdown

BACKGROUNDS = ("white", "grey", "noisy", "photographs", "camera")
MEASURES = ("count_accuracy", "count_accuracy_map", "box_iou", "ap_50", "train_seconds")


@dataclass(frozen=True)
class Benchmark:
    """Train AIR on scenes with each background, and print a table."""

    backgrounds: tuple[str, ...] = BACKGROUNDS
    """Backgrounds."""
    evaluate_on: Literal["test", "validation"] = "test"
    """The split that held-out digits are of."""
    first_seed: int = 0
    """First seed of training."""
    seeds: int = 3
    """Number of seeds."""
    steps: int = 2_000
    """Training steps of a run."""
    train_scenes: int = 20_000
    """Number of training scenes."""
    test_scenes: int = 2_000
    """Number of held-out scenes, of held-out digits."""
    flags: str = ""
    """More flags of train.air."""
    name: str = ""
    """Added to the names of the runs, which are not repeated with other flags."""
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
    elif background in ("photographs", "camera"):
        from photographs import grey_patches, photographs

        size = ink.shape[-1]
        if background == "photographs":
            under = 0.5 * grey_patches(len(ink), size, rng)
        else:
            picture = Image.fromarray(photographs()["china"]).convert("L").resize((size, size))
            under = 0.5 * np.asarray(picture) / 255
        images = under + (1 - under) * ink
    else:
        raise SystemExit(f"--backgrounds {background}: give some of {', '.join(BACKGROUNDS)}")
    return (255 * images).round().astype(np.uint8)


def write(benchmark: Benchmark, background: str) -> Path:
    """Writes training and held-out scenes to a folder, unless they are there."""
    folder = benchmark.out / f"air-scenes-{background}-{benchmark.evaluate_on}"
    if not (folder / "test.npz").exists():
        folder.mkdir(parents=True, exist_ok=True)
        digits = datasets.load("mnist5k", Path("data"), benchmark.evaluate_on)
        numbers = {"train": benchmark.train_scenes, "test": benchmark.test_scenes}
        first = 0 if benchmark.evaluate_on == "test" else 100
        for seed, (split, images) in enumerate(zip(numbers, digits, strict=True), first):
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
        for seed in range(benchmark.first_seed, benchmark.first_seed + benchmark.seeds):
            name = f"air-on-{background}-{benchmark.evaluate_on}{benchmark.name}-{seed}"
            run = benchmark.out / name
            flags = ["--data", str(data), "--seed", str(seed), "--steps", str(benchmark.steps)]
            measured = results("air", run, [*flags, "--iw-scenes", "20", *benchmark.flags.split()])
            rows.append({"background": background, "seed": seed})
            rows[-1] |= {name: round(measured[name], 4) for name in MEASURES}
            print(markdown(rows[-1:], list(rows[-1])).splitlines()[-1], flush=True)
    print(markdown(rows, list(rows[0])))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
