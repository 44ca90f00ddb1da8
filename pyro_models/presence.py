"""Presence: a row of binary sites that are all 0 after the first 0.

A model or guide marks each presence with ``infer={"presence": True}``, draws it with logits of
:func:`presence_logits`, as :func:`sample_presence` does, and masks what belongs to its object with
:class:`where_present`, or with ``poutine.mask``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import pyro
import torch
from pyro.distributions import Bernoulli
from pyro.poutine.mask_messenger import MaskMessenger
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_models.announcements import leaves_weights

# The logit of an impossible presence. In single and in double precision its probability is exactly
# 0, the log-probability of z_pres = 0 is exactly 0, and both log-probabilities are finite.
ABSENT = -1_000.0


def presence_logits(z_pres: Tensor | None, logits: Tensor) -> Tensor:
    r"""Returns the logits of a step's presence, given the presence of the step before.

    Args:
        z_pres: The presence of the step before, 0 or 1, of shape :math:`(*)`; ``None`` at the first
            step.
        logits: The logits if the object before is present, of shape :math:`(*)`.

    Returns:
        The logits, of shape :math:`(*)`: after an absent object all others are absent.
    """
    if z_pres is None:
        return logits
    return torch.where(z_pres > 0, logits, ABSENT)


def sample_presence(
    name: str, z_pres: Tensor | None, logits: Tensor, infer: Mapping[str, Any] | None = None
) -> Tensor:
    r"""Draws the presence of a step, and marks it; it is masked after an absent object.

    Args:
        name: The site's name.
        z_pres: The presence of the step before: see :func:`presence_logits`.
        logits: The logits if the object before is present, of shape :math:`(*)`.
        infer: Further entries of the site's ``infer``, such as a baseline.

    Returns:
        The presence, 0 or 1, of shape :math:`(*)`.
    """
    # Pyro's type has none of the entries that others than its own estimators read.
    marked: Any = {"presence": True, **(infer or {})}
    with nullcontext() if z_pres is None else where_present(z_pres):
        return pyro.sample(name, Bernoulli(logits=presence_logits(z_pres, logits)), infer=marked)


@leaves_weights
class where_present(MaskMessenger):
    r"""Masks the sites of an object that may be absent: ``poutine.mask(mask=z_pres > 0)``.

    It also marks the sites, so that estimators know their masks without reading them.

    Args:
        z_pres: The presence, 0 or 1, of the shape of the plates.

    Example:
        >>> import pyro
        >>> from pyro.distributions import Normal
        >>> z_pres = torch.tensor([1.0, 0.0])
        >>> with pyro.poutine.trace() as traced, pyro.plate("scenes", 2), where_present(z_pres):
        ...     z = pyro.sample("z", Normal(0.0, 1.0))
        >>> site = traced.trace.nodes["z"]
        >>> site["mask"].tolist(), presence_of(site) is z_pres
        ([True, False], True)
    """

    def __init__(self, z_pres: Tensor) -> None:
        super().__init__(mask=z_pres > 0)  # type: ignore[arg-type]
        self.z_pres = z_pres

    def _process_message(self, msg: Any) -> None:
        super()._process_message(msg)
        msg["where_present"] = self


def presence_of(site: Mapping[str, Any]) -> Tensor | None:
    """Returns the presence by which a site is masked, and by nothing else; ``None`` if unknown.

    Args:
        site: A site of a trace.
    """
    handler = site.get("where_present")
    # Another mask around the site makes a new tensor.
    return handler.z_pres if handler is not None and site["mask"] is handler.mask else None


@leaves_weights
class FixPresence(Messenger):
    r"""A Pyro handler that sets the values of presences instead of drawing them.

    A presence that is conditioned on keeps its value and does not count as a step.

    Args:
        value: Called with the step, 0 for the first presence, and the site's message; returns the
            presence, of a shape that broadcasts with the site's.

    Attributes:
        names: The names of the sites whose value was set, in order.

    Example:
        >>> import pyro
        >>> from pyro.distributions import Bernoulli
        >>> with FixPresence(all_present) as presences:
        ...     z = pyro.sample("z_pres_0", Bernoulli(0.1), infer={"presence": True})
        >>> z, presences.names
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


def present_before(count: int) -> Callable[[int, dict[str, Any]], Tensor]:
    """Returns the values for :class:`FixPresence` of a number of objects: the first are present."""

    def value(step: int, message: dict[str, Any]) -> Tensor:
        return torch.full_like(message["fn"].logits, step < count)

    return value


def all_present(step: int, message: dict[str, Any]) -> Tensor:
    """Returns a presence of 1, for :class:`FixPresence`: every object is present."""
    fn = message["fn"]
    return torch.ones_like(fn.logits) if isinstance(fn, Bernoulli) else torch.ones(fn.shape())
