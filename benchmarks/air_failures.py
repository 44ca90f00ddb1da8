"""Counts digits in scenes that a trained AIR was not made for, and draws what it gets wrong.

    python benchmarks/air_failures.py --runs runs/air-0 runs/air-1 runs/air-2

Runs are of ``python -m train.air --guide convolutional``, trained on the default scenes: 0 to 2
digits of 24 pixels, apart, on black. Each kind of scenes departs from these in one way. All are of
held-out digits. The table has the fraction of right counts of each kind, as mean and standard
deviation over runs, and the mean of the inferred count minus the true one: below zero objects are
missed, above zero there are too many. The last column is the mean probability that the guide gives
to its count where that is wrong: how sure it is. The figure has the first failures of the first run
on each kind but that of training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from air_baselines import scenes_by_overlap, with_room
from seeds import mean_and_deviation
from torch import Tensor

from train.data import datasets
from train.data.labelled import Images
from train.data.scenes import Scenes, make_scenes
from train.plots_scenes import failures
from train.tables import markdown
from train.trained import load
from train.verbs.scenes import TrainedAIR

CANVAS = 50
"""Height and width of the scenes of training."""


@dataclass(frozen=True)
class Benchmark:
    """Count the digits of scenes unlike those of training, and draw failures."""

    runs: tuple[Path, ...]
    """Folders of trained AIRs of one kind, say of several seeds."""
    evaluate_on: Literal["test", "validation"] = "test"
    """Held-out digits."""
    scenes: int = 1_000
    """Number of scenes of each kind."""
    drawn: int = 3
    """The most failures of each kind in the figure."""
    figure: Path = Path("runs/benchmarks/air-failures.png")
    """File of the figure."""


@cache
def by_overlap(images: Tensor, n: int) -> dict[float, Scenes]:
    """Makes scenes of two digits by the upper edge of their IoU; it takes long to find large ones.

    The three kinds of overlaps are cut from one draw.
    """
    return scenes_by_overlap(images, n, canvas_size=CANVAS, digit_size=(24, 24), seed=77)


def overlapping(at_least: float, digits: Images, n: int) -> Scenes:
    """Makes scenes of two digits whose boxes overlap by an IoU of up to 0.1 more than given."""
    return by_overlap(digits.images, n)[round(at_least + 0.1, 1)]


def composed(digits: Images, n: int, **options: Any) -> Scenes:
    """Makes scenes of digits; the default ones but for options."""
    return make_scenes(digits.images, n, **({"canvas_size": CANVAS, "seed": 77} | options))


def of_class(name: int, digits: Images, n: int) -> Scenes:
    """Makes scenes of digits of one class."""
    rows = torch.nonzero(torch.as_tensor(digits.labels) == name).flatten()
    return composed(digits.select(rows), n)


def changed(change: Callable[[Tensor], Tensor], digits: Images, n: int) -> Scenes:
    """Makes the default scenes, and changes their pixels, in [0, 1]."""
    scenes = composed(digits, n)
    images = change(scenes.images / 255).clamp(0, 1)
    return replace(scenes, images=(255 * images).round().byte())


def noisy(images: Tensor) -> Tensor:
    """Adds Normal noise of standard deviation 0.2."""
    return images + 0.2 * torch.randn(images.shape, generator=torch.Generator().manual_seed(77))


def cut_off(digits: Images, n: int) -> Scenes:
    """Crops larger scenes, so that the border cuts digits of which at least half is visible.

    Scenes in which less of a digit is visible are left out, as their counts are a matter of taste.
    """
    margin = 10
    scenes = composed(digits, 8 * n, canvas_size=CANVAS + 2 * margin)
    boxes = scenes.boxes - margin
    visible = boxes.clamp(0, CANVAS)
    areas, shown = ((box[..., 2:] - box[..., :2]).prod(-1) for box in (boxes, visible))
    share = shown / areas.clamp(min=1)
    counts = (share >= 0.5).sum(1)
    is_clear = ((share < 0.01) | (share >= 0.5)).all(1) & ((share >= 0.5) & (share < 0.95)).any(1)
    rows = torch.nonzero(is_clear).flatten()[:n]
    images = scenes.images[..., margin:-margin, margin:-margin]
    return Scenes(images[rows], counts[rows], None)


def squares(digits: Images, n: int) -> Scenes:
    """Makes scenes of white squares in place of digits."""
    images = torch.zeros_like(digits.images[:1])
    images[..., 4:24, 4:24] = 255
    return composed(replace(digits.select(torch.arange(1)), images=images), n)


AS_TRAINED = "as trained"
Kind = Callable[[Images, int], Scenes]
KINDS: dict[str, Kind] = {
    AS_TRAINED: composed,
    "overlap .1 to .2": lambda digits, n: overlapping(0.1, digits, n),
    "overlap .3 to .4": lambda digits, n: overlapping(0.3, digits, n),
    "overlap .5 to .6": lambda digits, n: overlapping(0.5, digits, n),
    "ones": lambda digits, n: of_class(1, digits, n),
    "12 pixels": lambda digits, n: composed(digits, n, digit_size=(12, 12)),
    "36 pixels": lambda digits, n: composed(digits, n, digit_size=(36, 36), max_digits=1),
    "cut off": cut_off,
    "faint": lambda digits, n: changed(lambda images: 0.3 * images, digits, n),
    "noise": lambda digits, n: changed(noisy, digits, n),
    "white": lambda digits, n: changed(lambda images: 1 - images, digits, n),
    "squares": squares,
    "8 digits": lambda digits, n: composed(digits, n // 4, canvas_size=100, counts=(8,)),
}
"""How scenes differ from those of training."""


def count(trained: TrainedAIR, scenes: Scenes) -> Any:
    """Detects the objects of scenes, of which there may be more than in training."""
    most = int(scenes.counts.max()) + 2
    return with_room(trained, scenes.shape.height, most).detect(scenes.images.squeeze(1))


def main(benchmark: Benchmark) -> None:
    """Prints a Markdown table, and draws the figure."""
    digits = datasets.load("mnist5k", Path("data"), benchmark.evaluate_on).held_out
    runs = [load(run) for run in benchmark.runs]
    rows, drawn = [], []
    for name, make in KINDS.items():
        scenes = make(digits, benchmark.scenes)
        found = [count(trained, scenes) for trained in runs]
        truth = scenes.counts.numpy()
        differences = np.stack([np.asarray(each.counts) - truth for each in found])
        right = 100 * (differences == 0).mean(1)
        sure = np.stack([np.asarray(each.probabilities).max(1) for each in found])
        wrong = sure[differences != 0]
        rows.append(
            {
                "scenes": name,
                "right counts, %": mean_and_deviation(right, 1),
                "inferred - true": round(float(differences.mean()), 2),
                "probability of wrong counts": round(float(wrong.mean()), 2)
                if wrong.size
                else None,
            }
        )
        if name == AS_TRAINED:
            continue
        for row in np.flatnonzero(differences[0])[: benchmark.drawn]:
            drawn.append(
                (
                    scenes.images[row].numpy() / 255,
                    np.asarray(found[0].reconstruction[row])[None],
                    np.asarray(found[0].boxes[row]),
                    int(found[0].counts[row]),
                    int(truth[row]),
                    name,
                )
            )
    print(markdown(rows, list(rows[0])))
    *columns, notes = zip(*drawn, strict=True)
    benchmark.figure.parent.mkdir(parents=True, exist_ok=True)
    failures(*columns, notes=notes, columns=3 * benchmark.drawn).savefig(benchmark.figure, dpi=120)


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
