"""Runs of guide and model, each for the sites whose gradients it estimates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from train.estimators.costs import added, elbo_terms, is_masked, log_prob, total, unmasked, weighed
from train.estimators.discrete.dependencies import CostKey
from train.estimators.discrete.exhaustive import MOST, Enumerate, Weighted
from train.estimators.discrete.families import logits_of, require_family
from train.estimators.discrete.plan import Plan, Site
from train.estimators.discrete.runs import Run, Runner
from train.estimators.discrete.site import SiteDraws


@dataclass
class Estimate:
    """What a run says.

    Attributes:
        run: The run.
        weights: By cost, the weight of each particle, of shape (K, plates); equal if not there.
        surrogate: A scalar whose gradient is that of the group's sites.
    """

    run: Run
    weights: Mapping[CostKey, Tensor]
    surrogate: Tensor | float


@dataclass(frozen=True)
class Group:
    """Sites whose particles are independent.

    Attributes:
        names: The sites.
        particles: The number of particles.
    """

    names: tuple[str, ...]
    particles: int

    def estimate(self, runner: Runner, plan: Plan) -> Estimate:
        """Runs guide and model, and estimates the gradients of the group's sites."""
        leaves = [n for n in self.names if plan.estimated[n].estimator.needs_gradient]
        run = runner(self.particles, leaves=leaves)
        return Estimate(run, {}, self.surrogate(self.drawn(run, runner, plan), plan))

    def drawn(self, run: Run, runner: Runner, plan: Plan) -> dict[str, SiteDraws]:
        """Returns what a run has drawn at the group's sites."""
        return {name: drawn(run, name, runner, plan) for name in self.names}

    @staticmethod
    def surrogate(draws: Mapping[str, SiteDraws], plan: Plan) -> Tensor | float:
        """Sums the surrogates of all sites."""
        if not torch.is_grad_enabled():
            return 0.0
        return added(plan.estimated[n].estimator.surrogate(site) for n, site in draws.items())


class CoupledGroup(Group):
    """Sites whose particles are drawn together, given one draw of all that is before them."""

    @staticmethod
    def draw(name: str, site: Site, fn: Any, particles: int, width: int) -> Tensor:
        """Draws all particles of a site."""
        site.require_count(name, fn, particles)
        return site.estimator.draw(fn, particles, width, site.joint)

    def estimate(self, runner: Runner, plan: Plan) -> Estimate:
        ancestors = plan.dependencies.ancestors
        shared = frozenset().union(*(ancestors[name] for name in self.names))
        draw = {name: partial(self.draw, name, plan.estimated[name]) for name in self.names}
        run = runner(self.particles, shared=shared, draws=draw)
        draws = self.drawn(run, runner, plan)
        weights: dict[CostKey, Tensor] = {}
        site = plan.estimated[self.names[0]]
        if isinstance(site.estimator, Weighted):
            value = site.estimator.weights(draws[self.names[0]])
            weights = dict.fromkeys(site.downstream, value)
        return Estimate(run, weights, self.surrogate(draws, plan))


class EnumeratedGroup(Group):
    """Sites whose values are all run in parallel, as if they were particles."""

    @staticmethod
    def values(name: str, site: Site, inner: int, fn: Any, particles: int, width: int) -> Tensor:
        """Returns the values of a site in all combinations.

        Args:
            name: The site's name.
            site: The site.
            inner: The number of combinations of the sites after it.
            fn: Its distribution.
            particles: The number of all combinations.
            width: The number of dimensions of plates.
        """
        site.require_count(name, fn, particles)
        assert isinstance(site.estimator, Enumerate)
        repeated = site.estimator.grid(fn, width, site.joint).repeat_interleave(inner, 0)
        vectors = repeated.repeat(particles // len(repeated), *(1,) * (repeated.ndim - 1))
        return require_family(fn).value(vectors)

    def estimate(self, runner: Runner, plan: Plan) -> Estimate:
        sites = {name: plan.estimated[name] for name in self.names}
        total = 1
        for site in sites.values():
            total *= site.count
        if total > MOST:
            raise ValueError(
                f"sites {', '.join(self.names)} have {total:,} values together, more than the "
                f"{MOST:,} that are enumerated: give some of them disarm or rloo"
            )
        values, inner = {}, total
        for name, site in sites.items():
            inner //= site.count
            values[name] = partial(self.values, name, site, inner)
        run = runner(total, draws=values)
        draws = self.drawn(run, runner, plan)
        probabilities = {
            name: site.estimator.weights(draws[name])
            for name, site in sites.items()
            if isinstance(site.estimator, Enumerate)
        }
        weights: dict[CostKey, Tensor] = {}
        for key, latents in plan.dependencies.costs.items():
            wanted = plan.dependencies.closure(latents)
            weight: Tensor | float = 1.0
            for name, probability in probabilities.items():
                weight = weight * (probability if name in wanted else 1 / sites[name].count)
            if isinstance(weight, Tensor):
                weights[key] = weight
        surrogate = added(
            weighed(weight, run.value(key).detach()).sum()
            for key, weight in weights.items()
            if torch.is_grad_enabled()
        )
        return Estimate(run, {k: w.detach() for k, w in weights.items()}, surrogate)


def groups_of(plan: Plan, particles: int) -> Iterator[Group]:
    """Yields the sites that are estimated in one run, with their number of particles."""
    drawn = {n: s for n, s in plan.estimated.items() if not s.estimator.relaxes}
    enumerated = [n for n, s in drawn.items() if isinstance(s.estimator, Enumerate)]
    coupled = [n for n, s in drawn.items() if s.estimator.coupled and n not in enumerated]
    alone = [n for n in drawn if n not in coupled and n not in enumerated]
    if alone or not drawn:
        yield Group(tuple(alone), particles)
    if enumerated:
        yield EnumeratedGroup(tuple(enumerated), 0)
    layers: list[list[str]] = []
    for name in coupled:
        for layer in layers:
            if fit(plan, name, layer):
                layer.append(name)
                break
        else:
            layers.append([name])
    for layer in layers:
        yield CoupledGroup(tuple(layer), drawn[layer[0]].count)


def fit(plan: Plan, name: str, layer: list[str]) -> bool:
    """Whether a coupled site can be drawn in the run of others."""
    site, first = plan.estimated[name], plan.estimated[layer[0]]
    if isinstance(site.estimator, Weighted) or isinstance(first.estimator, Weighted):
        return False
    ancestors = plan.dependencies.ancestors
    related = any(other in ancestors[name] or name in ancestors[other] for other in layer)
    return not related and site.count == first.count


def drawn(run: Run, name: str, runner: Runner, plan: Plan) -> SiteDraws:
    """Returns what a run has drawn at a site."""
    site = plan.estimated[name]
    first = run.guides[0][name]
    vectors = run.vectors(name)
    events = logits_of(first["fn"]).ndim - len(first["fn"].batch_shape) if vectors else 0

    def compute_log_prob() -> Tensor:
        if not is_masked(first["fn"]):
            # Computed already, for the cost.
            return run.site(name, log_prob)
        return run.site(name, lambda s: unmasked(s["fn"]).log_prob(s["value"].detach()))

    def slope() -> Tensor:
        cost = run.summed(site.direct, name, joint=site.joint)
        leaves = [guide[name]["value"] for guide in run.guides]
        if not cost.requires_grad:
            return -log_q_slope()
        slopes = torch.autograd.grad(
            cost.sum(), leaves, retain_graph=True, materialize_grads=True, allow_unused=True
        )
        return run.arranged(slopes, events) - log_q_slope()

    def log_q_slope() -> Tensor:
        # A cost has the site's own log-probability detached, as of any that has no rsample.
        assert vectors is not None
        values, fixed = vectors.value.clone().requires_grad_(), vectors.logits.detach()
        (slopes,) = torch.autograd.grad(vectors.family.log_prob(fixed, values).sum(), values)
        weight = run.site(
            name,
            lambda s: scale_and_mask(fixed.new_ones(s["fn"].batch_shape), s["scale"], s["mask"]),
        )
        return slopes * weight.reshape(weight.shape + (1,) * events)

    def evaluate(relaxed: Tensor) -> Tensor:
        copies = len(relaxed) // run.particles
        fixed = plan.dependencies.not_after(name)
        values = {other: torch.cat([run.values(other)] * copies) for other in fixed}
        soft = runner(
            len(relaxed),
            values={**values, name: relaxed},
            soft=(name,),
            subsamples=run.subsamples,
        )
        return soft.summed(site.direct, name, joint=site.joint)

    # An estimator compares its cost with that at relaxed values, which all joint variables change.
    joint = site.joint if site.estimator.softens else ()

    return SiteDraws(
        name=name,
        fn=first["fn"],
        vectors=vectors,
        compute_log_prob=compute_log_prob,
        cost=run.summed(site.downstream, name, joint=joint, detach=True),
        joint=site.joint,
        infer=first["infer"],
        slope=slope,
        evaluate=evaluate,
    )


def combined(estimates: list[Estimate]) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns the loss and the terms of the mean of several runs."""
    first = estimates[0]
    if len(estimates) == 1 and not first.weights:
        costs = [cost for costs in first.run.costs for cost in costs]
        particles = first.run.particles
    else:
        particles = 1
        costs = []
        for estimate in estimates:
            share = 1 / len(estimates)
            weights = {key: weight * share for key, weight in estimate.weights.items()}
            costs += estimate.run.weighted(weights, share / estimate.run.particles)
    loss = -total(costs) / particles
    for estimate in estimates:
        surrogate = estimate.surrogate
        if isinstance(surrogate, Tensor):
            loss = loss - (surrogate - surrogate.detach())
    return loss, elbo_terms(costs, particles)
