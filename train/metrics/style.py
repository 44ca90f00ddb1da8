"""Morphometrics: slant, thickness and width of strokes, measured from pixels."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from sklearn.linear_model import RidgeCV
from torch.nn.functional import interpolate

STYLES = ("slant", "thickness", "width")
"""The names of the columns of :func:`morphometrics`."""
UPSAMPLING = 3
"""The factor by which images are upsampled before the edges of strokes are detected."""


def morphometrics(images: np.ndarray, batch: int = 500) -> np.ndarray:
    r"""Measures slant, stroke thickness and width of drawings.

    Slant is the angle of the shear :math:`- \mu_{11} / \mu_{02}` of the second moments, in degrees,
    positive to the right. Thickness, in pixels, is four times the mean distance to the edge, which
    is :math:`t / 4` across a stroke of thickness :math:`t`. Width, in pixels, is the distance
    between the first and the last percentile of the ink along the horizontal, after deskewing.

    Args:
        images: Bright strokes on dark, of shape (M, H, W), bytes or floats.
        batch: The number of images that are processed at once.

    Returns:
        Of shape (M, 3), float64, in the order of :data:`STYLES`; zeros for an empty image.

    References:
        | Morpho-MNIST: Quantitative Assessment and Diagnostics for Representation Learning
          (Castro et al., 2019)
        | https://jmlr.org/papers/v20/19-033.html
    """
    rows = [_morphometrics(images[i : i + batch]) for i in range(0, len(images), batch)]
    return np.concatenate(rows) if rows else np.zeros((0, len(STYLES)))


def _morphometrics(images: np.ndarray) -> np.ndarray:
    ink = images.astype(np.float64)
    peak = ink.max((1, 2), keepdims=True)
    ink = ink / np.where(peak > 0, peak, 1)
    mass = np.maximum(ink.sum((1, 2)), 1e-12)
    y, x = np.mgrid[: ink.shape[1], : ink.shape[2]].astype(np.float64)

    def mean(value: np.ndarray) -> np.ndarray:
        return (ink * value).sum((1, 2)) / mass

    dx, dy = (value - mean(value)[:, None, None] for value in (x, y))
    spread = mean(dy**2)
    shear = -mean(dx * dy) / np.where(spread > 0, spread, 1)

    upright = (x + shear[:, None, None] * dy).reshape(len(ink), -1)
    order = upright.argsort(1)
    position = np.take_along_axis(upright, order, 1)
    cumulative = np.take_along_axis(ink.reshape(len(ink), -1), order, 1).cumsum(1) / mass[:, None]
    first, last = (
        np.take_along_axis(position, (cumulative >= quantile).argmax(1)[:, None], 1)[:, 0]
        for quantile in (0.01, 0.99)
    )
    # Positions are pixel centres, and a pixel is one wide.
    width = np.where(peak[:, 0, 0] > 0, last - first + 1, 0)

    # Padded, so that ink at the border of the image has an edge too.
    padded = torch.from_numpy(np.pad(ink, ((0, 0), (1, 1), (1, 1))))
    fine = interpolate(padded[:, None], scale_factor=UPSAMPLING, mode="bilinear")[:, 0].numpy()
    inside = fine >= 0.5
    # The edge lies half a pixel before the first pixel outside. SciPy takes seven times as long to
    # transform all images as one volume as to transform them in turn.
    depths = [ndimage.distance_transform_edt(mask) for mask in inside]
    depth = ((np.stack(depths) - 0.5) * inside).sum((1, 2)) / np.maximum(inside.sum((1, 2)), 1)
    thickness = 4 * depth / UPSAMPLING
    return np.stack([np.degrees(np.arctan(shear)), thickness, width], axis=1)


def centred(values: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Subtracts the class mean from values.

    Args:
        values: Of shape (M, K).
        classes: Integers, of shape (M,).
    """
    residuals = np.empty_like(values, dtype=np.float64)
    for k in np.unique(classes):
        rows = classes == k
        residuals[rows] = values[rows] - values[rows].mean(0)
    return residuals


def style_r2(
    train: tuple[np.ndarray, np.ndarray, np.ndarray],
    held_out: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> dict[str, float]:
    r"""Returns the :math:`R^2` of a ridge regression of each style on embeddings, within classes.

    .. math:: R^2 = 1 - \frac{\sum_i (y_i - \hat{y}_i)^2}{\sum_i y_i^2}

    Class means are subtracted from embeddings and from styles, so that no style can be predicted
    from the class.

    Args:
        train: Embeddings (M, D), styles (M, K) and classes (M,) to fit to.
        held_out: The same, to score on.

    Returns:
        By the names of :data:`STYLES`; at most 1.
    """
    (z, y), (z_new, y_new) = (
        (centred(embeddings, classes), centred(styles, classes))
        for embeddings, styles, classes in (train, held_out)
    )
    scale = z.std(0) + 1e-12
    model = RidgeCV(alphas=np.logspace(-3, 3, 7), fit_intercept=False).fit(z / scale, y)
    error = ((y_new - model.predict(z_new / scale)) ** 2).sum(0)
    r2 = 1 - error / np.maximum((y_new**2).sum(0), 1e-12)
    return dict(zip(STYLES, r2.tolist(), strict=True))
