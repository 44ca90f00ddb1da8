"""Digits in colour show their ink and paper, and their class."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from matplotlib.colors import rgb_to_hsv
from sklearn.metrics import mutual_info_score

from tests.data.refusals import refused
from train.data.catalogue import mnist5k
from train.data.drawn import coloured_digits, hues
from train.data.drawn.coloured_digits import COLOURS, INK, PAPER


@pytest.fixture(scope="module")
def split():
    return coloured_digits.split(mnist5k())


@pytest.fixture(scope="module")
def digits():
    return mnist5k().hold_out()


def luma(images):
    """Grey levels in [0, 1], (M, 28, 28)."""
    return torch.einsum("mchw,c->mhw", images.double() / 255, torch.from_numpy(hues.LUMA))


def test_ink_and_paper_have_their_hues():
    digits = torch.tensor([0, 255], dtype=torch.uint8).expand(36, 1, 1, 2)
    ink, paper = np.array(list(np.ndindex(6, 6))).T
    names = np.array(COLOURS)
    images = coloured_digits.draw(digits, names[ink], names[paper])
    shown = rgb_to_hsv(images[:, :, 0].permute(2, 0, 1).numpy() / 255)[..., 0]
    for pixels, colours in zip(shown, (paper, ink), strict=True):
        expected = np.array([hues.COLOURS[name] for name in names[colours]])
        assert np.abs((pixels - expected + 0.5) % 1 - 0.5).max() < 0.01


def test_every_digit_can_be_read_whatever_its_colours(split, digits):
    """In grey, a coloured digit is the digit itself with less contrast."""
    for coloured, plain in zip(split, digits, strict=True):
        original = plain.images.reshape(-1, 28, 28).double() / 255
        grey = (luma(coloured.images) - PAPER) / (INK - PAPER)
        torch.testing.assert_close(grey, original, atol=0.01, rtol=0)


def test_columns(split, digits):
    for coloured, plain in zip(split, digits, strict=True):
        assert coloured.images.shape == (len(plain), 3, 28, 28)
        assert coloured.images.dtype == torch.uint8
        assert list(coloured.columns) == ["class", "ink", "paper"]
        assert torch.equal(coloured.labels, plain.labels)
        assert coloured.columns["class"].tolist() == plain.labels.tolist()
        assert set(coloured.columns["ink"]) == set(coloured.columns["paper"]) == set(COLOURS)
    assert (len(split.train), len(split.held_out)) == (4000, 1000)


def test_colours_are_independent_of_class_and_of_one_another(split):
    for images in split:
        for first, second in combinations(images.columns.values(), 2):
            assert mutual_info_score(first, second) < 0.002
        pairs = np.char.add(images.columns["ink"], images.columns["paper"])
        for number in range(10):
            counts = np.unique(pairs[images.columns["class"] == number], return_counts=True)[1]
            assert len(counts) == 36
            assert counts.max() - counts.min() <= 1


def test_the_seed_determines_the_colours(digits):
    few = digits.held_out.select(torch.arange(50))
    first = coloured_digits.sample(few, seed=0).images
    assert torch.equal(first, coloured_digits.sample(few, seed=0).images)
    assert not torch.equal(first, coloured_digits.sample(few, seed=1).images)


def test_a_digit_in_every_colour(digits):
    few = digits.held_out.select(torch.arange(3))
    images = coloured_digits.in_every_colour(few)
    assert (len(images), images.shape) == (3 * 36, (3, 28, 28))
    assert images.columns["class"].tolist() == few.labels.repeat_interleave(36).tolist()
    for number in range(3):
        rows = slice(36 * number, 36 * (number + 1))
        inks, papers = images.columns["ink"][rows], images.columns["paper"][rows]
        assert len(set(zip(inks, papers, strict=True))) == 36
        drawn = coloured_digits.draw(few.images[[number] * 36], inks, papers)
        assert torch.equal(images.images[rows], drawn)


def test_single_colours_are_repeated():
    digits = torch.zeros(3, 5, 4, dtype=torch.uint8)
    images = coloured_digits.draw(digits, "red", ["blue", "blue", "red"])
    assert images.shape == (3, 3, 5, 4)
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


@pytest.mark.parametrize(
    ("ink", "paper", "words"),
    [
        ("pink", "red", ("ink is 'pink'", "blue, cyan, green")),
        ("red", ["blue", "black"], ("paper is 'black'", "blue, cyan, green")),
        (["red"] * 3, "blue", ("digit (2,)", "ink (3,)")),
    ],
)
def test_bad_colours_are_refused(ink, paper, words):
    with refused(*words):
        coloured_digits.draw(torch.zeros(2, 4, 4, dtype=torch.uint8), ink, paper)


def test_a_single_digit_has_a_single_pair_of_colours():
    with refused("1 digits and 2 colours"):
        coloured_digits.draw(torch.zeros(1, 4, 4, dtype=torch.uint8), ["red", "blue"], "blue")
