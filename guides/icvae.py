"""Guides for ICVAE: encoders whose codes are to say nothing about a known factor."""

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
from pyro_models.shapes import Shape
from pyro_models.store import GuardedModule

Invariance = Callable[..., Tensor]
"""From z, mu, the log-variance and c of a batch, and past mu, log-variances and c if the guide has
a memory, to what z says too much, in nats for each datum."""


class Encoder(GuardedModule):
    r"""A network from images, and :math:`c` if it is to see it, to two heads.

    Args:
        model: The model whose codes are inferred; its sizes are taken.
        hidden: The widths of the dense layers.
        network: ``"dense"``, or ``"conv"`` for convolutions before the dense layers.
        sees_c: Whether the encoder is given :math:`c` beside the image.
    """

    def __init__(
        self,
        model: ICVAE,
        *,
        hidden: tuple[int, ...] = (512, 512),
        network: Literal["dense", "conv"] = "dense",
        sees_c: bool = False,
    ) -> None:
        super().__init__()
        self.sees_c = sees_c
        extra = model.c_dim if sees_c else 0
        if network == "dense":
            self.features: nn.Module = nn.Sequential(
                nn.Flatten(), MLP(model.shape[0] * model.shape[1], hidden[0]), nn.Tanh()
            )
        else:
            self.features = nn.Sequential(Convolutions(model.shape, hidden[0]), nn.Tanh())
        self.heads = MLP(hidden[0] + extra, 2 * model.z_dim, hidden[1:], nn.Tanh)

    def parts(self, images: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        r"""The outputs of the two heads, each of shape :math:`(B, D)`."""
        features = self.features(images)
        if self.sees_c:
            features = torch.cat([features, c.to(features.dtype)], dim=-1)
        first, second = self.heads(features).to(images.dtype).chunk(2, dim=-1)
        return first, second


class Memory(nn.Module):
    r"""The last codes that were put in, oldest out first; zeros where there were none.

    Args:
        size: How many, :math:`M`.
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
        r"""Means, log-variances and :math:`c`, of shapes :math:`(M, *)`."""
        return self.mu, self.log_variance, self.c

    @torch.no_grad()
    def put(self, *codes: Tensor) -> None:
        r"""Takes in means, log-variances and :math:`c` of a batch, of shapes :math:`(B, *)`."""
        codes = tuple(part[: len(self.c)] for part in codes)
        rows = (self.place + torch.arange(len(codes[0]), device=self.place.device)) % len(self.c)
        for kept, new in zip(self(), codes, strict=True):
            kept.index_copy_(0, rows, new.to(kept.dtype))
        self.place.copy_((self.place + len(rows)) % len(self.c))


class GaussianGuide(Encoder):
    r"""A Gaussian encoder with a term for invariance.

    .. math:: z \sim \mathcal{N}(\mu(x), \text{diag}(e^{l(x)})), \qquad |l| < 8

    The term is a :func:`pyro.factor` in nats for each datum, of the batch that the guide is given;
    so it stays when the model, the likelihood or the estimator is another one. A mean is not
    bounded: with a prior of :math:`\mathcal{N}(0, I)` a tanh would keep codes out of its tails.

    Args:
        model: The model whose codes are inferred.
        invariance: The term, one of :mod:`train.losses` or like them; ``None`` for a CVAE.
        memory: How many codes of earlier batches the term is given, while training; 0 for none.
        hidden: See :class:`Encoder`.
        network: See :class:`Encoder`.
        sees_c: See :class:`Encoder`.

    Example:
        >>> guide = GaussianGuide(ICVAE((28, 28), c_dim=10, z_dim=2))
        >>> guide.draw(torch.rand(5, 28, 28), torch.eye(10)[:5]).shape
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
        sees_c: bool = False,
    ) -> None:
        super().__init__(model, hidden=hidden, network=network, sees_c=sees_c)
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
        r"""Draws the codes.

        Args:
            images: Images, of shape :math:`(B, H, W)`, in [0, 1].
            c: The known factor, of shape :math:`(B, C)`.
            beta: The weight of the code's log-probabilities in an objective.
            reconstruction: The model's; a guide has no use for it.
            invariance: The weight of the term for invariance.

        Returns:
            The codes, of shape :math:`(B, D)`.
        """
        mu, log_variance = self.encode(images, c)
        plate = pyro.plate("images", len(images), device=images.device)
        with annealed(beta), plate:
            z = pyro.sample("z", dist.Normal(mu, (0.5 * log_variance).exp()).to_event(1))
        with plate:
            if self.invariance is not None:
                known = (mu, log_variance, c)
                if self.memory is not None and self.training:
                    term = self.invariance(z, *known, self.memory())
                    self.memory.put(*known)
                else:
                    term = self.invariance(z, *known)
                # Not as a scale, which Pyro wants above zero: a weight may start there.
                penalty("invariance", invariance * term)
        return z

    def encode(self, images: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        r"""Mean and log-variance of the codes, each of shape :math:`(B, D)`."""
        mu, log_variance = self.parts(images, c)
        return mu, self.LIMIT * (log_variance / self.LIMIT).tanh()

    def mean(self, images: Tensor, c: Tensor) -> Tensor:
        r"""The mean of each code, of shape :math:`(B, D)`."""
        return self.encode(images, c)[0]

    def draw(self, images: Tensor, c: Tensor) -> Tensor:
        r"""One sample of each code, of shape :math:`(B, D)`."""
        mu, log_variance = self.encode(images, c)
        return mu + (0.5 * log_variance).exp() * torch.randn_like(mu)


class Echo(TorchDistribution):
    r"""The distribution of codes with Echo noise, known by one draw and its information.

    In place of a log-probability it has :math:`- \log S`, whatever the value. In the mean over the
    data that is the log-ratio of a code's probability to that of the codes' own marginal, so an
    ELBO without a prior has the rate to that marginal as its divergence. For a single code it is
    neither the ratio nor a log-probability. See :class:`EchoGuide` for when it is exact.

    Args:
        f: Signals.
        s: Gains, of the same shape, between 0 and 1.
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
        """The draw: there is no other."""
        return self.rsample()

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """The one draw, of shape ``batch_shape``."""
        return (self.f + self.s * self.noise).expand(*sample_shape, *self.batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        r""":math:`- \log S`, of the shape of the value."""
        return -self.s.log().expand(value.shape)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Echo:
        """The same with a larger batch shape."""
        return Echo(*(part.expand(batch_shape) for part in (self.f, self.s, self.noise)))


class EchoGuide(Encoder):
    r"""An encoder with Echo noise, the information of whose codes is known.

    .. math:: z = f(x) + S(x) \, \varepsilon, \qquad
        \varepsilon = \sum_{m = 1}^{M} \Big( \prod_{k < m} S(x_k) \Big) f(x_m), \qquad
        I(x; z) = - \mathbb{E} \log |\det S(x)|

    with :math:`x_1, \dots, x_M` other images of the batch, without replacement;
    :math:`f = \tanh`, :math:`S = r \, \text{sigmoid}` diagonal. It needs a model without a prior:
    the rate to the codes' own marginal takes its place, with the weight
    :math:`\beta + \lambda`.

    The information is exact for independent :math:`x_m` and an endless sum. It is cut after
    :math:`M` terms, so that what is left, :math:`r^M`, is under float32's resolution at
    :math:`r = 0.8373` and :math:`M = 100`. With few terms codes say more than
    :math:`- \mathbb{E} \log S`: at :math:`S = 0.8373` everywhere, and one dimension of
    :math:`f = \tanh(x), x \sim \mathcal{N}(0, 1)`, 0.257 nats for 0.178 with 3 terms, and 0.182
    with 10.

    Args:
        model: The model whose codes are inferred, made with ``prior=False``.
        terms: The number :math:`M` of other images; a batch must have more.
        limit: :math:`r`, below 1.
        hidden: See :class:`Encoder`.
        network: See :class:`Encoder`.
        sees_c: See :class:`Encoder`.

    Raises:
        ValueError: If a batch has no more images than there are terms.

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
        sees_c: bool = False,
    ) -> None:
        super().__init__(model, hidden=hidden, network=network, sees_c=sees_c)
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
        """Draws the codes; see :meth:`GaussianGuide.forward`."""
        f, s = self.encode(images, c)
        with annealed(beta + invariance), pyro.plate("images", len(images), device=images.device):
            return pyro.sample("z", Echo(f, s, self.noise(f, s)).to_event(1))

    def encode(self, images: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        r"""Signal :math:`f` and gain :math:`S` of the codes, each of shape :math:`(B, D)`."""
        f, s = self.parts(images, c)
        return f.tanh(), self.limit * s.sigmoid()

    def noise(self, f: Tensor, s: Tensor) -> Tensor:
        r"""The noise of each datum, made of the others', of shape :math:`(B, D)`."""
        batch = len(f)
        if batch <= self.terms:
            raise ValueError(f"a batch of {batch} has not the {self.terms} others that Echo needs")
        # Others in a random order: the rows' largest, but for the diagonal, are M of them.
        order = torch.rand(batch, batch, device=f.device)
        order.diagonal().fill_(-1.0)
        others = order.topk(self.terms, dim=1).indices
        gains = torch.cat([torch.ones_like(s).unsqueeze(1), s[others][:, :-1]], dim=1).cumprod(1)
        return (gains * f[others]).sum(1)

    def mean(self, images: Tensor, c: Tensor) -> Tensor:
        r"""The mean of each code, of shape :math:`(B, D)`, with the batch's mean noise."""
        f, s = self.encode(images, c)
        return f + s * self.noise(f, s).mean(0)

    def draw(self, images: Tensor, c: Tensor) -> Tensor:
        r"""One sample of each code, of shape :math:`(B, D)`; the batch makes the noise."""
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
    likelihood: Literal["normal", "bernoulli"] = "normal",
    likelihood_scale: float = 0.5**0.5,
    encoder_sees_labels: bool = False,
    memory: int = 2048,
    echo_terms: int = 100,
) -> tuple[ICVAE, GaussianGuide | EchoGuide]:
    r"""Makes the model and the guide that belong to a penalty.

    Args:
        shape: The images' height and width.
        c_dim: The size :math:`C` of the condition; 0 for a VAE.
        penalty: The penalty of a Gaussian guide, one of :mod:`train.losses`; ``None`` for none.
        z_dim: The size :math:`D` of a code.
        invariance: The penalty's name. ``"echo"`` makes a guide with Echo noise and a model without
            a prior; ``"direct"`` gives the guide a memory.
        hidden: Widths of the dense layers.
        network: See :class:`Encoder`.
        likelihood: See :class:`~pyro_models.icvae.ICVAE`.
        likelihood_scale: See :class:`~pyro_models.icvae.ICVAE`.
        encoder_sees_labels: Whether the encoder is given the condition too.
        memory: The number of earlier codes that ``"direct"`` compares with.
        echo_terms: The number of other images that make an image's Echo noise.

    Example:
        >>> model, guide = model_and_guide((28, 28), 10, invariance="echo", echo_terms=5)
        >>> guide.draw(torch.rand(8, 28, 28), torch.zeros(8, 10)).shape
        torch.Size([8, 2])
    """
    sizes = {"hidden": hidden, "network": network}
    pixels = {"likelihood": likelihood, "likelihood_scale": likelihood_scale}
    model = ICVAE(shape, c_dim, z_dim, **sizes, **pixels, prior=invariance != "echo")
    sizes["sees_c"] = encoder_sees_labels
    if invariance == "echo":
        return model, EchoGuide(model, terms=echo_terms, **sizes)
    memory = memory if invariance == "direct" else 0
    return model, GaussianGuide(model, penalty, memory=memory, **sizes)
