"""Estimators of discrete sites by name."""

from __future__ import annotations

from train.estimators.discrete.coupled import ARM, ARMS, DisARM
from train.estimators.discrete.differentiable import DoubleCV, MuProp, Rodeo
from train.estimators.discrete.exhaustive import Enumerate, MeasureValued, UnorderedSet
from train.estimators.discrete.relaxed import GumbelSoftmax, Rebar, StraightThrough
from train.estimators.discrete.score import LeaveOneOut, Reinforce
from train.estimators.discrete.site import SiteEstimator

SITE_ESTIMATORS: dict[str, type[SiteEstimator]] = {
    kind.title: kind
    for kind in (
        *(Reinforce, LeaveOneOut, ARM, DisARM, ARMS, DoubleCV, Rodeo, MuProp, Rebar),
        *(GumbelSoftmax, StraightThrough, Enumerate, MeasureValued, UnorderedSet),
    )
}
"""Estimators by the names that ``infer={"estimator": name}`` takes.

:class:`~.relaxed.Relax` has a network of its own: give an instance.
"""


def by_name(name: str, site: str | None = None) -> SiteEstimator:
    """Makes an estimator by its name.

    Args:
        name: The name.
        site: The site that names it, for the message.

    Raises:
        ValueError: If the name is not known.
    """
    if name not in SITE_ESTIMATORS:
        where = f"site {site} names the estimator" if site else "there is no estimator"
        unknown = " of this name" if site is None else ""
        raise ValueError(
            f"{where} {name!r}{unknown}, which is not known: give one of "
            f"{', '.join(SITE_ESTIMATORS)}, or an instance"
        )
    return SITE_ESTIMATORS[name]()
