"""Relaxed presence: a gradient that is biased on purpose."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from pyro.distributions import RelaxedBernoulli
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_models.presence import FixPresence, all_present
from train.estimators.base import DifferentiableELBO, Program, summarise
from train.estimators.counts import divergence


class ConcreteELBO(DifferentiableELBO):
    r"""The ELBO of relaxed presences, in place of those that are 0 or 1. **It is biased.**

    .. math::
        y_i & \sim \text{RelaxedBernoulli}(p_i, \tau), \quad \tilde z_i = y_i \, \tilde z_{i - 1} \\
        \tilde L & = \log p(x | \tilde z, z) - \sum_i \tilde z_{i - 1} \,
            \text{KL}(\text{Bern}(p_i) \, \| \, \text{Bern}(\pi_i)) - \sum_i \tilde z_i \, \kappa_i

    with :math:`p_i, \pi_i` the guide's and the prior's presence probabilities where all earlier
    objects are present, and :math:`\kappa_i` the divergences of object :math:`i`'s other latents.
    The model must take a presence as a weight; half an object is half as bright. As the
    temperature :math:`\tau` goes to 0 the value becomes an estimate of the ELBO, and the variance
    of its gradient grows without bound. At any other it is an estimate of neither the ELBO nor a
    bound, whatever its size: compare models by another estimator's value.

    Args:
        num_particles: The number of draws that are averaged.
        temperature: :math:`\tau`, above 0; a keyword ``temperature`` of an estimate comes first,
            so that a schedule can change it.
        options: See :class:`~train.estimators.base.DifferentiableELBO`.

    Raises:
        ValueError: If the temperature is not above 0.

    References:
        | The Concrete Distribution (Maddison et al., 2017)
        | https://arxiv.org/abs/1611.00712
    """

    def __init__(self, num_particles: int = 1, *, temperature: float = 0.5, **options: Any) -> None:
        super().__init__(num_particles, **options)
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}: it must be above 0")
        self.temperature = temperature

    def estimate(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        kwargs = dict(kwargs)
        temperature = torch.as_tensor(kwargs.pop("temperature", self.temperature))
        log_likelihood: Tensor | float = 0.0
        kl: dict[str, Tensor] = {}
        scales: dict[str, Tensor | float] = {}
        for pair in self.particles(model, guide):
            log_p, costs, scales = self._relaxed(*pair, args, kwargs, temperature)
            log_likelihood = log_likelihood + log_p / self.num_particles
            for name, cost in costs.items():
                kl[name] = kl.get(name, 0.0) + cost / self.num_particles
        loss = sum(scales[name] * value for name, value in kl.items()) - log_likelihood
        return loss, summarise(log_likelihood, kl)

    def _relaxed(
        self,
        model: Program,
        guide: Program,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        temperature: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor | float]]:
        """Log-likelihood and the costs of the sites at a draw, summed over the batch; weights."""
        with FixPresence(all_present) as row:
            guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        presences = []
        there: Tensor | float = 1.0
        for name in row.names:
            relaxed = RelaxedBernoulli(temperature, logits=guide_trace.nodes[name]["fn"].logits)
            there = there * relaxed.rsample()
            presences.append(there)
        with FixPresence(lambda step, _: presences[step]):
            model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(
                *args, **kwargs
            )

        log_likelihood: Tensor | float = 0.0
        costs: dict[str, Tensor] = {}
        scales: dict[str, Tensor | float] = {}
        # The latents of an object come after its presence, and weigh as much as it is there.
        weight: Tensor | float = 1.0
        for name, site in poutine.util.prune_subsample_sites(model_trace).nodes.items():
            if site["type"] != "sample":
                continue
            scales[name] = site["scale"]
            if site["is_observed"]:
                log_likelihood = log_likelihood + site["fn"].log_prob(site["value"]).sum()
                continue
            guide_site = guide_trace.nodes[name]
            if name in row.names:
                costs[name] = (weight * kl_divergence(guide_site["fn"], site["fn"])).sum()
                weight = presences[row.names.index(name)]
            else:
                costs[name] = (weight * divergence(guide_site, site, analytic=True)).sum()
        return log_likelihood, costs, scales
