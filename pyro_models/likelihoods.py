"""Distributions of images around what a model draws."""

from __future__ import annotations

import math

import pyro.distributions as dist
from torch import Tensor, broadcast_tensors
from torch.nn.functional import mse_loss


class NormalImage(dist.Independent):
    r"""A Normal around an image, of one standard deviation at all its pixels.

    It is ``Normal(loc, scale).to_event(2)``, whose log-probability it takes as a squared distance,

    .. math:: - \frac{|x - \mu|^2}{2 \tau^2} - \frac{H W}{2} \log (2 \pi \tau^2)

    in a third of the passes over the pixels.

    Args:
        base_distribution: ``Normal(loc, scale)`` of shape :math:`(*, H, W)`, of one scale.
        reinterpreted_batch_ndims: 2.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Nats of images of shape :math:`(*, H, W)`, of shape :math:`(*)`."""
        if self._validate_args:
            self.base_dist._validate_sample(value)
        scale = self.base_dist.scale[..., 0, 0]
        pixels = broadcast_tensors(self.base_dist.loc, value)
        distance = mse_loss(*pixels, reduction="none").sum((-2, -1))
        constant = self.event_shape.numel() * (scale.log() + 0.5 * math.log(2 * math.pi))
        return -0.5 * distance / scale**2 - constant
