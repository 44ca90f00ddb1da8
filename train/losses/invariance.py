"""ICVAE's terms for invariance by their names, and what their weight weighs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from guides.predictors import AdversarialPenalty, CLUBPenalty, PredictivePenalty, Target
from train.losses.discrepancy import class_discrepancy
from train.losses.gaussians import kolchinsky_tracey, mean_pairwise
from train.losses.information import class_information

if TYPE_CHECKING:
    from train.data.conditions import Condition


def discrepancy(
    z: Tensor, mu: Tensor, log_variance: Tensor, c: Tensor, *, sizes: Sequence[int] | None = None
) -> Tensor:
    """Calls :func:`~train.losses.discrepancy.class_discrepancy` as terms are called."""
    return class_discrepancy(z, c, sizes=sizes)


INVARIANCES: dict[str, Callable[..., Tensor] | None] = {
    "none": None,
    "pairwise": lambda z, mu, log_variance, c: mean_pairwise(mu, log_variance),
    "kt": lambda z, mu, log_variance, c: kolchinsky_tracey(mu, log_variance),
    "direct": class_information,
    "mmd": discrepancy,
}
"""Invariance terms without weights of their own, by their names on the command line, called with
(z, mu, log_variance, c)."""

PREDICTIVE = {"club": CLUBPenalty, "adversarial": AdversarialPenalty}
"""Invariance terms with a network of their own, by their names on the command line."""


def invariance(
    name: str, conditions: Sequence[Condition], z_dim: int
) -> Callable[..., Tensor] | None:
    """Returns an invariance term for one or several conditions.

    Args:
        name: Its name; one that is neither in :data:`INVARIANCES` nor in :data:`PREDICTIVE` has no
            term.
        conditions: The conditions, in order.
        z_dim: The size of a code.
    """
    if name in PREDICTIVE:
        targets = [Target(each.size, classes=each.classes > 0) for each in conditions]
        return PREDICTIVE[name](z_dim, targets)
    term = INVARIANCES.get(name)
    if term is not None and name in ("direct", "mmd") and len(conditions) > 1:
        return partial(term, sizes=[each.size for each in conditions])
    return term


def network_groups(
    term: Callable[..., Tensor] | None, learning_rate: float
) -> list[tuple[PredictivePenalty, dict[str, Any]]]:
    """Returns a term with a network of its own and the options of its parameter group.

    Args:
        term: An invariance term; there is no group of one without a network.
        learning_rate: The network's learning rate.

    Returns:
        The groups, as :class:`train.objective.ELBOObjective` takes them.
    """
    if not isinstance(term, PredictivePenalty):
        return []
    return [(term, {"lr": learning_rate, "betas": term.BETAS})]


Schedule = Callable[[Tensor], Tensor | float]
"""A weight as a function of the number of steps done."""


def penalty_weights(invariance: str, *, beta: Schedule, weight: Schedule) -> dict[str, Schedule]:
    """Returns the keyword arguments of ICVAE's guide and model that weigh terms of the loss.

    The bounds of Moyer et al. (2018) and Echo's rate trade against the reconstruction, whose weight
    is then one plus the penalty's.

    Args:
        invariance: The penalty's name; ``"none"`` has no weight.
        beta: The weight of the KL divergence from the prior, as a function of the steps done.
        weight: The penalty's weight, as such a function.
    """
    weights = {"beta": beta} | ({} if invariance == "none" else {"invariance": weight})
    if invariance in ("pairwise", "kt", "echo"):
        weights["reconstruction"] = lambda step: 1 + weight(step)
    return weights
