"""What depends on which latent, in a pair of model and guide."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer.tracegraph_elbo import TrackNonReparam
from pyro.ops.provenance import get_provenance, track_provenance
from torch import Tensor

from train.estimators.costs import Cost, Kind, Site, log_prob, site_costs
from train.estimators.programs import Program, preserved_state, run_guide, run_model, samples

CostKey = tuple[Kind, str]
"""Kind and name of a cost; a name alone may be that of an observed site and of a guide's draw."""


class Dependencies(NamedTuple):
    """What depends on what, found by following the latents' values through both programs.

    Attributes:
        ancestors: By latent of the guide, the latents that its distribution depends on.
        costs: By cost, the latents that it depends on.
        plates: By cost, the dimensions of the plates that it is in.
        discrete: The latents of the guide that are not reparameterized, in order.
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
    """Follows the values of all latents, the reparameterized ones too."""

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
    """Runs a pair once, and follows what each value is computed from.

    As in Pyro's :class:`~pyro.infer.TraceGraph_ELBO`, a dependence through Python numbers, such as
    ``if z.item():``, is not seen.

    Args:
        model: The model.
        guide: Its guide.
        args: Positional arguments of both.
        kwargs: Keyword arguments of both.
    """
    with preserved_state(model, guide), Track():
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
    return Dependencies(ancestors, costs, plates, discrete)
