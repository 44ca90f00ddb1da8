"""What an autoencoder's codes keep: the image, and its class."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_models.ae import Autoencoder
from train.data.batches import as_input, codes_of
from train.data.digits import Frame, Images
from train.metrics.clusters import cluster_accuracy
from train.metrics.interpolation import interpolate
from train.metrics.probes import probe_accuracy


class Autoencoding(NamedTuple):
    """Measures of an autoencoder.

    Attributes:
        reconstruction_mse: The mean square of a pixel's error on held-out images, in [0, 1].
        probe_accuracy: See :func:`~train.metrics.probes.probe_accuracy`; ``None`` without classes.
        cluster_accuracy: See :func:`~train.metrics.clusters.cluster_accuracy`; likewise.
    """

    reconstruction_mse: float
    probe_accuracy: float | None
    cluster_accuracy: float | None


class Watch:
    r"""Looks at an autoencoder while it is trained.

    Args:
        autoencoder: The autoencoder.
        train: Training images.
        held_out: Held-out images.
        frame: What is around images only so that they can be halved, and does not count.
        starts: How often k-means starts when it counts.
        seed: Seed of k-means.
    """

    PANELS: ClassVar = {
        "squared error a pixel": {
            "mse": "training",
            "validation_mse": "validation",
            "held_out_mse": "held out",
        },
        "critic's loss": {"critic_loss": "training"},
        "accuracy": {"probe_accuracy": "linear probe", "cluster_accuracy": "k-means"},
    }
    """What to plot of the run's metrics."""
    FEW = 10_000
    """How many training codes a look takes."""

    def __init__(
        self,
        autoencoder: Autoencoder,
        train: Images,
        held_out: Images,
        *,
        frame: Frame = Frame(),  # noqa: B008
        starts: int = 50,
        seed: int = 0,
    ) -> None:
        self.autoencoder = autoencoder
        self.train = train
        self.held_out = held_out
        self.frame = frame
        self.starts = starts
        self.seed = seed

    @property
    def device(self) -> torch.device:
        """Where the autoencoder is."""
        return next(self.autoencoder.parameters()).device

    def encode(self, images: Tensor) -> np.ndarray:
        """Codes of uint8 images (M, H, W), of shape (M, D)."""
        return codes_of(self.autoencoder.encode, images, self.device)

    @torch.no_grad()
    def error(self, images: Tensor, batch: int = 1_000) -> float:
        """The mean square of a pixel's error, of uint8 images (M, H, W)."""
        total = torch.zeros((), dtype=torch.float64)
        for part in images.split(batch):
            part = as_input(part.to(self.device))
            difference = self.frame.inside(self.autoencoder(part) - part)
            total += difference.square().mean((1, 2)).double().sum().cpu()
        return float(total) / len(images)

    def evaluate(self, step: int) -> dict[str, float]:
        """The error on held-out images."""
        return {"held_out_mse": self.error(self.held_out.images)}

    def look(self, step: int) -> dict[str, float]:
        """That, and probes of the codes: of fewer training images, with fewer starts."""
        read = self.read(self.train.select(torch.arange(min(self.FEW, len(self.train)))), starts=20)
        return self.evaluate(step) | {name: value for name, value in read.items() if value}

    def read(self, train: Images, starts: int) -> dict[str, float | None]:
        """Probe and clusters, learnt from training images' codes."""
        labels = train.labels
        if labels is None or labels.is_floating_point() or len(labels.unique()) < 2:
            return {"probe_accuracy": None, "cluster_accuracy": None}
        pairs = [(self.encode(part.images), part.labels.numpy()) for part in (train, self.held_out)]
        return {
            "probe_accuracy": probe_accuracy(*pairs),
            "cluster_accuracy": cluster_accuracy(*pairs, starts=starts, seed=self.seed),
        }

    def measure(self) -> Autoencoding:
        """Measures on all images."""
        return Autoencoding(self.error(self.held_out.images), **self.read(self.train, self.starts))

    def reconstructions(self, number: int = 10) -> dict[str, np.ndarray]:
        """Rows of held-out images and of what is left of them."""
        images = self.first(number)
        with torch.no_grad():
            drawn = self.autoencoder(images)
        return {"data": self.shown(images), "decoded": self.shown(drawn)}

    def interpolations(self, pairs: int = 10, steps: int = 11) -> dict[str, np.ndarray]:
        """Rows of images on the way from one held-out image to another, both among them."""
        one, other = self.first(2 * pairs).chunk(2)
        between = interpolate(self.autoencoder, one, other, steps)
        mixes = {
            f"{share:.0%}": self.shown(between[:, i])
            for i, share in enumerate(np.linspace(0, 1, steps))
        }
        return {"from": self.shown(one), **mixes, "to": self.shown(other)}

    @torch.no_grad()
    def grid(self, reach: float = 5.0, number: int = 11) -> dict[str, np.ndarray]:
        """Rows of what codes of two dimensions decode to, the second falling from row to row."""
        ticks = torch.linspace(-reach, reach, number, device=self.device)
        return {
            f"{height:g}": self.shown(
                self.autoencoder.decode(torch.stack([ticks, torch.full_like(ticks, height)], dim=1))
            )
            for height in ticks.flip(0).tolist()
        }

    def codes(self, number: int = 5_000) -> tuple[np.ndarray, np.ndarray]:
        """Codes of held-out images, and labels as the data have them; zeros if there are none."""
        few = self.held_out.select(torch.arange(min(number, len(self.held_out))))
        labels = np.zeros(len(few), dtype=int) if few.values is None else few.values
        return self.encode(few.images), labels

    def first(self, number: int) -> Tensor:
        """The first held-out images, on the device, over again if there are too few."""
        rows = torch.arange(number) % len(self.held_out)
        return as_input(self.held_out.images[rows].to(self.device))

    def shown(self, images: Tensor) -> np.ndarray:
        """Images for a figure."""
        return self.frame.inside(images).cpu().numpy()
