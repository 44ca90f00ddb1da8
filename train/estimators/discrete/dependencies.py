"""What depends on which latent, in a pair of model and guide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer.tracegraph_elbo import TrackNonReparam
from pyro.ops.provenance import detach_provenance, get_provenance, track_provenance
from pyro.poutine import Trace
from torch import Tensor

from train.estimators.costs import Cost, Kind, Site, log_prob, site_costs
from train.estimators.discrete.families import CategoricalFamily, family_of, logits_of
from train.estimators.programs import (
    Program,
    preserved_state,
    run_guide,
    run_model,
    samples,
    with_values,
)

CostKey = tuple[Kind, str]
"""Kind and name of a cost; a name alone may be that of an observed site and of a guide's draw."""


class Dependencies(NamedTuple):
    """What depends on what, found by following the latents' values through both programs.

    Attributes:
        ancestors: By latent of the guide, the latents that its distribution depends on.
        costs: By cost, the latents that it depends on.
        plates: By cost, the dimensions of the plates that it is in.
        discrete: The latents of the guide that are not reparameterised, in order.
    """

    ancestors: Mapping[str, frozenset[str]]
    costs: Mapping[CostKey, frozenset[str]]
    plates: Mapping[CostKey, frozenset[int]]
    discrete: tuple[str, ...]

    def downstream(self, name: str) -> frozenset[CostKey]:
        """Returns the costs that depend on a latent."""
        return frozenset(key for key, latents in self.costs.items() if name in latents)

    def descendants(self, name: str) -> frozenset[str]:
        """Returns the latents whose distribution in the guide depends on a latent."""
        return frozenset(other for other, names in self.ancestors.items() if name in names)

    def not_after(self, name: str) -> frozenset[str]:
        """Returns the latents whose distribution in the guide does not depend on a latent."""
        return frozenset(self.ancestors) - self.descendants(name) - {name}

    def closure(self, latents: frozenset[str]) -> frozenset[str]:
        """Returns some latents with all that their distributions in the guide depend on."""
        return latents.union(*(self.ancestors.get(name, frozenset()) for name in latents))

    def direct(self, name: str) -> frozenset[CostKey]:
        """Returns the costs that a latent changes by no other discrete latent in between.

        They have a derivative with respect to a relaxed value of the latent.
        """
        later = self.descendants(name) & set(self.discrete)
        return frozenset(key for key in self.downstream(name) if not later & self.costs[key])


class Track(TrackNonReparam):
    """Follows the values of all latents, the reparameterised ones too."""

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and not msg["is_observed"]:
            msg["value"] = track_provenance(msg["value"], frozenset({msg["name"]}))


def costs_of(
    guide: Mapping[str, Site], model: Mapping[str, Site], analytic: Iterable[str] = ()
) -> list[Cost]:
    """Returns the cost of each site, at the drawn values and under masks."""

    def masked(site: Site, value: Tensor) -> Tensor:
        return scale_and_mask(value, mask=site["mask"])

    return site_costs(model, guide, masked, masked, analytic=tuple(analytic))


def key_of(cost: Cost) -> CostKey:
    """Returns a cost's key."""
    return cost.kind, cost.name


def find_dependencies(
    model: Program, guide: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Dependencies:
    """Runs a pair, and follows what each value is computed from.

    As in Pyro's :class:`~pyro.infer.TraceGraph_ELBO`, a dependence through Python numbers or NumPy,
    such as ``if z.item():``, and one through a write in place, such as ``canvas[0] = z``, cannot be
    followed. So each discrete latent is changed once, too, with all others as they are. If that
    changes what was not found to depend on it, everything counts as depending on all latents that
    the guide draws before: gradients are then right, with more variance.

    Args:
        model: The model.
        guide: Its guide.
        args: Positional arguments of both.
        kwargs: Keyword arguments of both.
    """
    with preserved_state(model, guide) as reseed:
        with Track():
            guide_trace, _ = run_guide(guide, args, kwargs)
            model_trace = run_model(model, guide_trace, args, kwargs)
        guide_sites, model_sites = samples(guide_trace), samples(model_trace)
        found = {}
        ancestors = {}
        for sites in (guide_sites, model_sites):
            for name, site in sites.items():
                latents = frozenset(get_provenance(log_prob(site)))
                for weight in (site["mask"], site["scale"]):
                    if isinstance(weight, torch.Tensor):
                        latents |= get_provenance(weight)
                found[name, sites is guide_sites] = latents
                if sites is guide_sites and not site["is_observed"]:
                    ancestors[name] = latents - {name}
        costs, plates = {}, {}
        for cost in costs_of(guide_sites, model_sites):
            plates[key_of(cost)] = frozenset(f.dim for f in cost.stack if f.vectorized)
            keys = [(cost.name, True)] if cost.kind != "log_likelihood" else []
            keys += [(cost.name, False)] if cost.kind in ("log_likelihood", "kl") else []
            costs[key_of(cost)] = frozenset().union(*(found.get(key, ()) for key in keys))
        discrete = tuple(
            name
            for name, site in guide_sites.items()
            if not site["is_observed"] and not getattr(site["fn"], "has_rsample", False)
        )
        followed = Dependencies(ancestors, costs, plates, discrete)
        look = Look(model, guide, args, kwargs, guide_trace, reseed)
        if all(look.agrees(found, name) for name in discrete):
            return followed
    drawn = list(ancestors)
    return Dependencies(
        {name: frozenset(drawn[:i]) for i, name in enumerate(drawn)},
        dict.fromkeys(costs, frozenset(drawn)),
        plates,
        discrete,
    )


class Look:
    """Changes latents, and looks what changes with them.

    Args:
        model: The model.
        guide: Its guide.
        args: Positional arguments of both.
        kwargs: Keyword arguments of both.
        values: A trace of the guide.
        reseed: Seeds the random number generators, so that runs differ in one value alone.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        values: Trace,
        reseed: Callable[[], object],
    ) -> None:
        self.model, self.guide, self.args, self.kwargs = model, guide, args, kwargs
        self.reseed = reseed
        plain = {name: detach_provenance(site["value"]) for name, site in samples(values).items()}
        self.values = with_values(values, plain)
        self.before = self.log_probs(self.values)

    def log_probs(self, values: Trace) -> dict[tuple[str, bool], Tensor]:
        """Returns the log-probabilities of the sites of guide (True) and model (False)."""
        self.reseed()
        guide = poutine.replay(self.guide, trace=values)
        guide_trace = poutine.trace(guide).get_trace(*self.args, **self.kwargs)
        model_trace = run_model(self.model, guide_trace, self.args, self.kwargs)
        return {
            (name, trace is guide_trace): weighted_log_prob(site)
            for trace in (guide_trace, model_trace)
            for name, site in samples(trace).items()
        }

    def agrees(self, found: Mapping[tuple[str, bool], frozenset[str]], name: str) -> bool:
        """Whether all that changes with a discrete latent was found to depend on it."""
        other = another(samples(self.values)[name])
        if other is None:
            return True
        try:
            after = self.log_probs(with_values(self.values, {name: other}))
        # A program may fail at a value that it never has.
        except Exception:
            return False
        if after.keys() != self.before.keys():
            return False
        changed = (key for key, value in after.items() if differ(value, self.before[key]))
        return all(name in found[key] for key in changed)


def weighted_log_prob(site: Site) -> Tensor:
    """Returns a site's log-probability under its mask and scale."""
    return scale_and_mask(log_prob(site), mask=site["mask"]) * site["scale"]


def another(site: Site) -> Tensor | None:
    """Returns another value of a discrete site; ``None`` if none is found."""
    family, value = family_of(site["fn"]), site["value"]
    if family is CategoricalFamily:
        return (value + 1) % logits_of(site["fn"]).shape[-1]
    if family is not None:
        return value.roll(1, -1) if family.one_hot else 1 - value
    for _ in range(20):
        drawn = site["fn"].sample()
        if not torch.equal(drawn, value):
            return drawn
    return None


def differ(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors differ, in shape or in an element; waits for the device."""
    return one.shape != other.shape or not torch.equal(one.nan_to_num(), other.nan_to_num())
