"""A distribution of an object's place whose centre does not depend on its scale."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Independent, Normal, constraints
from torch.distributions.kl import register_kl


class PlaceNormal(TorchDistribution):
    r"""The distribution of a place :math:`(\log s, x, y)` around a centre on the canvas.

    .. math::
        \log s & \sim \mathcal{N}(\mu, \sigma^2) \\
        (x, y) \, | \, s & \sim \mathcal{N}(-s c, \text{diag}(\rho^2))

    An object with centre :math:`c` has :math:`(x, y) = -s c`: see
    :func:`~pyro_models.networks.paste`. If :math:`s` and :math:`(x, y)` were independent, the
    deviation of the centre, :math:`|c| \sigma`, would grow with the distance from the canvas'
    centre. Here it is :math:`\rho / s`, of any centre. The map from two independent Normals has
    determinant 1, so the entropy is theirs, and the divergence from a diagonal Normal prior has a
    closed form, with :math:`\mathbb{E}[s^k] = \exp(k \mu + k^2 \sigma^2 / 2)`.

    Args:
        loc: The mean :math:`\mu` of the logarithm of the inverse scale, of shape :math:`(*)`.
        scale: Its standard deviation :math:`\sigma`, of shape :math:`(*)`.
        centre: The centre :math:`c`, from that of the canvas, in halves of its shorter side, of
            shape :math:`(*, 2)`.
        spread: The standard deviations :math:`\rho` of :math:`(x, y)`, in half windows, of shape
            :math:`(*, 2)`.

    Example:
        >>> centre, spread = torch.tensor([0.5, 0.0]), torch.tensor([0.1, 0.1])
        >>> place = PlaceNormal(torch.tensor(1.0), torch.tensor(0.1), centre, spread)
        >>> place.sample().shape
        torch.Size([3])
    """

    arg_constraints: ClassVar = {
        "loc": constraints.real,
        "scale": constraints.positive,
        "centre": constraints.independent(constraints.real, 1),
        "spread": constraints.independent(constraints.positive, 1),
    }
    support = constraints.independent(constraints.real, 1)
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        centre: Tensor,
        spread: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        batch = torch.broadcast_shapes(loc.shape, scale.shape, centre.shape[:-1], spread.shape[:-1])
        self.loc, self.scale = loc.expand(batch), scale.expand(batch)
        self.centre, self.spread = centre.expand(*batch, 2), spread.expand(*batch, 2)
        super().__init__(batch, torch.Size([3]), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: PlaceNormal | None = None) -> PlaceNormal:
        batch = torch.Size(batch_shape)
        return PlaceNormal(
            self.loc.expand(batch),
            self.scale.expand(batch),
            self.centre.expand(*batch, 2),
            self.spread.expand(*batch, 2),
            validate_args=False,
        )

    @property
    def mean(self) -> Tensor:
        shift = -(self.loc + 0.5 * self.scale.square()).exp().unsqueeze(-1) * self.centre
        return torch.cat([self.loc.unsqueeze(-1), shift], dim=-1)

    @property
    def variance(self) -> Tensor:
        # Var[s] = E[s]^2 (exp(sigma^2) - 1)
        variance = self.scale.square()
        of_scale = (2 * self.loc + variance).exp() * torch.expm1(variance)
        shift = of_scale.unsqueeze(-1) * self.centre.square() + self.spread.square()
        return torch.cat([variance.unsqueeze(-1), shift], dim=-1)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        log_scale = self.loc + self.scale * noise[..., 0]
        shift = self.spread * noise[..., 1:] - log_scale.exp().unsqueeze(-1) * self.centre
        return torch.cat([log_scale.unsqueeze(-1), shift], dim=-1)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        log_scale, shift = value[..., 0], value[..., 1:]
        residual = (shift + log_scale.exp().unsqueeze(-1) * self.centre) / self.spread
        squares = ((log_scale - self.loc) / self.scale).square() + residual.square().sum(-1)
        return -0.5 * squares - self._log_volume() - 1.5 * math.log(2 * math.pi)

    def entropy(self) -> Tensor:
        return self._log_volume() + 1.5 * (1 + math.log(2 * math.pi))

    def _log_volume(self) -> Tensor:
        """The sum of the logarithms of the three standard deviations."""
        return self.scale.log() + self.spread.log().sum(-1)


@register_kl(PlaceNormal, Independent)
def _divergence_from_normal(place: PlaceNormal, prior: Independent) -> Tensor:
    """Returns the KL divergence from a Normal with diagonal covariance, in nats."""
    normal = prior.base_dist
    if not isinstance(normal, Normal) or prior.event_shape != place.event_shape:
        raise NotImplementedError("the prior is no Normal of places")
    squares = (place.variance + (place.mean - normal.loc).square()) / normal.scale.square()
    cross_entropy = 0.5 * squares + normal.scale.log() + 0.5 * math.log(2 * math.pi)
    return cross_entropy.sum(-1) - place.entropy()
