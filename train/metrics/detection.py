r"""Measures of detection: average precision, IoU of matched boxes, and accuracy by true count.

Boxes are :math:`(x_0, y_0, x_1, y_1)` in pixels, half open. Each image has as many rows for boxes
as the image with the most objects, and only the first ``counts`` rows are boxes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from pyro_models.boxes import area, shared
from train.errors import require
from train.metrics.measuring import Unmeasurable


class Matches(NamedTuple):
    r"""Detections matched with true boxes.

    Attributes:
        detected: Whether each row is a detection, of shape :math:`(M, N)`.
        matched: Whether it has a true box, of shape :math:`(M, N)`.
        ious: Its IoU with that box, and 0 without one; of shape :math:`(M, N)`.
    """

    detected: np.ndarray
    matched: np.ndarray
    ious: np.ndarray


class CountAccuracy(NamedTuple):
    """The accuracy in scenes of one true count.

    Attributes:
        accuracy: The fraction of scenes whose count is right.
        scenes: The number of these scenes.
    """

    accuracy: float
    scenes: int


def object_scores(probabilities: Tensor) -> Tensor:
    r"""Returns how sure a guide is of each object, given the probability of each count.

    The object at index :math:`i` is present if more than :math:`i` objects are, so that its score
    is :math:`P(n > i) = \sum_{n > i} p_n`. Scores do not increase with :math:`i`.

    Args:
        probabilities: The probability :math:`p_n` of each count, of shape :math:`(B, N + 1)`.

    Returns:
        Of shape :math:`(B, N)`, in [0, 1], float64.

    Example:
        >>> import torch
        >>> object_scores(torch.tensor([[0.25, 0.25, 0.5]])).tolist()
        [[0.75, 0.5]]
    """
    # Summed from the end, so that small probabilities are not lost beside large ones.
    tails = probabilities.double().flip(-1).cumsum(-1).flip(-1)
    return tails[..., 1:].clamp(max=1.0)


def pairwise_ious(truth: ArrayLike, boxes: ArrayLike) -> np.ndarray:
    r"""Returns the IoU of each true box with each other box of the same image.

    Args:
        truth: Of shape :math:`(M, K, 4)`.
        boxes: Of shape :math:`(M, N, 4)`.

    Returns:
        Of shape :math:`(M, K, N)`, in [0, 1]; 0 for two boxes without area.
    """
    truth, boxes = (np.asarray(each, np.float64) for each in (truth, boxes))
    first, second = truth[:, :, None], boxes[:, None]
    intersection = shared(first, second)
    union = area(first) + area(second) - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def match(
    truth_boxes: ArrayLike,
    truth_counts: ArrayLike,
    boxes: ArrayLike,
    counts: ArrayLike,
    scores: ArrayLike,
    threshold: float = 0.5,
) -> Matches:
    r"""Matches detections with true boxes: greedily, by falling score, within each image.

    As in COCO, a detection gets the true box with which it has the largest IoU among those that no
    detection of a higher score has got, if that IoU is at least ``threshold``. Of equal scores,
    the first row comes first. A true box without area, such as that of a hidden object, has no
    match.

    Args:
        truth_boxes: True boxes, of shape :math:`(M, K, 4)`.
        truth_counts: How many of its rows each image has, of shape :math:`(M)`.
        boxes: Detected boxes, of shape :math:`(M, N, 4)`.
        counts: How many of its rows each image has, of shape :math:`(M)`.
        scores: The score of each detection, of shape :math:`(M, N)`; rows beyond ``counts`` have
            no effect.
        threshold: The least IoU of a match, in (0, 1].

    Raises:
        InputError: If shapes do not fit, or a number is out of its range.
    """
    truth_boxes, truth_counts = _checked("true", truth_boxes, truth_counts)
    boxes, counts = _checked("detected", boxes, counts)
    scores = np.asarray(scores, np.float64)
    require(
        len(boxes) == len(truth_boxes),
        f"{len(truth_boxes):,} images have true boxes and {len(boxes):,} detected ones: "
        "give boxes of the same images",
    )
    require(
        scores.shape == boxes.shape[:2],
        f"scores have shape {scores.shape} and boxes {boxes.shape}: give a score for each box",
    )
    require(0 < threshold <= 1, f"threshold is {threshold:g}: give an IoU above 0, at most 1")
    detected = _rows(boxes, counts)
    require(
        not np.isnan(scores[detected]).any(), "a score of a detection is NaN: give finite scores"
    )
    images = np.arange(len(boxes))
    # Axes: image, detection, true box.
    ious = pairwise_ious(boxes, truth_boxes)
    free = _rows(truth_boxes, truth_counts)
    matched, values = np.zeros(boxes.shape[:2], bool), np.zeros(boxes.shape[:2])
    # Without true boxes there is nothing to match.
    order = np.argsort(-scores, axis=1, kind="stable").T if free.shape[1] else ()
    for row in order:
        candidates = np.where(free, ious[images, row], -1.0)
        best = candidates.argmax(1)
        iou = candidates[images, best]
        hit = detected[images, row] & (iou >= threshold)
        matched[images, row], values[images, row] = hit, np.where(hit, iou, 0.0)
        free[images[hit], best[hit]] = False
    return Matches(detected, matched, values)


def average_precision(
    truth_boxes: ArrayLike,
    truth_counts: ArrayLike,
    boxes: ArrayLike,
    counts: ArrayLike,
    scores: ArrayLike,
    threshold: float = 0.5,
) -> float:
    r"""Returns the average precision (AP) of detections in a data set, of a single class.

    The detections of all images are sorted by falling score. With precision :math:`p_k` and recall
    :math:`r_k` of the first :math:`k`, AP is the area under the precision-recall curve, made
    decreasing, with a step at every recall that occurs (all-points interpolation, as PASCAL VOC
    has it since 2010):

    .. math:: \text{AP} = \sum_k (r_k - r_{k-1}) \max_{l \ge k} p_l

    A detection is a true positive if it is matched: see :func:`match`. Detections of equal scores
    count together, so that AP does not depend on the order of the images.

    Args:
        truth_boxes: True boxes, of shape :math:`(M, K, 4)`.
        truth_counts: How many of its rows each image has, of shape :math:`(M)`.
        boxes: Detected boxes, of shape :math:`(M, N, 4)`.
        counts: How many of its rows each image has, of shape :math:`(M)`.
        scores: The score of each detection, of shape :math:`(M, N)`; see :func:`object_scores`.
        threshold: The least IoU of a match, in (0, 1].

    Returns:
        From 0 to 1; 0 without detections.

    Raises:
        InputError: If shapes do not fit, or a number is out of its range.
        Unmeasurable: If no image has a true box.

    References:
        | The PASCAL Visual Object Classes Challenge: A Retrospective (Everingham et al., 2015)
        | Microsoft COCO: Common Objects in Context (Lin et al., 2014)
        | https://arxiv.org/abs/1405.0312

    Example:
        >>> truth = [[[0, 0, 4, 4], [10, 10, 14, 14]]]
        >>> found = [[[0, 0, 4, 4], [20, 20, 24, 24]]]
        >>> average_precision(truth, [2], found, [2], [[0.9, 0.8]])
        0.5
    """
    matches = match(truth_boxes, truth_counts, boxes, counts, scores, threshold)
    total = int(np.asarray(truth_counts).sum())
    if not total:
        raise Unmeasurable("no scene has an object")
    detected = np.asarray(scores, np.float64)[matches.detected]
    order = np.argsort(-detected, kind="stable")
    hits = np.cumsum(matches.matched[matches.detected][order])
    # The last detection of each score.
    ends = np.flatnonzero(np.append(np.diff(detected[order]) != 0, True)[: len(order)])
    precision = hits[ends] / (ends + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(hits[ends], prepend=0) * envelope).sum() / total)


def matched_box_iou(
    truth_boxes: ArrayLike,
    truth_counts: ArrayLike,
    boxes: ArrayLike,
    counts: ArrayLike,
    scores: ArrayLike,
    threshold: float = 0.5,
) -> float:
    """Returns the mean IoU of detections that :func:`match` matches with a true box.

    It measures how exact boxes are, not how many there are; see :func:`average_precision`.

    Args:
        truth_boxes: See :func:`match`.
        truth_counts: See :func:`match`.
        boxes: See :func:`match`.
        counts: See :func:`match`.
        scores: See :func:`match`.
        threshold: See :func:`match`; the result is no lower.

    Raises:
        InputError: If shapes do not fit, or a number is out of its range.
        Unmeasurable: If no detection is matched.
    """
    matches = match(truth_boxes, truth_counts, boxes, counts, scores, threshold)
    if not matches.matched.any():
        raise Unmeasurable(f"no detection has an IoU of {threshold:g} with a true box")
    return float(matches.ious[matches.matched].mean())


def accuracy_by_count(truth: ArrayLike, counts: ArrayLike) -> dict[int, CountAccuracy]:
    """Returns the accuracy of inferred counts for each true count that occurs, in order.

    Args:
        truth: True counts, of shape (M,).
        counts: Inferred counts, of shape (M,).

    Raises:
        InputError: If there are not as many of both.

    Example:
        >>> accuracy_by_count([0, 2, 2], [0, 2, 1])[2]
        CountAccuracy(accuracy=0.5, scenes=2)
    """
    truth, counts = np.asarray(truth), np.asarray(counts)
    require(
        truth.ndim == 1 and truth.shape == counts.shape,
        f"true counts have shape {truth.shape} and inferred ones {counts.shape}: "
        "give one of both for each scene",
    )
    return {
        int(n): CountAccuracy(float((counts[truth == n] == n).mean()), int((truth == n).sum()))
        for n in np.unique(truth)
    }


def largest_overlap(boxes: ArrayLike, counts: ArrayLike) -> np.ndarray:
    """Returns the largest IoU of two boxes of an image.

    Args:
        boxes: Of shape :math:`(M, K, 4)`.
        counts: How many of its rows each image has, of shape :math:`(M)`.

    Returns:
        Of shape :math:`(M)`, in [0, 1]; 0 for images of fewer than two objects.

    Raises:
        InputError: If shapes do not fit.
    """
    boxes, counts = _checked("true", boxes, counts)
    present = _rows(boxes, counts)
    pairs = np.triu(present[:, :, None] & present[:, None], k=1)
    return np.where(pairs, pairwise_ious(boxes, boxes), 0.0).max((1, 2), initial=0.0)


def _checked(name: str, boxes: ArrayLike, counts: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns boxes and counts as arrays whose shapes fit."""
    boxes, counts = np.asarray(boxes, np.float64), np.asarray(counts)
    require(
        boxes.ndim == 3 and boxes.shape[2] == 4,
        f"{name} boxes have shape {boxes.shape}: give (images, objects, 4)",
    )
    require(
        counts.shape == boxes.shape[:1],
        f"{name} counts have shape {counts.shape} and boxes {boxes.shape}: "
        "give a count for each image",
    )
    low, high = int(counts.min(initial=0)), int(counts.max(initial=0))
    require(
        low >= 0 and high <= boxes.shape[1],
        f"{name} counts are from {low} to {high} and boxes have {boxes.shape[1]} rows an image: "
        "give a row for each object",
    )
    return boxes, counts


def _rows(boxes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns whether each row is one of the first ``counts``, of shape (M, K)."""
    return np.arange(boxes.shape[1]) < counts[:, None]
