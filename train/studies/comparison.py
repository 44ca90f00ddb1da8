"""Measures codes and reconstructions of different methods on the same held-out images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
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
from train.data.images import luminance
from train.data.labelled import Images, Split
from train.data.streaming.stored import in_memory
from train.engine.saved import read_results
from train.errors import require
from train.metrics.adversaries import leakage
from train.metrics.clusters import cluster_accuracy
from train.metrics.measuring import NOT_FINITE, Unmeasurable, attempt, finite
from train.metrics.probes import probe_accuracy
from train.metrics.style import STYLES, morphometrics, style_r2
from train.progress import progress
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
"""The names of the measures, and their titles in the figure."""


Decode = Callable[[np.ndarray, Images], Tensor]


class Codec(NamedTuple):
    """A named encoder and decoder to compare.

    Attributes:
        name: The name in the table.
        command: The command that reproduces it.
        encode: Encodes images, with their labels if the encoder needs them, to codes (M, D).
        decode: Decodes codes (M, D), under the labels and columns of as many images, to images
            (M, C, H, W) in [0, 1]; ``None`` if there is no decoder.
        seconds: Seconds of training; ``None`` without training.
    """

    name: str
    command: str
    encode: Callable[[Images], np.ndarray]
    decode: Decode | None
    seconds: float | None = None


def references(data: Split, command: str, seed: int, size: int = 32) -> list[Codec]:
    """Returns reference codecs: raw pixels, PCA, and an untrained encoder of dense layers.

    Args:
        data: The images; PCA is fitted to the training images.
        command: The command that makes the comparison.
        seed: Seed of PCA and of the encoder's weights.
        size: The size of the codes of PCA (or less, for fewer images or pixels) and of the encoder.
    """

    def flat(images: Images) -> np.ndarray:
        return in_memory(images.images).numpy().reshape(len(images), -1) / 255.0

    def images_of(pixels: np.ndarray) -> Tensor:
        return torch.from_numpy(pixels).float().clamp(0, 1).unflatten(1, data.train.shape)

    pixels = flat(data.train)
    pca = PCA(min(size, *pixels.shape), random_state=seed).fit(pixels)
    torch.manual_seed(seed)
    untrained = acai.dense(data.train.shape, size, dropout=0.0)[0].eval()

    def encode(images: Images) -> np.ndarray:
        return codes_of(untrained.encode, images.images, torch.device("cpu"))

    return [
        Codec("pixels", command, flat, lambda z, _: images_of(z)),
        Codec(
            "PCA",
            command,
            lambda images: pca.transform(flat(images)),
            lambda z, _: images_of(pca.inverse_transform(z)),
        ),
        Codec("untrained encoder", command, encode, None),
    ]


def of_run(path: Path, trained: Trained, command: str, shape: Shape) -> Codec:
    """Returns the codec of a run.

    Args:
        path: The run folder.
        trained: The trained method, loaded from it.
        command: The command that reproduces the run.
        shape: Channels, height and width of the images to compare on.

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
            "--data: to compare methods, images need classes as labels: whole numbers, one each",
        )


def check(codec: Codec, data: Split) -> None:
    """Checks a codec on some images of each split, which include every class.

    Raises:
        InputError: If the codec does not support such images or one of the classes.
        ValueError: If there are too few images for it.
    """
    for images in data:
        _, first = np.unique(images.known_labels.numpy(), return_index=True)
        # A full batch, because Echo noise is made of the other images in it.
        others = np.arange(min(len(images), max(Trained.batch - len(first), 0)))
        batch = images.select(torch.from_numpy(np.union1d(first, others)))
        codes = codec.encode(batch).astype(np.float32)
        if codec.decode is not None:
            codec.decode(codes, batch)


def compare(codecs: Sequence[Codec], data: Split, seed: int = 0) -> list[dict[str, Any]]:
    """Measures each codec.

    For ``interpolation``, midpoints between codes of two held-out images of a class are decoded. It
    is the mean cosine distance of the decoded images from the nearest training image.

    Args:
        codecs: The codecs to compare.
        data: Images with classes; probes are fitted to the training split and scored on the other.
        seed: Seed of probes and clusters.

    Returns:
        A row for each codec: ``method``, ``command`` and the :data:`MEASURES`, which are ``None``
        without a decoder or if the measure failed; and ``reasons``, why a measure failed, by name.
    """
    require_classes(data)
    styles = [
        morphometrics(luminance(in_memory(images.images)).squeeze(1).numpy()) for images in data
    ]
    shown = progress(codecs, "measuring", len(codecs), "run")
    return [_row(codec, data, styles, seed) for codec in shown]


def _row(codec: Codec, data: Split, styles: Sequence[np.ndarray], seed: int) -> dict[str, Any]:
    """Measures a codec: see :func:`compare`."""
    train, held_out = data
    codes = [codec.encode(images).astype(np.float32) for images in data]
    labels = [images.known_labels.numpy() for images in data]
    labelled = (codes[0], labels[0]), (codes[1], labels[1])

    @cache
    def r2() -> dict[str, float]:
        splits = zip(labelled, styles, strict=True)
        return style_r2(*((z, style, labels) for (z, labels), style in splits))

    def error(decode: Decode) -> float:
        decoded = decode(codes[1], held_out)
        return float((decoded - in_memory(held_out.images) / 255).double().square().mean())

    def interpolation(decode: Decode) -> float:
        one, other = pairs(held_out.known_labels)
        if not len(one):
            raise Unmeasurable("no two held-out images are of one class")
        midpoints = decode((codes[1][one] + codes[1][other]) / 2, held_out.select(one))
        return float(nearest(midpoints, in_memory(train.images)).mean())

    def style_of(name: str) -> float:
        return r2()[name]

    measures: dict[str, Callable[[], float]] = {
        "probe_accuracy": lambda: probe_accuracy(*labelled),
        "cluster_accuracy": lambda: cluster_accuracy(*labelled, starts=10, seed=seed),
        "leakage": lambda: leakage(labelled[0], labelled[1], seed=seed).best,
        **{f"{style}_r2": partial(style_of, style) for style in STYLES},
    }
    if codec.decode is not None:
        measures["reconstruction_mse"] = partial(error, codec.decode)
        measures["interpolation"] = partial(interpolation, codec.decode)
    reasons: dict[str, str] = {}
    row: dict[str, Any] = {"method": codec.name, "command": codec.command, "reasons": reasons}
    row |= dict.fromkeys(MEASURES)
    row |= {"code_size": codes[0].shape[1], "seconds": codec.seconds}
    for name, measure in measures.items():
        outcome = attempt(measure)
        row[name] = finite(outcome.value)
        if row[name] is None:
            reasons[name] = outcome.reason or NOT_FINITE
    return row


def figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws the rows of :func:`compare`."""
    return plots.comparison(rows, MEASURES)


def pairs(labels: Tensor, number: int = 500) -> tuple[Tensor, Tensor]:
    """Pairs consecutive images of equal class.

    Args:
        labels: Classes, of shape (M,).
        number: The largest number of pairs, which are spread evenly over the classes.

    Returns:
        The indices of the first and of the second images, both of shape (P,).
    """
    order = labels.argsort(stable=True)
    equal = labels[order][:-1] == labels[order][1:]
    one, other = order[:-1][equal], order[1:][equal]
    spread = torch.linspace(0, len(one) - 1, min(number, len(one))).long()
    return one[spread], other[spread]


def nearest(images: Tensor, others: Tensor) -> Tensor:
    r"""Returns the cosine distance of each image from the nearest of others, of shape (M).

    Args:
        images: Of shape (M, C, H, W).
        others: Of shape (L, C, H, W).
    """
    queries = normalize(images.flatten(1).float(), dim=1)
    candidates = normalize(others.flatten(1).float(), dim=1)
    return 1 - torch.cat([(chunk @ candidates.T).amax(1) for chunk in queries.split(100)])


def cells(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Converts the rows of :func:`compare` to long format: one row per method and measure."""
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
