"""Presence: binary sites in a row, of which the first zero ends the rest.

A model or guide marks each of them with ``infer={"presence": True}``, draws it with
:func:`presence_logits`, and masks what belongs to it with ``poutine.mask``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import Bernoulli
from pyro.poutine.messenger import Messenger
from torch import Tensor

# The logit of a presence that cannot be: its probability is exactly zero in single and in double
# precision, its log-probability exactly zero at z_pres = 0, and both stay finite.
ABSENT = -1_000.0


def presence_logits(z_pres: Tensor | None, logits: Tensor) -> Tensor:
    r"""The logits of a step's presence given the presence of the step before.

    Args:
        z_pres: The presence before, 0 or 1, of shape :math:`(*)`; ``None`` at the first step.
        logits: The logits if there was an object before, of shape :math:`(*)`.

    Returns:
        The logits, of shape :math:`(*)`: after an absent object the next is absent for certain.
    """
    if z_pres is None:
        return logits
    return torch.where(z_pres > 0, logits, logits.new_full((), ABSENT))


class FixPresence(Messenger):
    r"""A Pyro handler that gives presence sites values instead of drawing them.

    A presence that is conditioned on keeps its value, and is not counted.

    Args:
        value: Called with a step's place in the row, 0 for the first, and its site's message;
            returns the presence, of a shape that broadcasts with the site's.

    Attributes:
        names: The names of the sites that were given a value, in their order.

    Example:
        >>> import pyro
        >>> from pyro.distributions import Bernoulli
        >>> with FixPresence(all_present) as row:
        ...     z = pyro.sample("z_pres_0", Bernoulli(0.1), infer={"presence": True})
        >>> z, row.names
        (tensor(1.), ['z_pres_0'])
    """

    def __init__(self, value: Callable[[int, dict[str, Any]], Tensor]) -> None:
        super().__init__()
        self.value = value
        self.names: list[str] = []

    def __enter__(self) -> FixPresence:
        self.names.clear()
        return super().__enter__()

    def _pyro_sample(self, message: dict[str, Any]) -> None:
        if message["infer"].get("presence") and not message["is_observed"]:
            message["value"] = self.value(len(self.names), message)
            message["done"] = True
            self.names.append(message["name"])


def all_present(step: int, message: dict[str, Any]) -> Tensor:
    """For :class:`FixPresence`: the path on which every object is there."""
    fn = message["fn"]
    return torch.ones_like(fn.logits) if isinstance(fn, Bernoulli) else torch.ones(fn.shape())
