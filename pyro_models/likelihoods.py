"""Distributions of images around a model's mean image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor, broadcast_tensors
from torch.distributions import constraints
from torch.nn.functional import mse_loss

from pyro_models.shapes import require_shape


class NormalImage(dist.Independent):
    r"""A Normal distribution around an image, with one standard deviation for all values.

    It is ``Normal(loc, scale).to_event(3)``. Its log-density is computed as a squared distance,

    .. math:: - \frac{|x - \mu|^2}{2 \tau^2} - \frac{C H W}{2} \log (2 \pi \tau^2)

    which reads and writes the pixels a third as often.

    Args:
        base_distribution: ``Normal(loc, scale)`` of shape :math:`(*, C, H, W)`, whose scale is
            constant over the values of an image.
        reinterpreted_batch_ndims: 3.

    Raises:
        ValueError: If an image has other channels, height or width than ``loc``.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns the log-density in nats, of shape :math:`(*)`, of images
        :math:`(*, C, H, W)`."""
        # Broadcasting would take a batch of images without channels for something else.
        require_shape(value, self.event_shape)
        if self._validate_args:
            self.base_dist._validate_sample(value)
        scale = self.base_dist.scale[..., 0, 0, 0]
        loc, value = broadcast_tensors(self.base_dist.loc, value)
        distance = mse_loss(loc, value, reduction="none").sum((-3, -2, -1))
        constant = self.event_shape.numel() * (scale.log() + 0.5 * math.log(2 * math.pi))
        return -0.5 * distance / scale**2 - constant


class Layers(NamedTuple):
    r"""Opaque objects, the first one in front, each on a canvas of its own.

    Attributes:
        colours: :math:`c_i`, of shape :math:`(N, *, C, H, W)`.
        shares: The share :math:`w_i` of a pixel that shows object :math:`i` if all objects are
            present, of shape :math:`(N, *, 1, H, W)`, in [0, 1].
        visible: The share :math:`v_n` that is behind the first :math:`n` objects, for
            :math:`n = 0, \dots, N`, of shape :math:`(N + 1, *, 1, H, W)`.
        background: :math:`b`, of shape :math:`(*, C, H, W)`, or one that broadcasts to it.
    """

    colours: Tensor
    shares: Tensor
    visible: Tensor
    background: Tensor


class LayeredImage(dist.TorchDistribution):
    r"""An image each of whose pixels shows one opaque object, or the background.

    .. math:: p(x_p) = (1 - \epsilon) \Big( \sum_{i < n} w_{ip} \,
        \mathcal{N}(x_p; c_{ip}, \tau^2 I) + v_{np} \, \mathcal{N}(x_p; b_p, \tau^2 I) \Big)
        + \epsilon

    with :math:`n` objects present, and the share :math:`w_i` of object :math:`i` in front of what
    is behind it. Which one a pixel shows is summed out. A mean image of objects that are half
    transparent can look like two opaque ones with an edge; this density cannot be fooled so. The
    last term is a uniform density over colours, so that single pixels have bounded weight.

    Args:
        layers: The objects and the background.
        presence: :math:`z^\text{pres}_i`, all 0 after the first 0, of shape :math:`(N, *)`.
        scale: The standard deviation :math:`\tau`.

    References:
        | Multi-Object Representation Learning with Iterative Variational Inference (Greff et al.,
          2019), whose likelihood is such a mixture
        | https://arxiv.org/abs/1903.00450
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.independent(constraints.real, 3)
    has_rsample = False

    OUTLIERS = 1e-4
    r"""The share :math:`\epsilon` of pixels of any colour."""

    def __init__(self, layers: Layers, presence: Tensor, scale: float) -> None:
        self.layers, self.presence, self.scale = layers, presence, scale
        event = torch.broadcast_shapes(layers.colours.shape[-3:], layers.background.shape[-3:])
        super().__init__(presence.shape[1:], event, validate_args=False)

    def _by_count(self) -> Tensor:
        """Returns 1 at the number of objects, else 0, of shape (N + 1, *)."""
        ones = torch.ones_like(self.presence[:1])
        return torch.cat([ones, self.presence]) - torch.cat([self.presence, 0 * ones])

    @property
    def mean(self) -> Tensor:
        """The mean image, of shape :math:`(*, C, H, W)`."""
        objects = torch.einsum(
            "i...,i...chw->...chw", self.presence, self.layers.shares * self.layers.colours
        )
        visible = torch.einsum("i...,i...chw->...chw", self._by_count(), self.layers.visible)
        return objects + visible * self.layers.background

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns the log-density in nats, of shape :math:`(*)`, of images
        :math:`(*, C, H, W)`."""
        require_shape(value, self.event_shape)
        shown, behind = self._densities(value)
        density = torch.einsum("i...,i...hw->...hw", self.presence, shown) + behind
        return ((1 - self.OUTLIERS) * density + self.OUTLIERS).log().sum((-2, -1))

    def responsibilities(self, value: Tensor) -> Tensor:
        r"""Returns the probability that a pixel shows each object, given its colour.

        Args:
            value: Images, of shape :math:`(*, C, H, W)`.

        Returns:
            Shape :math:`(N, *, H, W)`; 1 less their sum is the probability of the background, or of
            an outlier.
        """
        shown, behind = self._densities(value)
        shown = torch.einsum("i...,i...hw->i...hw", self.presence, shown)
        total = (1 - self.OUTLIERS) * (shown.sum(0) + behind) + self.OUTLIERS
        return (1 - self.OUTLIERS) * shown / total

    def _densities(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Returns share times density of each object if it is present, and of the background."""
        shown = self.layers.shares.squeeze(-3) * self.density(value, self.layers.colours)
        visible = self.layers.visible.squeeze(-3)
        visible = torch.einsum("i...,i...hw->...hw", self._by_count(), visible)
        return shown, visible * self.density(value, self.layers.background)

    def density(self, value: Tensor, colours: Tensor) -> Tensor:
        """Returns the Normal density of each pixel around a colour, of shape (*, H, W)."""
        distance = (value - colours).square().sum(-3)
        constant = value.shape[-3] * (math.log(self.scale) + 0.5 * math.log(2 * math.pi))
        return (-0.5 * distance / self.scale**2 - constant).exp()

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shares = torch.cat(
            [
                torch.einsum("i...,i...hw->i...hw", self.presence, self.layers.shares.squeeze(-3)),
                torch.einsum(
                    "i...,i...hw->...hw", self._by_count(), self.layers.visible.squeeze(-3)
                )[None],
            ]
        )
        shape = (*shares.shape[:-2], *self.event_shape)
        background = self.layers.background.expand(shape[1:])[None]
        colours = torch.cat([self.layers.colours.expand(len(shares) - 1, *shape[1:]), background])
        index = torch.distributions.Categorical(shares.movedim(0, -1)).sample()
        chosen = colours.gather(0, index[None, ..., None, :, :].expand(1, *shape[1:]))[0]
        return chosen + self.scale * torch.randn_like(chosen)

    def expand(self, batch_shape: Any, _instance: Any = None) -> LayeredImage:
        presence = self.presence.expand(len(self.presence), *batch_shape)
        return LayeredImage(self.layers, presence, self.scale)
