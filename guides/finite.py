"""A guide for ICVAE whose codes are the cells of a grid, so that what they tell can be counted."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from guides.encoders import Invariance, PenalisedEncoder
from pyro_models.grids import EDGE, quantised
from pyro_models.handlers import plate
from pyro_models.icvae import ConditionalModel
from pyro_models.objective import annealed

BLUR = 0.5
"""Standard deviation, in cells, of the Gaussians by which the penalty compares codes."""


class FiniteGuide(PenalisedEncoder):
    r"""An encoder whose code is one of :math:`L^D` cells, and nothing besides.

    .. math:: z = \text{centre of the cell of } g(x), \qquad g(x) = \sqrt{3} \tanh f(x)

    The code is a function of the image, so that there is no mean or variance that would tell more.
    As it takes finitely many values, the frequencies of codes and conditions bound what anybody can
    read in it: see :mod:`train.metrics.guarantees`. The gradient with respect to :math:`g` is that
    with respect to :math:`z` (straight-through), which is biased. The ELBO itself is exact, with
    :math:`\log q(z | x) = 0` and :math:`\log p(z) = - D \log L`.

    The penalty compares Gaussians around :math:`g(x)` with a standard deviation of half a cell,
    which have a gradient, where cells have none.

    Args:
        model: The model whose codes are inferred, made with ``levels``.
        invariance: See :class:`~guides.gaussian.GaussianGuide`.
        options: The other arguments of :class:`~guides.encoders.PenalisedEncoder`.

    Raises:
        ValueError: If the model's codes are not finite.

    Example:
        >>> from pyro_models.icvae import ICVAE
        >>> guide = FiniteGuide(ICVAE((28, 28), c_dim=10, z_dim=2, levels=16))
        >>> z = guide.mean(torch.rand(5, 1, 28, 28), torch.eye(10)[:5])
        >>> torch.equal(z, quantised(z, 16))
        True

    References:
        | Finite Scalar Quantization: VQ-VAE Made Simple (Mentzer et al., 2023)
        | https://arxiv.org/abs/2309.15505
        | FARE: Provably Fair Representation Learning with Practical Certificates (Jovanovic et al.,
          2023)
        | https://arxiv.org/abs/2210.07213
    """

    HEADS: ClassVar = 1

    def __init__(
        self, model: ConditionalModel, invariance: Invariance | None = None, **options: Any
    ) -> None:
        if model.levels is None:
            raise ValueError("the model's codes are not finite: make it with levels")
        super().__init__(model, invariance, **options)
        self.levels = model.levels
        self.log_variance = 2 * math.log(BLUR * 2 * EDGE / self.levels)

    def forward(
        self,
        images: Tensor,
        c: Tensor,
        *,
        beta: Tensor | float = 1.0,
        reconstruction: Tensor | float = 1.0,
        invariance: Tensor | float = 0.0,
    ) -> Tensor:
        """Infers the codes; see :meth:`guides.gaussian.GaussianGuide.forward`."""
        signal = self.signal(images, c)
        batch = plate("images", len(images), images.device)
        with annealed(beta), batch:
            z = quantised(signal.detach(), self.levels) + signal - signal.detach()
            z = pyro.sample("z", dist.Delta(z).to_event(1))
        with batch:
            log_variance = torch.full_like(signal, self.log_variance)
            draw = signal + (0.5 * log_variance).exp() * torch.randn_like(signal)
            self.penalise(draw, signal, log_variance, c, invariance)
        return z

    def signal(self, images: Tensor, c: Tensor) -> Tensor:
        r"""Returns :math:`g(x)`, of shape :math:`(B, D)`."""
        (head,) = self.outputs(images, c)
        return EDGE * head.tanh()

    def encode(self, images: Tensor, c: Tensor) -> tuple[Tensor]:
        r"""Returns the codes, of shape :math:`(B, D)`, which are all that the encoder gives."""
        return (quantised(self.signal(images, c), self.levels),)

    def mean(self, images: Tensor, c: Tensor) -> Tensor:
        r"""Returns the codes, of shape :math:`(B, D)`."""
        return self.encode(images, c)[0]

    def draw(self, images: Tensor, c: Tensor) -> Tensor:
        r"""Returns the codes, of shape :math:`(B, D)`: there is nothing to draw."""
        return self.mean(images, c)
