"""A conditional variational autoencoder: what c says of an image, its code need not."""

from __future__ import annotations

import math
from typing import Literal

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_models.likelihoods import NormalImage
from pyro_models.networks import MLP, Deconvolutions
from pyro_models.objective import annealed
from pyro_models.store import GuardedModule


class ICVAE(GuardedModule):
    r"""The generative model of ICVAE, a CVAE's.

    .. math:: z \sim \mathcal{N}(0, I), \qquad x \sim p(x | f(z, c))

    with :math:`c` a known factor and :math:`p` a Normal of fixed standard deviation, or Bernoulli.
    Sites are ``z`` and ``x``, in the plate ``images``.

    Args:
        shape: The images' height and width :math:`(H, W)`.
        c_dim: The size of :math:`c`; 0 for a plain VAE.
        z_dim: The size of the code.
        hidden: The widths of the dense layers.
        network: ``"dense"``, or ``"conv"`` for transposed convolutions after the dense layers.
        likelihood: ``"normal"`` or ``"bernoulli"``, of pixels in [0, 1].
        likelihood_scale: The Normal's standard deviation; :math:`\sqrt{1/2}` is the squared error
            summed over pixels, but for a constant.
        prior: Whether :math:`z` has the prior above. Without it the site is masked: for a guide
            that brings the exact rate to its own marginal, :class:`guides.icvae.EchoGuide`.

    Example:
        >>> model = ICVAE((28, 28), c_dim=10, z_dim=2)
        >>> model.sample(torch.eye(10)).shape  # an image of each class
        torch.Size([10, 28, 28])

    References:
        | Invariant Representations without Adversarial Training (Moyer et al., 2018)
        | https://arxiv.org/abs/1805.09458
    """

    def __init__(
        self,
        shape: tuple[int, int] = (28, 28),
        c_dim: int = 10,
        z_dim: int = 2,
        *,
        hidden: tuple[int, ...] = (512, 512),
        network: Literal["dense", "conv"] = "dense",
        likelihood: Literal["normal", "bernoulli"] = "normal",
        likelihood_scale: float = math.sqrt(0.5),
        prior: bool = True,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.c_dim = c_dim
        self.z_dim = z_dim
        self.likelihood = likelihood
        self.likelihood_scale = likelihood_scale
        self.prior = prior
        if network == "dense":
            self.decoder: nn.Module = MLP(z_dim + c_dim, shape[0] * shape[1], hidden, nn.Tanh)
        else:
            self.decoder = Deconvolutions(z_dim + c_dim, shape, hidden)
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    def forward(
        self,
        images: Tensor | None,
        c: Tensor,
        *,
        beta: Tensor | float = 1.0,
        reconstruction: Tensor | float = 1.0,
        invariance: Tensor | float = 0.0,
    ) -> Tensor:
        r"""Runs the generative process.

        Args:
            images: What to condition on, of shape :math:`(B, H, W)`, in [0, 1]; drawn if ``None``.
            c: The known factor, of shape :math:`(B, C)`.
            beta: The weight of the code's log-probabilities in an objective.
            reconstruction: The weight of the likelihood.
            invariance: The guide's; a model has no use for it.

        Returns:
            The images, of shape :math:`(B, H, W)`.
        """
        plate = pyro.plate("images", len(c), device=c.device)
        with annealed(beta), plate, poutine.mask(mask=self.prior):
            prior = dist.Normal(self.zero, 1.0).expand([self.z_dim]).to_event(1)
            z = pyro.sample("z", prior)
        with annealed(reconstruction), plate:
            return pyro.sample("x", self.pixels(z, c), obs=images)

    def pixels(self, z: Tensor, c: Tensor) -> dist.Distribution:
        """The likelihood; override it for another one."""
        out = self.decoder(torch.cat([z, c], dim=-1)).to(z.dtype).unflatten(-1, self.shape)
        if self.likelihood == "bernoulli":
            # Pixels between 0 and 1 are taken as shares of one.
            return dist.Bernoulli(logits=out, validate_args=False).to_event(2)
        return NormalImage(dist.Normal(out, self.likelihood_scale), 2)

    def decode(self, z: Tensor, c: Tensor) -> Tensor:
        r"""The mean image of codes, of shape :math:`(B, H, W)`, in [0, 1] or near it.

        Args:
            z: Codes, of shape :math:`(B, D)`.
            c: The known factor, of shape :math:`(B, C)`.
        """
        return self.pixels(z, c).mean

    @torch.no_grad()
    def sample(self, c: Tensor) -> Tensor:
        r"""Mean images of codes from the prior, one for each row of ``c``: :math:`(B, H, W)`."""
        return self.decode(torch.randn(len(c), self.z_dim, device=c.device), c)
