"""Trains AIR on scenes of coloured objects, and measures how it segments held-out ones.

    python benchmarks/air_objects.py
    python benchmarks/air_objects.py --data tetrominoes --seeds 1
    python benchmarks/air_objects.py --evaluate-on validation --first-seed 100 --seeds 1

A row for each data set and seed: the adjusted Rand index over the pixels of objects, the mean IoU
of objects and segments, the segmentation covering, and counts. ``benchmarks/air_slots.py`` measures
Slot Attention on the same scenes. As many objects can be inferred as there are at most in a scene;
the slots of others are one more, for the background. Each run is a ``python -m train.air``.
Finished runs are not repeated.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from repeat import results

from train.tables import markdown

SPRITES = (
    "--composition mixture --no-texture --max-objects 5 --window-size 24 --batch-size 32 "
    "--beta-start 4 --anneal-steps 2000 --mask-scale 0.08"
)
"""At first, latents weigh as much as they do at a deviation of 0.4: an object that is not drawn
well yet would otherwise be explained by several. Masks are told at a smaller deviation than that of
training, at which each corner that is not drawn would be worth another object."""
FLAGS = {
    "tetrominoes": "--max-objects 3",
    "multi-sprites": SPRITES,
    "multi-sprites-colour": SPRITES,
}
STEPS = {"tetrominoes": 3_000, "multi-sprites": 8_000, "multi-sprites-colour": 8_000}
MEASURES = (
    "foreground_ari",
    "mean_iou",
    "segmentation_covering",
    "count_accuracy",
    "count_accuracy_map",
    "ap_50",
    "train_seconds",
)


@dataclass(frozen=True)
class Benchmark:
    """Train AIR on each data set with each seed, and print a table."""

    data: tuple[Literal[tuple(FLAGS)], ...] = tuple(FLAGS)
    """Data sets."""
    seeds: int = 3
    """Number of seeds."""
    first_seed: int = 0
    """The first of them."""
    steps: int | None = None
    """Number of training steps; None: 3,000 for tetrominoes, 8,000 for sprites."""
    evaluate_on: Literal["test", "validation"] = "test"
    """Held-out scenes. validation: some of the training scenes, to select settings with."""
    out: Path = Path("runs/benchmarks")
    """Folder that the runs are written to."""
    extra: str = ""
    """Additional flags of every run, without the hyphens of the first: "seed 3 --beta 2"."""


def main(benchmark: Benchmark) -> None:
    """Trains the runs, and prints a Markdown table."""
    rows = []
    for data in benchmark.data:
        for seed in range(benchmark.first_seed, benchmark.first_seed + benchmark.seeds):
            run = benchmark.out / f"air-objects-{benchmark.evaluate_on}-{data}-{seed}"
            flags = ["--data", data, "--seed", str(seed), "--evaluate-on", benchmark.evaluate_on]
            flags += ["--steps", str(benchmark.steps or STEPS[data]), "--iw-scenes", "20"]
            flags += shlex.split(FLAGS[data])
            flags += shlex.split("--" + benchmark.extra if benchmark.extra else "")
            measured = results("air", run, flags)
            rows.append({"data": data, "seed": seed})
            rows[-1] |= {name: round(measured[name], 4) for name in MEASURES}
            print(markdown(rows[-1:], list(rows[-1])).splitlines()[-1], flush=True)
    print(markdown(rows, list(rows[0])))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
