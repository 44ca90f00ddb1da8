"""Bounds of what anybody can read in finite codes hold, and say no more than they must."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from guides.tabular import model_and_guide
from pyro_models.rows import ColumnKind, RowShape
from train.metrics.adversaries import leakage
from train.metrics.guarantees import (
    accuracy_from_information,
    class_guarantee,
    guarantee,
    margin,
    numbered,
    quantity_guarantee,
)


def joint(rng: np.random.Generator, cells: int, classes: int, sharpness: float) -> np.ndarray:
    """A random joint distribution of cell and class."""
    given = rng.dirichlet(np.full(classes, sharpness), cells)
    return rng.dirichlet(np.ones(cells))[:, None] * given


def drawn(rng: np.random.Generator, p: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes of two numbers, and classes."""
    index = rng.choice(p.size, n, p=p.ravel())
    cell, classes = np.unravel_index(index, p.shape)
    return np.stack([cell % 3, cell // 3], 1).astype(np.float32), classes


@pytest.mark.parametrize(("cells", "n"), [(2, 200), (9, 200), (60, 2_000)])
def test_the_bound_of_a_class_holds(cells, n):
    """In 95 of 100 draws at least. The mutation: an estimate without its margin, for few cells."""
    rng = np.random.default_rng(0)
    held, below = 0, 0
    for _ in range(300):
        p = joint(rng, cells, 3, 1.0)
        found = class_guarantee(*drawn(rng, p, n))
        best = p.max(1).sum()
        held += found.bound >= best
        below += found.estimate < best
    assert held / 300 >= 0.95
    assert cells > 2 or below / 300 > 0.2


def test_the_bound_is_not_far_above_the_truth():
    """With 10,000 images and 16 cells it is 1.2 points of margin, and little more."""
    rng = np.random.default_rng(1)
    p = joint(rng, 16, 10, 0.5)
    found = class_guarantee(*drawn(rng, p, 10_000))
    assert found.bound - found.estimate == pytest.approx(margin(10_000, 0.05))
    assert 0 < found.bound - p.max(1).sum() < 0.025
    assert found.cells == 16


@pytest.mark.parametrize("cells", [2, 20])
def test_the_bound_of_a_quantity_holds(cells):
    """The mutation: a variance within cells without its margin, for few cells."""
    rng = np.random.default_rng(2)
    held, below = 0, 0
    for _ in range(300):
        means, p = rng.random(cells), rng.dirichlet(np.ones(cells))
        cell = rng.choice(cells, 300, p=p)
        # Uniform noise in [0, 1] around a mean that the cell tells.
        quantity = 0.5 * means[cell] + 0.5 * rng.random(300)
        between = 0.25 * (p @ means**2 - (p @ means) ** 2)
        truth = between / (between + 0.25 / 12)
        found = quantity_guarantee(cell[:, None], quantity, (0.0, 1.0))
        held += found.bound >= truth
        below += found.estimate < truth
    assert held / 300 >= 0.95
    assert cells > 2 or below / 300 > 0.2


def test_no_attacker_passes_the_bound():
    """Also one that memorises, where the estimate is far above what can be read."""
    rng = np.random.default_rng(3)
    p = joint(rng, 9, 2, 0.7)
    train, held_out = drawn(rng, p, 2_000), drawn(rng, p, 2_000)
    best = leakage(train, held_out).best
    bound = class_guarantee(*held_out).bound
    assert best <= bound
    assert bound - best < 0.06


def test_codes_that_tell_everything_have_a_bound_of_one():
    codes = np.arange(50.0)[:, None]
    assert class_guarantee(codes, np.arange(50) % 7).bound == 1
    assert quantity_guarantee(codes, codes[:, 0]).bound == 1


def test_several_quantities_share_the_probability():
    rng = np.random.default_rng(4)
    codes, targets = rng.integers(0, 2, (400, 1)), rng.random((400, 2))
    found = guarantee(codes, targets)
    parts = [quantity_guarantee(codes, column, confidence=0.975) for column in targets.T]
    assert found.bound == pytest.approx(np.mean([part.bound for part in parts]))
    assert guarantee(codes, (targets[:, 0] > 0.5).astype(int)).bound < 0.65


@pytest.mark.parametrize("sharpness", [0.1, 1.0, 30.0])
def test_information_bounds_accuracy(sharpness):
    """For random joint distributions. The mutation: log C in place of log (C - 1)."""
    rng = np.random.default_rng(5)
    gaps = []
    for classes in (2, 3, 10):
        for _ in range(100):
            p = joint(rng, 5, classes, sharpness)
            of_class, of_cell = p.sum(0), p.sum(1, keepdims=True)
            information = np.sum(p * np.log(np.maximum(p, 1e-300) / (of_class * of_cell)))
            bound = accuracy_from_information(information, of_class)
            gaps.append(bound - p.max(1).sum())
    assert min(gaps) >= -1e-9


@pytest.mark.parametrize("classes", [2, 10])
def test_fano_is_tight_where_errors_are_uniform(classes):
    """A class that is right with 0.7, and else any other one, is read with just that."""
    p = np.full((classes, classes), 0.3 / (classes - 1))
    np.fill_diagonal(p, 0.7)
    p /= classes
    information = np.sum(p * np.log(p * classes**2))
    frequencies = np.full(classes, 1 / classes)
    assert accuracy_from_information(information, frequencies) == pytest.approx(0.7)
    assert accuracy_from_information(0.0, frequencies) == pytest.approx(1 / classes, abs=1e-6)
    assert accuracy_from_information(9.0, frequencies) == 1


def test_bound_estimate_and_truth_of_a_table():
    """Codes of a table whose cells say c with known probabilities: adversary, truth, bounds.

    The encoder is a function of 4 x 3 possible rows, so that the joint distribution of code and
    condition, the information, and the best accuracy are sums. The mutations: a bound without its
    margin, and an information with a base other than e.
    """
    torch.manual_seed(1)
    shape = RowShape((ColumnKind(4), ColumnKind(3)))
    _, guide = model_and_guide(shape, 0, z_dim=2, levels=2, hidden=(16, 16))
    # An untrained encoder has few different codes: make it differ more.
    for weight in guide.parameters():
        weight.data.mul_(3.0)
    possible = torch.cartesian_prod(torch.arange(4.0), torch.arange(3.0))
    cells = guide.mean(possible, torch.zeros(12, 0)).detach().numpy()
    random = np.random.default_rng(0)
    of_x, of_c = random.dirichlet(np.full(12, 2.0)), random.beta(0.5, 0.5, 12)
    index, number = numbered(cells)
    joint = np.zeros((number, 2))
    np.add.at(joint, index, np.stack([of_x * (1 - of_c), of_x * of_c], axis=1))
    truth = joint.max(1).sum()
    of_rows = (of_x * np.maximum(of_c, 1 - of_c)).sum()
    assert number > 2
    assert joint.sum(0).max() + 0.02 < truth <= of_rows

    def sample(n: int = 4_000) -> tuple[np.ndarray, np.ndarray]:
        rows = random.choice(12, n, p=of_x)
        return cells[rows], (random.random(n) < of_c[rows]).astype(np.int64)

    standard_error = np.sqrt(truth * (1 - truth) / 4_000)
    assert abs(leakage(sample(), sample()).best - truth) < 4 * standard_error
    bounds = [class_guarantee(*sample()) for _ in range(100)]
    assert sum(found.bound >= truth for found in bounds) >= 95
    assert abs(np.mean([found.estimate for found in bounds]) - truth) < standard_error
    # Without the margin it does not hold.
    assert sum(found.estimate >= truth for found in bounds) < 80

    marginal = joint.sum(1, keepdims=True) * joint.sum(0)
    information = float((joint * np.log(joint / marginal)).sum())
    assert accuracy_from_information(information, joint.sum(0)) >= truth
    of_nothing = accuracy_from_information(0.0, joint.sum(0))
    assert of_nothing == pytest.approx(joint.sum(0).max())
