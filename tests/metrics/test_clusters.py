"""Clusters matched to classes, on codes whose clusters are known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans

from train.metrics import clusters
from train.metrics.clusters import agreement, best_means, cluster_accuracy
from train.metrics.probes import probe_accuracy


def blobs(n: int, seed: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Four classes at the corners of a tetrahedron."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    return corners[labels] + spread * rng.normal(size=(n, 3)), labels


@pytest.mark.parametrize("scale", [1e-4, 1, 1e4])
def test_clusters_that_are_there_are_found(scale):
    train, held_out = blobs(2_000, 0, 0.2), blobs(1_000, 1, 0.2)
    train, held_out = ((scale * codes, labels) for codes, labels in (train, held_out))
    assert cluster_accuracy(train, held_out, starts=5) == 1.0
    assert probe_accuracy(train, held_out) > 0.99


def test_whitening_finds_what_a_wide_axis_hides():
    """The mutation: k-means on the codes as they are follows the axis of the largest variance."""

    def make(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 2, n)
        narrow = (2 * labels - 1) + 0.1 * rng.normal(size=n)
        return np.stack([100 * rng.normal(size=n), narrow], 1) @ rotation, labels

    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(2, 2)))[0]
    assert cluster_accuracy(make(2_000, 0), make(1_000, 1), starts=5) > 0.95


def test_noise_has_no_clusters_of_classes():
    rng = np.random.default_rng(0)
    pairs = [(rng.normal(size=(2_000, 5)), rng.integers(0, 4, 2_000)) for _ in range(2)]
    assert cluster_accuracy(*pairs, starts=3) < 0.25 + 5 * (0.25 * 0.75 / 2_000) ** 0.5 + 0.02


def test_classes_may_have_any_numbers():
    (codes, labels), (others, truth) = blobs(1_000, 0, 0.2), blobs(500, 1, 0.2)
    assert cluster_accuracy((codes, 10 * labels + 3), (others, 10 * truth + 3), starts=5) == 1.0


def test_agreement_is_of_the_best_names():
    clusters = np.array([2, 2, 2, 0, 0, 1])
    classes = np.array([0, 0, 1, 1, 1, 2])
    assert agreement(clusters, classes) == pytest.approx(5 / 6)


def test_starts_are_those_of_scikit_learn():
    """One after the other, to show progress, they draw what ``n_init`` of them draw."""
    codes = np.random.default_rng(0).normal(size=(400, 5)).astype(np.float32)
    options = {"init": "random", "max_iter": 1_000, "random_state": 3}
    expected = KMeans(6, n_init=8, **options).fit(codes)
    found = best_means(codes, 6, 8, 3)
    assert found.inertia_ == expected.inertia_
    np.testing.assert_array_equal(found.cluster_centers_, expected.cluster_centers_)


def test_clusters_are_fitted_to_some_of_many_codes(monkeypatch):
    sizes = []

    def fit(codes: np.ndarray, *arguments: int) -> KMeans:
        sizes.append(len(codes))
        return best_means(codes, *arguments)

    monkeypatch.setattr(clusters, "MOST_CODES", 500)
    monkeypatch.setattr(clusters, "best_means", fit)
    accuracies = {
        cluster_accuracy(blobs(n, 0, 0.2), blobs(300, 1, 0.2), starts=5) for n in (500, 700)
    }
    assert sizes == [500, 500]
    assert accuracies == {1.0}
