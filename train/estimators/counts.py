"""A guide and model evaluated at every count in parallel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_models.presence import all_present, presence_of
from train.estimators.contract import Contract, CountMask
from train.estimators.costs import (
    Cost,
    Expectation,
    Site,
    SiteExpectation,
    common_plates,
    equal_scales,
    kl_cost,
    latent_sites,
    log_prob,
    masked,
    site_costs,
)
from train.estimators.examination import examine
from train.estimators.programs import (
    Program,
    presences_by_count,
    run_guide,
    run_model,
    samples,
    with_values,
)


class Counts:
    r"""A run of guide and model on the path with every object present, evaluated at each count.

    A count is the number of objects :math:`n = 0, \dots, N`. A value by count has :math:`N + 1`
    rows in a dimension left of all plates: row :math:`n` is the value if the first :math:`n`
    objects are present and no more. A program whose presences are not summed out has no such
    dimension.

    Args:
        guide_trace: The guide's trace, every object present.
        model_trace: The model's trace, given every count in parallel.
        contract: The pair's contract.
        dim: The dimension of counts, from the right.
        presences: The presences that the model was given: see
            :func:`~train.estimators.programs.presences_by_count`.

    Raises:
        SitesChanged: If the sites are not those of the contract.

    Attributes:
        guide: The guide's sites, by name.
        model: The model's sites, by name.
        log_q: :math:`\log q(n | z, x)`, neither scaled nor masked, of shape :math:`(N + 1, *)` with
            the presences' plates; ``None`` if presences are not summed out.
        log_q_steps: The summands of ``log_q``, one for each presence.
        stack: The plates of the presences.
    """

    def __init__(
        self,
        guide_trace: Trace,
        model_trace: Trace,
        contract: Contract,
        dim: int,
        presences: Sequence[Tensor] = (),
    ) -> None:
        self.guide = samples(guide_trace)
        self.model = samples(model_trace)
        contract.require_sites(self.guide, self.model)
        self.contract = contract
        self.dim = dim
        self.presences = presences
        self.log_q: Tensor | None = None
        self.stack: tuple[Any, ...] = ()
        self.log_q_steps: list[Tensor] = []
        self._mask_probabilities: dict[CountMask, Tensor] = {}
        if contract.presences:
            sites = [self.guide[name] for name in contract.presences]
            self.stack = self.model.get(contract.presences[0], sites[0])["cond_indep_stack"]
            self.log_q_steps = [
                self._zero_after_absent(i, site["fn"].log_prob(presences[i]))
                for i, site in enumerate(sites)
            ]
            self.log_q = sum(self.log_q_steps[1:], start=self.log_q_steps[0])
            self.q = self.log_q.exp()

    def _zero_after_absent(self, step: int, value: Tensor) -> Tensor:
        """Sets a value by count to zero where an object before the step's is absent."""
        if step == 0:
            return value
        return torch.where(self.presences[step - 1] > 0, value, 0.0)

    def has_counts(self, value: Tensor) -> bool:
        """Whether a value has a dimension of counts."""
        return self.log_q is not None and value.ndim >= self.dim and value.shape[-self.dim] > 1

    def mean(self, value: Tensor) -> Tensor:
        """Returns the expectation of a value by count under :attr:`q`."""
        return (self.q * value).sum(-self.dim) if self.has_counts(value) else value

    @cached_property
    def plates(self) -> list[Any]:
        """The plates around every site, the plate of the draws included."""
        return common_plates(
            site["cond_indep_stack"] for site in (*self.model.values(), *self.guide.values())
        )

    def mask_by_count(self, mask: CountMask) -> Tensor:
        """Returns a mask of the guide's as a tensor by count."""
        first = mask.index(True) if any(mask) else len(mask)
        if 0 < first < len(mask) and all(mask[first:]):
            # The usual mask is true at all counts from `first` on.
            return self.presences[first - 1] > 0
        counts = sum(self.presences[1:], start=self.presences[0])
        selected = [counts == n for n, value in enumerate(mask) if value]
        return sum(selected, start=torch.zeros_like(counts)) > 0

    def mask_probability(self, mask: CountMask) -> Tensor:
        """Returns the probability that a mask of the guide's is true."""
        if mask not in self._mask_probabilities:
            self._mask_probabilities[mask] = self.mean(self.mask_by_count(mask).to(self.q.dtype))
        return self._mask_probabilities[mask]

    def known_model_mask(self, site: Site) -> CountMask | None:
        """Returns the counts at which a site of the model is not masked; ``None`` if unknown.

        Known is the mask of :class:`~pyro_models.presence.where_present`.
        """
        presence = presence_of(site)
        for i, value in enumerate(self.presences if presence is not None else ()):
            if value is presence:
                return tuple(n > i for n in range(len(self.presences) + 1))
        return None

    def masks_nothing(self, site: Site) -> bool:
        """Whether a site of the guide is known to have a mask that is true in this run."""
        presence = presence_of(site)
        # All presences that are summed out are 1.
        return presence is not None and any(
            self.guide[name]["value"] is presence for name in self.contract.presences
        )

    @cached_property
    def same_masks(self) -> frozenset[str]:
        """The latents that are known to be masked at the same counts in model and guide."""
        return frozenset(
            name
            for name, site in self.guide.items()
            if name in self.model and self.masks_nothing(site)
            if self.contract.guide_masks[name] == self.known_model_mask(self.model[name])
        )

    def model_mean(self, site: Site, value: Tensor) -> Tensor:
        """Returns the expectation of a value under the mask of a site of the model."""
        mask = None if self.has_counts(value) else self.known_model_mask(site)
        if mask is not None:
            return self.mask_probability(mask) * value
        return self.mean(masked(value, site["mask"]))

    def guide_mean(self, site: Site, value: Tensor) -> Tensor:
        """Returns the expectation of a value under the mask of a site of the guide."""
        value = self._masked_in_guide(site, value)
        mask = self.contract.guide_masks[site["name"]]
        return value if all(mask) else self.mask_probability(mask) * value

    def model_by_count(self, site: Site, value: Tensor) -> Tensor:
        """Returns a value by count under the mask of a site of the model."""
        return masked(value, site["mask"])

    def guide_by_count(self, site: Site, value: Tensor) -> Tensor:
        """Returns a value by count under the mask of a site of the guide."""
        value = self._masked_in_guide(site, value)
        mask = self.contract.guide_masks[site["name"]]
        return value if all(mask) else torch.where(self.mask_by_count(mask), value, 0.0)

    def _masked_in_guide(self, site: Site, value: Tensor) -> Tensor:
        """Returns a value under the mask that a site of the guide has in this run."""
        return value if self.masks_nothing(site) else masked(value, site["mask"])

    def costs(self, *, analytic: bool) -> list[Cost]:
        """Returns the cost of each site, in expectation over counts.

        Args:
            analytic: Whether to take KL divergences in closed form if there is one.
        """
        closed_form = self.contract.ordered if analytic else frozenset()
        latents = site_costs(
            self.model,
            self.guide,
            self.model_mean,
            self.guide_mean,
            exclude=self.contract.presences,
            analytic=closed_form,
            same_mask=self.same_masks,
        )
        return latents + self.presence_costs(self.mean)

    def costs_by_count(self) -> list[Cost]:
        """Returns the cost of each site by count, with KL divergences at the draw."""
        expectations: tuple[SiteExpectation, ...] = self.model_by_count, self.guide_by_count
        latents = site_costs(
            self.model, self.guide, *expectations, exclude=self.contract.presences, live=True
        )
        return latents + self.presence_costs(lambda value: value)

    def presence_costs(self, expectation: Expectation) -> list[Cost]:
        """Returns the costs of the presences.

        Args:
            expectation: Maps a value by count to its expectation, or to itself.
        """
        costs = []
        for name, log_q in zip(self.contract.presences, self.log_q_steps, strict=True):
            guide_site, site = self.guide[name], self.model.get(name)
            log_q = self._masked_in_guide(guide_site, log_q)
            if site is None or site["is_observed"]:
                costs.append(kl_cost(guide_site, site, expectation(log_q), None))
                continue
            log_p = masked(log_prob(site), site["mask"])
            if equal_scales(guide_site, site):
                # One expectation, of the difference.
                costs.append(kl_cost(guide_site, site, None, expectation(log_p - log_q)))
            else:
                costs.append(kl_cost(guide_site, site, expectation(log_q), expectation(log_p)))
        return costs

    def mean_costs(self, costs: Iterable[Cost]) -> list[Cost]:
        """Returns the expectations over counts of :meth:`costs_by_count`."""
        return [
            cost._replace(
                summands=tuple(
                    summand._replace(value=self.mean(summand.value)) for summand in cost.summands
                )
            )
            for cost in costs
        ]

    def latents(self) -> list[Site]:
        """Returns the guide's draws, without the presences that are summed out."""
        return latent_sites(self.guide, self.contract.presences)


def count_out(
    model: Program,
    guide: Program,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    contract: Contract | None = None,
    *,
    nesting: int | None = None,
) -> Counts:
    r"""Runs guide and model once and evaluates every count.

    After an absent object all others are absent, so the guide's steps on the path with every
    object present serve all counts. The model is replayed with presences that have one more
    dimension on the left, with a row for each count; masks and canvases broadcast over it.

    Args:
        model: A model whose presences are marked as :mod:`pyro_models.presence` says.
        guide: Its guide, whose other latents depend on presences by masks alone.
        args: Positional arguments of both.
        kwargs: Keyword arguments of both.
        contract: The result of :func:`~train.estimators.examination.examine`, which is called if
            it is not given.
        nesting: The largest depth of nested plates, with the plate of vectorised draws if there is
            one around both programs; the contract's if not given.

    Raises:
        ValueError: If the guide marks no site as a presence, or depends on presences otherwise
            than by masks, or the model fails given every count in parallel.
    """
    kwargs = kwargs or {}
    if contract is None:
        contract = examine(model, guide, args, kwargs, sums_counts=True)
    dim = (contract.nesting if nesting is None else nesting) + 1
    guide_trace, names = run_guide(guide, args, kwargs, all_present if contract.presences else None)
    presences = by_count_like(guide_trace, names, dim)
    replayed = with_values(guide_trace, dict(zip(names, presences, strict=True)))
    model_trace = run_model(model, replayed, args, kwargs)
    return Counts(guide_trace, model_trace, contract, dim, presences)


def by_count_like(guide_trace: Trace, names: Sequence[str], dim: int) -> list[Tensor]:
    """Returns the presences of a trace at every count; none if there are no presences."""
    if not names:
        return []
    return presences_by_count(len(names), dim, samples(guide_trace)[names[0]]["fn"].logits)
