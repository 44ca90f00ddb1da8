"""How well columns of the data are read from codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from train.data.labelled import Images
from train.metrics.measuring import Measures, Unmeasurable
from train.metrics.probes import read
from train.metrics.reading import add_readings, label_names, readable

N = 400


def codes(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(N, 3))


def test_both_probes_count():
    """A class that is linear in codes, one that is not, and one that is not in them at all."""
    train, held_out = codes(0), codes(1)
    for column, least, most in (
        (lambda z: np.where(z[:, 0] > 0, "up", "down"), 0.97, 1),
        (lambda z: (z[:, 0] * z[:, 1] > 0).astype(int), 0.85, 1),
        (lambda z: np.arange(len(z)) % 2, 0.4, 0.6),
    ):
        found = read(train, column(train), held_out, column(held_out))
        assert least <= found.score <= most
        assert found.chance == pytest.approx(0.5, abs=0.1)


def test_quantities():
    train, held_out = codes(0), codes(1)
    assert read(train, 3 * train[:, 2], held_out, 3 * held_out[:, 2]).score > 0.999
    assert 0.6 < read(train, train[:, 0] ** 2, held_out, held_out[:, 0] ** 2).score < 0.99
    noise = np.random.default_rng(2).normal(size=N)
    found = read(train, noise, held_out, noise)
    assert found.score < 0.1
    assert found.chance == 0
    # The mean of two columns, one of them read.
    both = np.stack([train[:, 0], noise], axis=1), np.stack([held_out[:, 0], noise], axis=1)
    assert 0.3 < read(train, both[0], held_out, both[1]).score < 0.6


def test_many_codes_are_sampled(monkeypatch):
    """Fitting a part is as good as fitting all, and the part is the same each time."""
    monkeypatch.setattr("train.metrics.probes.MOST_READ", 100)
    train, held_out = codes(0), codes(1)
    column = [z[:, 0] > 0.5 for z in (train, held_out)]
    first, again = (
        read(train, column[0].astype(int), held_out, column[1].astype(int), seed=3)
        for _ in range(2)
    )
    assert first == again
    assert first.score * 100 == pytest.approx(round(first.score * 100))


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (np.zeros(N, int), "the same for every image"),
        (np.full(N, 0.3), "the same for every image"),
        (np.arange(N), "400 classes for 400 images"),
    ],
)
def test_columns_that_cannot_be_read(column, words):
    with pytest.raises(Unmeasurable, match=words):
        read(codes(0), column, codes(1), column)


def images(seed: int) -> Images:
    z = codes(seed)
    angle = np.arctan2(z[:, 0], z[:, 1]) / (2 * np.pi) % 1
    columns = {
        "row": np.array([f"{i}.png" for i in range(N)]),
        "sign": np.where(z[:, 2] > 0, "plus", "minus"),
        "hue": angle,
    }
    return Images.of_columns(torch.zeros(N, 2, 2, dtype=torch.uint8), columns, "sign")


def test_measures_of_columns():
    """By name, the label first; a column that cannot be read does not lose the others."""
    data = (images(0), images(1))
    assert list(readable(data[0], ["hue"])) == ["sign", "row"]
    measures = Measures()
    add_readings(measures, lambda: (codes(0), codes(1)), data, list(readable(data[0])))
    assert list(measures) == [
        f"{kind}.{name}" for name in ("sign", "row", "hue") for kind in ("read", "read_chance")
    ]
    assert measures["read.sign"] > 0.97
    # As a number its values jump at 1, and the neighbours of a code there have both ends.
    assert measures["read.hue"] > 0.9
    assert measures["read.row"] is None
    assert measures.reasons["read.row"] == "it has 400 classes for 400 images"


def test_labels_have_the_names_of_their_columns():
    data = images(0)
    assert label_names(data) == ("sign",)
    pair = data.with_labels("hue")
    assert label_names(pair) == ("hue",)
    unnamed = Images(data.images, torch.arange(N) % 3)
    assert label_names(unnamed) == ()
    assert list(readable(unnamed)) == ["labels"]
    assert list(readable(unnamed, ["labels"])) == []
    assert list(readable(Images(data.images, None))) == []
