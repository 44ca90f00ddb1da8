"""Probes: how well classifiers and regressions predict labels from frozen codes."""

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

from train.data.labels import Classes
from train.metrics.measuring import Unmeasurable
from train.metrics.references import majority
from train.progress import progress

Labelled = tuple[np.ndarray, np.ndarray]
"""Codes, of shape (M, D), and labels: integers for classes, of shape (M,), else quantities of shape
(M,) or (M, K)."""


MOST_READ = 10_000
"""Most codes that :func:`read` fits its probes to, and most that it scores them on."""
MOST_LINEAR = 100
"""Most classes that :func:`read` fits a logistic regression to."""


def network(layers: int, examples: int, seed: int, *, classes: bool = True) -> BaseEstimator:
    """Makes a network with hidden layers of 64 units, for a number of training examples."""
    return (MLPClassifier if classes else MLPRegressor)(
        hidden_layer_sizes=(64,) * layers,
        batch_size=min(256, examples // 2),
        learning_rate_init=2e-3,
        max_iter=40,
        early_stopping=True,
        n_iter_no_change=4,
        random_state=seed,
    )


def fit(models: Mapping[str, BaseEstimator], train: Labelled) -> dict[str, BaseEstimator]:
    """Fits each model to standardised codes; returns pipelines by name."""
    pipelines = {name: make_pipeline(StandardScaler(), model) for name, model in models.items()}
    with warnings.catch_warnings():
        # The number of epochs is limited on purpose.
        warnings.simplefilter("ignore", ConvergenceWarning)
        shown = progress(pipelines.items(), "fitting probes", len(pipelines), "probe")
        return {name: model.fit(*train) for name, model in shown}


def probe_accuracy(train: Labelled, held_out: Labelled) -> float:
    """Returns the held-out accuracy of a logistic regression on frozen codes.

    Args:
        train: Codes and classes to fit to.
        held_out: The same, of images that neither the encoder nor the probe was trained on.
    """
    model = fit({"linear": LogisticRegression(max_iter=300)}, train)["linear"]
    return float(model.score(*held_out))


class ClassAccuracy(NamedTuple):
    """Held-out accuracies of class probes.

    Attributes:
        best: The highest accuracy.
        scores: The accuracy of each probe, by its name.
        recall: The recall of the best probe, by class.
    """

    best: float
    scores: dict[str, float]
    recall: dict[int, float]


def class_accuracy(train: Labelled, held_out: Labelled, seed: int = 0) -> ClassAccuracy:
    """Fits probes that predict classes from codes, and scores them on held-out codes.

    The probes are a logistic regression, 15 nearest neighbours, and a network of two hidden layers.

    Args:
        train: Codes and classes to fit to.
        held_out: The same, of images that neither the encoder nor the probes were trained on.
        seed: Seed of the network.
    """
    examples = len(train[0])
    probes = {
        "linear": LogisticRegression(max_iter=300),
        "nearest": KNeighborsClassifier(min(15, examples)),
        "mlp": network(2, examples, seed),
    }
    codes, labels = held_out
    correct = {name: model.predict(codes) == labels for name, model in fit(probes, train).items()}
    scores = {name: float(hits.mean()) for name, hits in correct.items()}
    best = correct[max(scores, key=scores.__getitem__)]
    recall = {int(k): float(best[labels == k].mean()) for k in np.unique(labels)}
    return ClassAccuracy(max(scores.values()), scores, recall)


class Reading(NamedTuple):
    """How well a column is read from held-out codes.

    Attributes:
        score: The accuracy for classes, :math:`R^2` for quantities, of the better probe.
        chance: The score without codes: the frequency of the majority class, or 0.
    """

    score: float
    chance: float


def read(
    train_codes: np.ndarray,
    train_column: np.ndarray,
    held_out_codes: np.ndarray,
    held_out_column: np.ndarray,
    *,
    seed: int = 0,
) -> Reading:
    r"""Measures how well a column of the data is read from frozen codes.

    The protocol: codes are standardised by the training ones. Two probes are fitted to training
    codes, and the better of their scores on held-out codes counts. One is linear: a logistic
    regression for classes, least squares for quantities. The other is the 15 nearest neighbours,
    which is not. The maximum of two scores is at most half a standard error too high on average.

    Of more than :data:`MOST_READ` codes as many are drawn at random, the same ones for every column
    and seed alike.

    Args:
        train_codes: Of shape (M, D).
        train_column: Classes, integers or text, of shape (M,); or quantities, floats of shape (M,),
            or (M, K) whose :math:`R^2` are averaged, such as sine and cosine of an angle.
        held_out_codes: Of shape (L, D), of images that neither the encoder nor the probes were
            trained on.
        held_out_column: Like ``train_column``.
        seed: Seed of the draw.

    Raises:
        Unmeasurable: If the column is constant, or has hardly two images of a class.

    Example:
        >>> codes = np.arange(40.0)[:, None]
        >>> read(codes, codes[:, 0] > 20, codes, codes[:, 0] > 20).score
        1.0
    """
    train = drawn((train_codes, train_column), MOST_READ, seed)
    held_out = drawn((held_out_codes, held_out_column), MOST_READ, seed)
    if train[1].dtype.kind == "f":
        if any((column == column[:1]).all(0).any() for _, column in (train, held_out)):
            raise Unmeasurable("it is the same for every image")
        probes: dict[str, BaseEstimator] = {"linear": LinearRegression()}
        probes["nearest"] = KNeighborsRegressor(min(15, len(train[0])))
        models = fit(probes, train)
        return Reading(max(float(model.score(*held_out)) for model in models.values()), 0.0)
    train, held_out, classes = _numbered(train, held_out)
    if classes < 2:
        raise Unmeasurable("it is the same for every image")
    if classes > len(train[0]) / 2:
        raise Unmeasurable(f"it has {classes} classes for {len(train[0])} images")
    probes = {"nearest": KNeighborsClassifier(min(15, len(train[0])))}
    if classes <= MOST_LINEAR:
        probes["linear"] = LogisticRegression(max_iter=300)
    models = fit(probes, train)
    score = max(float(model.score(*held_out)) for model in models.values())
    return Reading(score, majority(held_out[1]))


def drawn(known: Labelled, most: int, seed: int) -> Labelled:
    """Draws random codes with their labels; returns all of no more than ``most``.

    Args:
        known: Codes and labels.
        most: The number of codes that are drawn.
        seed: Seed of the draw.
    """
    codes, labels = known
    if len(codes) <= most:
        return known
    rows = np.random.default_rng(seed).choice(len(codes), most, replace=False)
    return codes[rows], labels[rows]


def _numbered(train: Labelled, held_out: Labelled) -> tuple[Labelled, Labelled, int]:
    """Numbers the classes of two columns; returns the number of those to fit to, too."""
    classes = Classes.of(np.concatenate([train[1], held_out[1]]))
    first, second = ((codes, classes.encode(column).numpy()) for codes, column in (train, held_out))
    return first, second, len(np.unique(first[1]))
