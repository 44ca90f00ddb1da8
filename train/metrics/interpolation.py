"""Interpolates between codes, and measures interpolations of lines, whose truth is known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_models.ae import Autoencoder
from train.data.drawn import lines


@torch.no_grad()
def interpolate(autoencoder: Autoencoder, one: Tensor, other: Tensor, steps: int) -> Tensor:
    r"""Decodes equidistant points on the straight line between the codes of two images.

    Args:
        autoencoder: The autoencoder.
        one: Images to begin at, of shape :math:`(B, C, H, W)`, in [0, 1].
        other: Images to end at, of the same shape.
        steps: The number of points :math:`n`, including both ends.

    Returns:
        Images, of shape :math:`(B, n, C, H, W)`.
    """
    first, last = (autoencoder.encode(images) for images in (one, other))
    return autoencoder.decode(mixes(first, last, steps))


def mixes(one: Tensor, other: Tensor, steps: int) -> Tensor:
    r"""Returns equidistant points on the straight line between codes.

    Args:
        one: Codes to begin at, of shape :math:`(B, D)`.
        other: Codes to end at, of the same shape.
        steps: The number of points :math:`n`, including both ends.

    Returns:
        Of shape :math:`(B, n, D)`.
    """
    weight = torch.linspace(0, 1, steps, device=one.device).unsqueeze(-1)
    return torch.lerp(one.unsqueeze(1), other.unsqueeze(1), weight)


def nearest_lines(images: Tensor, resolution: int = 10_000) -> tuple[np.ndarray, np.ndarray]:
    r"""Finds the line that is nearest to each image, in cosine distance.

    The distance is one minus the cosine similarity of pixels, scaled to [-1, 1].

    Args:
        images: Of shape :math:`(M, 1, S, S)`, in [0, 1].
        resolution: The number of lines to compare with, at equidistant angles over a full turn.

    Returns:
        Distances from 0 to 2, and angles in radians, both of shape (M,).
    """
    angles = lines.circle(resolution)
    candidates, queries = (
        torch.nn.functional.normalize(2 * pixels.float().cpu().flatten(1) - 1, dim=1)
        for pixels in (lines.draw(angles, images.shape[-1]), images)
    )
    # In chunks, to bound the memory of the matrix of similarities.
    cosines, nearest = zip(
        *((chunk @ candidates.T).max(dim=1) for chunk in queries.split(1_000)), strict=True
    )
    distances = 1 - torch.cat(cosines)
    return distances.numpy(), angles[torch.cat(nearest)].numpy()


def smoothness(angles: np.ndarray) -> np.ndarray:
    r"""Measures how unequal the steps of angles are: 0 if all are equal, near 1 for a single jump.

    .. math:: \max_i \frac{|\theta_{i + 1} - \theta_i|}{|\theta_n - \theta_1|} - \frac{1}{n - 1}

    Args:
        angles: The angles of interpolations with :math:`n` points, in radians modulo a full turn,
            of shape (P, n).

    Returns:
        Of shape (P,); NaN where the first and the last angle are equal.

    Example:
        >>> even, jump = [0.0, 0.5, 1.0, 1.5], [0.0, 0.0, 1.5, 1.5]
        >>> smoothness(np.array([even, jump])).round(3).tolist()
        [0.0, 0.667]
    """
    angles = np.unwrap(angles, axis=1)
    total = np.abs(angles[:, -1] - angles[:, 0])
    largest_step = np.abs(np.diff(angles, axis=1)).max(1)
    # Smaller differences are below the resolution of the nearest lines.
    total = np.where(total > 1e-4, total, np.nan)
    return largest_step / total - 1 / (angles.shape[1] - 1)


class Interpolation(NamedTuple):
    """Measures of interpolations between lines.

    Attributes:
        mean_distance: The mean distance of interpolated images from the nearest line: see
            :func:`nearest_lines`.
        smoothness: The mean of :func:`smoothness`, where it is defined; NaN if it never is.
    """

    mean_distance: float
    smoothness: float


def measure(
    autoencoder: Autoencoder, held_out: Tensor, pairs: int = 256, steps: int = 16
) -> Interpolation:
    r"""Measures interpolations between held-out lines.

    Args:
        autoencoder: The autoencoder.
        held_out: Lines, of shape :math:`(M, 1, S, S)`, in [0, 1], :math:`M \ge 2 P`.
        pairs: The number of pairs :math:`P`, of the first images.
        steps: The number of images of an interpolation, including both ends.

    References:
        | Understanding and Improving Interpolation in Autoencoders via an Adversarial Regularizer
          (Berthelot et al., 2018)
        | https://arxiv.org/abs/1807.07543
    """
    one, other = held_out[: 2 * pairs].chunk(2)
    return judge(interpolate(autoencoder, one, other, steps))


def judge(interpolations: Tensor) -> Interpolation:
    r"""Measures interpolations, of shape :math:`(P, n, 1, S, S)`, in [0, 1]."""
    distances, angles = nearest_lines(interpolations.flatten(0, 1))
    smooth = smoothness(angles.reshape(interpolations.shape[:2]))
    defined = smooth[~np.isnan(smooth)]
    return Interpolation(
        float(distances.mean()), float(defined.mean()) if len(defined) else float("nan")
    )
