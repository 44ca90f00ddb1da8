"""What the best of several adversaries finds in codes, and how sure that is."""

from __future__ import annotations

import numpy as np
import pytest

from train.metrics import adversaries
from train.metrics.adversaries import (
    accuracy_interval,
    candidates,
    leakage,
    of_quantities,
    tuned,
)

ADVERSARIES = {"linear", "mlp1", "mlp2", "mlp3", "nearest1", "nearest", "forest", "trees"}
SMOOTH = ("linear", "mlp1", "mlp2", "mlp3")


def rings(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two classes at two radii: nothing for a line, all for a network."""
    labels = rng.integers(0, 2, n)
    angles, radii = rng.uniform(0, 2 * np.pi, n), 1 + 2 * labels + 0.1 * rng.normal(size=n)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1), labels


def test_what_a_line_cannot_read_a_network_can():
    rng = np.random.default_rng(0)
    found = leakage(rings(2_000, rng), rings(1_000, rng))
    assert found.best > 0.98
    assert found.linear < 0.6
    assert set(found.scores) == ADVERSARIES
    assert found.best == max(found.scores.values())


def test_noise_gives_nothing_away():
    rng = np.random.default_rng(0)
    labels = rng.choice(3, size=3_000, p=[0.5, 0.3, 0.2])
    codes = rng.normal(size=(3_000, 4))
    found = leakage((codes[:2_000], labels[:2_000]), (codes[2_000:], labels[2_000:]))
    assert found.chance == pytest.approx(np.mean(labels[2_000:] == 0))
    error = (0.25 / 1_000) ** 0.5
    assert found.best < found.chance + 5 * error


@pytest.mark.parametrize("columns", [1, 2])
def test_quantities_are_read_as_r2(columns):
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(3_000, 3))
    wanted = np.stack([codes[:, 0] ** 2, codes[:, 1] * codes[:, 2]], 1)[:, :columns]
    wanted = wanted[:, 0] if columns == 1 else wanted
    found = leakage((codes[:2_000], wanted[:2_000]), (codes[2_000:], wanted[2_000:]))
    assert found.best > 0.8
    assert found.linear < 0.1
    assert found.chance == 0


def test_fine_structure_is_read_by_neighbours_and_trees():
    """A class that alternates along a line, and a wave: networks take both for noise."""
    rng = np.random.default_rng(0)
    codes = rng.uniform(size=(3_000, 1))
    stripes, wave = (codes[:, 0] * 50).astype(int) % 2, np.sin(200 * codes[:, 0])
    for labels, blind, near, trees in ((stripes, 0.6, 0.95, 0.9), (wave, 0.1, 0.95, 0.8)):
        found = leakage((codes[:2_000], labels[:2_000]), (codes[2_000:], labels[2_000:]))
        assert max(found.scores[name] for name in SMOOTH) < blind
        assert found.scores["nearest1"] > near
        assert found.scores["trees"] > trees
        assert found.best > near


def test_adversaries_of_many_classes_and_many_codes(monkeypatch):
    """Trees have a limit, and say so by not being there; a class may have a single member."""
    codes = np.random.default_rng(0).normal(size=(120, 2))
    few = np.r_[np.zeros(119, dtype=int), 1]
    assert set(leakage((codes, few), (codes, few)).scores) == ADVERSARIES
    many = np.arange(120) % (adversaries.MOST_CLASSES + 1)
    assert set(candidates(many, 0, classes=True)) == ADVERSARIES - {"forest", "trees"}
    monkeypatch.setattr(adversaries, "MOST_CODES", 60)
    known = (codes, np.arange(120) % 2)
    # Half of what it is asked about the nearest neighbour has seen, and knows.
    nearest = leakage(known, known).scores["nearest1"]
    assert nearest == pytest.approx(0.75, abs=5 * (0.25 / 60) ** 0.5 / 2)


def test_settings_are_chosen_on_a_part_of_the_codes():
    """Labels with much noise need many neighbours, and fine structure few.

    The mutation: the first setting always.
    """
    rng = np.random.default_rng(0)
    codes = rng.uniform(size=(1_500, 1))
    noisy = (rng.random(1_500) < 0.35 + 0.3 * codes[:, 0]).astype(int)
    stripes = (codes[:, 0] * 150).astype(int) % 2
    chosen = {}
    for name, labels in (("noisy", noisy), ("stripes", stripes)):
        kinds = {"nearest": candidates(labels, 0, classes=True)["nearest"]}
        chosen[name] = tuned(kinds, (codes, labels), 0)["nearest"].n_neighbors
    assert chosen == {"noisy": 60, "stripes": 5}
    few = (codes[:900], stripes[:900])
    assert tuned(kinds, few, 0)["nearest"].n_neighbors == 15


def test_a_class_that_hardly_occurs_does_not_keep_settings_from_being_chosen():
    """Two codes in 1,500 are of it, of which a held-out part has none.

    The mutation: settings chosen with all classes.
    """
    rng = np.random.default_rng(3)
    codes, labels = rng.normal(size=(1_500, 2)), rng.integers(0, 2, 1_500)
    labels[:2] = 2
    assert 0.3 < leakage((codes, labels), (codes[:300], labels[:300])).linear < 0.7
    everyone = np.r_[np.zeros(1_499, dtype=int), 1]
    kinds = candidates(everyone, 0, classes=True)
    assert tuned(kinds, (codes, everyone), 0)["nearest"].n_neighbors == 15


def test_rare_classes_are_seen_by_recall_and_area():
    """Of 5% rare codes the half are told apart: accuracy hardly says so."""
    rng = np.random.default_rng(1)
    labels = (rng.random(3_000) < 0.05).astype(int)
    codes = rng.normal(size=(3_000, 1)) + 6 * (labels * (rng.random(3_000) < 0.5))[:, None]
    found = leakage((codes[:1_500], labels[:1_500]), (codes[1_500:], labels[1_500:]))
    assert found.best - found.chance < 0.04
    assert found.balanced == pytest.approx(0.75, abs=0.08)
    assert found.auc == pytest.approx(0.75, abs=0.08)
    assert found.interval[0] < found.best < found.interval[1]


def test_a_class_that_is_not_held_out_has_no_area():
    codes = np.arange(60.0)[:, None]
    found = leakage((codes, np.arange(60) % 3), (codes, np.arange(60) % 2))
    assert found.auc is None
    assert 0 <= found.balanced <= 1


@pytest.mark.parametrize("kind", ["classes", "quantity"])
def test_intervals_contain_the_score_of_images_without_end(kind):
    """In 95 of 100 draws, within three standard errors; those of an accuracy more often.

    The mutation: half as many images, or an interval of 80%.
    """
    rng = np.random.default_rng(2)
    contained = 0
    for i in range(400):
        x = rng.normal(size=(150, 1))
        if kind == "classes":
            low, high = accuracy_interval(int((rng.random(150) < 0.7).sum()), 150)
            truth = 0.7
        else:
            wanted = x + rng.normal(size=(150, 1))
            low, high = of_quantities({"linear": x}, wanted, i).interval
            truth = 0.5
        contained += low <= truth <= high
    assert contained / 400 > 0.95 - 3 * (0.05 * 0.95 / 400) ** 0.5
    assert contained < 400
