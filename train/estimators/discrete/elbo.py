"""An ELBO whose discrete sites each have a gradient estimator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
from pyro.infer.elbo import ELBOModule
from torch import Tensor, nn

from train.estimators.base import DifferentiableELBO
from train.estimators.contract import Contract
from train.estimators.costs import log_prob
from train.estimators.discrete.dependencies import find_dependencies
from train.estimators.discrete.groups import Group, combined, groups_of
from train.estimators.discrete.names import by_name
from train.estimators.discrete.plan import Plan
from train.estimators.discrete.runs import Runner
from train.estimators.discrete.site import SiteEstimator
from train.estimators.programs import Program, preserved_state, run_guide, samples


class DiscreteELBO(DifferentiableELBO):
    r"""The ELBO of any pair, with a gradient estimator for each discrete latent of the guide.

    A site names its estimator as ``infer={"estimator": "disarm"}``; others have the default. Names
    are in :data:`~.names.SITE_ESTIMATORS`; an instance of :class:`~.site.SiteEstimator` can stand
    in place of a name, and has its own parameters. Reparameterised sites have their gradients
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
        analytic: Whether KL divergences of reparameterised latents are taken in closed form where
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
        >>> import torch
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
        self._groups: list[Group] = []
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
        assert plan is not None
        runner = Runner(
            *(model, guide, args, kwargs, contract),
            vectorized=self.vectorize_particles,
            analytic=contract.ordered - plan.estimated.keys() if self.analytic else (),
            relaxed=plan.relaxed,
        )
        estimates = [group.estimate(runner, plan) for group in self._groups]
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
            if choice in self.estimators.values():
                # Made before there was a program, of which a device and a precision could be known.
                value = log_prob(sites[name])
                choice.to(device=value.device, dtype=value.dtype)
            chosen[name] = choice
        self._plan = Plan.of(chosen, dependencies, sites, self.num_particles)
        self._groups = list(groups_of(self._plan, self.num_particles))
        self._examined = examined
        return contract
