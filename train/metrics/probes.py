"""Probes: what classifiers and regressions read of a label in frozen codes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from train.metrics.references import majority

Labelled = tuple[np.ndarray, np.ndarray]
"""Codes, of shape (M, D), and labels: integers for classes, of shape (M,), else quantities of shape
(M,) or (M, K)."""


MOST_CODES = 100_000
"""As many codes neighbours and trees learn from at most."""
MOST_CLASSES = 50
"""As many classes trees tell apart at most."""


def network(layers: int, examples: int, seed: int, *, classes: bool = True) -> BaseEstimator:
    """A network of layers of 64, to be fitted to a number of examples."""
    return (MLPClassifier if classes else MLPRegressor)(
        hidden_layer_sizes=(64,) * layers,
        batch_size=min(256, examples // 2),
        learning_rate_init=2e-3,
        max_iter=40,
        early_stopping=True,
        n_iter_no_change=4,
        random_state=seed,
    )


def fitted(models: Mapping[str, BaseEstimator], train: Labelled) -> dict[str, BaseEstimator]:
    """Fits each model by name, to standardised codes."""
    pipelines = {name: make_pipeline(StandardScaler(), model) for name, model in models.items()}
    with warnings.catch_warnings():
        # Cut off after a number of epochs, on purpose.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return {name: model.fit(*train) for name, model in pipelines.items()}


def _local(labels: np.ndarray, seed: int, *, classes: bool) -> dict[str, BaseEstimator]:
    """Neighbours, and boosted trees unless there are too many classes."""
    # Here, as training would wait for the third of a second that the import takes.
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.multioutput import MultiOutputRegressor

    neighbours = KNeighborsClassifier if classes else KNeighborsRegressor
    models = {f"nearest{k}": neighbours(min(k, len(labels))) for k in (1, 15)}
    counts = np.unique(labels, return_counts=True)[1] if classes else np.array([len(labels)])
    if classes and len(counts) > MOST_CLASSES:
        return models
    # They stop by a tenth of the examples, in which each class has to be.
    stops = counts.min() > 1 and len(labels) >= 10 * len(counts)
    options = {"early_stopping": bool(stops), "n_iter_no_change": 5, "random_state": seed}
    options["max_iter"] = 100 if stops else 20
    trees = (HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor)(
        **options
    )
    return models | {"trees": trees if labels.ndim == 1 else MultiOutputRegressor(trees)}


class Leakage(NamedTuple):
    """Held-out scores of adversaries: accuracies for classes, :math:`R^2` for quantities.

    The best of several is a little above chance by luck alone: of seven that know nothing, by
    1.4 standard errors at most in the mean.

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


def leakage(train: Labelled, held_out: Labelled, seed: int = 0) -> Leakage:
    """Fits adversaries that predict labels from codes, and scores them on other ones.

    They are blind to different things. A linear one; networks of 1, 2 and 3 layers of 64, for
    smooth boundaries in many dimensions; the nearest neighbour and the 15 nearest, for structure
    too fine for these; and boosted trees. Neighbours and trees learn from
    :data:`MOST_CODES` random codes where there are more, and there are no trees for more than
    :data:`MOST_CLASSES` classes, each of which takes trees of its own.

    Args:
        train: Codes and labels to fit to.
        held_out: The same, of images that neither codes nor adversaries learnt from.
        seed: Seed of the adversaries.
    """
    codes, labels = train
    classes = np.issubdtype(labels.dtype, np.integer)
    if not classes and labels.ndim > 1 and labels.shape[1] == 1:
        labels, held_out = labels[:, 0], (held_out[0], held_out[1][:, 0])
    adversaries = {"linear": LogisticRegression(max_iter=300) if classes else LinearRegression()}
    for layers in (1, 2, 3):
        adversaries[f"mlp{layers}"] = network(layers, len(codes), seed, classes=classes)
    models = fitted(adversaries, (codes, labels))
    if len(codes) > MOST_CODES:
        few = np.random.default_rng(seed).choice(len(codes), MOST_CODES, replace=False)
        codes, labels = codes[few], labels[few]
    models |= fitted(_local(labels, seed, classes=classes), (codes, labels))
    scores = {name: float(model.score(*held_out)) for name, model in models.items()}
    return Leakage(
        max(scores.values()), scores["linear"], majority(held_out[1]) if classes else 0.0, scores
    )


def probe_accuracy(train: Labelled, held_out: Labelled) -> float:
    """The held-out accuracy of a logistic regression on frozen codes.

    Args:
        train: Codes and classes to fit to.
        held_out: The same, of images that neither codes nor the probe learnt from.
    """
    model = fitted({"linear": LogisticRegression(max_iter=300)}, train)["linear"]
    return float(model.score(*held_out))


class ClassAccuracy(NamedTuple):
    """Held-out accuracies of class probes.

    Attributes:
        best: The best probe's.
        scores: Each probe's, by its name.
        recall: By class, the share of its images that the best probe names.
    """

    best: float
    scores: dict[str, float]
    recall: dict[int, float]


def class_accuracy(train: Labelled, held_out: Labelled, seed: int = 0) -> ClassAccuracy:
    """Fits probes that predict classes from codes, and scores them on other ones.

    A linear one, the 15 nearest neighbours, and a network of two layers of 64.

    Args:
        train: Codes and classes to fit to.
        held_out: The same, of images that neither codes nor probes learnt from.
        seed: Seed of the network.
    """
    examples = len(train[0])
    probes = {
        "linear": LogisticRegression(max_iter=300),
        "nearest": KNeighborsClassifier(min(15, examples)),
        "mlp": network(2, examples, seed),
    }
    codes, labels = held_out
    right = {name: model.predict(codes) == labels for name, model in fitted(probes, train).items()}
    scores = {name: float(each.mean()) for name, each in right.items()}
    best = right[max(scores, key=scores.__getitem__)]
    recall = {int(each): float(best[labels == each].mean()) for each in np.unique(labels)}
    return ClassAccuracy(max(scores.values()), scores, recall)
