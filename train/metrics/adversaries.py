"""Adversaries: what the best of a set of classifiers, or regressions, finds in codes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from train.metrics.probes import Labelled, drawn, fit, network
from train.metrics.references import majority

MOST_CODES = 100_000
"""Most codes that nearest neighbours and trees are fitted to."""
MOST_CLASSES = 50
"""Most classes for which trees are fitted, as each class has trees of its own."""
FEWEST_TUNED = 1_000
"""Fewest codes for which settings are chosen on a part of them."""
MOST_TUNED = 10_000
"""Most codes with which settings are chosen."""
FEWEST_OF_A_CLASS = 20
"""Fewest codes of a class with which settings are chosen; rarer classes are left out of that."""
VALIDATION = 0.2
"""The part of the codes on which settings are chosen."""
CONFIDENCE = 0.95
"""The probability that an interval contains the score on images without end."""
RESAMPLES = 400
"""Number of resamples of held-out images for the interval of an :math:`R^2`."""

TINY = 1e-300
"""Keeps the variance of a constant above zero."""


class Leakage(NamedTuple):
    """Held-out scores of adversaries: accuracies for classes, :math:`R^2` for quantities.

    The maximum of several scores is biased upwards: the best of eight adversaries that know nothing
    is on average 1.4 standard errors above chance.

    Attributes:
        best: The highest score.
        linear: The score of the linear adversary.
        chance: The score without codes: the frequency of the majority class, or 0.
        scores: The score of each adversary, by its name.
        interval: A 95% confidence interval of the highest score, for that adversary alone: Clopper
            and Pearson's for an accuracy, the bootstrap's for an :math:`R^2`.
        balanced: The highest mean of the recalls of all classes; ``None`` for quantities.
        auc: The highest area under the ROC curve, the mean over classes of each against the others;
            ``None`` for quantities, and where not every class is held out.
    """

    best: float
    linear: float
    chance: float
    scores: dict[str, float]
    interval: tuple[float, float]
    balanced: float | None
    auc: float | None


def leakage(train: Labelled, held_out: Labelled, seed: int = 0) -> Leakage:
    """Fits adversaries that predict labels from codes, and scores them on held-out codes.

    Their weaknesses differ: a linear model; networks of 1, 2 and 3 hidden layers, for smooth
    boundaries in many dimensions; the nearest neighbour, and several, for fine structure; a random
    forest and boosted trees. Settings of :func:`candidates` are chosen on a fifth of at most
    :data:`MOST_TUNED` random codes, after a fit to the others; with fewer than
    :data:`FEWEST_TUNED` codes it is the first one. Neighbours and trees are fitted to at most
    :data:`MOST_CODES` random codes, and trees to at most :data:`MOST_CLASSES` classes.

    Args:
        train: Codes and labels to fit to.
        held_out: The same, of images that neither the encoder nor the adversaries were trained on.
        seed: Seed of the adversaries.

    References:
        | 10 Years of Fair Representations: Challenges and Opportunities (Cerrato et al., 2024), on
          representations that look fair to weak adversaries
        | https://arxiv.org/abs/2407.03834
    """
    return scored(fitted(train, seed), held_out, seed)


def fitted(train: Labelled, seed: int = 0) -> dict[str, BaseEstimator]:
    """Fits the adversaries of :func:`leakage`; returns them by name."""
    codes, labels = train
    classes = np.issubdtype(labels.dtype, np.integer)
    if not classes and labels.ndim > 1 and labels.shape[1] == 1:
        labels = labels[:, 0]
    everyone = candidates(labels, seed, classes=classes)
    some = drawn((codes, labels), MOST_CODES, seed)
    models: dict[str, BaseEstimator] = {}
    for known, of in (((codes, labels), SMOOTH), (some, set(everyone) - set(SMOOTH))):
        group = {name: kinds for name, kinds in everyone.items() if name in of}
        models |= fit(tuned(group, known, seed), known)
    return models


def scored(models: Mapping[str, BaseEstimator], held_out: Labelled, seed: int = 0) -> Leakage:
    """Scores fitted adversaries: see :func:`leakage`."""
    if np.issubdtype(held_out[1].dtype, np.integer):
        return of_classes(models, held_out)
    predictions = {name: model.predict(held_out[0]) for name, model in models.items()}
    return of_quantities(predictions, held_out[1], seed)


SMOOTH = ("linear", "mlp1", "mlp2", "mlp3")
"""Adversaries whose boundaries are smooth."""


def candidates(
    labels: np.ndarray, seed: int, *, classes: bool
) -> dict[str, Sequence[BaseEstimator]]:
    """Makes the adversaries, each with all settings that are tried.

    Args:
        labels: The labels that they are fitted to.
        seed: Their seed.
        classes: Whether labels are classes.
    """
    # Imported here, as it takes a third of a second, for which training would wait.
    from sklearn.ensemble import (
        HistGradientBoostingClassifier,
        HistGradientBoostingRegressor,
        RandomForestClassifier,
        RandomForestRegressor,
    )
    from sklearn.multioutput import MultiOutputRegressor

    n = len(labels)
    counts = np.unique(labels, return_counts=True)[1] if classes else np.array([n])
    # Early stopping holds out a tenth of the examples, which must contain every class.
    stops = bool(counts.min() > 1 and n >= 10 * len(counts))
    linear = (
        [LogisticRegression(C=c, max_iter=300) for c in (1.0, 0.03)] if classes else [Ridge(1e-3)]
    )
    neighbours = KNeighborsClassifier if classes else KNeighborsRegressor
    made: dict[str, Sequence[BaseEstimator]] = {"linear": linear}
    for layers in (1, 2, 3):
        made[f"mlp{layers}"] = [
            network(layers, n, seed, classes=classes).set_params(early_stopping=stops)
        ]
    made["nearest1"] = [neighbours(1)]
    made["nearest"] = [neighbours(min(k, n)) for k in (15, 5, 60)]
    if classes and len(counts) > MOST_CLASSES:
        return made
    forest = RandomForestClassifier if classes else RandomForestRegressor
    made["forest"] = [
        forest(50, min_samples_leaf=least, random_state=seed, n_jobs=torch.get_num_threads())
        for least in (5, 1, 25)
    ]
    boosting = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
    trees = [
        boosting(
            max_leaf_nodes=leaves,
            max_iter=100 if stops else 20,
            early_stopping=stops,
            n_iter_no_change=5,
            random_state=seed,
        )
        for leaves in (31, 8)
    ]
    made["trees"] = trees if labels.ndim == 1 else [MultiOutputRegressor(kind) for kind in trees]
    return made


def tuned(
    kinds: Mapping[str, Sequence[BaseEstimator]], known: Labelled, seed: int
) -> dict[str, BaseEstimator]:
    """Returns the setting of each adversary that is best on a part of the codes.

    Args:
        kinds: See :func:`candidates`.
        known: Codes and labels, of which a part is held out.
        seed: Seed of the division.
    """
    codes, labels = known
    chosen = {name: settings[0] for name, settings in kinds.items()}
    several = {name: settings for name, settings in kinds.items() if len(settings) > 1}
    if len(codes) < FEWEST_TUNED or not several:
        return chosen
    rows = np.random.default_rng(seed).permutation(len(codes))[:MOST_TUNED]
    if np.issubdtype(labels.dtype, np.integer):
        # Parts of these are held out in turn, in which every class must be.
        _, index, counts = np.unique(labels[rows], return_inverse=True, return_counts=True)
        rows = rows[counts[index] >= FEWEST_OF_A_CLASS]
        if len(np.unique(labels[rows])) < 2:
            return chosen
    parts = train_test_split(codes[rows], labels[rows], test_size=VALIDATION, random_state=seed)
    fitted = fit(
        {
            f"{name} {i}": setting
            for name, settings in several.items()
            for i, setting in enumerate(settings)
        },
        (parts[0], parts[2]),
    )
    for name, settings in several.items():
        scores = [fitted[f"{name} {i}"].score(parts[1], parts[3]) for i in range(len(settings))]
        chosen[name] = settings[int(np.argmax(scores))]
    return chosen


def of_classes(models: Mapping[str, BaseEstimator], held_out: Labelled) -> Leakage:
    """Scores adversaries that predict a class."""
    codes, labels = held_out
    # Predictions are read off the probabilities, as neighbours and forests take long to ask.
    given = {name: model.predict_proba(codes) for name, model in models.items()}
    known = next(iter(models.values())).classes_
    predictions = {name: known[of.argmax(1)] for name, of in given.items()}
    scores = {name: float(np.mean(found == labels)) for name, found in predictions.items()}
    with warnings.catch_warnings():
        # A class that is only predicted has no recall.
        warnings.simplefilter("ignore", UserWarning)
        balanced = max(balanced_accuracy_score(labels, found) for found in predictions.values())
    best = max(scores.values())
    return Leakage(
        best,
        scores["linear"],
        majority(labels),
        scores,
        accuracy_interval(round(best * len(labels)), len(labels)),
        float(balanced),
        area_under_curve(given.values(), labels) if set(known) == set(labels) else None,
    )


def area_under_curve(probabilities: Iterable[np.ndarray], labels: np.ndarray) -> float:
    """Returns the highest area under the ROC curve.

    Args:
        probabilities: Those of the classes, of shape (n, C), of each adversary.
        labels: Classes, of shape (n,), among which all C are.
    """
    areas = []
    for given in probabilities:
        given = given[:, 1] if given.shape[1] == 2 else given / given.sum(1, keepdims=True)
        areas.append(roc_auc_score(labels, given, multi_class="ovr"))
    return float(max(areas))


def of_quantities(
    predictions: Mapping[str, np.ndarray], quantities: np.ndarray, seed: int
) -> Leakage:
    """Scores adversaries that predict quantities."""
    wanted = quantities.reshape(len(quantities), -1)
    errors = {
        name: np.square(found.reshape(wanted.shape) - wanted) for name, found in predictions.items()
    }
    scores = {name: float(r2(error, wanted)) for name, error in errors.items()}
    name = max(scores, key=scores.__getitem__)
    n = len(wanted)
    # How often each image is in a resample.
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), RESAMPLES) / n
    centred = wanted - wanted.mean(0)
    variances = times @ np.square(centred) - np.square(times @ centred)
    drawn = np.mean(1 - times @ errors[name] / np.maximum(variances, TINY), axis=1)
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    interval = float(low), float(high)
    return Leakage(scores[name], scores["linear"], 0.0, scores, interval, None, None)


def r2(squared_errors: np.ndarray, wanted: np.ndarray) -> float:
    r"""Returns the mean :math:`R^2` of columns, of shape (n, K), from their squared errors."""
    return float(np.mean(1 - squared_errors.mean(0) / np.maximum(wanted.var(0), TINY)))


def accuracy_interval(right: int, n: int) -> tuple[float, float]:
    """Returns Clopper and Pearson's confidence interval of an accuracy.

    Args:
        right: The number of right predictions.
        n: The number of predictions.

    Example:
        >>> low, high = accuracy_interval(50, 100)
        >>> round(low, 3), round(high, 3)
        (0.398, 0.602)

    References:
        | The Use of Confidence or Fiducial Limits Illustrated in the Case of the Binomial (Clopper
          and Pearson, 1934)
        | https://doi.org/10.1093/biomet/26.4.404
    """
    from scipy.stats import beta

    tail = (1 - CONFIDENCE) / 2
    low = beta.ppf(tail, right, n - right + 1) if right else 0.0
    high = beta.ppf(1 - tail, right + 1, n - right) if right < n else 1.0
    return float(low), float(high)
