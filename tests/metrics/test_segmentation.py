"""Measures of segmentation, by hand and beside scikit-learn's."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score, jaccard_score

from tests.data.refusals import refused
from train.metrics import segmentation
from train.metrics.measuring import Unmeasurable
from train.metrics.segmentation import (
    foreground_ari,
    mean_iou,
    measure_segmentation,
    segmentation_covering,
)

MEASURES = (foreground_ari, mean_iou, segmentation_covering)


def row(*labels: int) -> np.ndarray:
    """A label map of one row, in a batch of one."""
    return np.array([[labels]])


def random_maps(n: int = 40, truth: int = 5, predicted: int = 6, side: int = 9):
    rng = np.random.default_rng(0)
    maps = rng.integers(0, truth, (n, side, side))
    # Two thirds of the pixels agree, so that measures are between their extremes.
    guesses = np.where(rng.random(maps.shape) < 2 / 3, maps, rng.integers(0, predicted, maps.shape))
    return maps, guesses


def test_the_foreground_ari_is_scikit_learns():
    truth, predicted = random_maps()
    expected = [
        adjusted_rand_score(image[image > 0], guess[image > 0])
        for image, guess in zip(truth, predicted, strict=True)
    ]
    np.testing.assert_allclose(foreground_ari(truth, predicted), expected, rtol=0, atol=1e-12)
    # The mutation: over all pixels.
    everywhere = [
        adjusted_rand_score(image.ravel(), guess.ravel())
        for image, guess in zip(truth, predicted, strict=True)
    ]
    assert np.abs(np.subtract(everywhere, expected)).max() > 0.05


@pytest.mark.parametrize(
    ("truth", "predicted", "ari"),
    [
        (row(1, 1, 2, 2), row(5, 5, 0, 0), 1),
        # Of 6 pairs of pixels, 2 are alike in truth, 1 is alike as inferred, and 1 is in both.
        (row(1, 1, 2, 2), row(1, 1, 2, 3), (1 - 2 / 6) / (1.5 - 2 / 6)),
        # 2 are alike in truth, 2 as inferred, and none is in both.
        (row(1, 1, 2, 2), row(1, 2, 1, 2), (0 - 4 / 6) / (2 - 4 / 6)),
        # What is inferred in the background does not count.
        (row(0, 0, 1, 2), row(1, 2, 3, 4), 1),
        # A single object: alike or not.
        (row(0, 3, 3, 3), row(7, 0, 0, 0), 1),
        (row(0, 3, 3, 3), row(7, 0, 0, 1), 0),
        (row(1, 1, 2, 2), row(1, 1, 1, 1), 0),
        # Objects of a pixel each, and a single pixel of foreground.
        (row(1, 2, 3, 4), row(4, 3, 2, 1), 1),
        (row(0, 0, 0, 1), row(1, 1, 2, 2), 1),
    ],
)
def test_ari_by_hand(truth, predicted, ari):
    assert foreground_ari(truth, predicted) == pytest.approx([ari], abs=1e-15)
    foreground = truth > 0
    assert adjusted_rand_score(truth[foreground], predicted[foreground]) == pytest.approx(ari)


def test_mean_iou_by_hand():
    truth = row(0, 0, 1, 1, 1, 2)
    predicted = row(0, 0, 1, 1, 2, 2)
    assert mean_iou(truth, predicted) == pytest.approx([(2 / 3 + 1 / 2) / 2])
    assert mean_iou(truth, predicted, background=True) == pytest.approx([(1 + 2 / 3 + 1 / 2) / 3])
    # Both true objects in one segment: only one of them is matched with it, the larger.
    merged = row(0, 0, 1, 1, 1, 1)
    assert mean_iou(truth, merged) == pytest.approx([(3 / 4 + 0) / 2])
    # A segment of the background costs nothing beyond what it hides.
    assert mean_iou(truth, row(3, 4, 1, 1, 1, 2)) == 1


def test_mean_iou_takes_the_best_matching_and_not_a_greedy_one():
    truth = np.repeat([1, 2], [10, 4])[None, None]
    predicted = np.repeat([1, 2, 1], [6, 4, 4])[None, None]
    # Object 1 with segment 1: 6/14, with segment 2: 4/10. Object 2 with segment 1: 4/10.
    assert mean_iou(truth, predicted) == pytest.approx([(4 / 10 + 4 / 10) / 2])
    greedy = (6 / 14 + 0) / 2
    assert greedy < mean_iou(truth, predicted)


def test_covering_by_hand():
    truth = row(0, 0, 1, 1, 1, 2)
    merged = row(0, 0, 1, 1, 1, 1)
    # Both objects are covered best by the same segment.
    covering = segmentation_covering(truth, merged)
    assert covering == pytest.approx([(3 * 3 / 4 + 1 * 1 / 4) / 4])
    assert segmentation_covering(truth, merged, weighted=False) == pytest.approx([1 / 2])
    with_background = segmentation_covering(truth, merged, background=True)
    assert with_background == pytest.approx([(2 + 3 * 3 / 4 + 1 / 4) / 6])
    assert segmentation_covering(truth, truth) == 1


def test_the_iou_of_two_segments_is_scikit_learns():
    truth, predicted = random_maps(truth=2, predicted=2)
    single = [
        max(jaccard_score(image.ravel(), guess.ravel() == label) for label in (0, 1))
        for image, guess in zip(truth, predicted, strict=True)
    ]
    np.testing.assert_allclose(mean_iou(truth, predicted), single, atol=1e-12)
    np.testing.assert_allclose(segmentation_covering(truth, predicted), single, atol=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
def test_names_of_segments_do_not_matter(measure):
    truth, predicted = random_maps()
    values = measure(truth, predicted)
    assert 0.1 < values.min() < values.max() < 1
    objects = np.array([0, 3, 4, 1, 9])
    segments = np.array([5, 0, 1, 8, 2, 3])
    np.testing.assert_allclose(measure(objects[truth], segments[predicted]), values)
    # The mutation: the true background is another label.
    assert not np.allclose(measure((truth + 1) % 5, predicted), values)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_scene_without_objects_has_no_value(measure):
    truth = np.stack([row(0, 0, 0)[0], row(0, 1, 2)[0]])
    values = measure(truth, truth)
    assert np.isnan(values[0])
    assert values[1] == 1
    if measure is not foreground_ari:
        assert measure(truth, truth, background=True).tolist() == [1, 1]


def test_means_are_over_scenes_with_objects():
    truth, predicted = random_maps()
    truth[:3] = 0
    means = measure_segmentation(truth, predicted)
    assert list(means) == list(segmentation.MEASURES)
    for measure in MEASURES:
        expected = measure(truth[3:], predicted[3:]).mean()
        assert means[measure.__name__] == pytest.approx(expected, abs=1e-12)
    unweighted = segmentation_covering(truth[3:], predicted[3:], weighted=False).mean()
    assert means["mean_segmentation_covering"] == pytest.approx(unweighted)
    assert unweighted != pytest.approx(means["segmentation_covering"], abs=1e-4)
    with pytest.raises(Unmeasurable, match="no scene has an object"):
        measure_segmentation(np.zeros_like(truth), predicted)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_tensors_are_label_maps_too(dtype):
    truth, predicted = random_maps()
    tensors = (torch.from_numpy(labels).to(dtype) for labels in (truth, predicted))
    np.testing.assert_array_equal(foreground_ari(*tensors), foreground_ari(truth, predicted))


def test_many_labels_are_counted_some_images_at_a_time(monkeypatch):
    truth, predicted = random_maps()
    expected = [measure(truth, predicted) for measure in MEASURES]
    monkeypatch.setattr(segmentation, "CELLS_AT_ONCE", 300)
    for measure, values in zip(MEASURES, expected, strict=True):
        np.testing.assert_array_equal(measure(truth, predicted), values)
    # A label that leaves others unused, and a table larger than the bound.
    np.testing.assert_allclose(foreground_ari(truth, predicted * 100), expected[0])


@pytest.mark.parametrize(
    ("truth", "predicted", "words"),
    [
        (np.zeros((2, 3, 3), int), np.zeros((2, 3, 4), int), ["(2, 3, 3)", "(2, 3, 4)"]),
        (np.zeros((3, 3), int), np.zeros((3, 3), int), ["truth", "(3, 3)", "height"]),
        (np.zeros((0, 3, 3), int), np.zeros((0, 3, 3), int), ["truth", "one or more"]),
        (row(0, 1), row(0, 1) / 2, ["predicted", "float64", "integers"]),
        (row(0, -1), row(0, 1), ["truth", "-1"]),
        (row(0, 1), row(0, 5_000), ["predicted", "5000"]),
    ],
)
def test_what_is_no_label_map_is_refused(truth, predicted, words):
    for measure in (*MEASURES, measure_segmentation):
        with refused(*words):
            measure(truth, predicted)


def test_measures_are_vectorised():
    truth, predicted = random_maps(500, 6, 8, 64)
    start = time.process_time()
    measure_segmentation(truth, predicted)
    # It takes 0.03 s; a loop over pixels or over pairs of labels in Python takes far longer.
    assert time.process_time() - start < 3
