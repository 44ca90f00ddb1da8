"""Estimators by name."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Collection
from typing import Any

from pyro.infer import ELBO
from torch import Tensor

from train.errors import InputError, brief
from train.estimators.concrete import ConcreteELBO
from train.estimators.discrete.elbo import DiscreteELBO
from train.estimators.discrete.names import SITE_ESTIMATORS
from train.estimators.discrete.relaxed import GumbelSoftmax
from train.estimators.enumerated import EnumELBO
from train.estimators.marginal import ImportanceWeightedELBO, MarginalELBO
from train.estimators.meanfield import MeanFieldELBO
from train.estimators.tracegraph import TraceGraphELBO
from train.estimators.wake_sleep import ReweightedWakeSleepELBO

OF_SITES = tuple(name for name in SITE_ESTIMATORS if name != GumbelSoftmax.title)
"""Names of site estimators that a model with presences can have.

A relaxed presence is above 0 and masks nothing, so ``concrete`` stands in the place of ``gumbel``.
"""

ESTIMATORS: dict[str, type[ELBO]] = {
    "marginal": MarginalELBO,
    "tracegraph": TraceGraphELBO,
    "enum": EnumELBO,
    "iw": ImportanceWeightedELBO,
    "concrete": ConcreteELBO,
    "rws": ReweightedWakeSleepELBO,
    "meanfield": MeanFieldELBO,
    **dict.fromkeys(OF_SITES, DiscreteELBO),
}
"""Estimators by their names on the command line."""

WITHOUT_PRESENCE = ("meanfield", "tracegraph")
"""Names of the estimators for a model without presences and a guide with penalties, as ICVAE's.

``marginal``, ``iw`` and ``concrete`` need sites that are marked as presences, and ``enum`` and
those of :data:`OF_SITES` a discrete latent. ``iw`` and ``rws`` would put a penalty into importance
weights, and need a model that broadcasts over draws.
"""


def make(
    name: str, num_particles: int | None = None, *, names: Collection[str] = tuple(ESTIMATORS)
) -> ELBO:
    """Makes an estimator by its name in :data:`ESTIMATORS`, or a user's class ``module:Class``.

    For ``module:Class`` the module is imported, so the name must come from the user: for a name
    out of a file call :func:`restored`.

    Args:
        name: The name.
        num_particles: The number of draws for each datum; the default of the class if ``None``.
        names: The names in :data:`ESTIMATORS` that the method offers, such as
            :data:`WITHOUT_PRESENCE`; all of them by default.

    Raises:
        InputError: If the name is unknown or not offered, or the class cannot be imported, is no
            :class:`~pyro.infer.ELBO`, or refuses that number of draws.
    """
    options: dict[str, Any] = {} if num_particles is None else {"num_particles": num_particles}
    kind = _estimator_class(name, names)
    if name in OF_SITES:
        options["estimator"] = name
    try:
        return kind(**options)
    except (TypeError, ValueError) as error:
        raise InputError(f"--estimator {name} cannot be made ({error})") from error


def restored(
    name: str, num_particles: int | None = None, *, names: Collection[str] = tuple(ESTIMATORS)
) -> ELBO:
    """Makes an estimator that a file names, and imports nothing: a file must not run code.

    Args:
        name: See :func:`make`.
        num_particles: See :func:`make`.
        names: See :func:`make`.

    Returns:
        One of :data:`ESTIMATORS`; for ``module:Class`` a :class:`NotImportedELBO`.

    Raises:
        InputError: If the name is unknown or not offered, or the class refuses that number of
            draws.
    """
    return NotImportedELBO(name) if ":" in name else make(name, num_particles, names=names)


def annealed_names(estimator: ELBO) -> tuple[str, ...]:
    """Returns the names of the keyword arguments that the estimator takes and a schedule may set.

    They are the class attribute ``annealed`` of the estimator, ``("temperature",)`` for
    :class:`ConcreteELBO`. An ELBO without that attribute has none. Each name must be a setting of
    the method, with its ``NAME_start``: see :func:`train.objective.schedule`.
    """
    return getattr(estimator, "annealed", ())


class NotImportedELBO(ELBO):
    """A placeholder for a user's estimator that a file names; encoding and decoding need none.

    Args:
        name: The name of the user's class, ``module:Class``.

    Raises:
        InputError: When a loss is computed.
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


def _estimator_class(name: str, names: Collection[str]) -> type[ELBO]:
    if ":" in name:
        return _imported_class(name)
    if name in names:
        return ESTIMATORS[name]
    problem = "does not fit this model" if name in ESTIMATORS else "is not known"
    raise InputError(f"--estimator {name} {problem}: give {', '.join(names)}, or module:Class")


def _imported_class(name: str) -> type[ELBO]:
    module, _, attribute = name.partition(":")
    try:
        value = getattr(importlib.import_module(module), attribute)
    # A user's module may raise anything while it is imported.
    except Exception as error:
        raise InputError(
            f"--estimator {name} cannot be imported ({type(error).__name__}: {error}): "
            "give module:Class, with the module on the Python path"
        ) from error
    if not (inspect.isclass(value) and issubclass(value, ELBO)) or inspect.isabstract(value):
        raise InputError(f"--estimator {name} is no subclass of pyro.infer.ELBO that can be made")
    return value
