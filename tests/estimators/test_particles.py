"""Estimators with several draws: the importance-weighted bound and wake-sleep."""

from __future__ import annotations

import itertools
import math
from contextlib import nullcontext
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI
from torch import Tensor, nn

from guides.air import ConvolutionalGuide, RecurrentGuide, ResidualGuide
from guides.places import PlaceNormal
from tests.conftest import SmallAIR
from tests.estimators.exact import gradients, log_normal, parameters, picture, prior_presences
from train.estimators import ImportanceWeightedELBO, MarginalELBO, ReweightedWakeSleepELBO
from train.estimators.wake_sleep import DetachedDraws, frozen

GUIDES = pytest.mark.parametrize("guide_class", [ResidualGuide, RecurrentGuide, ConvolutionalGuide])
SIDE_BY_SIDE = pytest.mark.parametrize("side_by_side", [True, False])
ESTIMATORS = pytest.mark.parametrize(
    "estimator_class", [ImportanceWeightedELBO, ReweightedWakeSleepELBO]
)


def draws(air: SmallAIR, k: int, side_by_side: bool, detached: bool) -> list[dict[str, Any]]:
    """The guide's sites in each of K draws, made in the order in which the estimators make them.

    With ``held`` they are of the guide as it is, without: of the path with every object there.
    """
    model, guide, images = air
    present = {f"z_pres_{i}": torch.ones(len(images)) for i in range(model.max_objects)}
    net: Any = guide if detached else poutine.condition(guide, data=present)

    def run(program: Any) -> dict[str, Any]:
        with (
            frozen(model if detached else None),
            DetachedDraws() if detached else poutine.messenger.Messenger(),
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
            names = fn.arg_constraints if isinstance(fn, PlaceNormal) else ("loc", "scale")
            base = fn if isinstance(fn, PlaceNormal) else fn.base_dist
            self.base_dist = type(base)(*(getattr(base, name)[i] for name in names))

    def log_prob(self, value: Tensor) -> Tensor:
        log_prob = self.base_dist.log_prob(value)
        return log_prob if isinstance(self.base_dist, PlaceNormal) else log_prob.sum(-1)


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
        likelihood = log_normal(x, canvas, torch.tensor(model.likelihood_scale)).sum((-3, -2, -1))
        prior = prior_survival * (1 if last else 1 - priors[n])
        joints.append(likelihood + ratio + math.log(prior))
        if last:
            return torch.stack(joints), torch.stack(log_q)
        survival, prior_survival = survival * p, prior_survival * priors[n]
        z_where, z_what = (sites[f"{name}_{n}"]["value"] for name in ("z_where", "z_what"))
        where, what = (sites[f"{name}_{n}"]["fn"] for name in ("z_where", "z_what"))
        ratio = ratio + log_normal(z_where, where_loc, where_scale).sum(-1)
        ratio = ratio + log_normal(z_what, torch.zeros(()), torch.ones(())).sum(-1)
        ratio = ratio - where.log_prob(z_where) - what.log_prob(z_what)
        canvas = canvas + picture(model, z_what, z_where)
    raise AssertionError


# The importance-weighted bound


@GUIDES
@SIDE_BY_SIDE
@pytest.mark.parametrize(
    ("channels", "count_prior", "tight"),
    [(1, "steps", 1.0), (1, "geometric", 0.3), (3, "geometric", 0.3)],
)
def test_the_bound_is_brute_force_over_counts_and_draws(
    small_air, guide_class, side_by_side, channels, count_prior, tight
):
    air = small_air(guide_class, count_prior=count_prior, shape=(channels, 10, 11))
    k = 4
    pyro.set_rng_seed(1)
    actual = [log_joints(air, sites, 0.3) for sites in draws(air, k, side_by_side, detached=False)]
    joint, log_q = (torch.stack(values, dim=1) for values in zip(*actual, strict=True))
    bound = (joint.exp().sum(0).mean(0)).log().sum()
    divergence = (log_q.exp() * (log_q - joint.log_softmax(0))).sum() / k
    elbo = (log_q.exp() * (joint - log_q)).sum() / k
    learnt = tight * (bound - divergence) + (1 - tight) * elbo
    wanted = gradients(-learnt, air, keep=True)

    pyro.set_rng_seed(1)
    estimator = ImportanceWeightedELBO(k, tight=tight, vectorize_particles=side_by_side)
    loss = estimator.differentiable_loss(*air)
    torch.testing.assert_close(loss, -bound, rtol=1e-12, atol=1e-9)
    actual = gradients(loss, air)
    torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(estimator.terms["iw_bound"], bound, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(estimator.terms["elbo"], elbo, rtol=1e-12, atol=1e-9)

    # The mutation: the divergence left out.
    mutated = gradients(-learnt - tight * divergence, air)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(mutated, wanted, rtol=1e-9, atol=1e-9)


def test_the_bound_alone_would_not_teach_the_guide_to_count(small_air):
    """The mutation that shows why the divergence is there."""
    air = small_air(max_objects=2)
    head = air.guide.step[-1].bias
    actual = [log_joints(air, sites, 0.3) for sites in draws(air, 3, False, detached=False)]
    joint, log_q = (torch.stack(values, dim=1) for values in zip(*actual, strict=True))
    (gradient,) = torch.autograd.grad(joint.logsumexp((0, 1)).sum(), head, retain_graph=True)
    assert gradient[0] == 0
    assert gradient[1:].any()
    divergence = (log_q.exp() * (log_q - joint.log_softmax(0))).sum()
    assert torch.autograd.grad(divergence, head)[0][0].abs() > 1e-3


@GUIDES
@pytest.mark.parametrize("beta", [1.0, 0.7])
def test_one_draw_is_marginal(small_air, guide_class, beta):
    air = small_air(guide_class)
    pyro.set_rng_seed(1)
    marginal = MarginalELBO(analytic=False)
    loss = marginal.differentiable_loss(*air, beta=beta)
    wanted = gradients(loss, air)
    pyro.set_rng_seed(1)
    weighted = ImportanceWeightedELBO(1)
    bound = weighted.differentiable_loss(*air, beta=beta)
    torch.testing.assert_close(gradients(bound, air), wanted, rtol=1e-9, atol=1e-9)
    # What the marginal one pays for a q(n) that is not the posterior.
    assert bound < loss - 1e-3
    for name, value in marginal.terms.items():
        torch.testing.assert_close(weighted.terms[name], value)


def test_more_draws_make_a_higher_bound(small_air):
    air = small_air(images=1)
    many = air.images.repeat(1_500, 1, 1, 1)
    actual = []
    for k in (1, 5, 30):
        bound = ImportanceWeightedELBO(k).bound(air.model, air.guide, many)
        assert bound.shape == (1_500,)
        assert not bound.requires_grad
        actual.append(bound)
    for lower, higher in itertools.pairwise(actual):
        error = ((lower.var() + higher.var()) / 1_500).sqrt()
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
    for sites in draws(air, k, side_by_side, detached=True):
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
    model_weights = [weight for _, weight in model.named_parameters()]
    guide_weights = [weight for _, weight in guide.named_parameters()]
    theta = torch.autograd.grad(
        -(log_p.exp() / log_q.detach().exp()).mean(0).log().sum(), model_weights
    )
    phi = torch.autograd.grad(-(weights * log_q).sum(), guide_weights, retain_graph=True)

    pyro.set_rng_seed(1)
    estimator = ReweightedWakeSleepELBO(k, vectorize_particles=side_by_side)
    loss = estimator.differentiable_loss(*air)
    torch.testing.assert_close(loss, -bound)
    actual = torch.autograd.grad(loss, [*model_weights, *guide_weights])
    torch.testing.assert_close(actual, (*theta, *phi), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(estimator.terms["elbo"], log_w.mean(0).sum())
    assert all(weight.requires_grad for weight in model_weights)

    # A mutation: one weight for the whole batch.
    batch = torch.autograd.grad(-(log_w.sum(1).softmax(0).detach() @ log_q.sum(1)), guide_weights)
    assert (batch[0] - phi[0]).norm() > 0.1 * phi[0].norm()


def test_a_gradient_through_the_draws_is_told_from_wake_sleep(small_air):
    """The mutation that pyro.infer.ReweightedWakeSleep has: values detached after the guide ran."""
    air = small_air()
    wanted = []
    for draw in (DetachedDraws, nullcontext):
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
    many = air.images.repeat(1_000, 1, 1, 1)
    means, errors = [], []
    for side_by_side in (True, False):
        estimator = estimator_class(3, vectorize_particles=side_by_side)
        losses = [estimator.loss(air.model, air.guide, many) / 1_000 for _ in range(8)]
        means.append(torch.tensor(losses).mean())
        errors.append(torch.tensor(losses).var() / 8)
    assert (means[0] - means[1]).abs() < 5 * sum(errors).sqrt()


@ESTIMATORS
def test_terms_are_those_of_the_elbo_at_beta_1(small_air, estimator_class):
    air = small_air()
    actual = []
    for beta in (1.0, torch.tensor(0.5)):
        pyro.set_rng_seed(1)
        estimator = estimator_class(3)
        estimator.differentiable_loss(*air, beta=beta)
        terms = estimator.terms
        kl = terms["kl_z_pres"] + terms["kl_z_where"] + terms["kl_z_what"]
        torch.testing.assert_close(terms["elbo"], terms["log_likelihood"] - kl)
        assert not any(value.requires_grad for value in terms.values())
        actual.append(terms)
    torch.testing.assert_close(actual[1], actual[0])


@ESTIMATORS
def test_as_a_module_and_in_svi(small_air, estimator_class):
    air = small_air(max_objects=2)
    elbo = estimator_class(4)(air.model, air.guide)
    elbo(air.images).backward()
    both = nn.ModuleList([air.model, air.guide])
    assert all(weight.grad is not None and weight.grad.any() for weight in both.parameters())

    before = {name: weight.detach().clone() for name, weight in parameters(air).items()}
    svi = SVI(air.model, air.guide, pyro.optim.Adam({"lr": 0.02}), loss=estimator_class(4))
    images = air.images.repeat(8, 1, 1, 1)
    losses = torch.tensor([svi.step(images) for _ in range(50)])
    spread = losses[-10:].std()
    assert losses[-10:].mean() < losses[:10].mean() - 5 * spread / 10**0.5
    for name, weight in parameters(air).items():
        assert not torch.equal(weight, before[name]), name


class Draws(poutine.messenger.Messenger):
    """Gives a site its value."""

    def __init__(self, name: str, value: Tensor) -> None:
        super().__init__()
        self.name, self.value = name, value

    def _pyro_sample(self, message: dict[str, Any]) -> None:
        if message["name"] == self.name and not message["done"]:
            # A program that is examined has no dimension of the draws.
            drawn = message["fn"].batch_shape == self.value.shape
            message["value"], message["done"] = self.value if drawn else self.value[0], True


def test_a_discrete_latent_beside_presences_has_the_gradient_of_the_bound():
    # The guide's presence is the posterior, so that the objective's divergence is 0, and so is the
    # gradient of it. A weight's own log q must have its gradient, which an ELBO's need not.
    weights = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.4, -0.7, 1.3)]
    logit, prior, slope = weights
    x = torch.tensor([1.9], dtype=torch.float64)

    def log_joint(a: Tensor, z: float) -> Tensor:
        log_p = dist.Bernoulli(logits=prior).log_prob(a)
        log_p = log_p + math.log(0.3 if z else 0.7)
        return log_p + dist.Normal(2 * a * slope + z * prior, 1.0).log_prob(x)

    def model():
        with pyro.plate("data", 1, dim=-1):
            a = pyro.sample("a", dist.Bernoulli(logits=prior))
            z = pyro.sample("z", dist.Bernoulli(0.3 * x.new_ones(())), infer={"presence": True})
            pyro.sample("x", dist.Normal(2 * a * slope + z * prior, 1.0), obs=x)

    def guide():
        with pyro.plate("data", 1, dim=-1):
            a = pyro.sample("a", dist.Bernoulli(logits=logit + x * slope))
            z = log_joint(a, 1.0) - log_joint(a, 0.0)
            pyro.sample("z", dist.Bernoulli(logits=z), infer={"presence": True})

    estimator = ImportanceWeightedELBO(2, tight=1.0)
    exact, total = x.new_zeros(()), [torch.zeros_like(weight) for weight in weights]
    for pair in itertools.product((0.0, 1.0), repeat=2):
        a = x.new_tensor(pair)[:, None]
        log_q = dist.Bernoulli(logits=logit + x * slope).log_prob(a)
        log_w = torch.logaddexp(log_joint(a, 0.0), log_joint(a, 1.0)) - log_q
        exact = exact + log_q.sum().exp() * (log_w.logsumexp(0) - math.log(2)).sum()
        with Draws("a", a):
            loss = estimator.differentiable_loss(model, guide)
        for mean, gradient in zip(total, torch.autograd.grad(loss, weights), strict=True):
            mean -= log_q.sum().exp().detach() * gradient
    for mean, wanted in zip(total, torch.autograd.grad(exact, weights), strict=True):
        torch.testing.assert_close(mean, wanted, rtol=1e-9, atol=1e-9)
