"""Enumeration by Pyro, and relaxed presence."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro.infer import ELBO
from torch.distributions import kl_divergence

from guides.air import ConvolutionalGuide, RecurrentGuide, ResidualGuide
from tests.estimators.exact import Projections, gradients, kl_bernoulli, z_scores
from train.estimators import (
    ConcreteELBO,
    EnumELBO,
    MarginalELBO,
    count_out,
)

GUIDES = pytest.mark.parametrize("guide_class", [ResidualGuide, RecurrentGuide, ConvolutionalGuide])


@GUIDES
@pytest.mark.parametrize("beta", [1.0, 0.7])
def test_enumeration_is_marginal_at_the_draw(small_air, guide_class, beta):
    air = small_air(guide_class)
    pyro.set_rng_seed(1)
    marginal = MarginalELBO(analytic=False)
    wanted = marginal.differentiable_loss(*air, beta=beta)
    pyro.set_rng_seed(1)
    enum = EnumELBO()
    loss = enum.differentiable_loss(*air, beta=beta)
    torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(gradients(loss, air), gradients(wanted, air), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(enum.terms, dict(marginal.terms))


@GUIDES
@pytest.mark.parametrize("channels", [1, 3])
def test_relaxed_presence_is_its_formula(small_air, guide_class, channels):
    air = small_air(guide_class, shape=(channels, 10, 11))
    model, guide, x = air
    pyro.set_rng_seed(1)
    loss = ConcreteELBO(temperature=0.7).differentiable_loss(*air, beta=0.6)

    pyro.set_rng_seed(1)
    ones = {f"z_pres_{i}": torch.ones(6) for i in range(3)}
    sites = pyro.poutine.trace(pyro.poutine.condition(guide, data=ones)).get_trace(x).nodes
    canvas, kl, presence = torch.zeros_like(x), torch.zeros(6), torch.ones(6)
    for i in range(3):
        p = sites[f"z_pres_{i}"]["fn"].probs
        u = torch.rand(6).clamp(1e-300, 1 - 1e-16)
        kl = kl + presence * kl_bernoulli(p, 0.3)
        noise = u.log() - (-u).log1p()
        presence = presence * ((p.log() - (-p).log1p() + noise) / 0.7).sigmoid()
        z_where, z_what = (sites[f"{name}_{i}"] for name in ("z_where", "z_what"))
        for site, prior in (
            (z_where, torch.distributions.Normal(model.where_loc, model.where_scale)),
            (z_what, torch.distributions.Normal(torch.zeros(3), torch.ones(3))),
        ):
            prior = torch.distributions.Independent(prior, 1)
            kl = kl + presence * kl_divergence(site["fn"], prior)
        pasted = model.paste(z_what["value"], z_where["value"])
        canvas = canvas + presence[:, None, None, None] * pasted
    likelihood = torch.distributions.Normal(canvas, 0.4).log_prob(x).sum()
    wanted = 0.6 * kl.sum() - likelihood
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(gradients(loss, air), gradients(wanted, air))


def test_relaxed_presence_becomes_the_elbo_as_it_cools(small_air):
    air = small_air(images=1, max_objects=2)
    many = air.images.repeat(1_000, 1, 1, 1)

    def mean(estimator: ELBO) -> tuple[float, float]:
        losses = [estimator.loss(air.model, air.guide, many) / 1_000 for _ in range(10)]
        return torch.tensor(losses).mean(), torch.tensor(losses).var() / 10

    exact, exact_error = mean(MarginalELBO())
    cold, cold_error = mean(ConcreteELBO(temperature=1e-3))
    warm, warm_error = mean(ConcreteELBO(temperature=1.0))
    assert (cold - exact).abs() < 5 * (cold_error + exact_error).sqrt()
    assert (warm - exact).abs() > 5 * (warm_error + exact_error).sqrt()


def test_relaxed_presence_is_biased(small_air):
    project = Projections(small_air(max_objects=2, presence_prior=0.05))
    exact = project.draw(MarginalELBO())
    assert (z_scores(project.draw(ConcreteELBO(temperature=0.5)), exact) > 5).any()


def test_a_temperature_that_is_annealed_comes_first(small_air):
    air = small_air()
    losses = []
    for estimator, options in (
        (ConcreteELBO(temperature=0.2), {}),
        (ConcreteELBO(), {"temperature": torch.tensor(0.2)}),
        (ConcreteELBO(), {}),
    ):
        pyro.set_rng_seed(1)
        losses.append(estimator.loss(*air, **options))
    assert losses[0] == pytest.approx(losses[1])
    assert losses[0] != pytest.approx(losses[2])
    with pytest.raises(ValueError, match="above 0"):
        ConcreteELBO(temperature=0.0)


@pytest.mark.parametrize("estimator_class", [MarginalELBO, ConcreteELBO])
def test_draws_side_by_side_have_the_same_mean(small_air, estimator_class):
    air = small_air(images=1)
    many = air.images.repeat(800, 1, 1, 1)
    actual = []
    for side_by_side in (True, False):
        estimator = estimator_class(4, vectorize_particles=side_by_side)
        losses = [estimator.loss(air.model, air.guide, many) / 800 for _ in range(8)]
        actual.append(torch.tensor(losses))
    error = ((actual[0].var() + actual[1].var()) / 8).sqrt()
    assert (actual[0].mean() - actual[1].mean()).abs() < 5 * error


def test_counts_of_draws_side_by_side(small_air):
    air = small_air()
    plate = pyro.plate("draws", 5, dim=-2)
    counts = count_out(plate(air.model), plate(air.guide), (air.images,))
    assert counts.log_q.shape == (4, 5, 6)
    torch.testing.assert_close(counts.log_q.logsumexp(0), torch.zeros(5, 6))
    (likelihood,) = (cost for cost in counts.costs_by_count() if cost.kind == "log_likelihood")
    assert likelihood.value.shape == (4, 5, 6)
    assert (likelihood.value[1:].std(1) > 0).all()
    torch.testing.assert_close(likelihood.value[0].std(0), torch.zeros(6))
