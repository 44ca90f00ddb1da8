"""Distributions of images around a model's mean image."""

from __future__ import annotations

import math

import pyro.distributions as dist
from torch import Tensor, broadcast_tensors
from torch.nn.functional import mse_loss

from pyro_models.shapes import require_shape


class NormalImage(dist.Independent):
    r"""A Normal distribution around an image, with one standard deviation for all values.

    It is ``Normal(loc, scale).to_event(3)``. Its log-density is computed as a squared distance,

    .. math:: - \frac{|x - \mu|^2}{2 \tau^2} - \frac{C H W}{2} \log (2 \pi \tau^2)

    which reads and writes the pixels a third as often.

    Args:
        base_distribution: ``Normal(loc, scale)`` of shape :math:`(*, C, H, W)`, whose scale is
            constant over the values of an image.
        reinterpreted_batch_ndims: 3.

    Raises:
        ValueError: If an image has other channels, height or width than ``loc``.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns the log-density in nats, of shape :math:`(*)`, of images
        :math:`(*, C, H, W)`."""
        # Broadcasting would take a batch of images without channels for something else.
        require_shape(value, self.event_shape)
        if self._validate_args:
            self.base_dist._validate_sample(value)
        scale = self.base_dist.scale[..., 0, 0, 0]
        pixels = broadcast_tensors(self.base_dist.loc, value)
        distance = mse_loss(*pixels, reduction="none").sum((-3, -2, -1))
        constant = self.event_shape.numel() * (scale.log() + 0.5 * math.log(2 * math.pi))
        return -0.5 * distance / scale**2 - constant
