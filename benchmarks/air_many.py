"""Counts and locates many objects with AIR: more than it was trained on, and on larger canvases.

    python benchmarks/air_many.py                                 # every experiment, five seeds
    python benchmarks/air_many.py --experiments few --seeds 1
    python benchmarks/air_many.py --evaluate-on validation        # to choose settings

An experiment trains on scenes of some kind, and tests on kinds of its own, on scenes of held-out
digits. A table has, for each test and each true number of digits, the fraction of scenes whose most
probable count is right, as mean and standard deviation over seeds; and for each test the average
precision of boxes at an IoU of 0.5 and their mean IoU where the count is right. Each training is a
``python -m train.air``. Finished runs and tests are not repeated. Beside the runs is a figure of
each experiment, ``air-many-NAME.png``: accuracies by the true count, of all tests, with those of a
counter of connected components.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tyro
from air_baselines import choose_components, count_components, with_room
from repeat import results
from seeds import mean_and_deviation
from torch import Tensor

from train.data import datasets
from train.data.composition import Overlap
from train.data.labelled import Split
from train.data.scenes import Scenes, make_scenes
from train.metrics.counting import mean_box_iou
from train.metrics.detection import accuracy_by_count, average_precision, object_scores
from train.metrics.measuring import Unmeasurable
from train.plots_scenes import Curve
from train.plots_scenes import accuracy_by_count as plot_counts
from train.tables import markdown
from train.trained import load


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


CROWDED = [
    Test("1 to 10", 48, range(1, 11), (14, 14), "half"),
    Test("11 to 20", 48, range(11, 21), (14, 14), "half"),
]
"""The scattered digits of SPAIR: 14 pixels, of which two share at most half of their images."""
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
        # At a low deviation small digits are worth an object. Large ones are not worth two, as they
        # are drawn well at a higher one first, and objects keep apart.
        "--canvas-size 84 --max-digits 4 --max-objects 5 --digit-size 8 28 "
        "--likelihood-scale 0.18 --beta-start 8 --anneal-steps 2000 --repulsion 60",
        [Test("84x84", 84, range(5), (8, 28))],
    ),
    "crowded-5": Experiment(
        "--canvas-size 48 --digit-counts 1 2 3 4 5 --max-objects 6 --digit-size 14 14 "
        "--overlap half",
        CROWDED,
    ),
    "crowded-10": Experiment(
        "--canvas-size 48 --digit-counts 6 7 8 9 10 --max-objects 11 --digit-size 14 14 "
        "--overlap half",
        CROWDED,
    ),
    "crowded-15": Experiment(
        "--canvas-size 48 --digit-counts 11 12 13 14 15 --max-objects 16 --digit-size 14 14 "
        "--overlap half",
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
    guides: tuple[Literal["convolutional", "residual", "recurrent"], ...] = ("convolutional",)
    """Guides. Of others than convolutional, tests on canvases of another size are left out."""
    evaluate_on: Literal["test", "validation"] = "test"
    """Held-out digits. validation: some of the training digits, to select settings with."""
    extra: str = ""
    """Additional flags of every run, without the hyphens of the first: "seed 3 --beta 2"."""
    out: Path = Path("runs/benchmarks")
    """Folder that the runs are written to."""


@cache
def digits(evaluate_on: Literal["test", "validation"]) -> Split:
    """Returns the images of training digits and of held-out ones."""
    return datasets.load("mnist5k", Path("data"), evaluate_on)


def train(benchmark: Benchmark, guide: str, name: str, seed: int) -> tuple[Path, Mapping[str, Any]]:
    """Trains a run unless it is finished; returns its folder and results."""
    run = benchmark.out / f"air-many-{benchmark.evaluate_on}-{guide}-{name}-{seed}"
    flags = shlex.split(EXPERIMENTS[name].flags)
    flags += ["--guide", guide, "--seed", str(seed), "--steps", str(benchmark.steps)]
    flags += ["--evaluate-on", benchmark.evaluate_on, "--held-out-scenes", "2000"]
    flags += ["--train-scenes", "30000", "--eval-every", "1000", "--iw-scenes", "50"]
    flags += shlex.split("--" + benchmark.extra if benchmark.extra else "")
    return run, results("air", run, flags)


def measure(run: Path, test: Test, images: Tensor, seed: int) -> dict[str, float]:
    """Detects the objects of a test's scenes; returns accuracy by count, AP and IoU."""
    file = run / f"test-{test.name.replace(' ', '-')}.json"
    if file.exists():
        return json.loads(file.read_text())
    scenes = test.make(images, seed)
    trained = with_room(load(run), test.canvas_size, max(test.counts) + 2)
    found = trained.detect(scenes.images.squeeze(1))
    scores = object_scores(found.probabilities)
    detected = (found.boxes, found.counts, scores)
    row = accuracies(scenes, found.counts)
    row["AP .5"] = average_precision(scenes.boxes, scenes.counts, *detected, threshold=0.5)
    try:
        row["IoU"] = mean_box_iou(scenes, found.counts, found.boxes)
    except Unmeasurable:
        row["IoU"] = float("nan")
    file.write_text(json.dumps(row))
    return row


def accuracies(scenes: Scenes, counts: Any) -> dict[str, float]:
    """Returns the accuracy of counts, by the true count and over all scenes."""
    by_count = accuracy_by_count(scenes.counts, counts)
    row = {f"{count}": value.accuracy for count, value in by_count.items()}
    return row | {"all": float((np.asarray(counts) == scenes.counts.numpy()).mean())}


def components(test: Test, split: Split) -> dict[str, float]:
    """Counts connected components, with settings chosen on training digits in such scenes."""
    settings = choose_components(test.make(split.train.images, 20_000))
    scenes = test.make(split.held_out.images, 10_000)
    return accuracies(scenes, count_components(scenes.images, settings))


def curves(measured: Mapping[tuple[str, Test], Sequence[Mapping[str, float]]]) -> dict[str, Curve]:
    """Returns a curve for each guide and canvas; tests on one canvas have different counts."""
    joined: dict[str, list[dict[str, float]]] = {}
    for (guide, test), rows in measured.items():
        name = f"{guide}, {test.canvas_size}x{test.canvas_size}"
        earlier = joined.get(name, [{}] * len(rows))
        joined[name] = [{**some, **more} for some, more in zip(earlier, rows, strict=True)]
    return {name: curve(rows) for name, rows in joined.items()}


def curve(rows: Sequence[Mapping[str, float]]) -> Curve:
    """Returns the accuracies by count of several seeds: their mean, lowest and highest."""
    counts = [count for count in rows[0] if count.isdecimal()]
    values = np.array([[row[count] for count in counts] for row in rows])
    return Curve([int(count) for count in counts], values.mean(0), values.min(0), values.max(0))


def table(benchmark: Benchmark, name: str) -> Iterator[dict[str, Any]]:
    """Yields a row for each guide and test, mean and deviation over seeds; saves the figure."""
    split, experiment = digits(benchmark.evaluate_on), EXPERIMENTS[name]
    measured: dict[tuple[str, Test], list[dict[str, float]]] = {}
    for guide in benchmark.guides:
        runs = [train(benchmark, guide, name, seed) for seed in range(benchmark.seeds)]
        seconds = [float(values["train_seconds"]) for _, values in runs]
        for test in experiment.tests:
            side = f"--canvas-size {test.canvas_size} "
            if guide != "convolutional" and side not in experiment.flags + " ":
                continue
            # Seeds of tests are none of those of training scenes.
            measured[guide, test] = rows = [
                measure(run, test, split.held_out.images, 10_000 + seed)
                for seed, (run, _) in enumerate(runs)
            ]
            summary = {column: percent([row[column] for row in rows]) for column in rows[0]}
            minutes = {"train seconds": round(float(np.mean(seconds)))}
            yield {"experiment": name, "counted by": guide, "test": test.name} | summary | minutes
    for test in experiment.tests:
        measured["components", test] = found = [components(test, split)]
        row = {column: percent([value]) for column, value in found[0].items()}
        yield {"experiment": name, "counted by": "components", "test": test.name} | row
    trained = load(runs[0][0]).settings
    counts = trained.digit_counts or range(trained.max_digits + 1)
    plot_counts(curves(measured), counts).savefig(benchmark.out / f"air-many-{name}.png", dpi=150)


def percent(values: Sequence[float]) -> str:
    """Writes the mean of several seeds in per cent, with their standard deviation."""
    return mean_and_deviation([100 * value for value in values], 1)


def main(benchmark: Benchmark) -> None:
    """Trains and tests; prints a Markdown table for each experiment's tests, in per cent."""
    for name in benchmark.experiments:
        for row in table(benchmark, name):
            print(markdown([row], list(row)), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
