"""A guide for ICVAE with Gaussian codes."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from guides.encoders import PenalisedEncoder
from pyro_models.handlers import plate
from pyro_models.objective import annealed


class GaussianGuide(PenalisedEncoder):
    r"""A Gaussian encoder with a penalty for invariance.

    .. math:: z \sim \mathcal{N}(\mu(x), \text{diag}(e^{l(x)})), \qquad |l| < 8

    The penalty is a :func:`pyro.factor` of the batch, in nats for each datum, so that it works with
    any model, likelihood and estimator. Means are unbounded: a tanh would keep codes out of the
    tails of a :math:`\mathcal{N}(0, I)` prior.

    Args:
        model: The model whose codes are inferred.
        invariance: The penalty, such as those of :mod:`train.losses.invariance`; ``None`` for a
            CVAE.
        memory: The number of codes of earlier batches that the penalty has in training; 0 for none.
        options: The other arguments of :class:`~guides.encoders.Encoder`.

    Example:
        >>> from pyro_models.icvae import ICVAE
        >>> guide = GaussianGuide(ICVAE((28, 28), c_dim=10, z_dim=2))
        >>> guide.draw(torch.rand(5, 1, 28, 28), torch.eye(10)[:5]).shape
        torch.Size([5, 2])

    References:
        | Invariant Representations without Adversarial Training (Moyer et al., 2018)
        | https://arxiv.org/abs/1805.09458
    """

    LIMIT = 8.0

    def forward(
        self,
        images: Tensor,
        c: Tensor,
        *,
        beta: Tensor | float = 1.0,
        reconstruction: Tensor | float = 1.0,
        invariance: Tensor | float = 0.0,
    ) -> Tensor:
        r"""Samples the codes.

        Args:
            images: Images, of shape :math:`(B, C, H, W)`, in [0, 1].
            c: The condition, of shape :math:`(B, K)`.
            beta: Weight of the code's log-density in a loss.
            reconstruction: Weight of the model's likelihood. It is unused here: Pyro calls model
                and guide with the same arguments.
            invariance: Weight of the penalty.

        Returns:
            The codes, of shape :math:`(B, D)`.
        """
        mu, log_variance = self.encode(images, c)
        batch = plate("images", len(images), images.device)
        with annealed(beta), batch:
            z = pyro.sample("z", dist.Normal(mu, (0.5 * log_variance).exp()).to_event(1))
        with batch:
            self.penalise(z, mu, log_variance, c, invariance)
        return z

    def encode(self, images: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns mean and log-variance of the codes, each of shape :math:`(B, D)`."""
        mu, log_variance = self.outputs(images, c)
        return mu, self.LIMIT * (log_variance / self.LIMIT).tanh()

    def mean(self, images: Tensor, c: Tensor) -> Tensor:
        r"""Returns the mean of each code, of shape :math:`(B, D)`."""
        return self.encode(images, c)[0]

    def draw(self, images: Tensor, c: Tensor) -> Tensor:
        r"""Samples each code, of shape :math:`(B, D)`."""
        mu, log_variance = self.encode(images, c)
        return mu + (0.5 * log_variance).exp() * torch.randn_like(mu)
