"""Estimators of the ELBO for models with presence, as subclasses of :class:`pyro.infer.ELBO`.

Each works in :class:`pyro.infer.SVI`, as a module (``elbo = MarginalELBO()(model, guide)``), and in
:class:`train.objective.ELBOObjective`. Losses are sums over the batch, as in Pyro. After each
estimate ``terms`` says what it was made of. ``python -m train.estimators`` compares them.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from pyro.infer import ELBO
from torch import Tensor

from train.errors import InputError, brief
from train.estimators.base import DifferentiableELBO
from train.estimators.concrete import ConcreteELBO
from train.estimators.counts import Counts, count_out
from train.estimators.enumerated import EnumELBO
from train.estimators.marginal import ImportanceWeightedELBO, MarginalELBO
from train.estimators.meanfield import MeanFieldELBO
from train.estimators.tracegraph import TraceGraphELBO
from train.estimators.wake_sleep import ReweightedWakeSleepELBO
from train.estimators.weights import importance_weighted

__all__ = [
    "ESTIMATORS",
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
    "count_out",
    "importance_weighted",
    "make",
    "restored",
]

ESTIMATORS: dict[str, type[ELBO]] = {
    "marginal": MarginalELBO,
    "tracegraph": TraceGraphELBO,
    "enum": EnumELBO,
    "iw": ImportanceWeightedELBO,
    "concrete": ConcreteELBO,
    "rws": ReweightedWakeSleepELBO,
}
"""Estimators by their names on the command line."""


def make(name: str, num_particles: int | None = None) -> ELBO:
    """An estimator by its name in :data:`ESTIMATORS`, or a user's own as ``module:Class``.

    The module is imported, so the name must be a person's own words: see :func:`restored`.

    Args:
        name: The name.
        num_particles: The number of draws for each datum; the class's own default if not given.

    Raises:
        InputError: If there is no such estimator, or it cannot be imported, is no
            :class:`~pyro.infer.ELBO`, or refuses that number of draws.
    """
    options: dict[str, Any] = {} if num_particles is None else {"num_particles": num_particles}
    try:
        return _find(name)(**options)
    except (TypeError, ValueError) as error:
        raise InputError(f"--estimator {name} cannot be made ({error})") from error


def restored(name: str, num_particles: int | None = None) -> ELBO:
    """An estimator that a file names: nothing is imported, as a file is not to run code.

    Args:
        name: See :func:`make`.
        num_particles: See :func:`make`.

    Returns:
        One of :data:`ESTIMATORS`; for ``module:Class`` a :class:`NotImportedELBO`.

    Raises:
        InputError: If it is neither, or refuses that number of draws.
    """
    return NotImportedELBO(name) if ":" in name else make(name, num_particles)


class NotImportedELBO(ELBO):
    """Stands for an estimator that only a file names; encoding and decoding need none.

    Args:
        name: Its name, ``module:Class``.

    Raises:
        InputError: When it is asked for a loss.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def differentiable_loss(self, *_: Any, **__: Any) -> Tensor:
        raise InputError(
            f"this run was trained with the estimator {brief(self.name)}, which is not imported "
            "because a file names it: import it yourself and set objective.estimator"
        )

    loss = loss_and_grads = _get_trace = differentiable_loss


def _find(name: str) -> type[ELBO]:
    module, colon, attribute = name.partition(":")
    if not colon:
        if name in ESTIMATORS:
            return ESTIMATORS[name]
        raise InputError(
            f"--estimator {name} is not known: give {', '.join(ESTIMATORS)}, or module:Class"
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    # Whatever a user's module raises while it is imported.
    except Exception as error:
        raise InputError(
            f"--estimator {name} cannot be imported ({type(error).__name__}: {error}): "
            "give module:Class, with the module on the Python path"
        ) from error
    if not (inspect.isclass(found) and issubclass(found, ELBO)) or inspect.isabstract(found):
        raise InputError(f"--estimator {name} is no subclass of pyro.infer.ELBO that can be made")
    return found
