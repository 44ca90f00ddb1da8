"""Rows of a table: what networks see, their distribution, and the model and guide of tables."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from torch.distributions import Categorical, Normal, StudentT

from guides.tabular import model_and_guide
from pyro_models.rows import (
    FREEDOM,
    LEAST_SCALE,
    ColumnKind,
    Row,
    RowFeatures,
    RowHeads,
    RowShape,
    ordered_log_probs,
)
from pyro_models.tabular import TabularICVAE
from train.estimators import MeanFieldELBO, TraceGraphELBO
from train.losses.invariance import INVARIANCES

NAN = float("nan")
SHAPE = RowShape((ColumnKind(3), ColumnKind(), ColumnKind(4, ordered=True), ColumnKind()))
ROWS = torch.tensor([[2.0, 0.5, 3.0, -1.0], [NAN, NAN, 0.0, 2.0], [0.0, 1.0, NAN, NAN]])


def row(numbers: str = "normal") -> Row:
    torch.manual_seed(0)
    heads = RowHeads(SHAPE, numbers).double()
    return heads(torch.randn(3, heads.width, dtype=torch.float64))


@pytest.mark.parametrize("numbers", ["normal", "robust"])
def test_a_row_has_the_density_of_its_columns(numbers):
    """The mutations: a column at another's place, and a missing cell that counts."""
    given = row(numbers)
    rows = ROWS.double()
    scale = torch.full((3, 2), 1 + LEAST_SCALE, dtype=torch.float64)
    of = Normal if numbers == "normal" else lambda loc, scale: StudentT(FREEDOM, loc, scale)
    density = of(given.numbers.mean, scale).log_prob(rows[:, [1, 3]].nan_to_num(0.0))
    wanted = torch.zeros(3, 4, dtype=torch.float64)
    wanted[:, [1, 3]] = density
    for place, logits in zip((0, 2), given.logits, strict=True):
        index = rows[:, place].nan_to_num(0.0)
        wanted[:, place] = Categorical(logits=logits).log_prob(index)
    wanted[rows.isnan()] = 0.0
    torch.testing.assert_close(given.log_probs(rows), wanted)
    torch.testing.assert_close(given.log_prob(rows), wanted.sum(1))


def test_missing_cells_have_no_gradient():
    heads = RowHeads(SHAPE)
    outputs = torch.randn(3, heads.width, requires_grad=True)
    heads(outputs).log_prob(ROWS).sum().backward()
    assert outputs.grad.isfinite().all()
    # The numbers of the second row's first column, and the logits of its categories.
    assert outputs.grad[1, 0] == 0
    assert outputs.grad[0, 0] != 0
    assert (outputs.grad[1, 2:5] == 0).all()
    assert (outputs.grad[0, 2:5] != 0).all()


def test_ordered_categories_are_differences_of_the_logistic_function():
    """The mutation: a threshold that is one off."""
    f, first = torch.linspace(-4, 4, 9, dtype=torch.float64)[:, None], torch.tensor(-1.5).double()
    gaps = torch.tensor([0.3, -0.2], dtype=torch.float64)
    steps = torch.nn.functional.softplus(gaps)
    thresholds = torch.stack([first, first + steps[0], first + steps.sum()])
    below = torch.cat([torch.zeros(9, 1), (thresholds - f).sigmoid(), torch.ones(9, 1)], 1)
    probabilities = ordered_log_probs(f, first, gaps).exp()
    torch.testing.assert_close(probabilities, below.diff(dim=1))
    # A larger value means a later category.
    index = torch.arange(4.0, dtype=torch.float64)
    assert ((probabilities * index).sum(1).diff() > 0).all()


def test_ordered_categories_far_out_are_finite():
    log_probs = ordered_log_probs(torch.tensor([[-80.0], [80.0]]), torch.tensor(0.0), torch.ones(2))
    assert log_probs.isfinite().all()
    assert log_probs[0, 0] == pytest.approx(0, abs=1e-6)
    assert log_probs[1, 3] == pytest.approx(0, abs=1e-6)


def test_draws_have_the_frequencies_of_their_distribution():
    pyro.set_rng_seed(0)
    given = row().expand((3,))
    draws = given.sample((4_000,))
    assert draws.shape == given.shape((4_000,)) == (4_000, 3, 4)
    frequencies = torch.stack([(draws[..., 0] == k).double().mean(0) for k in range(3)], dim=1)
    # A standard error is at most 0.008.
    assert (frequencies - given.logits[0].exp()).abs().max() < 4 * 0.008
    error = (draws[..., 1].mean(0) - given.numbers.mean[:, 0]).abs()
    assert error.max() < 4 * 1.05 / math.sqrt(4_000)


def test_features_do_not_see_what_is_missing_or_not_theirs():
    shape = RowShape((ColumnKind(has_missing=True), ColumnKind(2), ColumnKind()))
    features = RowFeatures(shape, unseen=1)
    rows = torch.tensor([[NAN, 1.0, 3.0, 0.0], [2.0, NAN, 4.0, 1.0]])
    wanted = torch.tensor([[0.0, 3.0, 1.0, 0.0, 1.0], [2.0, 4.0, 0.0, 0.0, 0.0]])
    assert torch.equal(features(rows), wanted)
    assert torch.equal(
        features(rows.flip(1).flip(1)), features(torch.cat([rows[:, :3], 9 * rows[:, 3:]], 1))
    )
    with pytest.raises(ValueError, match=r"give \(B, 4\)"):
        features(rows[:, :3])


@pytest.mark.parametrize("estimator", [MeanFieldELBO, TraceGraphELBO])
@pytest.mark.parametrize("weight", [1.0, 7.0])
def test_the_elbo_is_that_of_row_and_target(double, estimator, weight):
    """The mutation: a reported ELBO with the weight of the target, or a target that sees c."""
    torch.manual_seed(0)
    options = {"z_dim": 2, "hidden": (5, 5), "target": ColumnKind(2), "target_weight": weight}
    model, guide = model_and_guide(SHAPE, 2, levels=3, **options)
    target = torch.tensor([[1.0], [NAN], [0.0]])
    x, c = torch.cat([ROWS, target], 1).double(), torch.eye(2)[[0, 1, 0]].double()
    elbo = estimator()
    loss = elbo.differentiable_loss(model, guide, x, c)
    z = guide.mean(x, c)
    of_row = model.x_given(z, c).log_prob(x[:, :4]).sum()
    of_target = model.target_given(z).log_prob(x[:, 4:]).sum()
    prior = -3 * 2 * math.log(3)
    torch.testing.assert_close(elbo.terms["elbo"], of_row + of_target + prior)
    torch.testing.assert_close(-loss, of_row + weight * of_target + prior)


def test_the_encoder_does_not_see_the_target():
    model, guide = model_and_guide(SHAPE, 2, z_dim=2, hidden=(5, 5), target=ColumnKind(2))
    rows = torch.cat([ROWS, torch.tensor([[1.0], [NAN], [0.0]])], 1)
    other = torch.cat([ROWS, torch.tensor([[0.0], [1.0], [NAN]])], 1)
    c = torch.eye(2)[[0, 1, 0]]
    for one, another in zip(guide.encode(rows, c), guide.encode(other, c), strict=True):
        assert torch.equal(one, another)
    assert model.sample(c).shape == (3, 4)


@pytest.mark.parametrize("invariance", ["none", "pairwise", "kt", "direct", "echo"])
def test_every_penalty_takes_rows(invariance):
    terms = 2 if invariance == "echo" else 100
    penalty = INVARIANCES.get(invariance)
    model, guide = model_and_guide(
        SHAPE, 2, penalty, z_dim=2, hidden=(5, 5), invariance=invariance, echo_terms=terms
    )
    loss = MeanFieldELBO().differentiable_loss(
        model, guide, ROWS, torch.eye(2)[[0, 1, 0]], invariance=torch.tensor(1.0)
    )
    loss.backward()
    weights = [*model.named_parameters(), *guide.named_parameters()]
    assert all(weight.grad.isfinite().all() for _, weight in weights)
    assert guide.features[1][0].weight.grad.abs().sum() > 0


def test_a_table_without_numbers_or_without_categories():
    for shape in (RowShape((ColumnKind(2),)), RowShape((ColumnKind(),))):
        model, guide = model_and_guide(shape, 0, z_dim=1, hidden=(4, 4))
        rows = torch.tensor([[1.0], [NAN]])
        c = torch.zeros(2, 0)
        assert MeanFieldELBO().differentiable_loss(model, guide, rows, c).isfinite()
        assert model.decode(guide.mean(rows, c), c).shape == (2, 1)


def test_wrong_shapes_are_refused():
    model = TabularICVAE(SHAPE, 2, 2, hidden=(4, 4))
    with pytest.raises(ValueError, match=r"give \(B, 4\)"):
        model(ROWS[:, :3], torch.eye(2)[[0, 1, 0]])
    with pytest.raises(ValueError, match="has no target"):
        model.target_given(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="one column"):
        RowShape(())
    with pytest.raises(ValueError, match="not finite"):
        model_and_guide(SHAPE, 2, invariance="echo", levels=2)
