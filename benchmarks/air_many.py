"""Counts and locates many objects with AIR: more than it was trained on, and on larger canvases.

    python benchmarks/air_many.py                                 # every experiment, five seeds
    python benchmarks/air_many.py --experiments few --seeds 1
    python benchmarks/air_many.py --evaluate-on validation        # to choose settings

An experiment trains on scenes of some kind, and tests on kinds of its own, on scenes of held-out
digits. A table has, for each test and each true number of digits, the fraction of scenes whose most
probable count is right, as mean and standard deviation over seeds; and for each test the average
precision of boxes at an IoU of 0.5 and their mean IoU where the count is right. Each training is a
``python -m train.air``. Finished runs are not repeated.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tyro
from repeat import results
from torch import Tensor

from train.data import datasets
from train.data.composition import Overlap
from train.data.scenes import Scenes, make_scenes
from train.metrics.counting import mean_box_iou
from train.metrics.detection import accuracy_by_count, average_precision, object_scores
from train.metrics.measuring import Unmeasurable
from train.tables import markdown
from train.trained import load
from train.verbs.scenes import TrainedAIR


class Test(NamedTuple):
    """Scenes to test on.

    Attributes:
        name: A name for the table.
        canvas_size: Height and width of the scenes.
        counts: The numbers of digits, equally likely.
        digit_size: The smallest and the largest size of a digit.
        overlap: How digits may overlap.
        scenes: The number of scenes for each number of digits.
    """

    name: str
    canvas_size: int
    counts: Sequence[int]
    digit_size: tuple[int, int] = (24, 24)
    overlap: Overlap = "apart"
    scenes: int = 300

    def make(self, digits: Tensor, seed: int) -> Scenes:
        """Makes the scenes."""
        return make_scenes(
            digits,
            self.scenes * len(self.counts),
            canvas_size=self.canvas_size,
            counts=self.counts,
            digit_size=self.digit_size,
            overlap=self.overlap,
            seed=seed,
        )


class Experiment(NamedTuple):
    """Scenes to train on, as flags of ``train.air``, and the tests of what was trained."""

    flags: str
    tests: Sequence[Test]


CROWDED = [Test("48x48", 48, range(1, 21), (14, 14), "any")]
EXPERIMENTS = {
    "many": Experiment(
        "--canvas-size 84 --max-digits 6 --max-objects 7", [Test("84x84", 84, range(7))]
    ),
    "few": Experiment(
        "--canvas-size 50 --max-digits 2 --max-objects 3",
        [
            Test("50x50", 50, range(3)),
            Test("84x84", 84, range(7)),
            Test("100x100", 100, range(0, 9, 2), scenes=100),
            Test("150x150", 150, range(0, 21, 4), scenes=50),
        ],
    ),
    "sizes": Experiment(
        "--canvas-size 84 --max-digits 4 --max-objects 5 --digit-size 8 28",
        [Test("84x84", 84, range(5), (8, 28))],
    ),
    "crowded-5": Experiment(
        "--canvas-size 48 --digit-counts 1 2 3 4 5 --max-objects 6 --digit-size 14 14 "
        "--overlap any",
        CROWDED,
    ),
    "crowded-10": Experiment(
        "--canvas-size 48 --digit-counts 6 7 8 9 10 --max-objects 11 --digit-size 14 14 "
        "--overlap any",
        CROWDED,
    ),
    "crowded-15": Experiment(
        "--canvas-size 48 --digit-counts 11 12 13 14 15 --max-objects 16 --digit-size 14 14 "
        "--overlap any",
        CROWDED,
    ),
    "between": Experiment(
        "--canvas-size 50 --digit-counts 0 1 3 --digit-size 16 16 --max-objects 4",
        [Test("50x50", 50, range(4), (16, 16))],
    ),
    "beyond": Experiment(
        "--canvas-size 50 --digit-counts 0 1 2 --digit-size 16 16 --max-objects 4",
        [Test("50x50", 50, range(4), (16, 16))],
    ),
}
"""The experiments by name. The last two are the paper's: a count between those of training, and one
beyond them."""


@dataclass(frozen=True)
class Benchmark:
    """Train AIR on scenes of many kinds, and count the objects of others."""

    experiments: tuple[Literal[tuple(EXPERIMENTS)], ...] = tuple(EXPERIMENTS)
    """Experiments."""
    seeds: int = 5
    """Number of seeds, counted from 0."""
    steps: int = 2_000
    """Training steps of a run."""
    guide: Literal["convolutional", "residual", "recurrent"] = "convolutional"
    """The guide. With another than convolutional, tests on canvases of another size are left out.
    """
    evaluate_on: Literal["test", "validation"] = "test"
    """Held-out digits. validation: some of the training digits, to select settings with."""
    extra: str = ""
    """Additional flags of every run, without the hyphens of the first: "seed 3 --beta 2"."""
    out: Path = Path("runs/benchmarks")
    """Folder that the runs are written to."""


@cache
def held_out(evaluate_on: Literal["test", "validation"]) -> Tensor:
    """Returns the images of held-out digits."""
    return datasets.load("mnist5k", Path("data"), evaluate_on).held_out.images


def train(benchmark: Benchmark, name: str, seed: int) -> tuple[Path, Mapping[str, Any]]:
    """Trains a run unless it is finished; returns its folder and results."""
    run = benchmark.out / f"air-many-{benchmark.evaluate_on}-{benchmark.guide}-{name}-{seed}"
    flags = shlex.split(EXPERIMENTS[name].flags)
    flags += ["--guide", benchmark.guide, "--seed", str(seed), "--steps", str(benchmark.steps)]
    flags += ["--evaluate-on", benchmark.evaluate_on, "--held-out-scenes", "2000"]
    flags += ["--train-scenes", "30000", "--eval-every", "1000", "--iw-scenes", "50"]
    flags += shlex.split("--" + benchmark.extra if benchmark.extra else "")
    return run, results("air", run, flags)


def measure(run: Path, test: Test, digits: Tensor, seed: int) -> dict[str, Any]:
    """Detects the objects of a test's scenes; returns accuracy by count, AP and IoU."""
    scenes = test.make(digits, seed)
    sides = (test.canvas_size, test.canvas_size)
    trained: TrainedAIR = load(run)
    most = max(max(test.counts) + 2, trained.settings.max_objects)
    trained = trained.resized(None if trained.shape.sides == sides else sides, most)
    found = trained.detect(scenes.images.squeeze(1))
    scores = object_scores(found.probabilities)
    detected = (found.boxes, found.counts, scores)
    by_count = accuracy_by_count(scenes.counts, found.counts)
    row = {f"{count}": value.accuracy for count, value in by_count.items()}
    row["all"] = float((found.counts == scenes.counts).double().mean())
    row["AP .5"] = average_precision(scenes.boxes, scenes.counts, *detected, threshold=0.5)
    try:
        row["IoU"] = mean_box_iou(scenes, found.counts, found.boxes)
    except Unmeasurable:
        row["IoU"] = float("nan")
    return row


def rows(benchmark: Benchmark) -> Iterator[dict[str, Any]]:
    """Yields a row for each test of each experiment, mean and deviation over seeds."""
    digits = held_out(benchmark.evaluate_on)
    for name in benchmark.experiments:
        runs = [train(benchmark, name, seed) for seed in range(benchmark.seeds)]
        seconds = [float(values["train_seconds"]) for _, values in runs]
        for test in EXPERIMENTS[name].tests:
            side = f"--canvas-size {test.canvas_size} "
            if benchmark.guide != "convolutional" and side not in EXPERIMENTS[name].flags + " ":
                continue
            # Seeds of tests are none of those of training scenes.
            measured = [
                measure(run, test, digits, 10_000 + seed) for seed, (run, _) in enumerate(runs)
            ]
            row: dict[str, Any] = {"experiment": name, "test": test.name}
            for column in measured[0]:
                values = np.array([values[column] for values in measured])
                spread = f" ± {100 * values.std(ddof=1):.1f}" if len(values) > 1 else ""
                row[column] = f"{100 * values.mean():.1f}{spread}"
            yield row | {"train seconds": round(float(np.mean(seconds)))}


def main(benchmark: Benchmark) -> None:
    """Trains and tests; prints a Markdown table for each experiment's tests, in per cent."""
    for row in rows(benchmark):
        print(markdown([row], list(row)), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
