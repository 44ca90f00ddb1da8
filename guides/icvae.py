"""Guides for ICVAE: encoders whose codes are to be independent of a condition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_models.icvae import ICVAE
from pyro_models.networks import MLP, Convolutions
from pyro_models.objective import annealed, penalty
from pyro_models.shapes import Shape, require_batch
from pyro_models.store import GuardedModule

Invariance = Callable[..., Tensor]
"""A penalty: from z, mu, log-variances and c of a batch, and mu, log-variances and c of earlier
codes if the guide has a memory, to nats for each datum, of shape (B)."""


class Encoder(GuardedModule):
    r"""A network with two heads, from images, and from :math:`c` if ``sees_c``.

    Args:
        model: The model whose codes are inferred; the encoder has its sizes.
        hidden: The widths of the dense layers.
        network: ``"dense"``, or ``"conv"`` for convolutions before the dense layers.
        further_halvings: How many more than two of these there are, for large images: see
            :func:`pyro_models.networks.further_halvings`.
        sees_c: Whether :math:`c` is an input too.
    """

    def __init__(
        self,
        model: ICVAE,
        *,
        hidden: tuple[int, ...] = (512, 512),
        network: Literal["dense", "conv"] = "dense",
        further_halvings: int = 0,
        sees_c: bool = False,
    ) -> None:
        super().__init__()
        self.shape = model.shape
        self.sees_c = sees_c
        extra = model.c_dim if sees_c else 0
        if network == "dense":
            self.features: nn.Module = nn.Sequential(
                nn.Flatten(), MLP(model.shape.values, hidden[0]), nn.Tanh()
            )
        else:
            channels = (32, 64, *(64,) * further_halvings)
            convolutions = Convolutions(model.shape, hidden[0], channels=channels)
            self.features = nn.Sequential(convolutions, nn.Tanh())
        self.heads = MLP(hidden[0] + extra, 2 * model.z_dim, hidden[1:], nn.Tanh)

    def outputs(self, images: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns the outputs of the two heads, each of shape :math:`(B, D)`."""
        require_batch(images, self.shape)
        features = self.features(images)
        if self.sees_c:
            features = torch.cat([features, c.to(features.dtype)], dim=-1)
        first, second = self.heads(features).to(images.dtype).chunk(2, dim=-1)
        return first, second


class Memory(nn.Module):
    r"""A ring buffer of the last :math:`M` codes; zeros before it is full.

    Args:
        size: The number :math:`M` of codes.
        z_dim: The size of a code.
        c_dim: The size of :math:`c`.
    """

    def __init__(self, size: int, z_dim: int, c_dim: int) -> None:
        super().__init__()
        self.register_buffer("mu", torch.zeros(size, z_dim))
        self.register_buffer("log_variance", torch.zeros(size, z_dim))
        self.register_buffer("c", torch.zeros(size, c_dim))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        r"""Returns means, log-variances and :math:`c`, of shapes :math:`(M, *)`."""
        return self.mu, self.log_variance, self.c

    @torch.no_grad()
    def put(self, *codes: Tensor) -> None:
        r"""Adds means, log-variances and :math:`c` of a batch, of shapes :math:`(B, *)`."""
        codes = tuple(rows[: len(self.c)] for rows in codes)
        rows = (self.place + torch.arange(len(codes[0]), device=self.place.device)) % len(self.c)
        for buffer, new in zip(self(), codes, strict=True):
            buffer.index_copy_(0, rows, new.to(buffer.dtype))
        self.place.copy_((self.place + len(rows)) % len(self.c))


class GaussianGuide(Encoder):
    r"""A Gaussian encoder with a penalty for invariance.

    .. math:: z \sim \mathcal{N}(\mu(x), \text{diag}(e^{l(x)})), \qquad |l| < 8

    The penalty is a :func:`pyro.factor` of the batch, in nats for each datum, so that it works with
    any model, likelihood and estimator. Means are unbounded: a tanh would keep codes out of the
    tails of a :math:`\mathcal{N}(0, I)` prior.

    Args:
        model: The model whose codes are inferred.
        invariance: The penalty, such as those of :mod:`train.losses`; ``None`` for a CVAE.
        memory: The number of codes of earlier batches that the penalty has in training; 0 for none.
        hidden: See :class:`Encoder`.
        network: See :class:`Encoder`.
        further_halvings: See :class:`Encoder`.
        sees_c: See :class:`Encoder`.

    Example:
        >>> guide = GaussianGuide(ICVAE((28, 28), c_dim=10, z_dim=2))
        >>> guide.draw(torch.rand(5, 1, 28, 28), torch.eye(10)[:5]).shape
        torch.Size([5, 2])

    References:
        | Invariant Representations without Adversarial Training (Moyer et al., 2018)
        | https://arxiv.org/abs/1805.09458
    """

    LIMIT = 8.0

    def __init__(
        self,
        model: ICVAE,
        invariance: Invariance | None = None,
        *,
        memory: int = 0,
        hidden: tuple[int, ...] = (512, 512),
        network: Literal["dense", "conv"] = "dense",
        further_halvings: int = 0,
        sees_c: bool = False,
    ) -> None:
        sizes = {"hidden": hidden, "network": network, "further_halvings": further_halvings}
        super().__init__(model, **sizes, sees_c=sees_c)
        self.invariance = invariance
        self.memory = Memory(memory, model.z_dim, model.c_dim) if memory else None

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
        plate = pyro.plate("images", len(images), device=images.device)
        with annealed(beta), plate:
            z = pyro.sample("z", dist.Normal(mu, (0.5 * log_variance).exp()).to_event(1))
        with plate:
            if self.invariance is not None:
                codes = (mu, log_variance, c)
                if self.memory is not None and self.training:
                    nats = self.invariance(z, *codes, self.memory())
                    self.memory.put(*codes)
                else:
                    nats = self.invariance(z, *codes)
                # Not poutine.scale, whose factor must be positive: a weight may start at zero.
                penalty("invariance", invariance * nats)
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

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Echo:
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
        hidden: See :class:`Encoder`.
        network: See :class:`Encoder`.
        further_halvings: See :class:`Encoder`.
        sees_c: See :class:`Encoder`.

    Raises:
        ValueError: If a batch has not more images than ``terms``.

    References:
        | Exact Rate-Distortion in Autoencoders via Echo Noise (Brekelmans et al., 2019)
        | https://arxiv.org/abs/1904.07199
    """

    def __init__(
        self,
        model: ICVAE,
        *,
        terms: int = 100,
        limit: float = 0.8373,
        hidden: tuple[int, ...] = (512, 512),
        network: Literal["dense", "conv"] = "dense",
        further_halvings: int = 0,
        sees_c: bool = False,
    ) -> None:
        sizes = {"hidden": hidden, "network": network, "further_halvings": further_halvings}
        super().__init__(model, **sizes, sees_c=sees_c)
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
        """Samples the codes; see :meth:`GaussianGuide.forward`."""
        f, s = self.encode(images, c)
        with annealed(beta + invariance), pyro.plate("images", len(images), device=images.device):
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


def model_and_guide(
    shape: Shape,
    c_dim: int,
    penalty: Invariance | None = None,
    *,
    z_dim: int = 2,
    invariance: Literal["none", "pairwise", "kt", "direct", "echo"] = "none",
    hidden: tuple[int, ...] = (512, 512),
    network: Literal["dense", "conv"] = "dense",
    further_halvings: int = 0,
    likelihood: Literal["normal", "bernoulli"] = "normal",
    likelihood_scale: float = 0.5**0.5,
    encoder_sees_labels: bool = False,
    memory: int = 2048,
    echo_terms: int = 100,
) -> tuple[ICVAE, GaussianGuide | EchoGuide]:
    r"""Makes the model and the guide that belong to a penalty.

    Args:
        shape: The images' shape :math:`(C, H, W)`, or :math:`(H, W)` of grey images.
        c_dim: The size :math:`K` of the condition; 0 for a VAE.
        penalty: The penalty of a Gaussian guide, one of :mod:`train.losses`; ``None`` for none.
        z_dim: The size :math:`D` of a code.
        invariance: The penalty's name. ``"echo"`` makes a guide with Echo noise and a model without
            a prior; ``"direct"`` gives the guide a memory.
        hidden: Widths of the dense layers.
        network: See :class:`Encoder`.
        further_halvings: See :class:`Encoder`.
        likelihood: See :class:`~pyro_models.icvae.ICVAE`.
        likelihood_scale: See :class:`~pyro_models.icvae.ICVAE`.
        encoder_sees_labels: Whether the encoder is given the condition too.
        memory: The number of earlier codes that ``"direct"`` compares with.
        echo_terms: The number of other images that make an image's Echo noise.

    Example:
        >>> model, guide = model_and_guide((28, 28), 10, invariance="echo", echo_terms=5)
        >>> guide.draw(torch.rand(8, 1, 28, 28), torch.zeros(8, 10)).shape
        torch.Size([8, 2])
    """
    sizes = {"hidden": hidden, "network": network, "further_halvings": further_halvings}
    pixels = {"likelihood": likelihood, "likelihood_scale": likelihood_scale}
    model = ICVAE(shape, c_dim, z_dim, **sizes, **pixels, prior=invariance != "echo")
    sizes["sees_c"] = encoder_sees_labels
    if invariance == "echo":
        return model, EchoGuide(model, terms=echo_terms, **sizes)
    memory = memory if invariance == "direct" else 0
    return model, GaussianGuide(model, penalty, memory=memory, **sizes)
