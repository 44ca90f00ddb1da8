"""The model of ICVAE: the decoder of a conditional VAE."""

from __future__ import annotations

import math
from typing import Literal

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_models.grids import Grid
from pyro_models.handlers import plate
from pyro_models.likelihoods import NormalImage
from pyro_models.networks import MLP, Deconvolutions
from pyro_models.objective import annealed
from pyro_models.shapes import Shape, require_batch
from pyro_models.store import GuardedModule


class ConditionalModel(GuardedModule):
    r"""A code, and data given the code and a condition; a subclass has the likelihood.

    .. math:: z \sim \mathcal{N}(0, I), \qquad x \sim p(x | z, c)

    or, with finitely many codes, :math:`z` uniform over the cells of a grid. Sites are ``z`` and
    ``x``, in the plate ``images``.

    Args:
        c_dim: The size :math:`K` of :math:`c`; 0 for a VAE.
        z_dim: The size :math:`D` of the code.
        prior: See :class:`ICVAE`.
        levels: See :class:`ICVAE`.
    """

    def __init__(
        self, c_dim: int, z_dim: int, *, prior: bool = True, levels: int | None = None
    ) -> None:
        super().__init__()
        self.c_dim = c_dim
        self.z_dim = z_dim
        self.prior = prior
        self.levels = levels
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    def forward(
        self,
        x: Tensor | None,
        c: Tensor,
        *,
        beta: Tensor | float = 1.0,
        reconstruction: Tensor | float = 1.0,
        invariance: Tensor | float = 0.0,
    ) -> Tensor:
        r"""Runs the generative process.

        Args:
            x: Observed data, of shape :math:`(B, *)`; sampled if ``None``.
            c: The condition, of shape :math:`(B, K)`.
            beta: Weight of the code's log-density in a loss.
            reconstruction: Weight of the log-likelihood in a loss.
            invariance: Weight of the guide's penalty. It is unused here: Pyro calls model and guide
                with the same arguments.

        Returns:
            The data, of shape :math:`(B, *)`.
        """
        batch = plate("images", len(c), c.device)
        with annealed(beta), batch, poutine.mask(mask=self.prior):
            z = pyro.sample("z", self.code_prior())
        with batch:
            return self.observe(x, z, c, reconstruction)

    def observe(self, x: Tensor | None, z: Tensor, c: Tensor, weight: Tensor | float) -> Tensor:
        r"""Samples or observes the data, with a weight of the log-likelihood in a loss."""
        with annealed(weight):
            return pyro.sample("x", self.x_given(z, c), obs=x)

    def x_given(self, z: Tensor, c: Tensor) -> dist.TorchDistribution:
        """Returns the distribution of the data given codes and conditions."""
        raise NotImplementedError

    def code_prior(self) -> dist.TorchDistribution:
        r"""Returns the distribution of a code, with event shape :math:`(D)`."""
        if self.levels is not None:
            return Grid(self.levels, (self.z_dim,), self.zero).to_event(1)
        return dist.Normal(self.zero, 1.0).expand([self.z_dim]).to_event(1)


class ICVAE(ConditionalModel):
    r"""The generative model of ICVAE, that of a conditional VAE.

    .. math:: z \sim \mathcal{N}(0, I), \qquad x \sim p(x | f(z, c))

    or, with finitely many codes, :math:`z` uniform over the cells of a grid,
    with a condition :math:`c`. :math:`p` is a Normal of fixed standard deviation, or a Bernoulli.
    Sites are ``z`` and ``x``, in the plate ``images``.

    Args:
        shape: The images' shape :math:`(C, H, W)`, or :math:`(H, W)` of grey images.
        c_dim: The size :math:`K` of :math:`c`; 0 for a VAE.
        z_dim: The size :math:`D` of the code.
        hidden: The widths of the dense layers.
        network: ``"dense"``, or ``"conv"`` for transposed convolutions after the dense layers.
        further_halvings: How many more than two of these there are, for large images: see
            :func:`pyro_models.networks.further_halvings`.
        likelihood: ``"normal"`` or ``"bernoulli"``, of pixels in [0, 1].
        likelihood_scale: The Normal's standard deviation. With :math:`\sqrt{1/2}` the negative
            log-likelihood is the squared error summed over pixels, plus a constant.
        prior: Whether :math:`z` has the prior above. Without it the site is masked, for a guide
            that contributes its exact rate itself: :class:`guides.echo.EchoGuide`.
        levels: The number of values of each number of a code, for codes that are the cells of a
            grid: see :class:`~pyro_models.grids.Grid`; ``None`` for the Normal prior.

    Example:
        >>> model = ICVAE((28, 28), c_dim=10, z_dim=2)
        >>> model.sample(torch.eye(10)).shape  # an image of each class
        torch.Size([10, 1, 28, 28])

    References:
        | Invariant Representations without Adversarial Training (Moyer et al., 2018)
        | https://arxiv.org/abs/1805.09458
    """

    def __init__(
        self,
        shape: Shape = Shape(1, 28, 28),
        c_dim: int = 10,
        z_dim: int = 2,
        *,
        hidden: tuple[int, ...] = (512, 512),
        network: Literal["dense", "conv"] = "dense",
        further_halvings: int = 0,
        likelihood: Literal["normal", "bernoulli"] = "normal",
        likelihood_scale: float = math.sqrt(0.5),
        prior: bool = True,
        levels: int | None = None,
    ) -> None:
        super().__init__(c_dim, z_dim, prior=prior, levels=levels)
        self.shape = shape = Shape.of(shape)
        self.likelihood = likelihood
        self.likelihood_scale = likelihood_scale
        if network == "dense":
            self.decoder: nn.Module = MLP(z_dim + c_dim, shape.values, hidden, nn.Tanh)
        else:
            channels = (*(64,) * further_halvings, 64, 32)
            self.decoder = Deconvolutions(z_dim + c_dim, shape, hidden, channels)

    def observe(self, x: Tensor | None, z: Tensor, c: Tensor, weight: Tensor | float) -> Tensor:
        if x is not None:
            require_batch(x, self.shape)
        return super().observe(x, z, c, weight)

    def x_given(self, z: Tensor, c: Tensor) -> dist.TorchDistribution:
        return self.pixels(z, c)

    def pixels(self, z: Tensor, c: Tensor) -> dist.TorchDistribution:
        """Returns the likelihood; override it for another one."""
        out = self.decoder(torch.cat([z, c], dim=-1)).to(z.dtype).unflatten(-1, self.shape)
        if self.likelihood == "bernoulli":
            # Pixels between 0 and 1 are accepted as probabilities.
            return dist.Bernoulli(logits=out, validate_args=False).to_event(3)
        return NormalImage(dist.Normal(out, self.likelihood_scale), 3)

    def decode(self, z: Tensor, c: Tensor) -> Tensor:
        r"""Decodes codes to mean images :math:`(B, C, H, W)`; a Normal's may exceed [0, 1].

        Args:
            z: Codes, of shape :math:`(B, D)`.
            c: The condition, of shape :math:`(B, K)`.
        """
        return self.pixels(z, c).mean

    @torch.no_grad()
    def sample(self, c: Tensor) -> Tensor:
        r"""Decodes a code from the prior for each row of ``c``: images :math:`(B, C, H, W)`."""
        return self.decode(self.code_prior().sample((len(c),)), c)
