"""Reweighted wake-sleep: the guide is fitted to importance-weighted draws."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_models.announcements import SampleTracer, leaves_weights
from train.estimators.base import DifferentiableELBO
from train.estimators.costs import (
    Cost,
    Kind,
    Site,
    Summand,
    annealed_weights,
    elbo_terms,
    guide_only_cost,
    latent_sites,
    log_prob,
    scaled,
)
from train.estimators.counts import Counts
from train.estimators.programs import Program, run_model
from train.estimators.weights import ImportanceWeights, importance_weighted


class ReweightedWakeSleepELBO(DifferentiableELBO):
    r"""Reweighted wake-sleep: no gradient goes through a draw, so presences are drawn as they are.

    With :math:`K` draws from the guide for each datum and their importance weights

    .. math:: w_k = \frac{p(x, z^k)}{q(z^k | x)}, \qquad \bar w_k = \frac{w_k}{\sum_j w_j},

    the model maximises :math:`\log \frac{1}{K} \sum_k w_k` (wake-theta) and the guide
    :math:`\sum_k \bar w_k \log q(z^k | x)` with draws and weights detached (wake-phi). Both
    gradients are biased and consistent as :math:`K` grows. Wake-phi minimises
    :math:`\text{KL}(p \| q)`, where the ELBO has :math:`\text{KL}(q \| p)`. The value is the bound.
    For weights with sites outside a plate, and for a scale :math:`\beta` of the guide's draws, see
    :class:`~train.estimators.ImportanceWeightedELBO`.

    :class:`pyro.infer.ReweightedWakeSleep` is not used for two reasons. It has one weight for a
    whole batch, so that a single draw gets all of the weight. And where a guide's distributions
    depend on earlier reparameterised draws, its wake-phi has the gradient through these draws.

    Args:
        num_particles: The number :math:`K` of draws, 2 or more.
        vectorize_particles: Whether the draws are made in parallel rather than one after another.
        options: See :class:`~train.estimators.base.DifferentiableELBO`.

    Raises:
        ValueError: If there are fewer than 2 draws, as the normalised weight of a single draw is
            always 1; or if the guide's draws have different scales.

    References:
        | Revisiting Reweighted Wake-Sleep for Models with Stochastic Control Flow (Le et al., 2019)
        | https://arxiv.org/abs/1805.10469
    """

    def __init__(
        self, num_particles: int = 10, *, vectorize_particles: bool = True, **options: Any
    ) -> None:
        if num_particles < 2:
            raise ValueError(f"num_particles is {num_particles}: wake-sleep needs 2 or more")
        super().__init__(num_particles, vectorize_particles=vectorize_particles, **options)

    def estimate(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        contract = self.prepare(model, guide, args, kwargs)
        contract.require_one_scale("ReweightedWakeSleepELBO")
        log_weights, log_q, all_costs = [], [], []
        for particle_model, particle_guide in self.particles(model, guide):
            # A guide may draw with the model's decoder, which wake-phi must not change.
            with frozen(model), DetachedDraws():
                guide_trace = SampleTracer()(particle_guide).get_trace(*args, **kwargs)
            model_trace = run_model(particle_model, guide_trace, args, kwargs)
            run = Counts(guide_trace, model_trace, contract, self.max_plate_nesting + 1)
            costs = wake_theta_costs(run)
            weights = ImportanceWeights(run, costs)
            log_weights.append(weights.log_weights())
            log_q.append(weights.to_plates(guide_log_probs(run)))
            all_costs += costs
        loss = self._loss(self.by_particle(log_weights), self.by_particle(log_q), weights.scale)
        return loss, elbo_terms(all_costs, self.num_particles)

    def _loss(self, log_weights: Tensor, log_q: Tensor, scale: Tensor | float) -> Tensor:
        """Returns the negative bound, with the gradients of wake-theta and wake-phi."""
        bound = scale * importance_weighted(log_weights).sum()
        wake_phi = scale * (log_weights.detach().softmax(0) * log_q).sum()
        return -bound - (wake_phi - wake_phi.detach())


def wake_theta_costs(run: Counts) -> list[Cost]:
    """Returns the cost of each site, with the guide's log-probabilities detached."""
    return [model_cost(site) for site in run.model.values()] + [
        detached_guide_cost(site) for site in run.guide.values()
    ]


def model_cost(site: Site) -> Cost:
    """Returns the cost of a site of the model at its value."""
    value = scaled(scale_and_mask(log_prob(site), mask=site["mask"]), site["scale"])
    kind: Kind = "log_likelihood" if site["is_observed"] else "kl"
    summands = (Summand(value, annealed_weights(site)),)
    return Cost(site["name"], kind, summands, site["cond_indep_stack"])


def detached_guide_cost(site: Site) -> Cost:
    """Returns the cost of a site of the guide, detached if it is a draw."""
    cost = guide_only_cost(site, partial(scale_and_mask, mask=site["mask"]))
    if site["is_observed"]:
        return cost
    summands = (summand._replace(value=summand.value.detach()) for summand in cost.summands)
    return cost._replace(summands=tuple(summands))


def guide_log_probs(run: Counts) -> list[tuple[Tensor, Any]]:
    """Returns the masked log-probabilities of the guide's draws, with their plates."""
    return [
        (scale_and_mask(log_prob(site), mask=site["mask"]), site["cond_indep_stack"])
        for site in latent_sites(run.guide)
    ]


@leaves_weights
class DetachedDraws(Messenger):
    """A Pyro handler that draws latents without a gradient through the draw."""

    def _pyro_sample(self, message: dict[str, Any]) -> None:
        # A subsampling site has its value already.
        if not message["done"] and not message["is_observed"] and message["value"] is None:
            message["value"] = message["fn"].sample()
            message["done"] = True


@contextmanager
def frozen(module: Program) -> Iterator[None]:
    """Makes a module's weights constants within the context; other callables have no weights."""
    weights = list(module.parameters()) if isinstance(module, nn.Module) else []
    requires_grad = [weight.requires_grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(False)
        yield
    finally:
        for weight, required in zip(weights, requires_grad, strict=True):
            weight.requires_grad_(required)
