"""Morphometrics: how an image was written, measured from its pixels."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from sklearn.linear_model import RidgeCV
from torch.nn.functional import interpolate

STYLES = ("slant", "thickness", "width")
"""What :func:`morphometrics` measures."""
UPSAMPLING = 3
"""How much finer than a pixel a stroke's edge is looked for."""


def morphometrics(images: np.ndarray, batch: int = 500) -> np.ndarray:
    r"""Measures the slant, the stroke's thickness and the width of drawings.

    Slant is the angle of the shear that the moments show, :math:`- \mu_{11} / \mu_{02}`, in
    degrees; leaning to the right is above zero. Thickness is in pixels: across a stroke of
    thickness :math:`t` the distance to its edge is :math:`t / 4` in the mean. Width, in pixels, is
    between the first and the last hundredth of the ink, once the slant is taken out.

    Args:
        images: Bright strokes on dark, of shape (M, H, W), bytes or floats.
        batch: How many at a time.

    Returns:
        Of shape (M, 3), float64, in the order of :data:`STYLES`; zeros for an empty image.

    References:
        | Morpho-MNIST: Quantitative Assessment and Diagnostics for Representation Learning
          (Castro et al., 2019)
        | https://jmlr.org/papers/v20/19-033.html
    """
    found = [_morphometrics(images[i : i + batch]) for i in range(0, len(images), batch)]
    return np.concatenate(found) if found else np.zeros((0, len(STYLES)))


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
    place = np.take_along_axis(upright, order, 1)
    share = np.take_along_axis(ink.reshape(len(ink), -1), order, 1).cumsum(1) / mass[:, None]
    first, last = (
        np.take_along_axis(place, (share >= part).argmax(1)[:, None], 1)[:, 0]
        for part in (0.01, 0.99)
    )
    # Ink reaches half a pixel beyond a pixel's centre.
    width = np.where(peak[:, 0, 0] > 0, last - first + 1, 0)

    # A border of nothing, so that ink at the edge has an edge too.
    framed = torch.from_numpy(np.pad(ink, ((0, 0), (1, 1), (1, 1))))
    fine = interpolate(framed[:, None], scale_factor=UPSAMPLING, mode="bilinear")[:, 0].numpy()
    inside = fine >= 0.5
    # An edge is half a step before the first pixel outside. SciPy's transform of all images as one
    # volume takes seven times as long as one after another.
    depths = [ndimage.distance_transform_edt(each) for each in inside]
    depth = ((np.stack(depths) - 0.5) * inside).sum((1, 2)) / np.maximum(inside.sum((1, 2)), 1)
    thickness = 4 * depth / UPSAMPLING
    return np.stack([np.degrees(np.arctan(shear)), thickness, width], axis=1)


def centred(values: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Values with the mean of their class taken out.

    Args:
        values: Of shape (M, K).
        classes: Integers, of shape (M,).
    """
    out = np.empty_like(values, dtype=np.float64)
    for each in np.unique(classes):
        own = classes == each
        out[own] = values[own] - values[own].mean(0)
    return out


def style_r2(
    train: tuple[np.ndarray, np.ndarray, np.ndarray],
    held_out: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> dict[str, float]:
    r"""How much of each style a ridge regression reads from embeddings, within classes.

    .. math:: R^2 = 1 - \frac{\sum_i (y_i - \hat{y}_i)^2}{\sum_i y_i^2}

    with the class means taken out of embeddings and of styles: what is left does not tell the
    class, so it cannot be read by way of it.

    Args:
        train: Embeddings (M, D), styles (M, K) and classes (M,), to fit on.
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
    share = 1 - error / np.maximum((y_new**2).sum(0), 1e-12)
    return dict(zip(STYLES, share.tolist(), strict=True))
