"""A guide for ICVAE with Echo noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from guides.encoders import Encoder
from pyro_models.handlers import plate
from pyro_models.icvae import ConditionalModel
from pyro_models.objective import annealed


class Echo(TorchDistribution):
    r"""The distribution of codes with Echo noise, represented by one sample and its information.

    Its ``log_prob`` is :math:`- \log S` for any value. The mean of this over the data is the mutual
    information of codes and images: the expected log-ratio of a code's density to the marginal
    density of codes. So an ELBO without a prior has that information as its divergence. For a
    single code, :math:`- \log S` is neither that ratio nor a log-density. See :class:`EchoGuide`
    for when it is exact.

    Args:
        f: Signals :math:`f(x)`.
        s: Gains :math:`S(x)`, of the same shape, between 0 and 1.
        noise: :math:`\varepsilon`, of the same shape.
    """

    arg_constraints: ClassVar = {}
    has_rsample = True

    def __init__(self, f: Tensor, s: Tensor, noise: Tensor) -> None:
        self.f = f
        self.s = s
        self.noise = noise
        super().__init__(f.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The sample, as the mean is not known."""
        return self.rsample()

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Returns the one sample, expanded to ``sample_shape + batch_shape``."""
        return (self.f + self.s * self.noise).expand(*sample_shape, *self.batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns :math:`- \log S`, of the shape of the value."""
        return -self.s.log().expand(value.shape)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Echo:
        """Expands the batch shape."""
        return Echo(*(x.expand(batch_shape) for x in (self.f, self.s, self.noise)))


class EchoGuide(Encoder):
    r"""An encoder with Echo noise, whose mutual information with the image is known exactly.

    .. math:: z = f(x) + S(x) \, \varepsilon, \qquad
        \varepsilon = \sum_{m = 1}^{M} \Big( \prod_{k < m} S(x_k) \Big) f(x_m), \qquad
        I(x; z) = - \mathbb{E} \log |\det S(x)|

    where :math:`x_1, \dots, x_M` are other images of the batch, drawn without replacement. The
    activation of :math:`f` is a tanh, that of the diagonal :math:`S` is :math:`r` times a sigmoid.
    It needs a model without a prior: the information takes the place of the KL divergence, with the
    weight :math:`\beta + \lambda`.

    The information is exact for independent :math:`x_m` and an infinite sum. The sum is truncated
    after :math:`M` terms. With :math:`r = 0.8373` and :math:`M = 100` the remainder :math:`r^M` is
    below float32's resolution. With few terms codes have more information than
    :math:`- \mathbb{E} \log S`. For example, with :math:`S = 0.8373` and one dimension of
    :math:`f = \tanh(x), x \sim \mathcal{N}(0, 1)`, it is 0.257 nats with 3 terms and 0.182 with
    10, in place of 0.178.

    Args:
        model: The model whose codes are inferred, made with ``prior=False``.
        terms: The number :math:`M` of other images; a batch needs more images.
        limit: :math:`r`, below 1.
        options: The other arguments of :class:`~guides.encoders.Encoder`.

    Raises:
        ValueError: If a batch has not more images than ``terms``.

    References:
        | Exact Rate-Distortion in Autoencoders via Echo Noise (Brekelmans et al., 2019)
        | https://arxiv.org/abs/1904.07199
    """

    def __init__(
        self,
        model: ConditionalModel,
        *,
        terms: int = 100,
        limit: float = 0.8373,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        self.terms = terms
        self.limit = limit

    def forward(
        self,
        images: Tensor,
        c: Tensor,
        *,
        beta: Tensor | float = 1.0,
        reconstruction: Tensor | float = 1.0,
        invariance: Tensor | float = 0.0,
    ) -> Tensor:
        """Samples the codes; see :meth:`guides.gaussian.GaussianGuide.forward`."""
        f, s = self.encode(images, c)
        with annealed(beta + invariance), plate("images", len(images), images.device):
            return pyro.sample("z", Echo(f, s, self.noise(f, s)).to_event(1))

    def encode(self, images: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns signal :math:`f` and gain :math:`S`, each of shape :math:`(B, D)`."""
        f, s = self.outputs(images, c)
        return f.tanh(), self.limit * s.sigmoid()

    def noise(self, f: Tensor, s: Tensor) -> Tensor:
        r"""Returns the noise of each datum, made of other images, of shape :math:`(B, D)`."""
        batch = len(f)
        if batch <= self.terms:
            raise ValueError(
                f"Echo needs batches of more than {self.terms} images, but this one has {batch}: "
                "lower echo_terms or raise the batch size"
            )
        # M others in random order: the indices of the M largest random numbers of each row, where
        # the diagonal is the smallest.
        order = torch.rand(batch, batch, device=f.device)
        order.diagonal().fill_(-1.0)
        others = order.topk(self.terms, dim=1).indices
        gains = torch.cat([torch.ones_like(s).unsqueeze(1), s[others][:, :-1]], dim=1).cumprod(1)
        return (gains * f[others]).sum(1)

    def mean(self, images: Tensor, c: Tensor) -> Tensor:
        r"""Returns the mean of each code, of shape :math:`(B, D)`, with the batch's mean noise."""
        f, s = self.encode(images, c)
        return f + s * self.noise(f, s).mean(0)

    def draw(self, images: Tensor, c: Tensor) -> Tensor:
        r"""Samples each code, of shape :math:`(B, D)`; the noise is made of the batch."""
        f, s = self.encode(images, c)
        return f + s * self.noise(f, s)
