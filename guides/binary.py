"""The guide of the VAE with binary latents."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from torch import Tensor

from pyro_models.binary import BinaryVAE, network
from pyro_models.handlers import plate
from pyro_models.store import GuardedModule


class BinaryGuide(GuardedModule):
    r"""An encoder: :math:`z \sim \text{Bernoulli}(\sigma(g(x)))`.

    Args:
        model: The model whose latents are inferred.
        hidden: The widths of the encoder's hidden layers; none for a linear encoder.
    """

    def __init__(self, model: BinaryVAE, hidden: Sequence[int] = (200, 200)) -> None:
        super().__init__()
        self.encoder = network(model.shape.values, model.latents, hidden)

    def forward(self, images: Tensor) -> None:
        r"""Draws the latents of images of shape :math:`(B, C, H, W)`."""
        with plate("images", len(images), images.device):
            logits = self.encoder(images.flatten(1))
            pyro.sample("z", dist.Bernoulli(logits=logits).to_event(1))
