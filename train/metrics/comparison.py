"""The same measures for every method: what codes keep, what they tell, what they decode to."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn.functional import normalize

from train import acai
from train.data.batches import codes_of
from train.data.digits import Frame, Split
from train.metrics.clusters import cluster_accuracy
from train.metrics.probes import leakage, probe_accuracy
from train.metrics.style import STYLES, morphometrics, style_r2
from train.settings import require
from train.trained import Trained, TrainedAIR, TrainedAutoencoder, TrainedICVAE

MEASURES = {
    "code_size": "numbers in a code",
    "probe_accuracy": "linear probe of the class",
    "cluster_accuracy": "k-means against the class",
    "leakage": "class, best of four probes",
    **{f"{style}_r2": f"R² of {style}" for style in STYLES},
    "reconstruction_mse": "squared error a pixel",
    "interpolation": "halfway, to the nearest image",
    "seconds": "seconds of training",
}
"""What is measured, and what a figure calls it."""


class Codec(NamedTuple):
    """Codes of images, and images of codes.

    Attributes:
        name: What a table calls it.
        command: What makes it.
        encode: From uint8 images (M, H, W) to codes (M, D).
        decode: From codes and the images' labels, as the data have them, to images in [0, 1];
            ``None`` if there is none.
        seconds: Seconds of training, if any.
    """

    name: str
    command: str
    encode: Callable[[Tensor], np.ndarray]
    decode: Callable[[np.ndarray, np.ndarray], Tensor] | None
    seconds: float | None = None


def references(data: Split, command: str, seed: int, size: int = 32) -> list[Codec]:
    """Raw pixels, as many principal components as ACAI has numbers, and its untrained encoder."""

    def flat(images: Tensor) -> np.ndarray:
        return images.numpy().reshape(len(images), -1) / 255.0

    def drawn(pixels: np.ndarray) -> Tensor:
        return torch.from_numpy(pixels).float().clamp(0, 1).unflatten(1, data.train.shape)

    pixels = flat(data.train.images)
    pca = PCA(min(size, *pixels.shape), random_state=seed).fit(pixels)
    torch.manual_seed(seed)
    settings = acai.ACAISettings(network="dense", z_dim=size)
    untrained = acai.build(settings, data.train.shape).eval().autoencoder

    def encode(images: Tensor) -> np.ndarray:
        return codes_of(untrained.encode, images, torch.device("cpu"))

    return [
        Codec("pixels", command, flat, lambda z, _: drawn(z)),
        Codec(
            "PCA",
            command,
            lambda images: pca.transform(flat(images)),
            lambda z, _: drawn(pca.inverse_transform(z)),
        ),
        Codec("untrained encoder", command, encode, None),
    ]


def of_run(path: Path, trained: Trained, command: str, shape: tuple[int, int]) -> Codec:
    """The codec of a run.

    Args:
        path: The run folder.
        trained: What is loaded from it.
        command: What makes such a run.
        shape: The images' height and width; AIR's scenes may be larger.
    """
    results = path / "results.json"
    seconds = json.loads(results.read_text())["train_seconds"] if results.exists() else None

    def encode(images: Tensor) -> np.ndarray:
        return trained.encode(images).cpu().numpy()

    decode: Callable[[np.ndarray, np.ndarray], Tensor] | None = None
    if isinstance(trained, TrainedAutoencoder):
        decode = lambda z, _: trained.decode(torch.from_numpy(z)).cpu()  # noqa: E731
    elif isinstance(trained, TrainedICVAE):
        decode = lambda z, c: trained.decode(torch.from_numpy(z), c).cpu()  # noqa: E731
    elif isinstance(trained, TrainedAIR):
        return _alone(path, trained, command, shape, seconds)
    return Codec(path.name, command, encode, decode, seconds)


def _alone(
    path: Path, trained: TrainedAIR, command: str, shape: tuple[int, int], seconds: float | None
) -> Codec:
    """AIR's, of images each alone in the middle of an empty scene."""
    rows, columns = (whole - part for whole, part in zip(trained.shape, shape, strict=True))
    require(
        min(rows, columns) >= 0,
        f"{path}: its scenes are {trained.shape[0]}x{trained.shape[1]}: too small for images of "
        f"{shape[0]}x{shape[1]}",
    )
    frame = Frame(rows, columns)

    def encode(images: Tensor) -> np.ndarray:
        return trained.encode(frame.around(images)).cpu().numpy()

    def decode(z: np.ndarray, _: np.ndarray) -> Tensor:
        return frame.inside(trained.decode(torch.from_numpy(z)).clamp(0, 1).cpu())

    return Codec(path.name, command, encode, decode, seconds)


def compare(codecs: Sequence[Codec], data: Split, seed: int = 0) -> list[dict[str, Any]]:
    """Measures each codec.

    Args:
        codecs: What to compare.
        data: Labelled images, to fit probes to and to score on.
        seed: Seed of probes and clusters.

    Returns:
        A row for each: ``method``, ``command``, and :data:`MEASURES`, ``None`` where there is no
        decoder. ``interpolation`` is :math:`1 - \\cos` from the image halfway between the codes of
        two held-out images of a class to the nearest training image, in the mean.
    """
    train, held_out = data
    for images in data:
        labels = images.labels
        require(
            labels is not None and not labels.is_floating_point() and labels.ndim == 1,
            "--data: to compare methods images need classes as labels: whole numbers, one each",
        )
    styles = [morphometrics(images.images.numpy()) for images in data]
    one, other = pairs(held_out.labels)
    rows = []
    for codec in codecs:
        codes = [codec.encode(images.images).astype(np.float32) for images in data]
        known = [(z, images.labels.numpy()) for z, images in zip(codes, data, strict=True)]
        r2 = style_r2(
            *((z, style, labels) for (z, labels), style in zip(known, styles, strict=True))
        )
        row: dict[str, Any] = {"method": codec.name, "code_size": codes[0].shape[1]}
        row |= {
            "probe_accuracy": probe_accuracy(*known),
            "cluster_accuracy": cluster_accuracy(*known, starts=10, seed=seed),
            "leakage": leakage(*known, seed=seed).best,
            **{f"{style}_r2": value for style, value in r2.items()},
            "reconstruction_mse": None,
            "interpolation": None,
        }
        if codec.decode is not None:
            drawn = codec.decode(codes[1], held_out.values)
            error = (drawn - held_out.images / 255).double().square().mean()
            halfway = codec.decode(
                (codes[1][one] + codes[1][other]) / 2, held_out.values[one.numpy()]
            )
            row["reconstruction_mse"] = float(error)
            row["interpolation"] = float(nearest(halfway, train.images).mean())
        rows.append(row | {"seconds": codec.seconds, "command": codec.command})
    return rows


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
