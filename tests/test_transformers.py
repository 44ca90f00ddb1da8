"""The methods in scikit-learn: its own checks, pipelines, cross-validation, clones."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from train.data import digits
from train.transformers import (
    ABCTransformer,
    ACAITransformer,
    AETransformer,
    AIRTransformer,
    ICVAETransformer,
)

SMALL = {
    AETransformer: {"steps": 3, "hidden": (8,)},
    ACAITransformer: {"steps": 3, "depth": 2, "z_dim": 16},
    ABCTransformer: {"steps": 3, "channels": 4},
    ICVAETransformer: {"steps": 3, "hidden": (8, 8), "memory": 5},
    AIRTransformer: {
        **{"steps": 3, "window_size": 8, "what_hidden": 8, "guide_hidden": 8, "anchors": 2},
        "what_dim": 3,
    },
}
ALL = pytest.mark.parametrize("kind", SMALL, ids=lambda kind: kind.method)


def small_digits(n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    data = digits._mnist5k()
    rows = torch.arange(0, len(data), len(data) // n)[:n]
    few = data.select(rows)
    return few.images.numpy(), few.labels.numpy()


@parametrize_with_checks([AETransformer(steps=2, hidden=(4,), z_dim=2)])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@ALL
def test_fit_and_transform(kind):
    x, y = small_digits()
    transformer = kind(**SMALL[kind])
    codes = transformer.fit_transform(x, y)
    assert codes.shape == (60, len(transformer.get_feature_names_out()))
    assert np.isfinite(codes).all()
    # Flat or not, bytes or what they stand for; the same seed, the same codes.
    np.testing.assert_array_equal(codes, transformer.transform(x.reshape(60, -1)))
    again = clone(transformer)
    assert not hasattr(again, "trained_")
    np.testing.assert_array_equal(codes, again.fit(x, y).transform(x))
    floats = clone(transformer).fit(x / 255, y).transform(x / 255)
    np.testing.assert_allclose(codes, floats, atol=1e-4)
    # Weights and settings are what is pickled, not modules.
    content = pickle.dumps(transformer)
    assert b"autoencoder\x94" not in content
    np.testing.assert_array_equal(codes, pickle.loads(content).transform(x))


@pytest.mark.parametrize("kind", [AETransformer, ACAITransformer])
def test_codes_decode(kind):
    x, _ = small_digits()
    transformer = kind(**SMALL[kind]).fit(x)
    drawn = transformer.inverse_transform(transformer.transform(x))
    assert drawn.shape == (60, 784)
    assert 0 <= drawn.min() <= drawn.max() <= 255
    assert drawn.max() > 1


def test_a_pipeline_is_fitted():
    x, y = small_digits(100)
    flat = x.reshape(100, -1)
    pipeline = make_pipeline(
        AETransformer(steps=60, hidden=(64,), learning_rate=1e-3), LogisticRegression(max_iter=200)
    )
    scores = cross_val_score(pipeline, flat, y, cv=2)
    # Ten classes: far above chance, after two seconds.
    assert scores.mean() > 0.3
    narrow = pipeline.set_params(aetransformer__z_dim=1)
    assert cross_val_score(narrow, flat, y, cv=2).mean() < scores.mean()


def test_the_random_state_is_left_alone():
    x, _ = small_digits()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    AETransformer(**SMALL[AETransformer]).fit(x)
    torch.testing.assert_close(torch.rand(3), expected)


def test_names_are_classes():
    x, y = small_digits()
    names = np.array([f"a {label}" for label in y])
    one, other = (
        ICVAETransformer(**SMALL[ICVAETransformer]).fit(x, labels).transform(x)
        for labels in (y, names)
    )
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("kind", "options", "labels", "words"),
    [
        (AETransformer, {"image_shape": (5, 5)}, None, "image_shape is (5, 5)"),
        (AETransformer, {"z_dim": 0}, None, "--z-dim is 0"),
        (ABCTransformer, {}, None, "y is missing"),
        (ICVAETransformer, {}, [1, 2], "2 labels for 60 images"),
        (ICVAETransformer, {"encoder_sees_labels": True}, "own", "transform has no labels"),
    ],
)
def test_bad_input(kind, options, labels, words):
    x, y = small_digits()
    labels = y if labels == "own" else labels
    with pytest.raises(ValueError, match=words.replace("(", r"\(").replace(")", r"\)")):
        kind(**SMALL[kind] | options).fit(x.reshape(60, -1), labels)


def test_an_unknown_setting():
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        AETransformer(colour="red")
