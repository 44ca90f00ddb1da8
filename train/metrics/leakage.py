"""What an adversary reads of a known factor in codes."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


class Leakage(NamedTuple):
    """Held-out scores of adversaries: accuracies for classes, :math:`R^2` for quantities.

    Attributes:
        best: The best of all adversaries'.
        linear: That of the linear one.
        chance: What is had without codes: the majority class, or 0.
        scores: Each adversary's, by its name.
    """

    best: float
    linear: float
    chance: float
    scores: dict[str, float]


def adversaries(classes: bool, examples: int, seed: int) -> dict[str, BaseEstimator]:
    """A linear one, and networks of 1, 2 and 3 layers of 64; inputs standardised."""
    options = {
        "batch_size": min(256, examples // 2),
        "learning_rate_init": 2e-3,
        "max_iter": 40,
        "early_stopping": True,
        "n_iter_no_change": 4,
        "random_state": seed,
    }
    linear = LogisticRegression(max_iter=300) if classes else LinearRegression()
    network = MLPClassifier if classes else MLPRegressor
    found: dict[str, BaseEstimator] = {"linear": linear}
    for layers in (1, 2, 3):
        found[f"mlp{layers}"] = network(hidden_layer_sizes=(64,) * layers, **options)
    return {name: make_pipeline(StandardScaler(), model) for name, model in found.items()}


def leakage(
    train: tuple[np.ndarray, np.ndarray], held_out: tuple[np.ndarray, np.ndarray], seed: int = 0
) -> Leakage:
    """Fits adversaries that predict labels from codes, and scores them on other ones.

    Args:
        train: Codes, of shape (M, D), and labels: integers for classes, of shape (M,), else
            quantities of shape (M,) or (M, K).
        held_out: The same, of images that neither codes nor adversaries learnt from.
        seed: Seed of the adversaries.
    """
    codes, labels = train
    classes = np.issubdtype(labels.dtype, np.integer)
    if not classes and labels.ndim > 1 and labels.shape[1] == 1:
        labels, held_out = labels[:, 0], (held_out[0], held_out[1][:, 0])
    scores = {}
    with warnings.catch_warnings():
        # Cut off after a number of epochs, on purpose.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for name, model in adversaries(classes, len(codes), seed).items():
            scores[name] = float(model.fit(codes, labels).score(*held_out))
    chance = float(np.bincount(held_out[1]).max() / len(held_out[1])) if classes else 0.0
    return Leakage(max(scores.values()), scores["linear"], chance, scores)
