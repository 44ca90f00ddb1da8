r"""Checks what an estimator relies on in a pair of model and guide, by running the pair.

An estimator that sums the number of objects out runs a guide a single time, on the path on which
every object is present. That is right under two conditions. The guide's other draws depend on
presences by masks alone. And the model, given all counts in parallel, has at each count the
log-probabilities that it has given that count alone. :func:`examine` checks both on the first
batch, and raises an error that names a site where one of them does not hold.

A count is the number of objects, :math:`n = 0, \dots, N`: the first :math:`n` presences are 1, the
others 0.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer.util import is_validation_enabled
from pyro.poutine import Trace
from pyro.util import check_site_shape
from torch import Tensor

from pyro_models.presence import all_present
from train.estimators.contract import (
    OTHER_ESTIMATORS,
    Contract,
    CountMask,
    contract_without_counts,
    require_bernoulli,
    require_match,
)
from train.estimators.costs import Site, added, log_prob, plates
from train.estimators.programs import (
    Program,
    presences_by_count,
    preserved_state,
    run_guide,
    run_model,
    samples,
    with_values,
)


def examine(
    model: Program,
    guide: Program,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    sums_counts: bool,
) -> Contract:
    """Runs a pair and checks what an estimator relies on; waits for the device.

    Args:
        model: The model.
        guide: Its guide.
        args: Positional arguments of both.
        kwargs: Keyword arguments of both.
        sums_counts: Whether the estimator sums the number of objects out.

    Raises:
        ValueError: If something that the estimator relies on does not hold; the message names the
            site.
    """
    with preserved_state(model, guide) as reseed:
        reseed()
        guide_trace, presences = run_guide(
            guide, args, kwargs, all_present if sums_counts else None
        )
        if sums_counts and not has_presence(guide_trace):
            raise ValueError(
                'no site of the guide is marked with infer={"presence": True}: mark the presences, '
                f"or {OTHER_ESTIMATORS}"
            )
        require_bernoulli(guide_trace, presences)
        model_trace = run_model(model, guide_trace, args, kwargs)
        require_match(model_trace, guide_trace)
        if is_validation_enabled():
            check_shapes(guide_trace, model_trace)
        contract = contract_without_counts(model_trace, guide_trace)
        if presences:
            pair = (model, guide, args, kwargs)
            contract = CountExamination(*pair, reseed, contract.nesting).extended(contract)
    return contract


def has_presence(trace: Trace) -> bool:
    """Whether a trace has a site that is marked as a presence, drawn or observed."""
    return any(site["infer"].get("presence") for site in samples(trace).values())


def check_shapes(*traces: Trace) -> None:
    """Raises :class:`ValueError` if a log-probability is not of the shape of its site's plates."""
    for trace in traces:
        for site in samples(trace).values():
            message: Any = {**site, "log_prob": log_prob(site)}
            check_site_shape(message, sys.maxsize)


class CountExamination:
    """Runs a pair at one count after another and at all counts in parallel, and compares.

    Args:
        model: The model.
        guide: Its guide.
        args: Positional arguments of both.
        kwargs: Keyword arguments of both.
        reseed: Seeds the random number generators, so that runs differ in the count alone.
        nesting: The largest depth of nested plates.

    Raises:
        ValueError: If presences are in different plates.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        reseed: Callable[[], object],
        nesting: int,
    ) -> None:
        self.model, self.guide, self.args, self.kwargs = model, guide, args, kwargs
        self.reseed = reseed
        self.count_dim = nesting + 1  # from the right, left of all plates
        reseed()
        trace, self.presences = run_guide(guide, args, kwargs, all_present)
        self.full_trace = self.guide_at(trace, len(self.presences))
        sites = samples(self.full_trace)
        self.plates = plates(sites[self.presences[0]])
        for name in self.presences:
            if plates(sites[name]) != self.plates:
                raise ValueError(
                    f"site {name} is marked as a presence and is in other plates than "
                    f"{self.presences[0]}: {OTHER_ESTIMATORS}"
                )

    def guide_at(self, values: Trace, count: int | Tensor) -> Trace:
        """Traces the guide at a count, its other sites with the values of a trace.

        Args:
            values: The trace.
            count: A number, or a tensor with one for each member of the presences' plates.
        """
        others = values.copy()
        for name in self.presences:
            others.remove_node(name)
        self.reseed()
        trace, _ = run_guide(
            poutine.replay(self.guide, trace=others),
            self.args,
            self.kwargs,
            lambda step, site: torch.as_tensor(step < count) * all_present(step, site),
        )
        return trace

    def model_at(self, guide_trace: Trace) -> dict[str, Site]:
        """Returns the model's sites, replayed on a trace of the guide."""
        self.reseed()
        return samples(run_model(self.model, guide_trace, self.args, self.kwargs))

    def extended(self, contract: Contract) -> Contract:
        """Checks the pair at all counts, and adds what depends on counts to a contract.

        Raises:
            ValueError: If a site is not what an estimator relies on.
        """
        traces = [self.guide_at(self.full_trace, n) for n in range(len(self.presences) + 1)]
        guides = [samples(trace) for trace in traces]
        models = [self.model_at(trace) for trace in traces]
        check_sites("guide", guides)
        check_sites("model", models)
        self.check_presences(guides)
        masks = {name: self.guide_mask(name, [run[name] for run in guides]) for name in guides[-1]}
        for n, model_sites in enumerate(models):
            self.check_distributions(n, guides[n], guides[-1], model_sites, masks)
        by_count = self.check_broadcast(models)
        self.check_members(guides[-1], by_count, masks)
        for name, mask in masks.items():
            self.check_plates(name, guides[-1][name], self.plates, not all(mask))
        return contract._replace(
            presences=self.presences,
            guide_masks=masks,
            model_masks={name: count_mask([run[name] for run in models]) for name in models[-1]},
            nonzero_after_absent=self.nonzero_after_absent(models),
        )

    def nonzero_after_absent(self, models: list[dict[str, Site]]) -> tuple[str, ...]:
        """Returns the drawn presences of the model that cost something after an absent object."""
        return tuple(
            name
            for i, name in enumerate(self.presences)
            if not models[-1][name]["is_observed"]
            if any(masked_log_prob(models[n][name]).abs().max() > 1e-3 for n in range(i))
        )

    def check_presences(self, guides: list[dict[str, Site]]) -> None:
        """Raises unless the guide's presences are 0 for certain after an absent object."""
        for i, name in enumerate(self.presences):
            for n in range(i):
                if log_prob(guides[n][name]).abs().max() > 1e-3:
                    raise ValueError(
                        f"site {name} may be present after {self.presences[n]} is absent: draw it "
                        f"with pyro_models.presence.presence_logits, or {OTHER_ESTIMATORS}"
                    )

    def guide_mask(self, name: str, runs: list[Site]) -> CountMask:
        """Returns the counts at which the mask of a guide's site is true.

        Raises:
            ValueError: If the mask depends on something else as well.
        """
        mask = count_mask(runs)
        if mask is not None and name in self.presences:
            step = self.presences.index(name)
            # After an absent object the log-probability is zero, whatever the mask.
            mask = tuple(n >= step for n in range(len(runs))) if all(mask[step:]) else None
        if mask is None:
            raise ValueError(
                f"site {name} of the guide is masked by something else than the presence of "
                f"objects before it: {OTHER_ESTIMATORS}"
            )
        return mask

    def check_distributions(
        self,
        n: int,
        guide_sites: dict[str, Site],
        full_sites: dict[str, Site],
        model_sites: dict[str, Site],
        masks: Mapping[str, CountMask],
    ) -> None:
        """Raises unless the guide's draws at a count are distributed as with all objects present.

        A masked draw may have another distribution, if no other site depends on its value.

        Args:
            n: The count.
            guide_sites: The guide's sites at the count.
            full_sites: The guide's sites with all objects present.
            model_sites: The model's sites at the count.
            masks: The guide's masks.
        """
        redrawn = {}
        for name, site in guide_sites.items():
            if name in self.presences or close(log_prob(site), log_prob(full_sites[name])):
                continue
            if masks[name][n] or site["is_observed"]:
                raise ValueError(
                    f"site {name} of the guide depends on presences otherwise than by "
                    f"poutine.mask, or on random numbers that are no sites: {OTHER_ESTIMATORS}"
                )
            redrawn[name] = site["fn"].sample()
        if redrawn:
            self.check_unused(redrawn, n, guide_sites, model_sites)

    def check_unused(
        self,
        values: Mapping[str, Tensor],
        n: int,
        guide_sites: dict[str, Site],
        model_sites: dict[str, Site],
    ) -> None:
        """Raises if other values of masked draws change the log-probability of a site."""
        trace = self.guide_at(with_values(self.full_trace, values), n)
        pairs = {
            "guide": (samples(trace), guide_sites),
            "model": (self.model_at(trace), model_sites),
        }
        for kind, (changed, original) in pairs.items():
            for name, site in changed.items():
                if not close(masked_log_prob(site), masked_log_prob(original[name])):
                    raise ValueError(
                        f"site {name} of the {kind} depends on {', '.join(values)} where its "
                        "object is absent, and the guide draws it in another way there: "
                        f"{OTHER_ESTIMATORS}"
                    )

    def check_broadcast(self, models: list[dict[str, Site]]) -> dict[str, Tensor]:
        """Raises unless the model, given all counts in parallel, does what it does for each alone.

        Args:
            models: The model's sites at each count.

        Returns:
            The masked log-probability of each site, with a dimension of counts if it depends on
            the count.
        """
        remedy = f"it must broadcast over a dimension left of its plates, or {OTHER_ESTIMATORS}"
        sites = self.model_at_all_counts(remedy)
        values = {name: masked_log_prob(site) for name, site in sites.items()}
        first = self.presences[0]
        presence_plates = plates(sites[first]) if first in sites else self.plates
        for name, value in values.items():
            for n, run in enumerate(models):
                if name not in run or not close(self.at(value, n), masked_log_prob(run[name])):
                    raise ValueError(
                        f"site {name} of the model has another log-probability given all numbers "
                        f"of objects at once than given {n}: {remedy}"
                    )
            # Outside the plate, a site would depend on several members' counts, which are equal in
            # each of these runs.
            depends = self.has_counts(value) and bool(value.any())
            self.check_plates(name, sites[name], presence_plates, depends)
        return values

    def model_at_all_counts(self, remedy: str) -> dict[str, Site]:
        """Returns the model's sites given all counts in parallel; raises if the model fails."""
        like = log_prob(samples(self.full_trace)[self.presences[0]])
        steps = presences_by_count(len(self.presences), self.count_dim, like)
        values = dict(zip(self.presences, steps, strict=True))
        try:
            sites = self.model_at(with_values(self.full_trace, values))
            # Log-probabilities may fail as well; sites keep them.
            for site in sites.values():
                masked_log_prob(site)
        # PyTorch raises any of these in a model that is written for one count.
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise ValueError(
                f"the model fails given presences of shape {tuple(steps[0].shape)}, a row for each "
                f"number of objects ({str(error).splitlines()[0]}): {remedy}"
            ) from error
        return sites

    def has_counts(self, value: Tensor) -> bool:
        """Whether a value has a dimension of counts."""
        return value.ndim >= self.count_dim and value.shape[-self.count_dim] > 1

    def at(self, value: Tensor, count: int) -> Tensor:
        """Returns a value at one count."""
        return value.select(-self.count_dim, count) if self.has_counts(value) else value

    def check_members(
        self,
        full_sites: dict[str, Site],
        by_count: dict[str, Tensor],
        masks: Mapping[str, CountMask],
    ) -> None:
        """Raises unless each member of the presences' plates depends on its count alone."""
        first = log_prob(full_sites[self.presences[0]])
        members = torch.arange(first.numel(), device=first.device).reshape(first.shape)
        # Two assignments of counts, as one may be symmetric.
        for order in (members, members // 2):
            counts = order % (len(self.presences) + 1)
            self.check_mixed_counts(counts, full_sites, by_count, masks)

    def check_mixed_counts(
        self,
        counts: Tensor,
        full_sites: dict[str, Site],
        by_count: dict[str, Tensor],
        masks: Mapping[str, CountMask],
    ) -> None:
        """Raises unless members with different counts have the log-probabilities of these counts.

        Args:
            counts: The count of each member.
            full_sites: The guide's sites with all objects present.
            by_count: The model's masked log-probabilities, see :meth:`check_broadcast`.
            masks: The guide's masks.
        """
        trace = self.guide_at(self.full_trace, counts)
        for name, site in samples(trace).items():
            if name not in self.presences:
                expected = masked_by_count(masked_log_prob(full_sites[name]), masks[name], counts)
                require_members("guide", name, site, expected)
        for name, site in self.model_at(trace).items():
            expected = self.at_counts(by_count[name], counts)
            require_members("model", name, site, expected)

    def at_counts(self, value: Tensor, counts: Tensor) -> Tensor:
        """Returns a value with each member at its count."""
        if not self.has_counts(value):
            return value
        zero = value.new_zeros(())
        return added(
            torch.where(counts == n, self.at(value, n), zero)
            for n in range(len(self.presences) + 1)
        )

    def check_plates(
        self, name: str, site: Site, presence_plates: frozenset[Any], depends: bool
    ) -> None:
        """Raises if a site that depends on a presence is outside the presence's plates."""
        missing = presence_plates - plates(site)
        if depends and missing:
            names = ", ".join(sorted(frame.name for frame in missing))
            raise ValueError(
                f"site {name} depends on {self.presences[0]} and is outside its plate {names}: "
                f"{OTHER_ESTIMATORS}"
            )


def check_sites(kind: str, runs: list[dict[str, Site]]) -> None:
    """Raises unless all runs have one set of sites."""
    for run in runs:
        for name in run.keys() ^ runs[-1].keys():
            raise ValueError(
                f"site {name} of the {kind} exists at some numbers of objects only: "
                f"mask it with poutine.mask instead, or {OTHER_ESTIMATORS}"
            )


def require_members(kind: str, name: str, site: Site, expected: Tensor) -> None:
    """Raises unless a site has the log-probability that its members' counts give it."""
    if not close(expected, masked_log_prob(site)):
        raise ValueError(
            f"site {name} of the {kind} depends on presences of other members of its "
            f"plate: {OTHER_ESTIMATORS}"
        )


def count_mask(runs: list[Site]) -> CountMask | None:
    """Returns the counts at which a site's mask equals its mask with all objects present.

    Args:
        runs: The site at each count.

    Returns:
        ``None`` if the mask is neither that nor false everywhere at some count.
    """
    masks = [mask_tensor(site) for site in runs]
    result = []
    for mask in masks:
        full = bool((mask == masks[-1]).all())
        if not full and bool(mask.any()):
            return None
        result.append(full)
    return tuple(result)


def masked_by_count(value: Tensor, mask: CountMask, counts: Tensor) -> Tensor:
    """Returns a value under a mask that depends on each member's count."""
    if all(mask):
        return value
    selected = torch.tensor(mask, device=counts.device)[counts]
    return torch.where(selected, value, value.new_zeros(()))


def mask_tensor(site: Site) -> Tensor:
    """Returns a site's mask as a tensor of the shape of its log-probability."""
    mask = True if site["mask"] is None else site["mask"]
    return torch.as_tensor(mask, device=log_prob(site).device).expand(log_prob(site).shape)


def masked_log_prob(site: Site) -> Tensor:
    """Returns a site's log-probability, zero where it is masked; not scaled."""
    return scale_and_mask(log_prob(site), mask=site["mask"])


def close(one: Tensor, other: Tensor) -> bool:
    """Whether log-probabilities agree up to rounding."""
    one, other = torch.broadcast_tensors(one, other)
    return torch.allclose(one.float(), other.float(), rtol=1e-3, atol=1e-3, equal_nan=True)
