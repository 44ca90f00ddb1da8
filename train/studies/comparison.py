"""The same measures for every method: what codes keep, what they tell, what they decode to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn.functional import normalize

from pyro_models import acai
from pyro_models.shapes import Shape
from train import plots
from train.data.batches import codes_of
from train.data.labelled import Images, Split
from train.engine.saved import read_results
from train.errors import require
from train.metrics.clusters import cluster_accuracy
from train.metrics.measuring import NOT_FINITE, Unmeasurable, attempt, finite
from train.metrics.probes import leakage, probe_accuracy
from train.metrics.style import STYLES, morphometrics, style_r2
from train.verbs.base import Trained

MEASURES = {
    "code_size": "numbers in a code",
    "probe_accuracy": "linear probe of the class",
    "cluster_accuracy": "k-means against the class",
    "leakage": "class, best probe",
    **{f"{style}_r2": f"R² of {style}" for style in STYLES},
    "reconstruction_mse": "squared error a pixel",
    "interpolation": "halfway, to the nearest image",
    "seconds": "seconds of training",
}
"""The measures, and their labels in a figure."""


class Codec(NamedTuple):
    """An encoder and a decoder to be compared.

    Attributes:
        name: Its name in the table.
        command: The command that makes it.
        encode: From images, and their labels if it was trained with them, to codes (M, D).
        decode: From codes and the images' labels, as the data have them, to images in [0, 1];
            ``None`` if there is none.
        seconds: Seconds of training, if any.
    """

    name: str
    command: str
    encode: Callable[[Images], np.ndarray]
    decode: Callable[[np.ndarray, np.ndarray], Tensor] | None
    seconds: float | None = None


def references(data: Split, command: str, seed: int, size: int = 32) -> list[Codec]:
    """Returns raw pixels, principal components, and an untrained encoder of dense layers.

    Args:
        data: Images; components are those of the training images.
        command: The command that makes the comparison.
        seed: Seed of components and encoder.
        size: The size of both codes.
    """

    def flat(images: Tensor) -> np.ndarray:
        return images.numpy().reshape(len(images), -1) / 255.0

    def drawn(pixels: np.ndarray) -> Tensor:
        return torch.from_numpy(pixels).float().clamp(0, 1).unflatten(1, data.train.shape)

    pixels = flat(data.train.images)
    pca = PCA(min(size, *pixels.shape), random_state=seed).fit(pixels)
    torch.manual_seed(seed)
    untrained = acai.dense(data.train.shape, size, dropout=0.0)[0].eval()

    def encode(images: Images) -> np.ndarray:
        return codes_of(untrained.encode, images.images, torch.device("cpu"))

    return [
        Codec("pixels", command, lambda images: flat(images.images), lambda z, _: drawn(z)),
        Codec(
            "PCA",
            command,
            lambda images: pca.transform(flat(images.images)),
            lambda z, _: drawn(pca.inverse_transform(z)),
        ),
        Codec("untrained encoder", command, encode, None),
    ]


def of_run(path: Path, trained: Trained, command: str, shape: Shape) -> Codec:
    """Returns the codec of a run.

    Args:
        path: The run folder.
        trained: What is loaded from it.
        command: The command that makes such a run.
        shape: The images' height and width.

    Raises:
        InputError: If the method cannot take such images, or the run's results are damaged.
    """
    seconds = None
    if (path / "results.json").exists():
        seconds = read_results(path).get("train_seconds")
    return Codec(path.name, command, *trained.codec(shape), seconds)


def require_classes(data: Split) -> None:
    """Raises :class:`InputError` unless every image has a class."""
    for images in data:
        labels = images.labels
        require(
            labels is not None and not labels.is_floating_point() and labels.ndim == 1,
            "--data: to compare methods images need classes as labels: whole numbers, one each",
        )


def try_out(codec: Codec, data: Split) -> None:
    """Encodes and decodes some images of each split, one or more of every class.

    Raises:
        InputError: If the codec does not take such images, or does not know a class.
        ValueError: If there are too few images for it.
    """
    for images in data:
        _, first = np.unique(images.labels.numpy(), return_index=True)
        # As many as are encoded together: Echo's noise is made of the others among them.
        others = np.arange(min(len(images), max(Trained.batch - len(first), 0)))
        few = images.select(torch.from_numpy(np.union1d(first, others)))
        codes = codec.encode(few).astype(np.float32)
        if codec.decode is not None:
            codec.decode(codes, few.values)


def compare(codecs: Sequence[Codec], data: Split, seed: int = 0) -> list[dict[str, Any]]:
    """Measures each codec.

    Args:
        codecs: What to compare.
        data: Labelled images, to fit probes to and to score on.
        seed: Seed of probes and clusters.

    Returns:
        A row for each: ``method``, ``command``, and :data:`MEASURES`, ``None`` where there is no
        decoder or a measure cannot be taken; the ``reasons`` of the latter by name.
        ``interpolation`` is :math:`1 - \\cos` from the image halfway between the codes of two
        held-out images of a class to the nearest training image, in the mean.
    """
    require_classes(data)
    styles = [morphometrics(images.images.numpy()) for images in data]
    return [_row(codec, data, styles, seed) for codec in codecs]


def _row(codec: Codec, data: Split, styles: Sequence[np.ndarray], seed: int) -> dict[str, Any]:
    """What :func:`compare` has of a codec."""
    train, held_out = data
    codes = [codec.encode(images).astype(np.float32) for images in data]
    known = [(z, images.labels.numpy()) for z, images in zip(codes, data, strict=True)]

    @cache
    def r2() -> dict[str, float]:
        parts = zip(known, styles, strict=True)
        return style_r2(*((z, style, labels) for (z, labels), style in parts))

    def error() -> float:
        drawn = codec.decode(codes[1], held_out.values)
        return float((drawn - held_out.images / 255).double().square().mean())

    def interpolation() -> float:
        one, other = pairs(held_out.labels)
        if not len(one):
            raise Unmeasurable("no two held-out images are of one class")
        values = held_out.values[one.numpy()]
        halfway = codec.decode((codes[1][one] + codes[1][other]) / 2, values)
        return float(nearest(halfway, train.images).mean())

    measures: dict[str, Callable[[], float]] = {
        "probe_accuracy": lambda: probe_accuracy(*known),
        "cluster_accuracy": lambda: cluster_accuracy(*known, starts=10, seed=seed),
        "leakage": lambda: leakage(*known, seed=seed).best,
        **{f"{style}_r2": lambda style=style: r2()[style] for style in STYLES},
    }
    if codec.decode is not None:
        measures |= {"reconstruction_mse": error, "interpolation": interpolation}
    row = {"method": codec.name, "command": codec.command, "reasons": {}} | dict.fromkeys(MEASURES)
    row |= {"code_size": codes[0].shape[1], "seconds": codec.seconds}
    for name, measure in measures.items():
        outcome = attempt(measure)
        row[name] = finite(outcome.value)
        if row[name] is None:
            row["reasons"][name] = outcome.reason or NOT_FINITE
    return row


def figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws the rows of :func:`compare`."""
    return plots.comparison(rows, MEASURES)


def pairs(labels: Tensor, number: int = 500) -> tuple[Tensor, Tensor]:
    """Rows of images that follow each other in their class, so many pairs at most."""
    order = labels.argsort(stable=True)
    same = labels[order][:-1] == labels[order][1:]
    one, other = order[:-1][same], order[1:][same]
    # Evenly over the classes.
    chosen = torch.linspace(0, len(one) - 1, min(number, len(one))).long()
    return one[chosen], other[chosen]


def nearest(images: Tensor, others: Tensor) -> Tensor:
    r"""How far images are from the nearest of others: :math:`1 - \cos`, of shape (M)."""
    one = normalize(images.flatten(1).float(), dim=1)
    there = normalize(others.flatten(1).float(), dim=1)
    return 1 - torch.cat([(part @ there.T).amax(1) for part in one.split(100)])


def cells(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each cell of the table, with the command that makes it."""
    return [
        {
            "method": row["method"],
            "measure": measure,
            "value": row[measure],
            "command": row["command"],
        }
        for row in rows
        for measure in MEASURES
    ]
