"""How well an autoencoder interpolates: on lines, where the truth is known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_models.ae import Autoencoder
from train.data import lines


@torch.no_grad()
def interpolate(autoencoder: Autoencoder, one: Tensor, other: Tensor, steps: int) -> Tensor:
    r"""Decodes points on the straight line between two images' codes.

    Args:
        autoencoder: The autoencoder.
        one: Images to begin at, of shape :math:`(B, H, W)`, in [0, 1].
        other: Images to end at, of the same shape.
        steps: How many points :math:`n`, both ends among them.

    Returns:
        Images, of shape :math:`(B, n, H, W)`.
    """
    ends = (autoencoder.encode(each) for each in (one, other))
    return autoencoder.decode(mixes(*ends, steps))


def mixes(one: Tensor, other: Tensor, steps: int) -> Tensor:
    r"""Points on the straight line between codes.

    Args:
        one: Where to begin, of shape :math:`(B, D)`.
        other: Where to end, of the same shape.
        steps: How many points :math:`n`, both ends among them.

    Returns:
        Of shape :math:`(B, n, D)`.
    """
    share = torch.linspace(0, 1, steps, device=one.device).unsqueeze(-1)
    return torch.lerp(one.unsqueeze(1), other.unsqueeze(1), share)


def nearest_lines(images: Tensor, resolution: int = 10_000) -> tuple[np.ndarray, np.ndarray]:
    r"""The line that is nearest to each image.

    The distance is :math:`1 - \cos`, of images with black at -1 and white at 1.

    Args:
        images: Of shape :math:`(M, S, S)`, in [0, 1].
        resolution: How many lines, all the way round, to compare with.

    Returns:
        Distances from 0 to 2, and angles in radians, both of shape (M,).
    """
    angles = lines.circle(resolution)
    # In parts, as lines in double precision would fill the memory.
    there, flat = (
        torch.nn.functional.normalize(2 * each.float().cpu().flatten(1) - 1, dim=1)
        for each in (lines.draw(angles, images.shape[-1]), images)
    )
    cosines, nearest = zip(
        *((part @ there.T).max(dim=1) for part in flat.split(1_000)), strict=True
    )
    distances = 1 - torch.cat(cosines)
    return distances.numpy(), angles[torch.cat(nearest)].numpy()


def smoothness(angles: np.ndarray) -> np.ndarray:
    r"""How unequal the steps from angle to angle are: 0 if all are equal, near 1 for one jump.

    .. math:: \max_i \frac{|\theta_{i + 1} - \theta_i|}{|\theta_n - \theta_1|} - \frac{1}{n - 1}

    Args:
        angles: Of interpolations with :math:`n` points each, in radians, of shape (P, n); a turn
            more or less does not matter.

    Returns:
        Of shape (P,); not a number where the angles begin as they end.

    Example:
        >>> even, jump = [0.0, 0.5, 1.0, 1.5], [0.0, 0.0, 1.5, 1.5]
        >>> smoothness(np.array([even, jump])).round(3).tolist()
        [0.0, 0.667]
    """
    angles = np.unwrap(angles, axis=1)
    whole = np.abs(angles[:, -1] - angles[:, 0])
    steps = np.abs(np.diff(angles, axis=1)).max(1)
    # A ten thousandth of a turn is what nearest lines can tell.
    whole = np.where(whole > 1e-4, whole, np.nan)
    return steps / whole - 1 / (angles.shape[1] - 1)


class Interpolation(NamedTuple):
    """Measures of interpolations between lines.

    Attributes:
        mean_distance: From each image on the way to the nearest line: see :func:`nearest_lines`.
        smoothness: The mean of :func:`smoothness`, where it is defined.
    """

    mean_distance: float
    smoothness: float


def measure(
    autoencoder: Autoencoder, held_out: Tensor, pairs: int = 256, steps: int = 16
) -> Interpolation:
    r"""Measures interpolations between held-out lines.

    Args:
        autoencoder: The autoencoder.
        held_out: Lines, of shape :math:`(M, S, S)`, in [0, 1], :math:`M \ge 2 P`.
        pairs: How many pairs, :math:`P`, from the first.
        steps: How many images each, both ends among them.

    References:
        | Understanding and Improving Interpolation in Autoencoders via an Adversarial Regularizer
          (Berthelot et al., 2018)
        | https://arxiv.org/abs/1807.07543
    """
    drawn = interpolate(autoencoder, *held_out[: 2 * pairs].chunk(2), steps)
    return judge(drawn)


def judge(interpolations: Tensor) -> Interpolation:
    r"""Measures interpolations, of shape :math:`(P, n, S, S)`, in [0, 1]."""
    distances, angles = nearest_lines(interpolations.flatten(0, 1))
    smooth = smoothness(angles.reshape(interpolations.shape[:2]))
    defined = smooth[~np.isnan(smooth)]
    return Interpolation(
        float(distances.mean()), float(defined.mean()) if len(defined) else float("nan")
    )
