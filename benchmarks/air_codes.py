"""Reads tasks of two digits from AIR's codes, beside a network that reads them from pixels.

    python benchmarks/air_codes.py --run runs/my-air

As in the paper, a classifier is trained with few labels to tell the sum of two digits, and whether
they ascend from left to right. It has the appearance codes of both objects, the left one first. The
network has the scene's pixels, and the same labels. AIR itself was trained without any. Scenes are
those of exactly two digits: those with labels have training digits, the others held-out ones. Where
AIR finds another number of objects, the codes of those that are missing are zeros.

References:
    | Attend, Infer, Repeat: Fast Scene Understanding with Generative Models
      (Eslami et al., 2016), section 3.2
    | https://arxiv.org/abs/1603.08575
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
from repeat import results
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_models.networks import Convolutions
from pyro_models.shapes import Shape
from train.data import datasets
from train.data.labelled import Images
from train.data.scenes import make_scenes
from train.tables import markdown
from train.trained import load
from train.verbs.scenes import TrainedAIR

TASKS = ("sum", "ascending")


class Pairs(NamedTuple):
    """Scenes of two digits.

    Attributes:
        images: Of shape (M, C, H, W), uint8.
        sum: The sum of both digits, of shape (M,).
        ascending: Whether the left digit is smaller than the right one, of shape (M,).
    """

    images: Tensor
    sum: np.ndarray
    ascending: np.ndarray


@dataclass(frozen=True)
class Benchmark:
    """Read the sum and the order of two digits from codes and from pixels."""

    run: Path | None = None
    """A run of train.air on scenes of 50x50; None: the default settings are trained."""
    labels: tuple[int, ...] = (100, 1_000, 10_000)
    """Numbers of labelled scenes."""
    test_scenes: int = 5_000
    """Number of held-out scenes."""
    steps: int = 1_500
    """Training steps of the network, of 64 scenes."""
    seeds: int = 3
    """Number of seeds of the classifiers and of the labelled scenes."""
    out: Path = Path("runs/benchmarks")
    """Folder that the run is written to."""


def pairs(digits: Images, n: int, seed: int) -> Pairs:
    """Makes scenes of two digits."""
    scenes = make_scenes(digits.images, n, counts=[2], seed=seed)
    values = digits.labels.numpy()[scenes.factors["digit"]]
    left = scenes.boxes[:, :, 0].argsort(dim=1).numpy()
    values = np.take_along_axis(values, left, axis=1)
    return Pairs(scenes.images, values.sum(1), values[:, 0] < values[:, 1])


def codes(trained: TrainedAIR, images: Tensor) -> np.ndarray:
    """Returns the appearance codes of two objects, the left one first."""
    found = trained.detect(images.squeeze(1))
    present = torch.arange(found.z_what.shape[1]) < found.counts.unsqueeze(1)
    # Objects that are absent come last.
    place = torch.where(present, found.windows[..., 0], torch.inf)
    order = place.argsort(dim=1)[:, :2].unsqueeze(-1)
    z_what = torch.where(present.unsqueeze(-1), found.z_what, 0.0)
    return z_what.take_along_dim(order, dim=1).flatten(1).numpy()


def from_codes(train: np.ndarray, targets: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Predicts targets with a dense network on codes."""
    dense = MLPClassifier((256,), early_stopping=len(train) >= 500, max_iter=200, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return make_pipeline(StandardScaler(), dense).fit(train, targets).predict(test)


def from_pixels(train: Tensor, targets: np.ndarray, test: Tensor, seed: int, steps: int) -> Any:
    """Predicts targets with a convolutional network on pixels."""
    torch.manual_seed(seed)
    values, indices = np.unique(targets, return_inverse=True)
    network = Convolutions(Shape(*train.shape[1:]), len(values), (256,), channels=(32, 64, 64))
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    wanted = torch.from_numpy(indices)
    for _ in range(steps):
        rows = torch.randint(len(train), (64,))
        loss = F.cross_entropy(network(train[rows] / 255), wanted[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return values[predicted(network, test)]


@torch.no_grad()
def predicted(network: nn.Module, images: Tensor) -> np.ndarray:
    """Returns the most probable class of each image."""
    return torch.cat([network(batch / 255).argmax(-1) for batch in images.split(500)]).numpy()


def main(benchmark: Benchmark) -> None:
    """Trains the classifiers, and prints a Markdown table of accuracies."""
    run = benchmark.run or benchmark.out / "air-codes"
    if benchmark.run is None:
        results("air", run, ["--guide", "convolutional"])
    trained = load(run)
    digits = datasets.load("mnist5k", Path("data"), "test")
    held_out = pairs(digits.held_out, benchmark.test_scenes, 20_001)
    test_codes = codes(trained, held_out.images)
    rows = []
    for n in benchmark.labels:
        accuracies: dict[str, list[float]] = {}
        for seed in range(benchmark.seeds):
            known = pairs(digits.train, n, 30_000 + seed)
            known_codes = codes(trained, known.images)
            for task in TASKS:
                targets, truth = getattr(known, task), getattr(held_out, task)
                guesses = {
                    "codes": from_codes(known_codes, targets, test_codes, seed),
                    "pixels": from_pixels(
                        *(known.images, targets, held_out.images, seed, benchmark.steps)
                    ),
                }
                for of, guess in guesses.items():
                    accuracies.setdefault(f"{task}, {of}", []).append(
                        float((guess == truth).mean())
                    )
        row = {
            name: f"{100 * np.mean(values):.1f} ± {100 * np.std(values):.1f}"
            for name, values in accuracies.items()
        }
        rows.append({"labels": n, **row})
        print(markdown(rows[-1:], list(rows[-1])).splitlines()[-1], flush=True)
    print(markdown(rows, list(rows[0])))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
