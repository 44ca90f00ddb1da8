"""What an objective has in addition to the ELBO: annealed weights and penalties.

Estimators report the ELBO in their terms beside the loss. The two marks of this module tell them
what to leave out of it. Everything else that Pyro's handlers do, such as
:func:`pyro.poutine.scale`, belongs to the ELBO.
"""

from __future__ import annotations

from typing import Any

import pyro
from pyro import poutine
from pyro.poutine.scale_messenger import ScaleMessenger
from torch import Tensor

from pyro_models.announcements import leaves_weights


@leaves_weights
class annealed(ScaleMessenger):
    r"""Scales log-probabilities like :func:`pyro.poutine.scale`, in the objective alone.

    It is for the weight :math:`\beta` of a :math:`\beta`-VAE, and for weights that change over the
    steps. The terms of :meth:`train.estimators.DifferentiableELBO.loss_and_terms` are without it.

    Args:
        scale: The weight, above 0: a number or a tensor of shape ().

    Example:
        >>> import pyro.distributions as dist
        >>> with poutine.trace() as trace, annealed(0.5):
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> trace.trace.nodes["z"]["scale"], trace.trace.nodes["z"]["annealed"]
        (0.5, (0.5,))
    """

    def _process_message(self, message: Any) -> None:
        scale = message["scale"]
        # A single weight is stored as it is: estimators recognise equal scales by identity.
        unscaled = isinstance(scale, int | float) and scale == 1
        message["scale"] = self.scale if unscaled else self.scale * scale
        message["annealed"] = (self.scale, *message.get("annealed", ()))


@leaves_weights
class _MarkPenalty(poutine.messenger.Messenger):
    def _process_message(self, message: Any) -> None:
        message["penalty"] = True


def penalty(name: str, value: Tensor) -> None:
    r"""Adds a term to the loss in a guide, and not to the ELBO.

    It is ``pyro.factor(name, value, has_rsample=True)`` with a mark.

    Args:
        name: The site's name.
        value: The term in nats, of the shape of the plates around it; differentiable.
    """
    with _MarkPenalty():
        pyro.factor(name, value, has_rsample=True)


def gradient_alone(loss: Tensor) -> Tensor:
    r"""Returns zeros with the gradient of a loss.

    A term plus these zeros trains what the loss trains too, and is what it was. So networks that
    are trained beside a model, and are no part of its objective, need no optimiser of their own.

    Args:
        loss: The loss, of any shape.

    Example:
        >>> import torch
        >>> weight = torch.tensor(3.0, requires_grad=True)
        >>> zero = gradient_alone(weight**2)
        >>> zero.item(), torch.autograd.grad(zero, weight)
        (0.0, (tensor(6.),))
    """
    return loss - loss.detach()
