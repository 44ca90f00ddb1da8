"""Relaxed presence: a gradient that is biased on purpose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions import RelaxedBernoulli
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyro_models.presence import all_present
from train.estimators.base import DifferentiableELBO, Program
from train.estimators.contract import (
    ELSE,
    Contract,
    Pattern,
    run_guide,
    run_model,
    samples,
    with_values,
)
from train.estimators.costs import (
    Cost,
    Site,
    Weight,
    difference,
    drawn,
    loss_and_terms,
    of_sites,
)


class ConcreteELBO(DifferentiableELBO):
    r"""The ELBO of relaxed presences, in place of those that are 0 or 1. **It is biased.**

    .. math::
        y_i & \sim \text{RelaxedBernoulli}(p_i, \tau), \quad \tilde z_i = y_i \, \tilde z_{i - 1} \\
        \tilde L & = \log p(x | \tilde z, z) - \sum_i \tilde z_{i - 1} \,
            \text{KL}(\text{Bern}(p_i) \, \| \, \text{Bern}(\pi_i)) - \sum_i \tilde z_i \, \kappa_i

    with :math:`p_i, \pi_i` the guide's and the prior's presence probabilities where all earlier
    objects are present, and :math:`\kappa_i` the divergences of the latents that are masked by
    presence :math:`i`. What no presence masks has the weight 1, wherever it is drawn.
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

    by_count = True

    def __init__(self, num_particles: int = 1, *, temperature: float = 0.5, **options: Any) -> None:
        super().__init__(num_particles, **options)
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}: it must be above 0")
        self.temperature = temperature

    def program_kwargs(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in kwargs.items() if name != "temperature"}

    def estimate(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        contract = self.prepare(model, guide, args, kwargs)
        require_relaxable(contract)
        temperature = torch.as_tensor(kwargs.get("temperature", self.temperature))
        kwargs = self.program_kwargs(kwargs)
        runs = (
            Relaxed(*pair, args, kwargs, contract, temperature)
            for pair in self.particles(model, guide)
        )
        return loss_and_terms(((run.costs(), run.scored()) for run in runs), self.num_particles)


def require_relaxable(contract: Contract) -> None:
    """Raises :class:`ValueError` if presences that are neither 0 nor 1 have no meaning."""
    for name, pattern in contract.model.items():
        if pattern is None:
            raise ValueError(
                f"site {name} of the model is masked by something else than the presence of "
                f"objects before it, which has no relaxed form: use MarginalELBO, or {ELSE}"
            )
    for name in contract.absent:
        raise ValueError(
            f"site {name} of the model is not absent for certain after an absent object: draw it "
            "with pyro_models.presence.presence_logits, or use MarginalELBO"
        )


class Relaxed:
    """A run of guide and model with relaxed presences.

    Args:
        model: The model.
        guide: Its guide.
        args: Passed to both.
        kwargs: Passed to both.
        contract: What holds of the two.
        temperature: Of the presences, of shape ().

    Raises:
        Changed: If the sites are not those of the contract.
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
        guide_trace, _ = run_guide(guide, args, kwargs, all_present if contract.row else None)
        self.guide = samples(guide_trace)
        contract.require_same(self.guide)
        # What there is of the objects up to each step: of none before the first.
        self.there: list[Weight] = [1.0]
        for name in contract.row:
            logits = self.guide[name]["fn"].logits
            relaxed = RelaxedBernoulli(temperature, logits=logits).rsample()
            self.there.append(self.there[-1] * relaxed)
        presences = dict(zip(contract.row, self.there[1:], strict=True))
        self.model = samples(run_model(model, with_values(guide_trace, presences), args, kwargs))
        contract.require_same(self.guide, self.model)

    def weight(self, pattern: Pattern) -> Weight:
        """How much there is of the objects that a mask asks for."""
        if all(pattern):
            return 1.0
        first = pattern.index(True) if any(pattern) else len(pattern)
        if any(pattern) and all(pattern[first:]):
            return self.there[first]
        after = [*self.there[1:], 0.0]
        parts = [a - b for a, b, wanted in zip(self.there, after, pattern, strict=True) if wanted]
        return sum(parts, start=0.0)

    def under(self, pattern: Pattern, site: Site, value: Tensor) -> Tensor:
        """A value under a mask, relaxed."""
        value, weight = scale_and_mask(value, mask=site["mask"]), self.weight(pattern)
        return value if isinstance(weight, float) and weight == 1 else weight * value

    def under_model(self, site: Site, value: Tensor) -> Tensor:
        return self.under(self.contract.model[site["name"]], site, value)

    def under_guide(self, site: Site, value: Tensor) -> Tensor:
        return self.under(self.contract.guide[site["name"]], site, value)

    def costs(self) -> list[Cost]:
        """What each site adds to the relaxed ELBO."""
        row, closed = self.contract.row, self.contract.ordered
        found = of_sites(
            self.model, self.guide, self.under_model, self.under_guide, left_out=row, closed=closed
        )
        for i, name in enumerate(row):
            guide_site, site = self.guide[name], self.model.get(name)
            chosen = guide_site["fn"].probs

            def mean(under: Site, of: Site, i: int = i, chosen: Tensor = chosen) -> Tensor:
                """The mean log-probability of a presence that is drawn as the guide draws it."""
                present = of["fn"].log_prob(torch.ones_like(chosen))
                absent = of["fn"].log_prob(torch.zeros_like(chosen))
                value = chosen * present + (1 - chosen) * absent
                return self.there[i] * scale_and_mask(value, mask=under["mask"])

            q = mean(guide_site, guide_site)
            p = None if site is None or site["is_observed"] else mean(site, site)
            found.append(difference(guide_site, site, q, p))
        return found

    def scored(self) -> list[Site]:
        """The guide's draws that are not relaxed."""
        return drawn(self.guide, self.contract.row)
