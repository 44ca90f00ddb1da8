"""What is known of the estimated sites of a pair before they are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from train.estimators.contract import SitesChanged
from train.estimators.discrete.dependencies import CostKey, Dependencies
from train.estimators.discrete.exhaustive import Weighted
from train.estimators.discrete.families import require_family
from train.estimators.discrete.site import SiteEstimator


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
    """What is estimated, and how.

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

    @cached_property
    def relaxed(self) -> dict[str, Any]:
        """The sites whose draws are relaxed, with the functions that draw them."""
        return {
            name: site.estimator.draw_relaxed(require_family(site.fn))
            for name, site in self.estimated.items()
            if site.estimator.relaxes
        }
