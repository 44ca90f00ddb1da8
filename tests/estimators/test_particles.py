"""Estimators with several draws: the importance-weighted bound and wake-sleep."""

from __future__ import annotations

import itertools
import math
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI
from torch import Tensor, nn
from torch.distributions import Normal

from guides.air import RecurrentGuide, ResidualGuide
from tests.conftest import SmallAIR
from tests.estimators.exact import gradients, log_normal, parameters, picture, prior_presences
from train.estimators import ImportanceWeightedELBO, MarginalELBO, ReweightedWakeSleepELBO
from train.estimators.wake_sleep import HeldDraws, frozen

GUIDES = pytest.mark.parametrize("guide_class", [ResidualGuide, RecurrentGuide])
SIDE_BY_SIDE = pytest.mark.parametrize("side_by_side", [True, False])
ESTIMATORS = pytest.mark.parametrize(
    "estimator_class", [ImportanceWeightedELBO, ReweightedWakeSleepELBO]
)


def draws(air: SmallAIR, k: int, side_by_side: bool, held: bool) -> list[dict[str, Any]]:
    """The guide's sites in each of K draws, made in the order in which the estimators make them.

    With ``held`` they are of the guide as it is, without: of the path with every object there.
    """
    model, guide, images = air
    there = {f"z_pres_{i}": torch.ones(len(images)) for i in range(model.max_objects)}
    net: Any = guide if held else poutine.condition(guide, data=there)

    def run(program: Any) -> dict[str, Any]:
        with (
            frozen(model if held else None),
            HeldDraws() if held else poutine.messenger.Messenger(),
        ):
            return poutine.trace(program).get_trace(images).nodes

    if not side_by_side:
        return [run(net) for _ in range(k)]
    nodes = run(pyro.plate("draws", k, dim=-2)(net))
    return [
        {
            name: {"value": site["value"][i], "fn": Part(site, i)}
            for name, site in nodes.items()
            if name.startswith("z_")
        }
        for i in range(k)
    ]


class Part:
    """One draw's distribution out of those of draws side by side."""

    def __init__(self, site: dict[str, Any], i: int) -> None:
        fn = site["fn"]
        if site["name"].startswith("z_pres"):
            self.logits = fn.logits[i]
        else:
            self.base_dist = type(fn.base_dist)(fn.base_dist.loc[i], fn.base_dist.scale[i])


def log_joints(air: SmallAIR, sites: dict[str, Any], pi: float) -> tuple[Tensor, Tensor]:
    """By the formula, for each count: log p(x, z, n) - log q(z), and log q(n | z)."""
    model, _, x = air
    priors = prior_presences(model, pi)
    where_loc = torch.tensor([math.log(2.0), 0.0, 0.0])
    where_scale = torch.tensor([0.4 / 2, 0.5, 0.5])
    canvas, ratio = torch.zeros_like(x), torch.zeros(len(x))
    survival, prior_survival = torch.ones(len(x)), 1.0
    joints, log_q = [], []
    for n in range(model.max_objects + 1):
        last = n == model.max_objects
        p = 0.0 if last else sites[f"z_pres_{n}"]["fn"].logits.sigmoid()
        log_q.append((survival * (1 - p)).log())
        likelihood = log_normal(x, canvas, torch.tensor(model.likelihood_scale)).sum((-2, -1))
        prior = prior_survival * (1 if last else 1 - priors[n])
        joints.append(likelihood + ratio + math.log(prior))
        if last:
            return torch.stack(joints), torch.stack(log_q)
        survival, prior_survival = survival * p, prior_survival * priors[n]
        z_where, z_what = (sites[f"{name}_{n}"]["value"] for name in ("z_where", "z_what"))
        where, what = (sites[f"{name}_{n}"]["fn"].base_dist for name in ("z_where", "z_what"))
        ratio = ratio + log_normal(z_where, where_loc, where_scale).sum(-1)
        ratio = ratio + log_normal(z_what, torch.zeros(()), torch.ones(())).sum(-1)
        ratio = ratio - log_normal(z_where, where.loc, where.scale).sum(-1)
        ratio = ratio - log_normal(z_what, what.loc, what.scale).sum(-1)
        canvas = canvas + picture(model, z_what, z_where)
    raise AssertionError


# The importance-weighted bound


def held(sites: dict[str, Any]) -> dict[str, Any]:
    """A draw's sites with everything constant."""
    constant = {}
    for name, site in sites.items():
        if not name.startswith("z_"):
            continue
        fn = site["fn"]
        if name.startswith("z_pres"):
            fn = SimpleNamespace(logits=fn.logits.detach())
        else:
            base = fn.base_dist
            fn = SimpleNamespace(base_dist=Normal(base.loc.detach(), base.scale.detach()))
        constant[name] = {"value": site["value"].detach(), "fn": fn}
    return constant


def elbo_and_bound(air: SmallAIR, each: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    """Summed over images: the ELBO in the mean of the draws, and their bound."""
    found = [log_joints(air, sites, 0.3) for sites in each]
    joint, log_q = (torch.stack(parts, dim=1) for parts in zip(*found, strict=True))
    elbo = (log_q.exp() * (joint - log_q)).sum() / len(each)
    return elbo, joint.exp().sum(0).mean(0).log().sum()


@GUIDES
@SIDE_BY_SIDE
@pytest.mark.parametrize("count_prior", ["steps", "geometric"])
def test_the_bound_is_brute_force_over_counts_and_draws(
    small_air, guide_class, side_by_side, count_prior
):
    air = small_air(guide_class, count_prior=count_prior)
    k = 4
    pyro.set_rng_seed(1)
    each = draws(air, k, side_by_side, held=False)
    elbo, _ = elbo_and_bound(air, each)
    models_elbo, bound = elbo_and_bound(air, [held(sites) for sites in each])
    wanted = gradients(models_elbo - elbo - bound, air, keep=True)

    pyro.set_rng_seed(1)
    estimator = ImportanceWeightedELBO(k, vectorize_particles=side_by_side)
    loss = estimator.differentiable_loss(*air)
    torch.testing.assert_close(loss, -bound, rtol=1e-12, atol=1e-9)
    found = gradients(loss, air)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(estimator.terms["iw_bound"], bound, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(estimator.terms["elbo"], elbo, rtol=1e-12, atol=1e-9)

    # The mutation: the model's weights learning from the ELBO as well.
    mutated = gradients(-elbo - bound, air)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(mutated, wanted, rtol=1e-9, atol=1e-9)


def test_the_bound_alone_would_not_teach_the_guide_to_count(small_air):
    """The mutation that shows why the guide has the ELBO."""
    air = small_air(max_objects=2)
    head = air.guide.step[-1].bias
    elbo, bound = elbo_and_bound(air, draws(air, 3, False, held=False))
    (alone,) = torch.autograd.grad(bound, head, retain_graph=True)
    assert alone[0] == 0
    assert alone[1:].any()
    assert torch.autograd.grad(elbo, head)[0][0].abs() > 1e-3


@SIDE_BY_SIDE
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("beta", [1.0, 0.7])
def test_the_guide_learns_as_from_marginal(small_air, side_by_side, k, beta):
    air = small_air(RecurrentGuide)
    pyro.set_rng_seed(1)
    marginal = MarginalELBO(k, analytic=False, vectorize_particles=side_by_side)
    loss = marginal.differentiable_loss(*air, beta=beta)
    weights = list(air.guide.parameters())
    wanted = torch.autograd.grad(loss, weights)
    pyro.set_rng_seed(1)
    weighted = ImportanceWeightedELBO(k, vectorize_particles=side_by_side)
    bound = weighted.differentiable_loss(*air, beta=beta)
    found = torch.autograd.grad(bound, weights)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    # What the marginal one pays for a q(n) that is not the posterior, already with one draw.
    assert bound < loss - 1e-3
    for name, value in marginal.terms.items():
        torch.testing.assert_close(weighted.terms[name], value)


def test_more_draws_make_a_higher_bound(small_air):
    air = small_air(images=1)
    many = air.images.repeat(4_000, 1, 1)
    found = []
    for k in (1, 3, 20):
        bound = ImportanceWeightedELBO(k).bound(air.model, air.guide, many)
        assert bound.shape == (4_000,)
        assert not bound.requires_grad
        found.append(bound)
    for lower, higher in itertools.pairwise(found):
        error = ((lower.var() + higher.var()) / 4_000).sqrt()
        assert higher.mean() - lower.mean() > 5 * error


# Wake-sleep


@GUIDES
@SIDE_BY_SIDE
def test_wake_sleep_is_brute_force(small_air, guide_class, side_by_side):
    air = small_air(guide_class)
    model, guide, images = air
    k = 4
    pyro.set_rng_seed(1)
    log_p, log_q = [], []
    for sites in draws(air, k, side_by_side, held=True):
        values = {name: site["value"] for name, site in sites.items() if name.startswith("z_")}
        for joints, net in ((log_p, model), (log_q, guide)):
            trace = poutine.trace(poutine.condition(net, data=values)).get_trace(images)
            trace.compute_log_prob()
            nodes = [site for name, site in trace.nodes.items() if name[0] in "zx"]
            joints.append(sum(site["log_prob"] for site in nodes))
    log_p, log_q = torch.stack(log_p), torch.stack(log_q)
    log_w = log_p - log_q
    bound = (log_w.logsumexp(0) - math.log(k)).sum()
    weights = log_w.softmax(0).detach()
    own = [weight for _, weight in model.named_parameters()]
    its = [weight for _, weight in guide.named_parameters()]
    theta = torch.autograd.grad(-(log_p.exp() / log_q.detach().exp()).mean(0).log().sum(), own)
    phi = torch.autograd.grad(-(weights * log_q).sum(), its, retain_graph=True)

    pyro.set_rng_seed(1)
    estimator = ReweightedWakeSleepELBO(k, vectorize_particles=side_by_side)
    loss = estimator.differentiable_loss(*air)
    torch.testing.assert_close(loss, -bound)
    found = torch.autograd.grad(loss, [*own, *its])
    torch.testing.assert_close(found, (*theta, *phi), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(estimator.terms["elbo"], log_w.mean(0).sum())
    assert all(weight.requires_grad for weight in own)

    # A mutation: one weight for the whole batch.
    batch = torch.autograd.grad(-(log_w.sum(1).softmax(0).detach() @ log_q.sum(1)), its)
    assert (batch[0] - phi[0]).norm() > 0.1 * phi[0].norm()


def test_a_gradient_through_the_draws_is_told_from_wake_sleep(small_air):
    """The mutation that pyro.infer.ReweightedWakeSleep has: values detached after the guide ran."""
    air = small_air()
    wanted = []
    for draw in (HeldDraws, nullcontext):
        pyro.set_rng_seed(1)
        with draw():
            trace = poutine.trace(air.guide).get_trace(air.images)
        trace.detach_()
        trace.compute_log_prob()
        total = sum(site["log_prob"].sum() for name, site in trace.nodes.items() if name[0] == "z")
        wanted.append(torch.autograd.grad(total, air.guide.encoder[-1].weight)[0])
    assert (wanted[0] - wanted[1]).norm() > 0.01 * wanted[0].norm()


def test_wake_sleep_needs_two_draws():
    with pytest.raises(ValueError, match="2 or more"):
        ReweightedWakeSleepELBO(1)


def test_frozen_weights_thaw(small_air):
    air = small_air()
    first = air.model.decoder[0]
    first.bias.requires_grad_(False)
    with frozen(air.model):
        assert not any(weight.requires_grad for weight in air.model.parameters())
    assert first.weight.requires_grad
    assert not first.bias.requires_grad


# Both


@GUIDES
@ESTIMATORS
@SIDE_BY_SIDE
def test_a_batch_of_one(small_air, guide_class, estimator_class, side_by_side):
    air = small_air(guide_class, images=1)
    estimator = estimator_class(3, vectorize_particles=side_by_side)
    loss = estimator.differentiable_loss(*air)
    assert loss.shape == ()
    assert all(gradient.isfinite().all() for gradient in gradients(loss, air).values())
    assert math.isfinite(estimator.loss(*air))
    assert all(value.shape == () for value in estimator.terms.values())


@ESTIMATORS
def test_draws_side_by_side_are_draws_one_after_another(small_air, estimator_class):
    air = small_air(images=1)
    many = air.images.repeat(500, 1, 1)
    means, errors = [], []
    for side_by_side in (True, False):
        estimator = estimator_class(3, vectorize_particles=side_by_side)
        losses = [estimator.loss(air.model, air.guide, many) / 500 for _ in range(20)]
        means.append(torch.tensor(losses).mean())
        errors.append(torch.tensor(losses).var() / 20)
    assert (means[0] - means[1]).abs() < 5 * sum(errors).sqrt()


@ESTIMATORS
def test_terms_are_those_of_the_elbo_at_beta_1(small_air, estimator_class):
    air = small_air()
    found = []
    for beta in (1.0, torch.tensor(0.5)):
        pyro.set_rng_seed(1)
        estimator = estimator_class(3)
        estimator.differentiable_loss(*air, beta=beta)
        terms = estimator.terms
        kl = terms["kl_z_pres"] + terms["kl_z_where"] + terms["kl_z_what"]
        torch.testing.assert_close(terms["elbo"], terms["log_likelihood"] - kl)
        assert not any(value.requires_grad for value in terms.values())
        found.append(terms)
    torch.testing.assert_close(found[1], found[0])


@ESTIMATORS
def test_as_a_module_and_in_svi(small_air, estimator_class):
    air = small_air(max_objects=2)
    elbo = estimator_class(4)(air.model, air.guide)
    elbo(air.images).backward()
    both = nn.ModuleList([air.model, air.guide])
    assert all(weight.grad is not None and weight.grad.any() for weight in both.parameters())

    before = {name: weight.detach().clone() for name, weight in parameters(air).items()}
    svi = SVI(air.model, air.guide, pyro.optim.Adam({"lr": 0.02}), loss=estimator_class(4))
    images = air.images.repeat(8, 1, 1)
    losses = torch.tensor([svi.step(images) for _ in range(50)])
    spread = losses[-10:].std()
    assert losses[-10:].mean() < losses[:10].mean() - 5 * spread / 10**0.5
    for name, weight in parameters(air).items():
        assert not torch.equal(weight, before[name]), name
