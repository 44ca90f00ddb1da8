"""The methods in scikit-learn: its own checks, pipelines, cross-validation, clones."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from train import transformers
from train.data import catalogue
from train.errors import Interrupted
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
ALL = pytest.mark.parametrize("kind", SMALL, ids=lambda kind: kind.method.name)


def small_digits(n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    data = catalogue.mnist5k()
    rows = torch.arange(0, len(data), len(data) // n)[:n]
    few = data.select(rows)
    return few.images.numpy(), few.labels.numpy()


def test_a_transformer_chooses_no_compiled_steps(monkeypatch):
    """Whether there are any depends on earlier fits, and the second would differ from the first."""
    seen = []
    fit = transformers.fit

    def noted(objective, batches, run, settings, device):
        seen.append(settings.compile)
        return fit(objective, batches, run, settings, device)

    monkeypatch.setattr(transformers, "fit", noted)
    AETransformer(steps=1, hidden=(4,), z_dim=2, device="cpu").fit(small_digits()[0])
    assert seen == ["off"]


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
    assert b"pyro_models" not in content
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


LABELS = {
    "floats": lambda y: y.astype(float),
    "signs": lambda y: 2 * y - 1,
    "ids": lambda y: 20230115 + 7 * y,
    "booleans": lambda y: y == 1,
    "text": lambda y: np.array(["cat", "dog"])[y],
    "a list": lambda y: y.tolist(),
    "a tensor": torch.from_numpy,
    "a column": lambda y: y[:, None],
    "a series": pd.Series,
    "a frame": lambda y: pd.DataFrame({"class": y}),
    "a categorical": lambda y: pd.Series(np.array(["cat", "dog"])[y], dtype="category"),
    "nullable": lambda y: pd.Series(y, dtype="Int64"),
}


@pytest.mark.parametrize("kind", [ICVAETransformer, ABCTransformer])
def test_classes_of_any_kind_are_the_same_classes(kind):
    x, y = small_digits()
    y = (y > 4).astype(np.int64)
    expected = kind(**SMALL[kind]).fit_transform(x, y)
    for name, given in LABELS.items():
        codes = kind(**SMALL[kind]).fit_transform(x, given(y))
        np.testing.assert_array_equal(codes, expected, err_msg=name)
    # The mutation: other classes have other codes.
    assert not np.array_equal(kind(**SMALL[kind]).fit_transform(x, 1 - y), expected)


@pytest.mark.parametrize(
    ("kind", "options", "labels", "words"),
    [
        (AETransformer, {"image_shape": (5, 5)}, None, "image_shape is (5, 5)"),
        (AETransformer, {"z_dim": 0}, None, "z_dim is 0: give a number that is 1 or more"),
        (AETransformer, {"z_dim": 2.5}, None, "z_dim is 2.5: give a whole number"),
        (AETransformer, {"image_shape": (28, 28), "batch_size": None}, None, "batch_size is None"),
        (AETransformer, {"device": "banana"}, None, "device is 'banana': give 'auto' or 'cpu'"),
        (ACAITransformer, {"batch_size": 1}, None, "give 2 or more a process, or critic=False"),
        (ICVAETransformer, {}, np.zeros(60, int), "^the data has a single class"),
        (ICVAETransformer, {}, np.linspace(0, 1, 60), "^invariance direct needs classes"),
        (ICVAETransformer, {"hidden": []}, "own", "^hidden is empty"),
        (ABCTransformer, {}, None, "y is missing"),
        (ICVAETransformer, {}, [1, 2], "2 labels for 60 images"),
        (ICVAETransformer, {"encoder_sees_labels": True}, "own", "transform has no labels"),
    ],
)
def test_bad_input(kind, options, labels, words):
    x, y = small_digits()
    labels = y if isinstance(labels, str) else labels
    with pytest.raises(ValueError, match=words.replace("(", r"\(").replace(")", r"\)")) as caught:
        kind(**SMALL[kind] | options).fit(x.reshape(60, -1), labels)
    assert "--" not in str(caught.value)


def test_images_that_are_refused_later():
    """What a trained method refuses is refused as scikit-learn expects it."""
    x, _ = small_digits()
    transformer = AETransformer(**SMALL[AETransformer]).fit(x)
    with pytest.raises(ValueError, match=r"this model takes \(M, 10\)"):
        transformer.inverse_transform(np.zeros((2, 3)))
    echo = {"condition": "none", "invariance": "none", "sample": True}
    vae = ICVAETransformer(**SMALL[ICVAETransformer] | echo).fit(x)
    # Drawn, but from the seed: the same codes each time, and not the means.
    codes = vae.transform(x)
    np.testing.assert_array_equal(codes, vae.transform(x))
    assert np.abs(codes - vae.set_params(sample=False).transform(x)).min() > 0


@ALL
def test_frames_of_pandas(kind):
    """Their columns are named, and the names are known without a transform."""
    x, y = small_digits()
    frame = pd.DataFrame(x.reshape(60, -1), index=np.arange(60)[::-1])
    transformer = kind(**SMALL[kind]).set_output(transform="pandas")
    labels = pd.Series(y, index=frame.index)
    codes = transformer.fit(frame, labels).transform(frame)
    assert isinstance(codes, pd.DataFrame)
    assert list(codes.index) == list(frame.index)
    transformer.trained_.encode = None
    assert list(codes.columns) == list(transformer.get_feature_names_out())
    assert codes.shape == (60, transformer.trained_.code_size)


def test_columns_with_names():
    """They are the conditions of ICVAE, or ``condition`` names some; and the sets of ABC."""
    x, y = small_digits()
    columns = {"digit": y, "ink": np.array(["red", "blue"] * 30), "size": np.linspace(0, 1, 60)}
    frame = pd.DataFrame(columns)
    small = SMALL[ICVAETransformer]
    told = ICVAETransformer(**small, invariance="kt").fit(x, frame)
    assert told.trained_.condition.names == ("digit", "ink", "size")
    again = ICVAETransformer(**small, invariance="kt").fit(x, columns)
    np.testing.assert_array_equal(told.transform(x), again.transform(x))
    z = told.transform(x)[:2]
    drawn = told.trained_.decode(z, {"digit": 3, "ink": ["red", "blue"], "size": 0.5})
    assert drawn.shape == (2, 28, 28)
    few = ICVAETransformer(**small, condition=("ink", "digit")).fit(x, frame)
    assert few.trained_.condition.names == ("ink", "digit")
    assert few.condition == ("ink", "digit")
    # Without names, as ever.
    plain = ICVAETransformer(**small, invariance="kt").fit(x, np.stack([y, y**2], 1) / 3)
    assert plain.trained_.settings.condition == "labels"
    sets = ABCTransformer(**SMALL[ABCTransformer], set_column="ink").fit(x, frame)
    assert sets.transform(x).shape == (60, 4)
    for kind, options, labels, words in (
        (ICVAETransformer, {"condition": "paper"}, frame, "condition paper: the data has no such"),
        (ICVAETransformer, {"condition": "ink"}, y, "its columns are none"),
        (ICVAETransformer, {}, {"ink": ["red"] * 3}, "y, column ink, is wrong: there are 3 labels"),
        (ICVAETransformer, {}, {}, "y has no columns"),
        (ABCTransformer, {"set_column": "paper"}, frame, "set_column paper: the data has no such"),
    ):
        with pytest.raises(ValueError, match=words):
            kind(**SMALL[kind] | options).fit(x, labels)


def test_settings_of_any_type():
    """As searches over NumPy's ranges give them; what was given is what is got."""
    x, y = small_digits()
    given = {"z_dim": np.int64(3), "hidden": [8, np.int32(4)], "learning_rate": np.float32(1e-3)}
    transformer = AETransformer(steps=np.int16(3), **given)
    codes = transformer.fit(x).transform(x)
    plain = AETransformer(steps=3, z_dim=3, hidden=(8, 4), learning_rate=float(np.float32(1e-3)))
    np.testing.assert_array_equal(codes, plain.fit(x).transform(x))
    again = clone(transformer)
    assert {name: again.get_params()[name] for name in given} == given
    small = AETransformer(steps=2, hidden=[8], image_shape=[np.int64(28), 28])
    search = GridSearchCV(
        make_pipeline(small, LogisticRegression()),
        {"aetransformer__z_dim": np.arange(1, 3), "aetransformer__noise": np.array([0.0, 0.1])},
        cv=2,
        error_score="raise",
    )
    search.fit(x.reshape(60, -1), y % 2)
    assert set(search.best_params_) == {"aetransformer__z_dim", "aetransformer__noise"}


def test_ctrl_c_is_no_failed_fit(monkeypatch):
    """Searches go on after an error, and must not after this one."""

    def pressed(*_: object, **__: object) -> None:
        raise Interrupted("stopped at step 1; go on with --resume --run-dir gone")

    monkeypatch.setattr(transformers, "fit", pressed)
    with pytest.raises(KeyboardInterrupt):
        AETransformer(**SMALL[AETransformer]).fit(small_digits()[0])


def test_an_unknown_setting():
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        AETransformer(colour="red")
