"""References: the values of measures without a model."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from train.data.batches import as_input
from train.data.streaming.stored import StoredImages


def mean_image(images: Tensor | StoredImages, batch: int = 1_000) -> Tensor:
    r"""Returns the mean of images.

    Args:
        images: Of shape :math:`(M, C, H, W)`, uint8 or in [0, 1].
        batch: The number of images that are processed at once.

    Returns:
        Of shape :math:`(C, H, W)`, in [0, 1].
    """
    total = torch.zeros(images.shape[1:], dtype=torch.float64)
    for chunk in images.split(batch):
        total += as_input(chunk).double().sum(0)
    return (total / len(images)).float()


def mean_image_mse(
    train: Tensor | StoredImages,
    held_out: Tensor | StoredImages,
    batch: int = 1_000,
) -> float:
    r"""Returns the mean squared error of a pixel, predicted by the mean training image.

    Args:
        train: Training images, of shape :math:`(M, C, H, W)`, uint8 or in [0, 1].
        held_out: Held-out images, of shape :math:`(L, C, H, W)`.
        batch: The number of images that are processed at once.
    """
    mean = mean_image(train)
    total = 0.0
    for chunk in held_out.split(batch):
        total += (as_input(chunk) - mean).square().mean((1, 2, 3)).double().sum().item()
    return total / len(held_out)


def majority(labels: np.ndarray) -> float:
    """Returns the relative frequency of the most frequent of integers, of shape (M,)."""
    return float(np.unique(labels, return_counts=True)[1].max() / len(labels))
