"""ICVAE's terms for invariance by their names, and what their weight weighs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from train.losses.gaussians import kolchinsky_tracey, mean_pairwise
from train.losses.information import class_information

INVARIANCES = {
    "none": None,
    "pairwise": lambda z, mu, log_variance, c: mean_pairwise(mu, log_variance),
    "kt": lambda z, mu, log_variance, c: kolchinsky_tracey(mu, log_variance),
    "direct": class_information,
}
"""Invariance terms by their names on the command line, called with (z, mu, log_variance, c)."""


def invariance(name: str, sizes: Sequence[int]) -> Callable[..., Tensor] | None:
    """Returns an invariance term for several conditions.

    Args:
        name: Its name; one that is not in :data:`INVARIANCES` has no term.
        sizes: The size of each condition.
    """
    term = INVARIANCES.get(name)
    return partial(term, sizes=sizes) if name == "direct" and len(sizes) > 1 else term


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
