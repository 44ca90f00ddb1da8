"""Clusters: how well k-means clusters of frozen codes agree with classes."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans

from train.metrics.probes import Labelled
from train.progress import progress

MOST_CODES = 10_000
"""Most codes that clusters are fitted to: fifty starts with 60,000 take minutes."""


def cluster_accuracy(
    train: Labelled, held_out: Labelled, *, starts: int = 50, seed: int = 0
) -> float:
    r"""Returns the accuracy of k-means on whitened codes, clusters matched to classes.

    Codes are whitened by the singular value decomposition of the centred training codes,
    :math:`z V / (\sigma + 10^{-5})`. There are as many clusters as classes, and of several random
    restarts the one of least inertia is kept. They are fitted to at most :data:`MOST_CODES` random
    codes. Held-out codes are assigned to the nearest centre,
    and clusters to classes by Hungarian matching on the held-out codes.

    Args:
        train: Codes, of shape (M, D), and classes, of shape (M,).
        held_out: The same, to score on.
        starts: The number of random restarts.
        seed: Seed of the restarts.

    Returns:
        The fraction of held-out codes whose cluster is matched to their class, from 0 to 1.

    References:
        | Understanding and Improving Interpolation in Autoencoders via an Adversarial Regularizer
          (Berthelot et al., 2018)
        | https://arxiv.org/abs/1807.07543
    """
    (codes, labels), (others, truth) = train, held_out
    mean = codes.mean(0)
    codes, others = codes - mean, others - mean
    _, scale, axes = np.linalg.svd(codes, full_matrices=False)
    codes, others = (z @ axes.T / (scale + 1e-5) for z in (codes, others))
    # K-means has an absolute tolerance, so codes are scaled back to unit variance.
    unit = np.sqrt(len(codes))
    classes = np.unique(np.concatenate([labels, truth]))
    if len(codes) > MOST_CODES:
        codes = codes[np.random.default_rng(seed).choice(len(codes), MOST_CODES, replace=False)]
    clusters = best_means(codes * unit, len(classes), starts, seed).predict(others * unit)
    return agreement(clusters, np.searchsorted(classes, truth))


def best_means(codes: np.ndarray, clusters: int, starts: int, seed: int) -> KMeans:
    """Fits k-means from random starts, with progress, and returns the fit of least inertia.

    It is the fit of scikit-learn's ``KMeans(clusters, n_init=starts, random_state=seed)``.

    Args:
        codes: Of shape (M, D).
        clusters: The number of clusters.
        starts: The number of starts.
        seed: Seed of the starts.
    """
    random = np.random.RandomState(seed)
    fits = (
        KMeans(clusters, init="random", n_init=1, max_iter=1_000, random_state=random).fit(codes)
        for _ in range(starts)
    )
    return min(progress(fits, "k-means", starts, "start"), key=lambda means: means.inertia_)


def agreement(clusters: np.ndarray, classes: np.ndarray) -> float:
    """Returns the fraction that agrees under the best one-to-one matching of clusters and classes.

    Args:
        clusters: Integers from 0, of shape (M,).
        classes: The same.
    """
    size = int(max(clusters.max(), classes.max())) + 1
    table = np.bincount(clusters * size + classes, minlength=size**2).reshape(size, size)
    return float(table[linear_sum_assignment(table, maximize=True)].sum() / len(classes))
