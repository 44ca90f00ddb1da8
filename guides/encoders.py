"""Encoders of ICVAE, and the penalty that compares their codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from guides.predictors import PredictivePenalty
from pyro_models.icvae import ConditionalModel
from pyro_models.networks import MLP, Convolutions
from pyro_models.objective import gradient_alone, penalty
from pyro_models.shapes import Shape, require_batch
from pyro_models.store import GuardedModule

Invariance = Callable[..., Tensor]
"""A penalty: from z, mu, log-variances and c of a batch, and mu, log-variances and c of earlier
codes if the guide has a memory, to nats for each datum, of shape (B)."""


class ImageFeatures(nn.Sequential):
    r"""The first layers of an encoder of images.

    Args:
        shape: The images' channels, height and width.
        width: The number :math:`F` of features.
        network: See :class:`Encoder`.
        further_halvings: See :class:`Encoder`.

    Shape:
        :math:`(B, C, H, W)` to :math:`(B, F)`.

    Raises:
        ValueError: If a batch is of another shape.
    """

    def __init__(
        self,
        shape: Shape,
        width: int,
        network: Literal["dense", "conv"] = "dense",
        further_halvings: int = 0,
    ) -> None:
        if network == "dense":
            layers: tuple[nn.Module, ...] = (nn.Flatten(), MLP(shape.values, width))
        else:
            channels = (32, 64, *(64,) * further_halvings)
            layers = (Convolutions(shape, width, channels=channels),)
        super().__init__(*layers, nn.Tanh())
        self.shape = shape

    def forward(self, images: Tensor) -> Tensor:
        """Returns the features of images."""
        require_batch(images, self.shape)
        return super().forward(images)


class Encoder(GuardedModule):
    r"""A network with one or two heads, from images, and from :math:`c` if ``sees_c``.

    Args:
        model: The model whose codes are inferred; the encoder has its sizes.
        hidden: The widths of the dense layers.
        network: ``"dense"``, or ``"conv"`` for convolutions before the dense layers.
        further_halvings: How many more than two of these there are, for large images: see
            :func:`pyro_models.networks.further_halvings`.
        sees_c: Whether :math:`c` is an input too.
        features: The first layers, from a batch of data to features of shape :math:`(B, H)`, with
            :math:`H` the first of ``hidden``; those of images if ``None``.

    Attributes:
        HEADS: The number of heads.
    """

    HEADS: ClassVar = 2

    def __init__(
        self,
        model: ConditionalModel,
        *,
        hidden: tuple[int, ...] = (512, 512),
        network: Literal["dense", "conv"] = "dense",
        further_halvings: int = 0,
        sees_c: bool = False,
        features: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.sees_c = sees_c
        extra = model.c_dim if sees_c else 0
        if features is None:
            features = ImageFeatures(model.shape, hidden[0], network, further_halvings)
        self.features = features
        self.heads = MLP(hidden[0] + extra, self.HEADS * model.z_dim, hidden[1:], nn.Tanh)

    def outputs(self, images: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        r"""Returns the output of each head, of shape :math:`(B, D)`."""
        features = self.features(images)
        if self.sees_c:
            features = torch.cat([features, c.to(features.dtype)], dim=-1)
        return self.heads(features).to(images.dtype).chunk(self.HEADS, dim=-1)


class Memory(nn.Module):
    r"""A ring buffer of the last :math:`M` codes; zeros before it is full.

    Args:
        size: The number :math:`M` of codes.
        z_dim: The size of a code.
        c_dim: The size of :math:`c`.
    """

    mu: Tensor
    log_variance: Tensor
    c: Tensor
    place: Tensor

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


class PenalisedEncoder(Encoder):
    r"""An encoder whose codes a penalty compares, as Gaussians.

    Args:
        model: The model whose codes are inferred.
        invariance: The penalty, such as those of :mod:`train.losses.invariance`; ``None`` for a
            CVAE. A :class:`~guides.predictors.PredictivePenalty` has a network of its own, which is
            trained beside the encoder.
        memory: The number of codes of earlier batches that the penalty has in training; 0 for none.
        options: The other arguments of :class:`Encoder`.
    """

    def __init__(
        self,
        model: ConditionalModel,
        invariance: Invariance | None = None,
        *,
        memory: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        self.invariance = invariance
        self.memory = Memory(memory, model.z_dim, model.c_dim) if memory else None

    def penalise(
        self, z: Tensor, mu: Tensor, log_variance: Tensor, c: Tensor, weight: Tensor | float
    ) -> None:
        r"""Adds the penalty to a loss, within the plate of the batch.

        Args:
            z: A draw from each Gaussian, of shape :math:`(B, D)`.
            mu: Means, of shape :math:`(B, D)`.
            log_variance: Log-variances, of shape :math:`(B, D)`.
            c: The condition, of shape :math:`(B, K)`.
            weight: The penalty's weight.
        """
        if self.invariance is None:
            return
        codes = (mu, log_variance, c)
        if self.memory is not None and self.training:
            nats = self.invariance(z, *codes, self.memory())
            self.memory.put(*codes)
        else:
            nats = self.invariance(z, *codes)
        # Not poutine.scale, whose factor must be positive: a weight may start at zero.
        nats = weight * nats
        if isinstance(self.invariance, PredictivePenalty):
            nats = nats + gradient_alone(self.invariance.loss(z, c))
        penalty("invariance", nats)
