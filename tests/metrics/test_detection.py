"""Measures of detection, by hand and beside scikit-learn's and torchvision's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torchvision.ops import box_iou

from tests.data.refusals import refused
from train.metrics.detection import (
    accuracy_by_count,
    average_precision,
    largest_overlap,
    match,
    matched_box_iou,
    object_scores,
    pairwise_ious,
)
from train.metrics.measuring import Unmeasurable

A, B, C = [0, 0, 4, 4], [10, 0, 14, 4], [0, 10, 4, 14]
"""Boxes without a common pixel."""
HALF_A = [0, 0, 4, 2]
"""Its IoU with A is 1/2."""
NOWHERE = [50, 50, 54, 54]


def detections(*images: list[tuple[list[int], float]], rows: int = 4):
    """Boxes, counts and scores, padded with boxes that would match and scores that would win."""
    boxes = np.tile(np.array(A, float), (len(images), rows, 1))
    scores = np.full((len(images), rows), 99.0)
    for i, image in enumerate(images):
        for j, (box, score) in enumerate(image):
            boxes[i, j], scores[i, j] = box, score
    return boxes, np.array([len(image) for image in images]), scores


def truth(*images: list[list[int]]):
    boxes, counts, _ = detections(*([(box, 0.0) for box in image] for image in images))
    return boxes, counts


@pytest.mark.parametrize(
    ("true", "detected", "expected"),
    [
        ([[A, B]], [[(A, 0.9), (B, 0.8)]], 1),
        ([[A, B]], [[(A, 0.9)]], 1 / 2),
        ([[A, B]], [[]], 0),
        # A false detection before, between and after the right ones.
        ([[A, B]], [[(NOWHERE, 0.9), (A, 0.8), (B, 0.7)]], 2 / 3),
        ([[A, B]], [[(A, 0.9), (NOWHERE, 0.8), (B, 0.7)]], (1 + 2 / 3) / 2),
        ([[A, B]], [[(A, 0.9), (B, 0.8), (NOWHERE, 0.7)]], 1),
        # Two detections of an object: one of them is false.
        ([[A]], [[(A, 0.9), (A, 0.8)]], 1),
        ([[A, B]], [[(A, 0.9), (A, 0.8), (B, 0.7)]], (1 + 2 / 3) / 2),
        # Precision is made decreasing: 1, 1/2, 2/3, 3/4 becomes 1, 3/4, 3/4.
        ([[A, B, C]], [[(A, 0.9), (NOWHERE, 0.8), (B, 0.7), (C, 0.6)]], (1 + 3 / 4 + 3 / 4) / 3),
        # A false detection in an image without objects, and order across images.
        ([[A], []], [[(A, 0.8)], [(A, 0.9)]], 1 / 2),
        ([[A], []], [[(A, 0.9)], [(A, 0.8)]], 1),
        # Equal scores count together, in whichever order the images are.
        ([[A], []], [[(A, 0.9)], [(A, 0.9)]], 1 / 2),
        ([[], [A]], [[(A, 0.9)], [(A, 0.9)]], 1 / 2),
        # The one of a higher score comes first, even if another fits better.
        ([[A]], [[(A, 0.8), (HALF_A, 0.9)]], 1),
        # An IoU of exactly the threshold is a match.
        ([[A]], [[(HALF_A, 0.9)]], 1),
    ],
)
def test_average_precision_by_hand(true, detected, expected):
    assert average_precision(*truth(*true), *detections(*detected)) == pytest.approx(expected)


def test_a_match_needs_its_threshold():
    known, found = truth([A, B]), detections([(HALF_A, 0.9), (B, 0.8)])
    assert average_precision(*known, *found, threshold=0.5) == 1
    assert average_precision(*known, *found, threshold=0.51) == pytest.approx(1 / 4)
    assert matched_box_iou(*known, *found) == pytest.approx(3 / 4)
    assert matched_box_iou(*known, *found, threshold=0.51) == 1
    with pytest.raises(Unmeasurable, match=r"IoU of 0\.9"):
        matched_box_iou(*truth([A]), *detections([(HALF_A, 0.9)]), threshold=0.9)


def test_a_detection_gets_the_best_true_box_that_is_free():
    near_a = [0, 0, 4, 5]
    matches = match(*truth([HALF_A, A]), *detections([(A, 0.5), (near_a, 0.9), (A, 0.4)]))
    # By falling score: near_a gets A (4/5), the first A gets what is left (1/2), the last nothing.
    assert matches.matched[0].tolist() == [True, True, False, False]
    assert matches.ious[0].tolist() == pytest.approx([1 / 2, 4 / 5, 0, 0])
    assert matches.detected[0].tolist() == [True, True, True, False]


def test_without_overlaps_it_is_between_scikit_learns_and_one():
    rng = np.random.default_rng(0)
    n = 300
    right = rng.random(n) < 0.6
    scores = rng.random(n) + 0.5 * right
    images = [[(A if hit else NOWHERE, score)] for hit, score in zip(right, scores, strict=True)]
    known = truth(*([A] if hit else [] for hit in right))
    ap = average_precision(*known, *detections(*images))
    # scikit-learn's has no interpolation, so that it is a little lower.
    reference = average_precision_score(right, scores)
    assert reference <= ap < reference + 0.02
    order = rng.permutation(n)
    shuffled = detections(*(images[i] for i in order))
    assert average_precision(*(each[order] for each in known), *shuffled) == pytest.approx(ap)
    # The mutation: scores of the wrong sign.
    boxes, counts, values = detections(*images)
    assert average_precision(*known, boxes, counts, -values) < ap - 0.1


def test_without_true_boxes_there_is_no_precision():
    with pytest.raises(Unmeasurable, match="no scene has an object"):
        average_precision(*truth([], []), *detections([(A, 0.9)], []))
    # Nor room for a box or for a detection.
    nothing = np.zeros((2, 0, 4)), np.zeros(2, int)
    with pytest.raises(Unmeasurable):
        average_precision(*nothing, *detections([(A, 0.9)], []))
    assert average_precision(*truth([A], []), *nothing, np.zeros((2, 0))) == 0


def test_ious_are_torchvisions():
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 12, (2, 20, 5, 2))
    first, second = np.concatenate([corners, corners + rng.integers(1, 9, corners.shape)], -1)
    ious = pairwise_ious(first, second)
    for iou, boxes, others in zip(ious, first, second, strict=True):
        expected = box_iou(torch.from_numpy(boxes), torch.from_numpy(others))
        np.testing.assert_allclose(iou, expected, atol=1e-7)
    assert ious.max() > 0.5
    assert pairwise_ious([[[0, 0, 0, 0]]], [[[0, 0, 0, 0]]]).item() == 0


def test_scores_are_the_probabilities_of_more_objects():
    probabilities = torch.tensor([[0.1, 0.2, 0.3, 0.4], [1, 0, 0, 0], [0, 0, 0, 1]])
    expected = torch.tensor([[0.9, 0.7, 0.4], [0, 0, 0], [1, 1, 1]])
    torch.testing.assert_close(object_scores(probabilities).float(), expected)
    # Summed from the small end: 1 minus a cumulative sum would be 0.
    rare = torch.tensor([[1.0, 1e-12, 1e-20]])
    assert object_scores(rare)[0, 1].item() == pytest.approx(1e-20)


def test_accuracy_by_count():
    accuracies = accuracy_by_count(torch.tensor([3, 0, 3, 3, 1]), torch.tensor([3, 0, 2, 3, 2]))
    assert list(accuracies.items()) == [
        (0, (1.0, 1)),
        (1, (0.0, 1)),
        (3, (pytest.approx(2 / 3), 3)),
    ]
    assert accuracy_by_count([], []) == {}
    with refused("(2,)", "(3,)"):
        accuracy_by_count([1, 2], [1, 2, 3])


def test_the_overlap_is_that_of_the_closest_pair():
    known = truth([A, B, HALF_A], [A], [], [A, B])
    # Rows beyond the counts hold A again, and do not count.
    assert largest_overlap(*known).tolist() == [0.5, 0, 0, 0]
    assert largest_overlap(known[0], np.array([3, 2, 2, 3])).tolist() == [0.5, 1, 1, 1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({0: np.zeros((1, 4))}, ["true boxes", "(1, 4)"]),
        ({1: np.array([1, 1])}, ["true counts", "(2,)"]),
        ({2: np.zeros((2, 4, 4)), 3: np.array([1, 1])}, ["1 images", "2 detected"]),
        ({3: np.array([5])}, ["detected counts", "5", "4 rows"]),
        ({3: np.array([-1])}, ["detected counts", "-1"]),
        ({4: np.zeros((1, 3))}, ["scores", "(1, 3)"]),
        ({4: np.full((1, 4), np.nan)}, ["score", "NaN"]),
        ({5: 0.0}, ["threshold is 0", "above 0"]),
    ],
)
def test_boxes_that_do_not_fit_are_refused(changes, words):
    arguments = [*truth([A]), *detections([(A, 0.9)]), 0.5]
    for place, value in changes.items():
        arguments[place] = value
    with refused(*words):
        average_precision(*arguments)
