"""Evaluates autoencoders: reconstruction error, and classes predicted from codes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from pyro_models.ae import Autoencoder
from train.data.batches import as_input, codes_of
from train.data.labelled import Images
from train.data.streaming.stored import StoredImages, in_memory
from train.metrics import interpolation
from train.metrics.goals import Beats, Goal
from train.metrics.measuring import Measures, Unmeasurable, attempt
from train.metrics.references import mean_image_mse
from train.metrics.watch import TrainingLog, Watch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from train.metrics.probes import Labelled

GOAL = Beats(
    measure="reconstruction_mse",
    reference="reconstruction_mse_mean_image",
    beside="the mean training image's",
    advice="more --steps, a lower --learning-rate, or a larger --z-dim",
)
"""The goal of every autoencoder."""


class AutoencoderWatch(Watch):
    r"""Evaluates an autoencoder by its reconstruction error, and by classes predicted from codes.

    Args:
        autoencoder: The autoencoder.
        train: Training images.
        held_out: Held-out images.
        starts: The number of random restarts of k-means.
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

    def __init__(
        self,
        autoencoder: Autoencoder,
        train: Images,
        held_out: Images,
        *,
        starts: int = 50,
        seed: int = 0,
    ) -> None:
        self.autoencoder = autoencoder
        self.train = train
        self.held_out = held_out
        self.starts = starts
        self.seed = seed

    @property
    def device(self) -> torch.device:
        """The device of the autoencoder."""
        return next(self.autoencoder.parameters()).device

    def encode(self, images: Tensor | StoredImages) -> np.ndarray:
        """Encodes uint8 images (M, C, H, W) to codes, of shape (M, D)."""
        return codes_of(self.autoencoder.encode, images, self.device)

    @torch.no_grad()
    def error(self, images: Tensor | StoredImages, batch: int = 1_000) -> float:
        """Returns the mean squared error per pixel, in [0, 1], of uint8 images."""
        total = torch.zeros((), dtype=torch.float64)
        for chunk in images.split(batch):
            chunk = as_input(chunk.to(self.device))
            difference = self.autoencoder(chunk) - chunk
            total += difference.square().mean((1, 2, 3)).double().sum().cpu()
        return float(total) / len(images)

    def evaluate(self, step: int) -> dict[str, float]:
        return {"held_out_mse": self.error(self.held_out.images)}

    def probes(self, train: Images, starts: int) -> dict[str, Callable[[], float]]:
        """Returns measures of codes by name: each fits a probe to codes when it is called.

        Args:
            train: Training images, whose codes probes are fitted to.
            starts: The number of random restarts of k-means.
        """

        @cache
        def codes() -> list[Labelled]:
            require_classes(train.labels)
            return [(self.encode(x.images), x.known_labels.numpy()) for x in (train, self.held_out)]

        # scikit-learn is imported here, where there are labels: it takes 120 MB and half a second.
        def probe() -> float:
            pairs = codes()
            from train.metrics.probes import probe_accuracy

            return probe_accuracy(*pairs)

        def cluster() -> float:
            pairs = codes()
            from train.metrics.clusters import cluster_accuracy

            return cluster_accuracy(*pairs, starts=starts, seed=self.seed)

        return {"probe_accuracy": probe, "cluster_accuracy": cluster}

    def measure(self) -> Measures:
        """Measures the autoencoder on held-out images.

        ``reconstruction_mse`` is the mean squared error per pixel, of pixels in [0, 1], and
        ``reconstruction_mse_mean_image`` is the error of predicting the mean training image. For
        ``probe_accuracy`` see :func:`~train.metrics.probes.probe_accuracy`, for
        ``cluster_accuracy`` see :func:`~train.metrics.clusters.cluster_accuracy`.
        """
        measures = Measures()
        measures.add("reconstruction_mse", lambda: self.error(self.held_out.images))
        measures.add(
            "reconstruction_mse_mean_image",
            lambda: mean_image_mse(self.train.images, self.held_out.images),
        )
        for name, probe in self.probes(self.train, self.starts).items():
            measures.add(name, probe)
        return measures

    def goals(self) -> list[Goal]:
        return [GOAL]

    def figures(self, log: TrainingLog) -> dict[str, Callable[[], Figure]]:
        from train import plots

        return {
            "reconstructions": lambda: plots.gallery(self.reconstructions()),
            "codes": lambda: plots.codes(*self.codes()),
            **super().figures(log),
        }

    def reconstructions(self, number: int = 10) -> dict[str, np.ndarray]:
        """Returns a row of held-out images and a row of their reconstructions, by label."""
        images = self.first(number)
        with torch.no_grad():
            decoded = self.autoencoder(images)
        return {"data": images.cpu().numpy(), "decoded": decoded.cpu().numpy()}

    def codes(self, number: int = 5_000) -> tuple[np.ndarray, np.ndarray]:
        """Returns codes of the first held-out images, and their labels, or zeros without labels."""
        images = self.held_out.select(torch.arange(min(number, len(self.held_out))))
        labels = np.zeros(len(images), dtype=int) if images.values is None else images.values
        return self.encode(images.images), labels

    def first(self, number: int) -> Tensor:
        """Returns the first held-out images on the device, repeated if there are fewer."""
        rows = torch.arange(number) % len(self.held_out)
        return as_input(self.held_out.images[rows].to(self.device))


class AEWatch(AutoencoderWatch):
    """Evaluates the plain autoencoder, whose weights are selected on validation images.

    Args:
        autoencoder: The autoencoder.
        train: Training images.
        held_out: Held-out images.
        validation: Validation images.
        starts: See :class:`AutoencoderWatch`.
        seed: See :class:`AutoencoderWatch`.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        train: Images,
        held_out: Images,
        *,
        validation: Images,
        starts: int = 50,
        seed: int = 0,
    ) -> None:
        super().__init__(autoencoder, train, held_out, starts=starts, seed=seed)
        self.validation = validation

    def evaluate(self, step: int) -> dict[str, float]:
        return {"validation_mse": self.error(self.validation.images)}

    def figures(self, log: TrainingLog) -> dict[str, Callable[[], Figure]]:
        from train import plots

        drawn = super().figures(log)
        if self.encode(self.held_out.images[:1]).shape[1] == 2:
            drawn["grid"] = lambda: plots.gallery(self.grid())
        return drawn

    @torch.no_grad()
    def grid(self, reach: float = 5.0, number: int = 11) -> dict[str, np.ndarray]:
        """Decodes a grid of two-dimensional codes over [-reach, reach], in rows of equal z_2."""
        ticks = torch.linspace(-reach, reach, number, device=self.device)
        decode = self.autoencoder.decode
        return {
            f"{y:g}": decode(torch.stack([ticks, torch.full_like(ticks, y)], 1)).cpu().numpy()
            for y in ticks.flip(0).tolist()
        }


class ACAIWatch(AutoencoderWatch):
    """Evaluates ACAI's autoencoder; probes are evaluated during training too.

    Args:
        autoencoder: The autoencoder.
        train: Training images.
        held_out: Held-out images.
        lines: Whether the images are lines, whose interpolations have a known truth.
        starts: See :class:`AutoencoderWatch`.
        seed: See :class:`AutoencoderWatch`.
    """

    EVALUATED = 10_000
    """Most training images whose codes are used in an evaluation."""

    def __init__(
        self,
        autoencoder: Autoencoder,
        train: Images,
        held_out: Images,
        *,
        lines: bool = False,
        starts: int = 50,
        seed: int = 0,
    ) -> None:
        super().__init__(autoencoder, train, held_out, starts=starts, seed=seed)
        self.lines = lines

    def evaluate(self, step: int) -> dict[str, float]:
        train = self.train.select(torch.arange(min(self.EVALUATED, len(self.train))))
        attempts = {name: attempt(probe) for name, probe in self.probes(train, starts=20).items()}
        accuracies = {
            name: outcome.value for name, outcome in attempts.items() if outcome.value is not None
        }
        return super().evaluate(step) | accuracies

    def measure(self) -> Measures:
        measures = super().measure()
        if self.lines:
            images = as_input(in_memory(self.held_out.images).to(self.device))
            names = interpolation.Interpolation._fields
            measures.add(names, lambda: interpolation.measure(self.autoencoder, images)._asdict())
        return measures

    def figures(self, log: TrainingLog) -> dict[str, Callable[[], Figure]]:
        from train import plots

        drawn = super().figures(log)
        drawn.pop("reconstructions")
        return {"interpolations": lambda: plots.gallery(self.interpolations()), **drawn}

    def interpolations(self, pairs: int = 10, steps: int = 11) -> dict[str, np.ndarray]:
        """Decodes interpolations between pairs of held-out images.

        Returns:
            Rows of images by label: the images to begin at, each step, and the images to end at.
        """
        one, other = self.first(2 * pairs).chunk(2)
        between = interpolation.interpolate(self.autoencoder, one, other, steps).cpu().numpy()
        rows = {
            f"{fraction:.0%}": between[:, i] for i, fraction in enumerate(np.linspace(0, 1, steps))
        }
        return {"from": one.cpu().numpy(), **rows, "to": other.cpu().numpy()}


def require_classes(labels: Tensor | None) -> None:
    """Raises :class:`~train.metrics.measuring.Unmeasurable` unless there are several classes."""
    if labels is None:
        raise Unmeasurable("the images have no labels")
    if labels.is_floating_point():
        raise Unmeasurable("the labels are quantities, not classes")
    if len(labels.unique()) < 2:
        raise Unmeasurable("all training images are of one class")
