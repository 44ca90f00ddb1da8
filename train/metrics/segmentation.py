r"""Measures of segmentation: ARI over the foreground, mean IoU, and segmentation covering.

A *label map* has an integer for each pixel. In a true map 0 is the background, and every other
number is an object. In an inferred map the numbers are names only: every one of them is a segment,
0 too. So a measure does not depend on how segments are numbered, and methods whose background is a
segment like the others compare with methods that tell which one it is.

Each measure returns a value for each image, and NaN for an image without a true segment.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from train.errors import require
from train.metrics.measuring import Unmeasurable

MOST_LABELS = 1_024
"""Labels are below it: a table of true and inferred labels is in memory."""

CELLS_AT_ONCE = 2**22
"""Bounds the memory for pixels and tables that are counted at once, to about 100 MB."""


def foreground_ari(truth: ArrayLike, predicted: ArrayLike) -> np.ndarray:
    r"""Returns the adjusted Rand index over the pixels where truth is not background.

    With :math:`n_{ij}` pixels in true object :math:`i` and inferred segment :math:`j`, and
    :math:`a = \sum_i \binom{n_{i \cdot}}{2}`, :math:`b = \sum_j \binom{n_{\cdot j}}{2}`:

    .. math:: \text{ARI} = \frac{\sum_{ij} \binom{n_{ij}}{2} - a b / \binom{n}{2}}
        {(a + b) / 2 - a b / \binom{n}{2}}

    It is 1 if both maps divide the pixels alike, and 0 on average for random labels; it can be
    below 0. If both have all pixels in one segment, it is 1; if only one of them has, it is 0. So
    it is 0 or 1 in images of a single object.

    Args:
        truth: True label maps, of shape :math:`(M, H, W)`; 0 is the background.
        predicted: Inferred label maps, of the same shape.

    Returns:
        Of shape :math:`(M)`, at most 1; NaN for images without a foreground.

    Raises:
        InputError: If these are not label maps of one shape.

    References:
        | Comparing Partitions (Hubert and Arabie, 1985)
        | Multi-Object Representation Learning with Iterative Variational Inference
          (Greff et al., 2019), for the foreground
        | https://arxiv.org/abs/1903.00450
    """
    return np.concatenate([_ari(table[:, 1:]) for table in _tables(truth, predicted)])


def mean_iou(truth: ArrayLike, predicted: ArrayLike, *, background: bool = False) -> np.ndarray:
    r"""Returns the mean IoU of true segments, matched one to one with inferred ones.

    .. math:: \text{mIoU} = \frac{1}{K} \max_\pi \sum_{i=1}^K \text{IoU}(S_i, S'_{\pi(i)}), \quad
        \text{IoU}(S, S') = \frac{|S \cap S'|}{|S \cup S'|}

    over one-to-one matchings :math:`\pi`, by the Hungarian method. A true segment without a match
    has an IoU of 0; inferred segments without a match cost nothing.

    Args:
        truth: True label maps, of shape :math:`(M, H, W)`; 0 is the background.
        predicted: Inferred label maps, of the same shape.
        background: Whether the true background is a segment to be matched too.

    Returns:
        Of shape :math:`(M)`, in [0, 1]; NaN for images without a true segment.

    Raises:
        InputError: If these are not label maps of one shape.
    """
    return np.concatenate(
        [_matched(*_ious(table, background)) for table in _tables(truth, predicted)]
    )


def segmentation_covering(
    truth: ArrayLike, predicted: ArrayLike, *, background: bool = False, weighted: bool = True
) -> np.ndarray:
    r"""Returns the segmentation covering of truth by the inferred segments.

    .. math:: \text{SC} = \frac{1}{\sum_i |S_i|} \sum_i |S_i| \max_j \text{IoU}(S_i, S'_j),
        \qquad \text{mSC} = \frac{1}{K} \sum_i \max_j \text{IoU}(S_i, S'_j)

    Unlike in :func:`mean_iou`, several true segments may have the same inferred one as their best.

    Args:
        truth: True label maps, of shape :math:`(M, H, W)`; 0 is the background.
        predicted: Inferred label maps, of the same shape.
        background: Whether the true background is a segment to be covered too.
        weighted: Whether true segments weigh by their size (SC) or equally (mSC).

    Returns:
        Of shape :math:`(M)`, in [0, 1]; NaN for images without a true segment.

    Raises:
        InputError: If these are not label maps of one shape.

    References:
        | Contour Detection and Hierarchical Image Segmentation (Arbelaez et al., 2011)
        | GENESIS: Generative Scene Inference and Sampling with Object-Centric Latent
          Representations (Engelcke et al., 2020)
        | https://arxiv.org/abs/1907.13052
    """
    return np.concatenate(
        [
            _covering(*_ious(table, background), weighted=weighted)
            for table in _tables(truth, predicted)
        ]
    )


def measure_segmentation(truth: ArrayLike, predicted: ArrayLike) -> dict[str, float]:
    """Returns the means of all measures over images with a foreground.

    Args:
        truth: True label maps, of shape :math:`(M, H, W)`; 0 is the background.
        predicted: Inferred label maps, of the same shape.

    Returns:
        ``foreground_ari``, ``mean_iou``, ``segmentation_covering`` and
        ``mean_segmentation_covering``, all of the foreground.

    Raises:
        InputError: If these are not label maps of one shape.
        Unmeasurable: If no image has a foreground.
    """
    rows: list[np.ndarray] = []
    for table in _tables(truth, predicted):
        sizes, ious = _ious(table, background=False)
        coverings = (_covering(sizes, ious, weighted=weighted) for weighted in (True, False))
        rows.append(np.stack([_ari(table[:, 1:]), _matched(sizes, ious), *coverings]))
    values = np.concatenate(rows, axis=1)
    with_foreground = ~np.isnan(values[0])
    if not with_foreground.any():
        raise Unmeasurable("no scene has an object with a visible pixel")
    means = values[:, with_foreground].mean(1).tolist()
    return dict(zip(MEASURES, means, strict=True))


MEASURES = ("foreground_ari", "mean_iou", "segmentation_covering", "mean_segmentation_covering")
"""The names of the measures of :func:`measure_segmentation`."""


def _tables(truth: ArrayLike, predicted: ArrayLike) -> Iterator[np.ndarray]:
    """Yields contingency tables: pixels by true and inferred label, of shape (m, T, P)."""
    truth, predicted = _checked("truth", truth), _checked("predicted", predicted)
    require(
        truth.shape == predicted.shape,
        f"true label maps have shape {truth.shape} and predicted ones {predicted.shape}: "
        "give maps of the same images",
    )
    rows, columns = (int(labels.max()) + 1 for labels in (truth, predicted))
    size = rows * columns
    n = max(1, CELLS_AT_ONCE // max(size, truth[0].size))
    for start in range(0, len(truth), n):
        first, second = (labels[start : start + n].reshape(-1) for labels in (truth, predicted))
        images = len(first) // truth[0].size
        offsets = np.repeat(np.arange(images, dtype=np.int64) * size, truth[0].size)
        cells = first * np.int64(columns) + second + offsets
        yield np.bincount(cells, minlength=images * size).reshape(images, rows, columns)


def _checked(name: str, labels: ArrayLike) -> np.ndarray:
    """Returns label maps as integers of the smallest type that the sums below do not overflow."""
    labels = np.asarray(labels.cpu() if hasattr(labels, "cpu") else labels)
    require(
        labels.ndim == 3 and labels.size > 0,
        f"{name} has shape {labels.shape}: give label maps (images, height, width), one or more",
    )
    require(
        labels.dtype.kind in "bui",
        f"{name} has dtype {labels.dtype}: give label maps of integers, 0 for the background",
    )
    low, high = int(labels.min()), int(labels.max())
    require(
        low >= 0 and high < MOST_LABELS,
        f"{name} has labels from {low} to {high}: number the segments of an image from 0, "
        f"below {MOST_LABELS:,}",
    )
    return labels.astype(np.int32)


def _ari(table: np.ndarray) -> np.ndarray:
    """Returns the adjusted Rand index of each contingency table, (m, T, P)."""
    # Ordered pairs of pixels, as in scikit-learn: alike in both maps, in one of them, in neither.
    table = table.astype(np.float64)
    n = table.sum((1, 2))
    squares = np.square(table).sum((1, 2))
    rows, columns = (np.square(table.sum(axis)).sum(1) for axis in (2, 1))
    both, first, second = squares - n, rows - squares, columns - squares
    neither = n * n - rows - columns + squares
    numerator = 2 * (both * neither - first * second)
    denominator = (both + first) * (first + neither) + (both + second) * (second + neither)
    ari = np.divide(numerator, denominator, out=np.ones_like(n), where=first + second > 0)
    return np.where(n > 0, ari, np.nan)


def _ious(table: np.ndarray, background: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns sizes of true segments, (m, T), and their IoUs with inferred ones, (m, T, P)."""
    sizes = table.sum(2)
    unions = sizes[..., None] + table.sum(1)[:, None] - table
    ious = table / np.maximum(unions, 1)
    first = 0 if background else 1
    return sizes[:, first:], ious[:, first:]


def _matched(sizes: np.ndarray, ious: np.ndarray) -> np.ndarray:
    """Returns the mean IoU of true segments that are not empty, under the best matching."""
    from scipy.optimize import linear_sum_assignment

    # An empty segment has no IoU above 0, so that it takes no match from another one.
    sums = [image[linear_sum_assignment(image, maximize=True)].sum() for image in ious]
    return _ratio(np.array(sums), (sizes > 0).sum(1))


def _covering(sizes: np.ndarray, ious: np.ndarray, *, weighted: bool) -> np.ndarray:
    """Returns the mean of the best IoU of each true segment that is not empty."""
    weights = sizes if weighted else sizes > 0
    best = ious.max(2, initial=0.0)
    return _ratio((weights * best).sum(1), weights.sum(1))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divides; NaN where the denominator is 0."""
    undefined = np.full(len(numerator), np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator > 0)
