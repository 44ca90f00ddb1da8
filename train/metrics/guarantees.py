r"""Upper bounds of what anybody can read in codes that take finitely many values.

An attacker who knows the joint distribution of code and condition guesses the condition with the
highest probability given the code. Nobody has a higher accuracy than that,

.. math:: A^* = \sum_z \max_c p(z, c)

and for a quantity nobody has a higher :math:`R^2` than that of :math:`\mathbb{E}[c | z]`. Both are
estimated from the frequencies in images that the encoder was not trained on. The estimates are too
high in the mean, as each cell's maximum, or mean, is fitted to the cell's own images. And each of
:math:`n` images changes them by at most :math:`1 / n` of the range. So by McDiarmid's inequality
they are not too low by more than

.. math:: \sqrt{\log (1 / \delta) / 2 n}

with probability :math:`1 - \delta`. So estimate and margin together are an upper bound, for any
encoder, any number of cells and any attacker. Many cells make it loose, not wrong.

References:
    | On the Method of Bounded Differences (McDiarmid, 1989)
    | https://doi.org/10.1017/CBO9781107359949.008
    | FARE: Provably Fair Representation Learning with Practical Certificates (Jovanovic et al.,
      2023), which bounds the demographic parity of finite codes
    | https://arxiv.org/abs/2210.07213
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
"""The probability with which a bound holds."""


class Guarantee(NamedTuple):
    r"""What anybody can read in finite codes, at most.

    Attributes:
        bound: The upper bound of an attacker's accuracy, or :math:`R^2`, at most 1.
        estimate: The score of the best attacker by the frequencies, which is too high in the mean.
        confidence: The probability with which the bound holds.
        cells: The number of different codes that occur.
    """

    bound: float
    estimate: float
    confidence: float
    cells: int


def numbered(codes: np.ndarray) -> tuple[np.ndarray, int]:
    """Numbers the different codes; returns each code's number, and how many there are."""
    unique, index = np.unique(np.ascontiguousarray(codes), axis=0, return_inverse=True)
    return index.reshape(-1), len(unique)


def class_guarantee(
    codes: np.ndarray, classes: np.ndarray, confidence: float = CONFIDENCE
) -> Guarantee:
    r"""Bounds the accuracy with which a class is read in finite codes.

    Args:
        codes: Of shape (n, D), of images that the encoder was not trained on.
        classes: Integers, of shape (n,).
        confidence: The probability with which the bound holds.

    Example:
        >>> codes = np.repeat([[0.0], [1.0]], 500, axis=0)
        >>> class_guarantee(codes, np.tile([0, 1], 500)).estimate
        0.5
    """
    index, cells = numbered(codes)
    _, number = np.unique(classes, return_inverse=True)
    joint = np.zeros((cells, number.max() + 1))
    np.add.at(joint, (index, number.reshape(-1)), 1)
    estimate = float(joint.max(1).sum() / len(codes))
    bound = min(1.0, estimate + margin(len(codes), 1 - confidence))
    return Guarantee(bound, estimate, confidence, cells)


def quantity_guarantee(
    codes: np.ndarray,
    quantity: np.ndarray,
    bounds: tuple[float, float] | None = None,
    confidence: float = CONFIDENCE,
) -> Guarantee:
    r"""Bounds the :math:`R^2` with which a quantity is read in finite codes.

    Args:
        codes: Of shape (n, D), of images that the encoder was not trained on.
        quantity: Of shape (n,).
        bounds: The least and the greatest value that the quantity can have; those that occur if
            ``None``, with which the bound holds for values between them.
        confidence: The probability with which the bound holds.

    Example:
        >>> codes = np.repeat([[0.0], [1.0]], 500, axis=0)
        >>> quantity_guarantee(codes, np.tile([0.0, 1.0], 500)).estimate
        0.0
    """
    index, cells = numbered(codes)
    quantity = np.asarray(quantity, np.float64)
    low, high = (quantity.min(), quantity.max()) if bounds is None else bounds
    counts = np.bincount(index, minlength=cells)
    means = np.bincount(index, quantity, cells) / counts
    within = float(np.square(quantity - means[index]).mean())
    total = float(quantity.var())
    # Both the variance within cells and the whole may be off, each with half the probability.
    off = (high - low) ** 2 * margin(len(codes), (1 - confidence) / 2)
    estimate = 1 - within / total
    # The variance of a sample is too low in the mean.
    largest = (total + off) * len(codes) / max(len(codes) - 1, 1)
    bound = min(1.0, 1 - max(within - off, 0.0) / largest)
    return Guarantee(bound, estimate, confidence, cells)


def guarantee(codes: np.ndarray, targets: np.ndarray, confidence: float = CONFIDENCE) -> Guarantee:
    r"""Bounds how well a class, or quantities, are read in finite codes.

    Args:
        codes: Of shape (n, D), of images that the encoder was not trained on.
        targets: Integers of shape (n,), or quantities of shape (n,) or (n, K). Of several
            quantities the result is the mean of :math:`R^2`.
        confidence: The probability with which the bound holds.
    """
    if np.issubdtype(targets.dtype, np.integer):
        return class_guarantee(codes, targets, confidence)
    columns = targets.reshape(len(targets), -1).T
    each = 1 - (1 - confidence) / len(columns)
    parts = [quantity_guarantee(codes, column, confidence=each) for column in columns]
    bound, estimate = (
        float(np.mean([getattr(part, name) for part in parts])) for name in ("bound", "estimate")
    )
    return Guarantee(bound, estimate, confidence, parts[0].cells)


def margin(n: int, delta: float) -> float:
    r"""Returns :math:`\sqrt{\log (1 / \delta) / 2 n}`."""
    return math.sqrt(math.log(1 / delta) / (2 * n))


def accuracy_from_information(nats: float, frequencies: np.ndarray) -> float:
    r"""Bounds the accuracy of any attacker from the information that codes have about a class.

    By Fano's inequality, an attacker's accuracy :math:`A` has
    :math:`H(c | z) \le h(A) + (1 - A) \log (C - 1)`, where :math:`H(c | z) = H(c) - I(z; c)`. The
    bound holds if the information is not larger than ``nats``. With an estimate of the information
    it is an estimate.

    Args:
        nats: The information :math:`I(z; c)`, or an upper bound of it, in nats.
        frequencies: The frequencies of the :math:`C` classes, which sum to 1.

    Returns:
        The largest accuracy that satisfies the inequality, at most 1.

    Example:
        >>> round(accuracy_from_information(0.05, np.full(10, 0.1)), 2)
        0.21

    References:
        | Elements of Information Theory (Cover and Thomas, 2006), section 2.10
    """
    frequencies = np.asarray(frequencies, np.float64)
    known = frequencies[frequencies > 0]
    left = max(-float((known * np.log(known)).sum()) - nats, 0.0)

    def allowed(accuracy: float) -> float:
        wrong = 1 - accuracy
        parts = [p * math.log(p) for p in (accuracy, wrong) if p > 0]
        return wrong * math.log(max(len(known) - 1, 1)) - sum(parts)

    low, high = 1 / len(known), 1.0
    if allowed(high) >= left:
        return 1.0
    # Above 1 / C the right side falls with the accuracy.
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if allowed(middle) >= left else (low, middle)
    return low
