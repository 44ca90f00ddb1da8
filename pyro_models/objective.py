"""What an objective adds to the ELBO on purpose: annealed weights and penalties.

Estimators report the ELBO itself beside the loss. They tell from these two marks what to leave out
of it. Everything else that Pyro's handlers do, :func:`pyro.poutine.scale` among it, is a part of
the ELBO.
"""

from __future__ import annotations

from typing import Any

import pyro
from pyro import poutine
from pyro.poutine.scale_messenger import ScaleMessenger
from torch import Tensor


class annealed(ScaleMessenger):
    r"""Scales log-probabilities as :func:`pyro.poutine.scale` does, in the objective alone.

    Use it for the weight :math:`\beta` of a :math:`\beta`-VAE and for weights that change over the
    steps. :attr:`train.estimators.DifferentiableELBO.terms` leave the weight out.

    Args:
        scale: The weight, above 0: a number or a tensor of shape ().

    Example:
        >>> import pyro.distributions as dist
        >>> with poutine.trace() as trace, annealed(0.5):
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> trace.trace.nodes["z"]["scale"], trace.trace.nodes["z"]["annealed"]
        (0.5, (0.5,))
    """

    def _process_message(self, message: dict[str, Any]) -> None:
        before = message["scale"]
        # The weight itself where it is the only one: estimators see that two sites share it.
        unscaled = isinstance(before, int | float) and before == 1
        message["scale"] = self.scale if unscaled else self.scale * before
        message["annealed"] = (self.scale, *message.get("annealed", ()))


class _Penalised(poutine.messenger.Messenger):
    def _process_message(self, message: dict[str, Any]) -> None:
        message["penalty"] = True


def penalty(name: str, value: Tensor) -> None:
    r"""Adds a term to the loss of a guide, and not to the ELBO.

    It is ``pyro.factor(name, value, has_rsample=True)``, marked.

    Args:
        name: The site's name.
        value: Nats of each datum, of the shape of the plates around it; differentiable.
    """
    with _Penalised():
        pyro.factor(name, value, has_rsample=True)
