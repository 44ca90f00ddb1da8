"""Codes that are the cells of a grid: their distribution, guide, ELBO, gradient and runs."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from torch.distributions import Normal

from guides.icvae import FiniteGuide, GaussianGuide, model_and_guide
from pyro_models.grids import EDGE, Grid, cells, centres, quantised
from pyro_models.icvae import ICVAE
from tests.data.refusals import refused
from tests.test_train_icvae import KEYS, saved, small
from train.estimators import MeanFieldELBO, TraceGraphELBO
from train.icvae import main
from train.losses.invariance import INVARIANCES
from train.trained import load

SMALL = {"hidden": (12, 10)}


def pair(invariance: str = "none", levels: int = 4, memory: int = 0) -> tuple[ICVAE, FiniteGuide]:
    model = ICVAE((7, 6), 3, 2, levels=levels, **SMALL)
    return model, FiniteGuide(model, INVARIANCES[invariance], memory=memory, **SMALL)


@pytest.fixture
def data(double: None) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(9, 1, 7, 6), torch.eye(3)[torch.arange(9) % 3]


@pytest.mark.parametrize("levels", [2, 5, 16])
def test_cells_share_the_range(levels):
    """All have one width; what is outside belongs to the outermost ones."""
    z = torch.linspace(-EDGE, EDGE, 1 + 100 * levels)[:-1] + EDGE / 100 / levels
    assert torch.bincount(cells(z, levels)).tolist() == [100] * levels
    assert (quantised(z, levels) - z).abs().max() <= EDGE / levels + 1e-6
    assert torch.equal(cells(centres(torch.arange(levels), levels), levels), torch.arange(levels))
    assert cells(torch.tensor([-9.0, 9.0]), levels).tolist() == [0, levels - 1]


def test_draws_from_the_prior_are_uniform():
    pyro.set_rng_seed(0)
    draws = Grid(5, (2,), torch.zeros(())).to_event(1).sample((4_000,))
    counts = torch.bincount(cells(draws, 5).flatten(), minlength=5)
    # 8,000 draws: a standard deviation is 36.
    assert (counts - 1_600).abs().max() < 4 * 36
    assert torch.equal(draws, quantised(draws, 5))
    assert draws.var() == pytest.approx(1 - 1 / 25, abs=0.05)


@pytest.mark.parametrize("estimator", [MeanFieldELBO, TraceGraphELBO])
def test_the_elbo_is_exact(data, estimator):
    """The mutation: a prior that is Normal, or a log q that is not zero."""
    model, guide = pair()
    x, c = data
    elbo = estimator()
    loss = elbo.differentiable_loss(model, guide, x, c)
    z = guide.mean(x, c)
    log_likelihood = Normal(model.decode(z, c), math.sqrt(0.5)).log_prob(x).sum()
    expected = log_likelihood - 9 * 2 * math.log(4)
    torch.testing.assert_close(-loss, expected)


def test_the_gradient_passes_straight_through(data):
    """That of g is that of z at its cell. The mutation: no gradient, or that of the tanh alone."""
    model, guide = pair()
    x, c = data
    MeanFieldELBO().differentiable_loss(model, guide, x, c).backward()
    found = {name: weight.grad.clone() for name, weight in guide.named_parameters()}

    z = guide.mean(x, c).detach().requires_grad_()
    loss = -Normal(model.decode(z, c), math.sqrt(0.5)).log_prob(x).sum()
    (slope,) = torch.autograd.grad(loss, z)
    guide.zero_grad()
    (slope * guide.signal(x, c)).sum().backward()
    assert any(weight.grad.any() for weight in guide.parameters())
    for name, weight in guide.named_parameters():
        torch.testing.assert_close(found[name], weight.grad)


@pytest.mark.parametrize("invariance", ["pairwise", "kt", "direct", "mmd"])
def test_the_penalty_compares_codes_of_half_a_cell(data, invariance):
    model, guide = pair(invariance)
    x, c = data
    pyro.set_rng_seed(3)
    elbo = MeanFieldELBO()
    with_penalty = elbo.differentiable_loss(model, guide, x, c, invariance=1.3)
    pyro.set_rng_seed(3)
    signal = guide.signal(x, c)
    scale = 0.5 * 2 * EDGE / 4
    log_variance = torch.full_like(signal, 2 * math.log(scale))
    draw = signal + scale * torch.randn_like(signal)
    nats = INVARIANCES[invariance](draw, signal, log_variance, c).sum()
    without = elbo.differentiable_loss(model, guide, x, c)
    torch.testing.assert_close(with_penalty, without + 1.3 * nats)


def test_earlier_codes_are_remembered(data):
    _, guide = pair("direct", memory=20)
    guide(*data, invariance=1.0)
    torch.testing.assert_close(guide.memory.mu[:9], guide.signal(*data))
    assert guide.memory.log_variance[:9].unique().numel() == 1


def test_codes_are_all_that_the_encoder_gives(data):
    model, guide = pair()
    (z,) = guide.encode(*data)
    assert torch.equal(z, quantised(z, 4))
    assert torch.equal(z, guide.mean(*data))
    assert torch.equal(z, guide.draw(*data))
    images = model.sample(torch.eye(3))
    assert images.shape == (3, 1, 7, 6)


def test_what_cannot_be_combined_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not finite"):
        FiniteGuide(ICVAE((7, 6)))
    with pytest.raises(ValueError, match="levels"):
        model_and_guide((7, 6), 3, invariance="echo", levels=4)
    assert isinstance(model_and_guide((7, 6), 3)[1], GaussianGuide)
    data = saved(tmp_path / "own.npz", labels=torch.arange(200).numpy() % 3)
    with refused("--levels", "give another --invariance"):
        main(small(tmp_path, data, levels=4, invariance="echo"))


def test_a_run_has_a_bound(tmp_path):
    """And is loaded: its codes are those of the run, and the same in each draw."""
    data = saved(tmp_path / "own.npz", labels=torch.arange(200).numpy() % 3)
    results = main(small(tmp_path, data, levels=3))
    assert set(results) == {*KEYS, "leakage_bound"}
    assert results["leakage"] <= results["leakage_bound"] <= 1
    assert results["leakage_mean"] == results["leakage_parameters"] == results["leakage"]
    trained = load(tmp_path / "run")
    images = torch.rand(6, 9, 8)
    z = trained.encode(images)
    assert torch.equal(z, trained.encode(images, sample=True))
    assert torch.equal(z, quantised(z, 3))
    assert trained.transfer(images, 1).shape == trained.sample(6, 2).shape == (6, 9, 8)
    assert trained.functions()["encoder"].outputs == ("z",)
