"""Estimators of the ELBO, as subclasses of :class:`pyro.infer.ELBO`.

:class:`DiscreteELBO` is for any Pyro program: each discrete latent names its gradient estimator.
:class:`MultiSampleELBO` is the importance-weighted bound of such a program. The others are for
models with presence, whose number of objects some of them sum out.

Each estimator works in :class:`pyro.infer.SVI`, as a module (``elbo = MarginalELBO()(model,
guide)``) and in :class:`train.objective.ELBOObjective`. Losses are sums over the batch, as in Pyro.
:func:`loss_and_terms` returns a loss together with its parts by name.
``python -m train.estimators`` compares the estimators.

The public names are imported when they are first used, so that ``python -m train.estimators
--help`` answers without PyTorch and Pyro.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from train.estimators.base import DifferentiableELBO, loss_and_terms
    from train.estimators.concrete import ConcreteELBO
    from train.estimators.counts import Counts, count_out
    from train.estimators.discrete.bound import MultiSampleELBO
    from train.estimators.discrete.coupled import ARM, ARMS, DisARM
    from train.estimators.discrete.differentiable import DoubleCV, MuProp, Rodeo
    from train.estimators.discrete.elbo import DiscreteELBO
    from train.estimators.discrete.exhaustive import Enumerate, MeasureValued, UnorderedSet
    from train.estimators.discrete.names import SITE_ESTIMATORS
    from train.estimators.discrete.relaxed import GumbelSoftmax, Rebar, Relax, StraightThrough
    from train.estimators.discrete.score import LeaveOneOut, Reinforce
    from train.estimators.discrete.site import SiteDraws, SiteEstimator
    from train.estimators.enumerated import EnumELBO
    from train.estimators.marginal import ImportanceWeightedELBO, MarginalELBO
    from train.estimators.meanfield import MeanFieldELBO
    from train.estimators.registry import (
        ESTIMATORS,
        WITHOUT_PRESENCE,
        NotImportedELBO,
        annealed_names,
        make,
        restored,
    )
    from train.estimators.tracegraph import TraceGraphELBO
    from train.estimators.wake_sleep import ReweightedWakeSleepELBO
    from train.estimators.weights import importance_weighted

__all__ = [
    "ARM",
    "ARMS",
    "ESTIMATORS",
    "SITE_ESTIMATORS",
    "WITHOUT_PRESENCE",
    "ConcreteELBO",
    "Counts",
    "DifferentiableELBO",
    "DisARM",
    "DiscreteELBO",
    "DoubleCV",
    "EnumELBO",
    "Enumerate",
    "GumbelSoftmax",
    "ImportanceWeightedELBO",
    "LeaveOneOut",
    "MarginalELBO",
    "MeanFieldELBO",
    "MeasureValued",
    "MuProp",
    "MultiSampleELBO",
    "NotImportedELBO",
    "Rebar",
    "Reinforce",
    "Relax",
    "ReweightedWakeSleepELBO",
    "Rodeo",
    "SiteDraws",
    "SiteEstimator",
    "StraightThrough",
    "TraceGraphELBO",
    "UnorderedSet",
    "annealed_names",
    "count_out",
    "importance_weighted",
    "loss_and_terms",
    "make",
    "restored",
]

_MODULES = {
    "base": ("DifferentiableELBO", "loss_and_terms"),
    "concrete": ("ConcreteELBO",),
    "counts": ("Counts", "count_out"),
    "discrete.bound": ("MultiSampleELBO",),
    "discrete.coupled": ("ARM", "ARMS", "DisARM"),
    "discrete.differentiable": ("DoubleCV", "MuProp", "Rodeo"),
    "discrete.elbo": ("DiscreteELBO",),
    "discrete.exhaustive": ("Enumerate", "MeasureValued", "UnorderedSet"),
    "discrete.names": ("SITE_ESTIMATORS",),
    "discrete.relaxed": ("GumbelSoftmax", "Rebar", "Relax", "StraightThrough"),
    "discrete.score": ("LeaveOneOut", "Reinforce"),
    "discrete.site": ("SiteDraws", "SiteEstimator"),
    "enumerated": ("EnumELBO",),
    "marginal": ("ImportanceWeightedELBO", "MarginalELBO"),
    "meanfield": ("MeanFieldELBO",),
    "registry": (
        *("ESTIMATORS", "WITHOUT_PRESENCE", "NotImportedELBO"),
        *("annealed_names", "make", "restored"),
    ),
    "tracegraph": ("TraceGraphELBO",),
    "wake_sleep": ("ReweightedWakeSleepELBO",),
    "weights": ("importance_weighted",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
