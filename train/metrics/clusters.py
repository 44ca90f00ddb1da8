"""Clusters: how well groups found in frozen codes are the classes."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans

from train.metrics.probes import Labelled


def cluster_accuracy(
    train: Labelled, held_out: Labelled, *, starts: int = 50, seed: int = 0
) -> float:
    r"""K-means on whitened codes, clusters matched to classes.

    Training codes are centred, rotated to their principal axes and divided by their singular
    values, :math:`z V / (\sigma + 10^{-5})`, with as many clusters as classes; of some random
    starts the one of least distances is taken. Held-out codes go to the nearest centre, and the
    clusters to classes as agrees best with them (Hungarian matching).

    Args:
        train: Codes, of shape (M, D), and classes, of shape (M,).
        held_out: The same, to score on.
        starts: How often k-means starts.
        seed: Seed of the starts.

    Returns:
        The share of held-out codes whose cluster is their class', from 0 to 1.

    References:
        | Understanding and Improving Interpolation in Autoencoders via an Adversarial Regularizer
          (Berthelot et al., 2018)
        | https://arxiv.org/abs/1807.07543
    """
    (codes, labels), (others, truth) = train, held_out
    mean = codes.mean(0)
    codes, others = codes - mean, others - mean
    _, scale, axes = np.linalg.svd(codes, full_matrices=False)
    codes, others = (each @ axes.T / (scale + 1e-5) for each in (codes, others))
    # K-means takes lengths below its tolerance for none: as large as they were in the mean.
    unit = np.sqrt(len(codes))
    classes = np.unique(np.concatenate([labels, truth]))
    means = KMeans(len(classes), init="random", n_init=starts, max_iter=1_000, random_state=seed)
    found = means.fit(codes * unit).predict(others * unit)
    return agreement(found, np.searchsorted(classes, truth))


def agreement(clusters: np.ndarray, classes: np.ndarray) -> float:
    """The share that agrees when clusters are named after classes in the best way.

    Args:
        clusters: Integers from 0, of shape (M,).
        classes: The same.
    """
    size = int(max(clusters.max(), classes.max())) + 1
    table = np.bincount(clusters * size + classes, minlength=size**2).reshape(size, size)
    return float(table[linear_sum_assignment(table, maximize=True)].sum() / len(classes))
