"""Relaxed presences: a biased gradient of low variance."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import RelaxedBernoulli
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyro_models.presence import all_present
from train.estimators.base import DifferentiableELBO
from train.estimators.contract import OTHER_ESTIMATORS, Contract, CountMask
from train.estimators.costs import (
    Cost,
    Site,
    Weight,
    kl_cost,
    latent_sites,
    mean_loss_and_terms,
    site_costs,
)
from train.estimators.programs import Program, run_guide, run_model, samples, with_values


class ConcreteELBO(DifferentiableELBO):
    r"""The ELBO with relaxed presences in [0, 1] in place of binary ones. **It is biased.**

    .. math::
        y_i & \sim \text{RelaxedBernoulli}(p_i, \tau), \quad \tilde z_i = y_i \, \tilde z_{i - 1} \\
        \tilde L & = \log p(x | \tilde z, z) - \sum_i \tilde z_{i - 1} \,
            \text{KL}(\text{Bern}(p_i) \, \| \, \text{Bern}(\pi_i)) - \sum_i \tilde z_i \, \kappa_i

    with :math:`p_i, \pi_i` the guide's and the prior's presence probabilities given that all
    earlier objects are present, and :math:`\kappa_i` the KL divergences of the latents that are
    masked by presence :math:`i`. A latent that no presence masks has weight 1.

    The model must take a presence as a factor: half an object is half as bright. As the temperature
    :math:`\tau` goes to 0 the value becomes an unbiased estimate of the ELBO, and the variance of
    its gradient grows without bound. At any other temperature the value estimates neither the ELBO
    nor a bound of it: compare models by another estimator's value.

    Args:
        num_particles: The number of draws that are averaged.
        temperature: :math:`\tau`, above 0. The keyword argument ``temperature`` of an estimate
            takes precedence, so that a schedule can change it.
        options: See :class:`~train.estimators.base.DifferentiableELBO`.

    Raises:
        ValueError: If the temperature is not above 0.

    References:
        | The Concrete Distribution (Maddison et al., 2017)
        | https://arxiv.org/abs/1611.00712
    """

    sums_counts = True
    annealed = ("temperature",)

    def __init__(self, num_particles: int = 1, *, temperature: float = 0.5, **options: Any) -> None:
        super().__init__(num_particles, **options)
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}: it must be above 0")
        self.temperature = temperature

    def estimate(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        contract = self.prepare(model, guide, args, kwargs)
        require_relaxable(contract)
        temperature = torch.as_tensor(kwargs.get("temperature", self.temperature))
        kwargs = self.program_kwargs(kwargs)
        runs = (
            RelaxedRun(*pair, args, kwargs, contract, temperature)
            for pair in self.particles(model, guide)
        )
        costs_and_draws = ((run.costs(), run.latents()) for run in runs)
        return mean_loss_and_terms(costs_and_draws, self.num_particles)


def require_relaxable(contract: Contract) -> None:
    """Raises :class:`ValueError` if a relaxed presence has no meaning in the model."""
    for name, mask in contract.model_masks.items():
        if mask is None:
            raise ValueError(
                f"site {name} of the model is masked by something else than the presence of "
                f"objects before it, which has no relaxed form: use MarginalELBO, or "
                f"{OTHER_ESTIMATORS}"
            )
    for name in contract.nonzero_after_absent:
        raise ValueError(
            f"site {name} of the model is not absent for certain after an absent object: draw it "
            "with pyro_models.presence.presence_logits, or use MarginalELBO"
        )


class RelaxedRun:
    r"""A run of guide and model with relaxed presences.

    Args:
        model: The model.
        guide: Its guide.
        args: Positional arguments of both.
        kwargs: Keyword arguments of both.
        contract: The pair's contract.
        temperature: The temperature :math:`\tau`, of shape ().

    Attributes:
        presences: The relaxed presences :math:`\tilde z_0 = 1, \tilde z_1, \dots, \tilde z_N`.

    Raises:
        SitesChanged: If the sites are not those of the contract.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        contract: Contract,
        temperature: Tensor,
    ) -> None:
        self.contract = contract
        names = contract.presences
        guide_trace, _ = run_guide(guide, args, kwargs, all_present if names else None)
        self.guide = samples(guide_trace)
        contract.require_sites(self.guide)
        self.presences: list[Weight] = [1.0]
        values: dict[str, Tensor] = {}
        for name in names:
            logits = self.guide[name]["fn"].logits
            relaxed = RelaxedBernoulli(temperature, logits=logits).rsample()
            values[name] = self.presences[-1] * relaxed
            self.presences.append(values[name])
        self.model = samples(run_model(model, with_values(guide_trace, values), args, kwargs))
        contract.require_sites(self.guide, self.model)

    def relaxed_mask(self, mask: CountMask) -> Weight:
        r"""Returns the relaxed form of a mask: :math:`\sum_n (\tilde z_n - \tilde z_{n+1})`.

        The sum is over the counts at which the mask is true, with :math:`\tilde z_{N+1} = 0`.
        """
        if all(mask):
            return 1.0
        first = mask.index(True) if any(mask) else len(mask)
        if any(mask) and all(mask[first:]):
            return self.presences[first]
        following = [*self.presences[1:], 0.0]
        differences = [
            a - b for a, b, value in zip(self.presences, following, mask, strict=True) if value
        ]
        return sum(differences, start=0.0)

    def masked(self, mask: CountMask, site: Site, value: Tensor) -> Tensor:
        """Returns a value under a site's mask, relaxed."""
        value, weight = scale_and_mask(value, mask=site["mask"]), self.relaxed_mask(mask)
        return value if isinstance(weight, float) and weight == 1 else weight * value

    def model_masked(self, site: Site, value: Tensor) -> Tensor:
        """Returns a value under the mask of a site of the model, relaxed."""
        mask = self.contract.model_masks[site["name"]]
        assert mask is not None
        return self.masked(mask, site, value)

    def guide_masked(self, site: Site, value: Tensor) -> Tensor:
        """Returns a value under the mask of a site of the guide, relaxed."""
        return self.masked(self.contract.guide_masks[site["name"]], site, value)

    def costs(self) -> list[Cost]:
        """Returns what each site adds to the relaxed ELBO."""
        names = self.contract.presences
        latents = site_costs(
            self.model,
            self.guide,
            self.model_masked,
            self.guide_masked,
            exclude=names,
            analytic=self.contract.ordered,
        )
        return latents + [self.presence_cost(i, name) for i, name in enumerate(names)]

    def presence_cost(self, step: int, name: str) -> Cost:
        """Returns the cost of a presence, in expectation over the guide's Bernoulli."""
        guide_site, site = self.guide[name], self.model.get(name)
        probability = guide_site["fn"].probs

        def expected_log_prob(site: Site) -> Tensor:
            """Returns the expected log-probability of the presence under a site."""
            present = site["fn"].log_prob(torch.ones_like(probability))
            absent = site["fn"].log_prob(torch.zeros_like(probability))
            value = probability * present + (1 - probability) * absent
            return self.presences[step] * scale_and_mask(value, mask=site["mask"])

        log_q = expected_log_prob(guide_site)
        log_p = None if site is None or site["is_observed"] else expected_log_prob(site)
        return kl_cost(guide_site, site, log_q, log_p)

    def latents(self) -> list[Site]:
        """Returns the guide's draws that are not relaxed."""
        return latent_sites(self.guide, self.contract.presences)
