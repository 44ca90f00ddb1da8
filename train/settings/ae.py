"""The settings of the plain autoencoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from train.settings.common import Settings
from train.settings.values import Count, NonNegative, Positive, Whole


@dataclass(frozen=True)
class AESettings(Settings):
    """Train a plain or denoising autoencoder."""

    FREE: ClassVar[frozenset[str]] = Settings.FREE | {"cluster_starts"}
    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "training": ("patience",),
        "evaluation": ("cluster_starts",),
    }

    steps: Count = 5_000
    batch_size: Count = 128
    learning_rate: Positive = 1e-3
    decay: Literal["none", "cosine"] = "cosine"
    # With few images the best weights are early ones, and an evaluation takes little time.
    eval_every: Count = 250
    z_dim: Count = 10
    """Size of the code."""
    network: Literal["auto", "conv", "dense"] = "auto"
    """Networks. conv: a small convolutional encoder and a larger decoder. dense: dense layers.
    auto: dense for images of at most 12288 values, such as 28x28 or 3x64x64, conv for larger
    ones."""
    hidden: tuple[Count, ...] = (1000, 500)
    """Widths of the encoder's hidden dense layers; the decoder has them reversed."""
    noise: NonNegative = 0.0
    """Standard deviation of Gaussian noise added to the encoder's input. Above 0: a denoising
    autoencoder."""
    patience: Whole | None = None
    """Early stopping: number of evaluations in a row that may pass without a lower error on
    validation images; None: train for all --steps."""
    cluster_starts: Count = 50
    """Number of random starts of k-means, when clusters of codes are measured."""
