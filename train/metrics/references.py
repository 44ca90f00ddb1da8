"""What is had without a model: what a measure is to be held against."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from train.data.batches import as_input


def mean_image(images: Tensor, batch: int = 1_000) -> Tensor:
    r"""The mean of images.

    Args:
        images: Of shape :math:`(M, H, W)`, uint8 or in [0, 1].
        batch: How many at a time.

    Returns:
        Of shape :math:`(H, W)`, in [0, 1].
    """
    total = torch.zeros(images.shape[1:], dtype=torch.float64)
    for part in images.split(batch):
        total += as_input(part).double().sum(0)
    return (total / len(images)).float()


def mean_image_mse(
    train: Tensor,
    held_out: Tensor,
    inside: Callable[[Tensor], Tensor] = lambda images: images,
    batch: int = 1_000,
) -> float:
    r"""The mean square of a pixel's error if every image is taken for the mean training image.

    Args:
        train: Training images, of shape :math:`(M, H, W)`, uint8 or in [0, 1].
        held_out: Held-out images, of shape :math:`(L, H, W)`.
        inside: Takes off what is around images and does not count.
        batch: How many at a time.
    """
    mean = inside(mean_image(train))
    total = 0.0
    for part in held_out.split(batch):
        total += (inside(as_input(part)) - mean).square().mean((1, 2)).double().sum().item()
    return total / len(held_out)


def majority(labels: np.ndarray) -> float:
    """The share of the most frequent of labels or counts, integers of shape (M,)."""
    return float(np.unique(labels, return_counts=True)[1].max() / len(labels))
