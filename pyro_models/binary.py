"""A variational autoencoder with binary latents, on which gradient estimators are compared."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_models.handlers import plate
from pyro_models.networks import MLP, xavier
from pyro_models.shapes import Shape, require_batch
from pyro_models.store import GuardedModule


class BinaryVAE(GuardedModule):
    r"""A VAE of binary images whose code is a vector of Bernoulli latents.

    .. math::
        z & \sim \text{Bernoulli}(1/2)^D \\
        x & \sim \text{Bernoulli}(\sigma(f(z)))

    Args:
        shape: The images' channels, height and width.
        latents: The number :math:`D` of latents.
        hidden: The widths of the decoder's hidden layers; none for a linear decoder.

    References:
        | DisARM: An Antithetic Gradient Estimator for Binary Latent Variables (Dong et al., 2020)
        | https://arxiv.org/abs/2006.10680
    """

    def __init__(
        self, shape: Shape, latents: int = 200, hidden: Sequence[int] = (200, 200)
    ) -> None:
        super().__init__()
        self.shape = Shape.of(shape)
        self.latents = latents
        self.decoder = network(latents, self.shape.values, hidden)
        self.register_buffer("prior_logits", torch.zeros(latents), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        r"""Runs the generative process.

        Args:
            images: Observed binary images, of shape :math:`(B, C, H, W)`.

        Returns:
            The images.
        """
        require_batch(images, self.shape)
        with plate("images", len(images), images.device):
            z = pyro.sample("z", dist.Bernoulli(logits=self.prior_logits).to_event(1))
            pixels = dist.Bernoulli(logits=self.decoder(z)).to_event(1)
            return pyro.sample("x", pixels, obs=images.flatten(1))


def network(inputs: int, outputs: int, hidden: Sequence[int]) -> MLP:
    """Makes a network with leaky ReLUs of slope 0.3, initialised as Keras initialises it.

    That is what the papers' tables were made with: uniform weights by Glorot and Bengio, and biases
    of zero.
    """
    return xavier(MLP(inputs, outputs, hidden, lambda: nn.LeakyReLU(0.3)))
