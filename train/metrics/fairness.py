"""How much the predictions of a classifier depend on a group."""

from __future__ import annotations

import numpy as np

from train.metrics.measuring import Unmeasurable


def demographic_parity(predicted: np.ndarray, groups: np.ndarray) -> float:
    r"""Returns the largest difference between groups in how often a class is predicted.

    .. math:: \max_y \Big( \max_c P(\hat{y} = y | c) - \min_c P(\hat{y} = y | c) \Big)

    Of two classes it is fairlearn's ``demographic_parity_difference``.

    Args:
        predicted: Predicted classes, of shape (n,).
        groups: The group of each row, of shape (n,).

    Example:
        >>> demographic_parity(np.array([1, 1, 0, 1]), np.array(["a", "a", "b", "b"]))
        0.5

    References:
        | Fairlearn: A toolkit for assessing and improving fairness in AI (Bird et al., 2020)
        | https://fairlearn.org/main/user_guide/assessment/common_fairness_metrics.html
    """
    return _largest_gap(predicted, groups)


def equalised_odds(predicted: np.ndarray, actual: np.ndarray, groups: np.ndarray) -> float:
    r"""Returns the largest difference between groups in how often a class is predicted, given the
    actual class.

    .. math:: \max_{y, t} \Big( \max_c P(\hat{y} = y | t, c) - \min_c P(\hat{y} = y | t, c) \Big)

    Of two classes it is fairlearn's ``equalized_odds_difference``.

    Args:
        predicted: Predicted classes, of shape (n,).
        actual: Actual classes, of shape (n,).
        groups: The group of each row, of shape (n,).

    Raises:
        Unmeasurable: If a group has no row of an actual class.

    Example:
        >>> actual, groups = np.array([1, 1, 1, 1, 0, 0]), np.array(list("aabbab"))
        >>> equalised_odds(np.array([1, 1, 0, 1, 0, 0]), actual, groups)
        0.5
    """
    gaps = []
    for value in np.unique(actual):
        rows = actual == value
        if len(np.unique(groups[rows])) < len(np.unique(groups)):
            raise Unmeasurable("a group has no held-out row of one of the target's classes")
        gaps.append(_largest_gap(predicted[rows], groups[rows]))
    return max(gaps)


def _largest_gap(predicted: np.ndarray, groups: np.ndarray) -> float:
    gaps = []
    for value in np.unique(predicted):
        rates = [float(np.mean(predicted[groups == group] == value)) for group in np.unique(groups)]
        gaps.append(max(rates) - min(rates))
    return max(gaps)
