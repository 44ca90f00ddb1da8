"""Fairness gaps against values counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from train.metrics.fairness import demographic_parity, equalised_odds
from train.metrics.measuring import Unmeasurable

GROUPS = np.array(list("aaaabbbb"))
ACTUAL = np.array([1, 1, 0, 0, 1, 1, 0, 0])
PREDICTED = np.array([1, 1, 1, 0, 1, 0, 0, 0])


def test_gaps_are_those_counted_by_hand():
    """3 of 4 against 1 of 4; true positives 2 of 2 against 1 of 2, false ones 1 of 2 and 0."""
    assert demographic_parity(PREDICTED, GROUPS) == 0.5
    assert equalised_odds(PREDICTED, ACTUAL, GROUPS) == 0.5
    assert demographic_parity(1 - PREDICTED, GROUPS) == 0.5
    assert equalised_odds(ACTUAL, ACTUAL, GROUPS) == 0.0


def test_gaps_are_those_of_the_literatures_definitions():
    """Selection rates, and rates of true and false positives, of random predictions."""
    random = np.random.default_rng(0)
    predicted, actual = random.integers(0, 2, (2, 500))
    groups = random.integers(0, 3, 500)
    rates = [predicted[groups == g].mean() for g in range(3)]
    assert demographic_parity(predicted, groups) == pytest.approx(max(rates) - min(rates))
    gaps = []
    for value in (0, 1):
        rates = [predicted[(groups == g) & (actual == value)].mean() for g in range(3)]
        gaps.append(max(rates) - min(rates))
    assert equalised_odds(predicted, actual, groups) == pytest.approx(max(gaps))


def test_several_classes_take_the_largest_gap():
    predicted = np.array([0, 1, 2, 2, 0, 1, 1, 1])
    assert demographic_parity(predicted, GROUPS) == 0.5


def test_a_group_without_a_class_cannot_be_measured():
    with pytest.raises(Unmeasurable, match="a group"):
        equalised_odds(PREDICTED, np.array([1, 1, 1, 1, 1, 1, 0, 0]), GROUPS)
