"""Samples and checks of factors."""

from __future__ import annotations

import numpy as np
import pytest

from tests.data.refusals import refused
from train.data.drawn import factors, hues

LEVELS = {"side": np.array(["left", "right"]), "size": np.arange(1, 6), "x": np.arange(20) / 20}


def combinations(rows):
    return set(zip(*(rows[name].tolist() for name in LEVELS), strict=True))


def test_values_are_equally_frequent_and_no_combination_repeats():
    rows = factors.sample(LEVELS, 24, seed=0)
    for name, values in LEVELS.items():
        counts = [int((rows[name] == value).sum()) for value in values]
        assert sum(counts) == 24
        assert max(counts) - min(counts) <= 1
    assert len(combinations(rows)) == 24


def test_combinations_depend_on_the_seed_alone():
    first = factors.sample(LEVELS, 20, seed=3)
    np.random.seed(1)  # noqa: NPY002 (the state that must not matter)
    assert combinations(first) == combinations(factors.sample(LEVELS, 20, seed=3))
    assert combinations(first) != combinations(factors.sample(LEVELS, 20, seed=4))


def test_combinations_of_other_rows_are_not_drawn():
    other = factors.sample(LEVELS, 12, seed=0)
    for seed in range(20):
        rows = factors.sample(LEVELS, 13, seed, apart_from=other)
        assert not combinations(rows) & combinations(other)
        assert len(combinations(rows)) == 13


def test_equivalent_combinations_are_drawn_once():
    options = {"equivalent": lambda indices: indices | {"x": indices["x"] % 10}}
    for seed in range(20):
        rows = factors.sample(LEVELS, 25, seed, **options)
        codes = {(side, size, round(20 * x) % 10) for side, size, x in combinations(rows)}
        assert len(codes) == 25


def test_factors_are_independent():
    rows = factors.sample({"a": np.arange(40), "b": np.arange(40), "c": np.arange(10)}, 2_000, 0)
    correlations = np.corrcoef(np.stack(list(rows.values())))[np.triu_indices(3, 1)]
    # Four standard errors.
    assert np.abs(correlations).max() < 4 / np.sqrt(2_000)


@pytest.mark.parametrize("n", [0, -1, 26])
def test_a_sample_of_an_impossible_size_is_refused(n):
    with refused(f"{n} images", "give 1 to 25"):
        factors.sample(LEVELS, n, seed=0)


def test_the_images_that_are_left_out_count():
    with refused("20 images", "give 1 to 10"):
        factors.sample(LEVELS, 20, 0, apart_from=factors.sample(LEVELS, 15, 0))


def test_single_values_are_repeated():
    rows = factors.aligned(a=[1, 2, 3], b=5.0, c=["x"])
    assert {name: row.tolist() for name, row in rows.items()} == {
        "a": [1, 2, 3],
        "b": [5.0] * 3,
        "c": ["x"] * 3,
    }
    assert factors.aligned(a=1)["a"].shape == (1,)


@pytest.mark.parametrize("b", [[1, 2], [[1, 2, 3]], []])
def test_factors_of_several_lengths_are_refused(b):
    with refused("a (3,)", "b", "as many values"):
        factors.aligned(a=[1, 2, 3], b=b)


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan, np.inf])
def test_quantities_out_of_range_are_refused(value):
    with refused(f"scale is {value}", "from 0 to 1"):
        factors.quantities("scale", np.array([0.5, value]), 0, 1)


@pytest.mark.parametrize("values", [["a"], [True], [None], [1j]])
def test_what_is_no_number_is_refused(values):
    with refused("scale is of type", "give numbers from 0 to 1"):
        factors.quantities("scale", np.array(values), 0, 1)


@pytest.mark.parametrize("values", [["cube", "cone"], [1], [None]])
def test_unknown_words_are_refused(values):
    with refused("shape is", "give one of cube, sphere"):
        factors.words("shape", np.array(values), ("cube", "sphere"))


class TestHues:
    def test_primary_colours(self):
        expected = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]
        np.testing.assert_allclose(hues.rgb(np.arange(4) / 3), expected, atol=1e-12)
        np.testing.assert_allclose(hues.rgb(0.5, 0.5, 0.8), [0.4, 0.8, 0.8])

    def test_names_are_evenly_spaced(self):
        assert sorted(hues.COLOURS.values()) == [i / 6 for i in range(6)]
        np.testing.assert_allclose(hues.rgb(hues.COLOURS["cyan"]), [0, 1, 1], atol=1e-12)

    @pytest.mark.parametrize("luma", [0.2, 0.65])
    def test_luma_is_changed_and_hue_is_not(self, luma):
        from matplotlib.colors import rgb_to_hsv

        given = np.arange(30) / 30
        colours = hues.of_luma(hues.rgb(given), luma)
        np.testing.assert_allclose(colours @ hues.LUMA, luma)
        np.testing.assert_allclose(rgb_to_hsv(colours)[:, 0], given, atol=1e-9)
        assert colours.min() >= 0
        assert colours.max() <= 1
