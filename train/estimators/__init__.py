"""Estimators of the ELBO for models with presence, as subclasses of :class:`pyro.infer.ELBO`.

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
    "ESTIMATORS",
    "WITHOUT_PRESENCE",
    "ConcreteELBO",
    "Counts",
    "DifferentiableELBO",
    "EnumELBO",
    "ImportanceWeightedELBO",
    "MarginalELBO",
    "MeanFieldELBO",
    "NotImportedELBO",
    "ReweightedWakeSleepELBO",
    "TraceGraphELBO",
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
