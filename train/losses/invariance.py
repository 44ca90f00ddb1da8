"""ICVAE's terms for invariance by their names, and what their weight weighs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from guides.predictors import AdversarialPenalty, CLUBPenalty, Target
from train.losses.discrepancy import class_discrepancy
from train.losses.gaussians import kolchinsky_tracey, mean_pairwise
from train.losses.information import class_information


def discrepancy(
    z: Tensor, mu: Tensor, log_variance: Tensor, c: Tensor, *, sizes: Sequence[int] | None = None
) -> Tensor:
    """Calls :func:`~train.losses.discrepancy.class_discrepancy` as terms are called."""
    return class_discrepancy(z, c, sizes=sizes)


INVARIANCES = {
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


def invariance(name: str, targets: Sequence[Target], z_dim: int) -> Callable[..., Tensor] | None:
    """Returns an invariance term for one or several conditions.

    Args:
        name: Its name; one that is neither in :data:`INVARIANCES` nor in :data:`PREDICTIVE` has no
            term.
        targets: The conditions, in order.
        z_dim: The size of a code.
    """
    if name in PREDICTIVE:
        return PREDICTIVE[name](z_dim, targets)
    term = INVARIANCES.get(name)
    if name in ("direct", "mmd") and len(targets) > 1:
        return partial(term, sizes=[target.size for target in targets])
    return term


def penalty_weights(
    invariance: str, weight: Callable[[Tensor], Tensor]
) -> dict[str, Callable[[Tensor], Tensor]]:
    """Returns the keyword arguments of ICVAE's guide and model that a penalty's weight sets.

    The bounds of Moyer et al. (2018) and Echo's rate trade against the reconstruction, whose weight
    is then one plus the penalty's.

    Args:
        invariance: The penalty's name; ``"none"`` has no weight.
        weight: The penalty's weight as a function of the steps done.
    """
    weights = {} if invariance == "none" else {"invariance": weight}
    if invariance in ("pairwise", "kt", "echo"):
        weights["reconstruction"] = lambda step: 1 + weight(step)
    return weights
