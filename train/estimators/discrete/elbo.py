"""An ELBO whose discrete sites each have a gradient estimator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro
import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer.elbo import ELBOModule
from torch import Tensor, nn

from train.estimators.base import DifferentiableELBO
from train.estimators.contract import Contract, SitesChanged
from train.estimators.costs import elbo_terms, log_prob, total
from train.estimators.discrete.dependencies import CostKey, Dependencies, find_dependencies
from train.estimators.discrete.exhaustive import Enumerate, Weighted
from train.estimators.discrete.families import family_of, is_masked, logits_of, unmasked
from train.estimators.discrete.names import by_name
from train.estimators.discrete.runs import Run, Runner
from train.estimators.discrete.site import SiteDraws, SiteEstimator
from train.estimators.programs import Program, preserved_state, run_guide, samples


class DiscreteELBO(DifferentiableELBO):
    r"""The ELBO of any pair, with a gradient estimator for each discrete latent of the guide.

    A site names its estimator as ``infer={"estimator": "disarm"}``; others have the default. Names
    are in :data:`~.names.SITE_ESTIMATORS`; an instance of :class:`~.site.SiteEstimator` can stand
    in place of a name, and has its own parameters. Reparameterized sites have their gradients
    through values, as in :class:`~pyro.infer.Trace_ELBO`.

    The cost of a site is all that depends on it, found as Pyro's
    :class:`~pyro.infer.TraceGraph_ELBO` finds it, and summed within the site's plates, with scales,
    masks and subsampling. Sites whose particles are drawn together, as those of ``disarm``, are
    estimated in a run of their own: guide and model run :math:`K` times for all sites whose
    particles are independent, :math:`K` times for each coupled site that follows another one, and
    once more for each relaxed cost.

    The value of the loss is an unbiased estimate of the negative ELBO, unless a site is relaxed
    (``gumbel``, ``straight-through``).

    Args:
        estimator: The default estimator: a name or an instance.
        num_particles: The number :math:`K` of draws for each datum; what the default estimator
            needs if ``None``.
        vectorize_particles: Whether the draws are made in parallel, in an outermost plate. Model
            and guide must then broadcast.
        analytic: Whether KL divergences of reparameterized latents are taken in closed form where
            there is one.
        options: See :class:`~train.estimators.base.DifferentiableELBO`.

    Attributes:
        estimators: The estimators that were made by name. Their parameters, if they have any, are
            trained like those of the guide: they are in :meth:`__call__`'s module, and in Pyro's
            parameter store under ``estimators``.

    Raises:
        ValueError: When a loss is computed, if a site's distribution has no form for its estimator,
            or the number of particles does not fit; the message names the site.

    Example:
        >>> import pyro
        >>> import pyro.distributions as dist
        >>> from pyro.infer import SVI
        >>> def model():
        ...     z = pyro.sample("z", dist.Bernoulli(0.5))
        ...     pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.2))
        >>> def guide():
        ...     logit = pyro.param("logit", torch.tensor(0.0))
        ...     pyro.sample("z", dist.Bernoulli(logits=logit), infer={"estimator": "disarm"})
        >>> svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), DiscreteELBO(num_particles=2))
        >>> loss = svi.step()
    """

    def __init__(
        self,
        estimator: str | SiteEstimator = "rloo",
        num_particles: int | None = None,
        *,
        vectorize_particles: bool = True,
        analytic: bool = True,
        **options: Any,
    ) -> None:
        default = by_name(estimator) if isinstance(estimator, str) else estimator
        super().__init__(
            default.particles if num_particles is None else num_particles,
            vectorize_particles=vectorize_particles,
            **options,
        )
        self.default = default
        self.analytic = analytic
        self.estimators = nn.ModuleDict({default.title: default})
        self._plan: Plan | None = None
        self._collected = False

    def __call__(self, model: nn.Module, guide: nn.Module) -> ELBOModule:
        """Returns the loss as a module, whose parameters include those of the estimators."""
        module = super().__call__(model, guide)
        module.estimators = self.estimators
        self._collected = True
        return module

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Estimates the negative ELBO as a number, and accumulates its gradients."""
        self.prepare(model, guide, args, kwargs)
        if any(True for _ in self.estimators.parameters()):
            # pyro.infer.SVI trains what is announced while it computes gradients.
            pyro.module("estimators", self.estimators)
        return super().loss_and_grads(model, guide, *args, **kwargs)

    def estimate(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        contract, plan = self.prepare(model, guide, args, kwargs), self._plan
        runner = Runner(
            *(model, guide, args, kwargs, contract, plan.dependencies),
            vectorized=self.vectorize_particles,
            analytic=contract.ordered - plan.estimated.keys() if self.analytic else (),
            relaxed=plan.relaxed,
        )
        estimates = [group.estimate(runner, plan) for group in plan.groups(self.num_particles)]
        return combined(estimates)

    def _examine(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Contract:
        contract = super()._examine(model, guide, args, kwargs)
        # Until there is a plan, the pair is not examined: a pair that is refused stays so.
        examined, self._examined = self._examined, None
        dependencies = find_dependencies(model, guide, args, kwargs)
        with preserved_state(model, guide):
            trace, _ = run_guide(guide, args, kwargs)
            sites = samples(trace)
        enumerated = [name for name, site in sites.items() if site["infer"].get("enumerate")]
        for name in enumerated:
            raise ValueError(
                f"site {name} is marked for Pyro's enumeration, and DiscreteELBO draws it: give "
                'infer={"estimator": "enumerate"} at the guide\'s site instead, or use EnumELBO'
            )
        chosen = {}
        for name in dependencies.discrete:
            choice = sites[name]["infer"].get("estimator", self.default)
            if isinstance(choice, str):
                if choice not in self.estimators:
                    made = by_name(choice, name)
                    if self._collected and any(True for _ in made.parameters()):
                        raise ValueError(
                            f"site {name} names {choice}, whose parameters are made after those of "
                            "the module were collected: give the site an instance that is an "
                            "attribute of the guide, or DiscreteELBO this estimator"
                        )
                    self.estimators[choice] = made
                choice = self.estimators[choice]
            chosen[name] = choice
        self._plan = Plan.of(chosen, dependencies, sites, contract, self.num_particles)
        self._examined = examined
        return contract


@dataclass
class Site:
    """What is known of an estimated site before it is drawn.

    Attributes:
        estimator: Its estimator.
        count: The number of particles that it needs.
        downstream: The costs that depend on it.
        direct: Those that have a derivative with respect to its values.
        joint: See :attr:`~.site.SiteDraws.joint`.
        fn: Its distribution, in the run that was examined.
    """

    estimator: SiteEstimator
    count: int
    downstream: frozenset[CostKey]
    direct: frozenset[CostKey]
    joint: tuple[int, ...]
    fn: Any

    def require_count(self, name: str, fn: Any, particles: int) -> None:
        """Raises :class:`~.contract.SitesChanged` unless the number of values is as examined.

        It changes with the size of a plate, if the plate's members change one cost together.
        """
        if isinstance(self.estimator, Weighted):
            count = self.estimator.count(name, fn, particles, self.joint)
            if count != self.count:
                raise SitesChanged


@dataclass
class Plan:
    """Which sites are estimated in which runs.

    Attributes:
        dependencies: What depends on what.
        estimated: The estimated sites, by name.
    """

    dependencies: Dependencies
    estimated: dict[str, Site]

    @classmethod
    def of(
        cls,
        chosen: Mapping[str, SiteEstimator],
        dependencies: Dependencies,
        sites: Mapping[str, Any],
        contract: Contract,
        particles: int,
    ) -> Plan:
        """Makes the plan of a pair that was examined."""
        estimated = {}
        for name, estimator in chosen.items():
            fn = sites[name]["fn"]
            estimator.require(name, fn, particles)
            downstream = dependencies.downstream(name)
            own = [f for f in sites[name]["cond_indep_stack"] if f.vectorized]
            joint = tuple(
                f.dim
                for f in own
                if any(f.dim not in dependencies.plates[key] for key in downstream)
            )
            count = particles
            if isinstance(estimator, Weighted):
                count = estimator.count(name, fn, particles, joint)
            direct = dependencies.direct(name)
            estimated[name] = Site(estimator, count, downstream, direct, joint, fn)
        return cls(dependencies, estimated)

    @property
    def relaxed(self) -> dict[str, Any]:
        """The sites whose draws are relaxed, with the functions that draw them."""
        return {
            name: site.estimator.draw_relaxed(family_of(site.fn))
            for name, site in self.estimated.items()
            if site.estimator.relaxes
        }

    def groups(self, particles: int) -> Iterator[Group]:
        """Yields the sites that are estimated in one run, with their number of particles."""
        drawn = {n: s for n, s in self.estimated.items() if not s.estimator.relaxes}
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
                if self._fit(name, layer):
                    layer.append(name)
                    break
            else:
                layers.append([name])
        for layer in layers:
            yield CoupledGroup(tuple(layer), drawn[layer[0]].count)

    def _fit(self, name: str, layer: list[str]) -> bool:
        """Whether a coupled site can be drawn in the run of others."""
        site, first = self.estimated[name], self.estimated[layer[0]]
        if isinstance(site.estimator, Weighted) or isinstance(first.estimator, Weighted):
            return False
        ancestors = self.dependencies.ancestors
        related = any(other in ancestors[name] or name in ancestors[other] for other in layer)
        return not related and site.count == first.count


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
        return Estimate(run, {}, self.surrogate(run, runner, plan))

    def surrogate(self, run: Run, runner: Runner, plan: Plan) -> Tensor | float:
        """Sums the surrogates of all sites."""
        if not torch.is_grad_enabled():
            return 0.0
        sites = plan.estimated
        return sum(sites[n].estimator.surrogate(drawn(run, n, runner, plan)) for n in self.names)


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
        draws = {name: partial(self.draw, name, plan.estimated[name]) for name in self.names}
        run = runner(self.particles, shared=shared, draws=draws)
        weights: dict[CostKey, Tensor] = {}
        site = plan.estimated[self.names[0]]
        if isinstance(site.estimator, Weighted):
            value = site.estimator.weights(drawn(run, self.names[0], runner, plan))
            weights = dict.fromkeys(site.downstream, value)
        return Estimate(run, weights, self.surrogate(run, runner, plan))


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
        repeated = site.estimator.grid(fn, width, site.joint).repeat_interleave(inner, 0)
        vectors = repeated.repeat(particles // len(repeated), *(1,) * (repeated.ndim - 1))
        return family_of(fn).value(vectors)

    def estimate(self, runner: Runner, plan: Plan) -> Estimate:
        sites = {name: plan.estimated[name] for name in self.names}
        total = 1
        for site in sites.values():
            total *= site.count
        if total > MOST_TOGETHER:
            raise ValueError(
                f"sites {', '.join(self.names)} have {total:,} values together, more than the "
                f"{MOST_TOGETHER:,} that are enumerated: give some of them disarm or rloo"
            )
        draws, inner = {}, total
        for name, site in sites.items():
            inner //= site.count
            draws[name] = partial(self.values, name, site, inner)
        run = runner(total, draws=draws)
        probabilities = {
            name: site.estimator.weights(drawn(run, name, runner, plan))
            for name, site in sites.items()
        }
        weights: dict[CostKey, Tensor] = {}
        for key, latents in plan.dependencies.costs.items():
            wanted = plan.dependencies.closure(latents)
            weight: Tensor | float = 1.0
            for name, probability in probabilities.items():
                weight = weight * (probability if name in wanted else 1 / sites[name].count)
            if isinstance(weight, Tensor):
                weights[key] = weight
        surrogate = sum(
            (weight * run.value(key).detach()).sum()
            for key, weight in weights.items()
            if torch.is_grad_enabled()
        )
        return Estimate(run, {k: w.detach() for k, w in weights.items()}, surrogate)


MOST_TOGETHER = 4_096
"""The largest number of combinations of values that are enumerated."""


def drawn(run: Run, name: str, runner: Runner, plan: Plan) -> SiteDraws:
    """Returns what a run has drawn at a site."""
    site = plan.estimated[name]
    first = run.guides[0][name]
    family = family_of(first["fn"])
    events = 0
    logits = value = None
    if family is not None:
        events = logits_of(first["fn"]).ndim - len(first["fn"].batch_shape)
        logits = run.site(name, lambda s: logits_of(s["fn"]), events)
        value = run.site(
            name, lambda s: family.vector(s["value"].detach(), logits_of(s["fn"]).detach()), events
        )
        value = value.expand(logits.shape)

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
        vectors, fixed = value.clone().requires_grad_(), logits.detach()
        (slopes,) = torch.autograd.grad(family.log_prob(fixed, vectors).sum(), vectors)
        weight = run.site(
            name,
            lambda s: scale_and_mask(fixed.new_ones(s["fn"].batch_shape), s["scale"], s["mask"]),
        )
        return slopes * weight.reshape(weight.shape + (1,) * events)

    def evaluate(vectors: Tensor) -> Tensor:
        copies = len(vectors) // run.particles
        fixed = plan.dependencies.not_after(name)
        values = {other: torch.cat([run.values(other)] * copies) for other in fixed}
        soft = runner(
            len(vectors),
            values={**values, name: vectors},
            soft=(name,),
            subsamples=run.subsamples,
        )
        return soft.summed(site.direct, name, joint=site.joint)

    # An estimator compares its cost with that at relaxed values, which all joint variables change.
    joint = site.joint if site.estimator.softens else ()

    return SiteDraws(
        name=name,
        fn=first["fn"],
        family=family,
        logits=logits,
        value=value,
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
