"""What an autoencoder's codes keep: the image, and its class."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pyro_models.ae import Autoencoder
from train.data.batches import as_input, codes_of
from train.data.labelled import Frame, Images
from train.metrics.clusters import cluster_accuracy
from train.metrics.goals import Beats
from train.metrics.interpolation import interpolate
from train.metrics.measuring import Measures, Unmeasurable, attempt
from train.metrics.probes import Labelled, probe_accuracy
from train.metrics.references import mean_image_mse

GOAL = Beats(
    measure="reconstruction_mse",
    reference="reconstruction_mse_mean_image",
    beside="the mean training image's",
    advice="more --steps, a lower --learning-rate, or a larger --z-dim",
)
"""What an autoencoder is to reach."""


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
        few = self.train.select(torch.arange(min(self.FEW, len(self.train))))
        looked = {name: attempt(probe).value for name, probe in self.probes(few, starts=20).items()}
        seen = {name: value for name, value in looked.items() if value is not None}
        return self.evaluate(step) | seen

    def probes(self, train: Images, starts: int) -> dict[str, Callable[[], float]]:
        """Probe and clusters by name, learnt from training images' codes."""

        @cache
        def known() -> list[Labelled]:
            require_classes(train.labels)
            parts = (train, self.held_out)
            return [(self.encode(part.images), part.labels.numpy()) for part in parts]

        return {
            "probe_accuracy": lambda: probe_accuracy(*known()),
            "cluster_accuracy": lambda: cluster_accuracy(*known(), starts=starts, seed=self.seed),
        }

    def measure(self, measures: Measures) -> None:
        """Takes the measures, on all images.

        ``reconstruction_mse`` is the mean square of a pixel's error on held-out images, in [0, 1],
        and ``reconstruction_mse_mean_image`` that of the mean training image. For
        ``probe_accuracy`` see :func:`~train.metrics.probes.probe_accuracy`, for
        ``cluster_accuracy`` :func:`~train.metrics.clusters.cluster_accuracy`.
        """
        measures.take("reconstruction_mse", lambda: self.error(self.held_out.images))
        measures.take(
            "reconstruction_mse_mean_image",
            lambda: mean_image_mse(self.train.images, self.held_out.images, self.frame.inside),
        )
        for name, probe in self.probes(self.train, self.starts).items():
            measures.take(name, probe)

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


def require_classes(labels: Tensor | None) -> None:
    """Raises :class:`~train.metrics.measuring.Unmeasurable` unless labels are several classes."""
    if labels is None:
        raise Unmeasurable("the images have no labels")
    if labels.is_floating_point():
        raise Unmeasurable("the labels are quantities, not classes")
    if len(labels.unique()) < 2:
        raise Unmeasurable("all training images are of one class")
