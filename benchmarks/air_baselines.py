"""Counts the digits of scenes by connected components, a supervised network, and trained AIRs.

    python benchmarks/air_baselines.py
    python benchmarks/air_baselines.py --runs runs/air-0 runs/air-1 runs/air-2
    python benchmarks/air_baselines.py --canvas-size 84 --max-digits 6 --overlap apart
    python benchmarks/air_baselines.py --max-digits 2 --test-max-digits 6 --regression

Components need no training, but their settings are chosen on training scenes with known counts.
They are all that a scene needs whose objects do not touch. The network has the true counts of all
training scenes, and as many weights as AIR's guide, so that it is a ceiling for counts that nobody
gives. Runs of ``python -m train.air`` are counted with beside both; they are trained on scenes of
the same kind. Two tables have the accuracies: by the true count, and of two digits by their
overlap, which is the IoU of their true boxes. Held-out scenes are made of held-out digits.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import tyro
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_models.networks import MLP
from train.data.batches import Batches, as_input
from train.data.composition import Overlap
from train.data.datasets import load
from train.data.scenes import Scenes, make_scenes
from train.metrics.detection import accuracy_by_count, largest_overlap
from train.plots_scenes import Curve
from train.plots_scenes import accuracy_by_count as plot_counts
from train.plots_scenes import accuracy_by_overlap as plot_overlaps
from train.tables import markdown
from train.trained import load as load_run
from train.verbs.scenes import TrainedAIR

Counter = Callable[[Tensor], np.ndarray]
"""Counts the objects in each of images (M, C, H, W), uint8 or in [0, 1]; of shape (M,)."""

EDGES = tuple(i / 10 for i in range(7))
"""Edges of the overlaps of a table, as IoUs of boxes; overlaps of exactly 0 are a row of their own.
"""


@dataclass(frozen=True)
class Benchmark:
    """Count digits with components and a network, and print accuracies by count and overlap."""

    data: str = "mnist5k"
    """Data set of the digits."""
    data_dir: Path = Path("data")
    """Folder of downloaded data sets."""
    evaluate_on: Literal["test", "validation"] = "test"
    """Held-out digits. validation: some of the training digits, to select settings with."""
    canvas_size: int = 50
    """Height and width of the scenes."""
    max_digits: int = 2
    """The most digits in a training scene."""
    digit_size: tuple[int, int] = (24, 24)
    """The smallest and the largest size of a digit's image in pixels."""
    overlap: Overlap = "any"
    """How digits may overlap: see the flag of python -m train.air."""
    test_canvas_size: int | None = None
    """Height and width of held-out scenes; those of training scenes unless given."""
    test_max_digits: int | None = None
    """The most digits in a held-out scene; those of training scenes unless given."""
    train_scenes: int = 20_000
    """Number of training scenes."""
    held_out_scenes: int = 5_000
    """Number of held-out scenes."""
    overlapping_scenes: int = 300
    """Number of held-out scenes of two digits in each row of overlaps."""
    steps: int = 2_000
    """Training steps of the network."""
    batch_size: int = 64
    """Scenes in a step."""
    regression: bool = False
    """Train the network to predict a real number, which can be above all that it has seen."""
    seeds: int = 3
    """Number of networks, with seeds from 0; 0 for components only."""
    runs: tuple[Path, ...] = ()
    """Folders of trained AIRs of one kind, say of several seeds."""
    figures: Path | None = None
    """Folder for the figures of both tables."""


class Components(NamedTuple):
    """Settings of :func:`count_components`.

    Attributes:
        threshold: Ink is brighter than this, from 0 to 1.
        smallest_area: The least number of pixels of a component.
        diagonal: Whether pixels that touch at a corner are connected (8 neighbours rather than 4).
    """

    threshold: float
    smallest_area: int
    diagonal: bool


THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.5)
AREAS = (1, 2, 4, 8, 16, 32, 64)


def count_components(images: Tensor, settings: Components) -> np.ndarray:
    """Counts the connected components of ink in each image.

    Args:
        images: Scenes on black, of shape (M, C, H, W), uint8 or in [0, 1]. In colour, ink is the
            brightest channel.
        settings: What is a component.

    Returns:
        Of shape (M,).
    """
    areas, image = label_components(images, settings.threshold, settings.diagonal)
    return np.bincount(image[areas >= settings.smallest_area], minlength=len(images))


def label_components(
    images: Tensor, threshold: float, diagonal: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the connected components of ink.

    Args:
        images: See :func:`count_components`.
        threshold: See :class:`Components`.
        diagonal: See :class:`Components`.

    Returns:
        For each component of all images its number of pixels, and the index of its image.
    """
    ink = as_input(images).amax(1).numpy() > threshold
    # Neighbours are in the same image, so that all images are labelled at once.
    neighbours = np.zeros((3, 3, 3), bool)
    neighbours[1] = ndimage.generate_binary_structure(2, 2 if diagonal else 1)
    labels, n = ndimage.label(ink, neighbours)
    pixels = np.flatnonzero(labels)
    components = labels.reshape(-1)[pixels] - 1
    image = np.zeros(n, np.int64)
    image[components] = pixels // ink[0].size
    return np.bincount(components, minlength=n), image


def choose_components(scenes: Scenes) -> Components:
    """Returns the settings of the highest count accuracy on scenes, of a small grid."""
    truth = scenes.counts.numpy()
    accuracies = {}
    for threshold, diagonal in itertools.product(THRESHOLDS, (False, True)):
        areas, image = label_components(scenes.images, threshold, diagonal)
        for smallest in AREAS:
            counts = np.bincount(image[areas >= smallest], minlength=len(scenes))
            accuracies[Components(threshold, smallest, diagonal)] = (counts == truth).mean()
    return max(accuracies, key=accuracies.get)


class CountNetwork(nn.Module):
    r"""A convolutional network that counts objects, for images of any size.

    Features, relative to those of an empty canvas, are summed over the image, because a count is a
    sum over places. With the default sizes it has 1.1 million weights, as many as AIR's residual
    guide for 50x50 pixels.

    Args:
        channels: The number of channels of an image.
        most: The largest count :math:`K` that can be predicted by a classifier.
        width: The number of channels of the last convolutions.
        regression: Whether to predict a real number, linear in the sum of features, rather than the
            probability of each count.

    Shape:
        :math:`(B, C, H, W)` to logits :math:`(B, K + 1)`; for regression to :math:`(B)`.
    """

    CELLS = 9.0
    """About as many cells, of 8x8 pixels, as an object has; the sum of features is in units of it.
    """

    def __init__(
        self, channels: int, most: int, *, width: int = 256, regression: bool = False
    ) -> None:
        super().__init__()
        self.regression = regression
        widths = [channels, width // 8, width // 4, width // 2, width, width]
        strides = (2, 2, 1, 2, 1)
        layers: list[nn.Module] = []
        for (before, after), stride in zip(itertools.pairwise(widths), strides, strict=True):
            kernel = 5 if before == channels else 3
            layers += [nn.Conv2d(before, after, kernel, stride, kernel // 2), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.head = (
            nn.Linear(width, 1, bias=False) if regression else MLP(width, most + 1, (width,))
        )

    def forward(self, images: Tensor) -> Tensor:
        # An empty canvas has no features, so that a larger one adds nothing to the sum.
        features = self.features(images) - self.features(torch.zeros_like(images[:1]))
        outputs = self.head(features.sum((2, 3)) / self.CELLS)
        return outputs.squeeze(-1) if self.regression else outputs

    def loss(self, images: Tensor, counts: Tensor) -> Tensor:
        """Returns the cross-entropy in nats, or for regression the smooth absolute error."""
        outputs = self(images)
        if self.regression:
            return F.smooth_l1_loss(outputs, counts.to(outputs.dtype))
        return F.cross_entropy(outputs, counts)

    @torch.no_grad()
    def count(self, images: Tensor, batch: int = 250) -> np.ndarray:
        """Returns the most probable counts, or for regression the nearest; of shape (M,).

        Args:
            images: Of shape (M, C, H, W), uint8 or in [0, 1].
            batch: The number of images that are processed at once.
        """
        outputs = torch.cat([self(as_input(chunk)) for chunk in images.split(batch)])
        counts = outputs.round().clamp(min=0).long() if self.regression else outputs.argmax(1)
        return counts.numpy()


def train_network(
    scenes: Scenes,
    steps: int,
    *,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    width: int = 256,
    regression: bool = False,
    seed: int = 0,
) -> CountNetwork:
    """Trains a network with the true counts, by Adam with a rate that falls to 0 as a cosine.

    Args:
        scenes: Training scenes with counts.
        steps: Training steps.
        batch_size: Scenes in a step.
        learning_rate: The rate of the first step.
        width: See :class:`CountNetwork`.
        regression: See :class:`CountNetwork`.
        seed: Seed of weights and batches.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        most = int(scenes.counts.max())
        channels = scenes.shape.channels
        network = CountNetwork(channels, most, width=width, regression=regression)
    batches = Batches((scenes.images, scenes.counts), batch_size, seed, "cpu")
    optimiser = torch.optim.Adam(network.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        optimiser.zero_grad()
        network.loss(*batches(step)).backward()
        optimiser.step()
        schedule.step()
    return network


def scenes_by_overlap(
    digits: Tensor,
    n: int,
    *,
    canvas_size: int,
    digit_size: tuple[int, int],
    edges: Sequence[float] = EDGES,
    seed: int,
    draws: int = 400_000,
) -> dict[float, Scenes]:
    """Draws scenes of two digits for each interval of the IoU of their true boxes.

    Args:
        digits: Images to draw from: see :func:`train.data.scenes.make_scenes`.
        n: The most scenes of an interval.
        canvas_size: Height and width of a scene.
        digit_size: The smallest and the largest size of a digit.
        edges: Edges of the intervals, from 0; an interval has its upper edge, not its lower.
        seed: Seed of the scenes.
        draws: How many scenes are drawn at most. Rare overlaps have fewer than ``n``.

    Returns:
        The scenes by the upper edge of their interval; 0 for those whose boxes do not overlap. An
        interval without scenes is left out.
    """
    chunk = 10_000
    chosen: dict[float, list[Scenes]] = {edge: [] for edge in edges}
    missing = dict.fromkeys(edges, n)
    for i in range(draws // chunk):
        if not any(missing.values()):
            break
        scenes = make_scenes(
            digits,
            chunk,
            canvas_size=canvas_size,
            max_digits=2,
            digit_size=digit_size,
            overlap="any",
            seed=1_000 * (seed + 1) + i,
        )
        interval = np.searchsorted(edges, largest_overlap(scenes.boxes, scenes.counts))
        for j, edge in enumerate(edges):
            rows = torch.from_numpy(interval == j) & (scenes.counts == 2)
            rows = torch.nonzero(rows).flatten()[: missing[edge]]
            missing[edge] -= len(rows)
            chosen[edge].append(scenes.select(rows))
    return {edge: joined(scenes) for edge, scenes in chosen.items() if missing[edge] < n}


def joined(scenes: Sequence[Scenes]) -> Scenes:
    """Joins scenes that have counts and boxes."""
    columns = zip(*((each.images, each.counts, each.boxes) for each in scenes), strict=True)
    return Scenes(*map(torch.cat, columns))


def count_table(scenes: Scenes, counters: Mapping[str, Counter]) -> list[dict[str, Any]]:
    """Returns a row of accuracies for each true count that occurs, and one of all scenes."""
    counts = {name: counter(scenes.images) for name, counter in counters.items()}
    accuracies = {name: accuracy_by_count(scenes.counts, found) for name, found in counts.items()}
    numbers = np.unique(scenes.counts.numpy(), return_counts=True)
    rows = [
        {"digits": int(n), "scenes": int(m)} | {name: accuracies[name][n][0] for name in counters}
        for n, m in zip(*numbers, strict=True)
    ]
    overall = {
        name: float((found == scenes.counts.numpy()).mean()) for name, found in counts.items()
    }
    return [*rows, {"digits": "all", "scenes": len(scenes)} | overall]


def overlap_table(
    scenes: Mapping[float, Scenes], counters: Mapping[str, Counter]
) -> list[dict[str, Any]]:
    """Returns a row of accuracies for each interval of overlaps that has scenes."""
    return [
        {"IoU, at most": edge, "scenes": len(each)}
        | {
            name: float((counter(each.images) == each.counts.numpy()).mean())
            for name, counter in counters.items()
        }
        for edge, each in scenes.items()
        if len(each)
    ]


def with_room(trained: TrainedAIR, canvas_size: int, most: int) -> TrainedAIR:
    """Returns a trained AIR for scenes of a size, in which it can infer so many digits.

    Args:
        trained: The trained AIR. It keeps its own number of objects if that is larger.
        canvas_size: Height and width of the scenes.
        most: The most digits.
    """
    return trained.resized((canvas_size,) * 2, max(most, trained.settings.max_objects))


def count_with(run: Path, canvas_size: int, most: int) -> Counter:
    """Returns the counts of a trained AIR, loaded for scenes of a size.

    Args:
        run: The folder of the run.
        canvas_size: Height and width of the scenes.
        most: The most digits in a scene. AIR may infer more by two.
    """
    trained = load_run(run)
    sides = (canvas_size, canvas_size)
    if trained.shape.sides != sides or trained.settings.max_objects < most:
        trained = with_room(trained, canvas_size, most + 2)
    return lambda images: np.asarray(trained.detect(images.squeeze(1)).counts)


def summary(
    rows: Sequence[Mapping[str, Any]], several: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """Replaces the columns of several seeds by their mean and their lowest accuracy.

    Args:
        rows: Rows of a table.
        several: The columns of each method.
    """
    table = [dict(row) for row in rows]
    for method, columns in several.items():
        for row in table:
            values = [row.pop(name) for name in columns]
            if values:
                row |= {method: float(np.mean(values)), f"{method}, lowest": min(values)}
    return table


def save_figures(
    folder: Path,
    by_count: Sequence[Mapping[str, Any]],
    by_overlap: Sequence[Mapping[str, Any]],
    trained: Sequence[int],
) -> None:
    """Writes the figures of both tables."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row for row in by_count if row["digits"] != "all"]
    figure = plot_counts(curves(rows, "digits"), trained)
    figure.savefig(folder / "baselines-by-count.png", dpi=150)
    if by_overlap:
        figure = plot_overlaps(curves(by_overlap, "IoU, at most"))
        figure.savefig(folder / "baselines-by-overlap.png", dpi=150)


def curves(rows: Sequence[Mapping[str, Any]], x: str) -> dict[str, Curve]:
    """Returns the accuracies of each method, against a column."""
    names = [name for name in ("components", "network", "AIR") if name in rows[0]]
    return {name: Curve([row[x] for row in rows], [row[name] for row in rows]) for name in names}


def main(benchmark: Benchmark) -> None:
    """Trains the networks, and prints both tables in Markdown."""
    digits = load(benchmark.data, benchmark.data_dir, benchmark.evaluate_on)
    kinds = {"digit_size": benchmark.digit_size, "overlap": benchmark.overlap}
    canvas = benchmark.test_canvas_size or benchmark.canvas_size
    most = benchmark.test_max_digits or benchmark.max_digits
    train = make_scenes(
        digits.train.images,
        benchmark.train_scenes,
        canvas_size=benchmark.canvas_size,
        max_digits=benchmark.max_digits,
        seed=0,
        **kinds,
    )
    held_out = make_scenes(
        digits.held_out.images,
        benchmark.held_out_scenes,
        canvas_size=canvas,
        max_digits=most,
        seed=1,
        **kinds,
    )
    pairs = scenes_by_overlap(
        digits.held_out.images,
        benchmark.overlapping_scenes,
        canvas_size=canvas,
        digit_size=benchmark.digit_size,
        seed=2,
    )
    settings = choose_components(train)
    counters: dict[str, Counter] = {"components": lambda x: count_components(x, settings)}
    several = {
        "network": [f"network {seed}" for seed in range(benchmark.seeds)],
        "AIR": [f"AIR {i}" for i in range(len(benchmark.runs))],
    }
    for name, run in zip(several["AIR"], benchmark.runs, strict=True):
        counters[name] = count_with(run, canvas, most)
    for seed, name in enumerate(several["network"]):
        counters[name] = train_network(
            train,
            benchmark.steps,
            batch_size=benchmark.batch_size,
            regression=benchmark.regression,
            seed=seed,
        ).count
    print(f"components: {settings}\n")
    by_count = summary(count_table(held_out, counters), several)
    by_overlap = summary(overlap_table(pairs, counters), several)
    for rows in filter(None, (by_count, by_overlap)):
        print(markdown(rows, list(rows[0])), "\n")
    if benchmark.figures is not None:
        trained = train.counts.unique().tolist()
        save_figures(benchmark.figures, by_count, by_overlap, trained)


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
