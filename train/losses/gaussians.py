"""Diagonal Gaussians compared: ICVAE's bounds of the information between codes and images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from train.losses.chunks import apply_in_chunks


def pairwise_kl(
    mu: Tensor, log_variance: Tensor, others: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    r"""Returns the KL divergences between all pairs of diagonal Gaussians.

    .. math:: K_{ij} = \text{KL}(q_i \, \| \, q_j) = \frac{1}{2} \sum_d \Big[ e^{l_{id} - l_{jd}}
        + (\mu_{id} - \mu_{jd})^2 e^{-l_{jd}} - 1 + l_{jd} - l_{id} \Big]

    ICVAE's loss is the sum of its mean, weighted by :math:`\lambda`, and :math:`1 + \lambda` times
    the reconstruction, from :math:`I(z; c) \le I(z; x) - H(x|c) - \mathbb{E} \log p(x|z, c)`.

    The squares are computed from differences. The expanded square
    :math:`\mu_i^2 - 2 \mu_i \mu_j + \mu_j^2` is a matrix product and needs less memory, but it
    cancels: in float32 some distances are below zero.

    Args:
        mu: Means of :math:`q_i`, of shape :math:`(A, D)`.
        log_variance: :math:`l_i`, of shape :math:`(A, D)`.
        others: Means and log-variances of :math:`q_j`, of shape :math:`(B, D)`; those of
            :math:`q_i` if not given.

    Returns:
        :math:`K`, of shape :math:`(A, B)`, in nats, at least 0, zero where the two Gaussians are
        equal.

    Example:
        >>> mu = torch.tensor([[0.0], [2.0]])
        >>> pairwise_kl(mu, torch.zeros(2, 1))
        tensor([[0., 2.],
                [2., 0.]])
    """
    other_mu, other_log_variance = (mu, log_variance) if others is None else others
    ratio = log_variance.unsqueeze(1) - other_log_variance
    squares = (mu.unsqueeze(1) - other_mu).square() * (-other_log_variance).exp()
    # exp(r) - 1 cancels for r near 0, and expm1 does not.
    return 0.5 * (torch.expm1(ratio) - ratio + squares).sum(-1)


def mean_pairwise(mu: Tensor, log_variance: Tensor) -> Tensor:
    r"""Bounds :math:`\text{KL}(q(z|x_i) \, \| \, q(z))` by the mean KL divergence to the others.

    .. math:: \frac{1}{B - 1} \sum_{j \ne i} K_{ij}

    Args:
        mu: Means, of shape :math:`(B, D)`, :math:`B \ge 2`.
        log_variance: Of shape :math:`(B, D)`.

    Returns:
        Nats for each datum, of shape :math:`(B)`.

    References:
        | Invariant Representations without Adversarial Training (Moyer et al., 2018)
        | https://arxiv.org/abs/1805.09458
    """
    codes = (mu, log_variance)

    def means(_: int, of: Tensor, log_variances: Tensor) -> Tensor:
        return pairwise_kl(of, log_variances, codes).sum(1) / (len(mu) - 1)

    return apply_in_chunks(means, *codes, width=mu.numel())


def kolchinsky_tracey(mu: Tensor, log_variance: Tensor) -> Tensor:
    r"""Bounds :math:`\text{KL}(q(z|x_i) \, \| \, q(z))` more tightly, for the batch's mixture.

    .. math:: - \log \frac{1}{B} \sum_j e^{-K_{ij}}

    The bound is at most :math:`\log B`, and its gradient vanishes near there.

    Args:
        mu: Means, of shape :math:`(B, D)`.
        log_variance: Of shape :math:`(B, D)`.

    Returns:
        Nats for each datum, of shape :math:`(B)`.

    References:
        | Estimating Mixture Entropy with Pairwise Distances (Kolchinsky and Tracey, 2017)
        | https://arxiv.org/abs/1706.02419
    """
    codes = (mu, log_variance)

    def bounds(_: int, of: Tensor, log_variances: Tensor) -> Tensor:
        return math.log(len(mu)) - (-pairwise_kl(of, log_variances, codes)).logsumexp(1)

    return apply_in_chunks(bounds, *codes, width=mu.numel())


def gaussian_log_prob(z: Tensor, mu: Tensor, log_variance: Tensor) -> Tensor:
    r"""Returns the log-density of each sample under each diagonal Gaussian, :math:`\log q_j(z_i)`.

    The squares are expanded, so that everything is one matrix product. It is in double precision,
    in which the squares do not cancel. On MPS, which has no double precision, they are computed
    from differences.

    Args:
        z: Samples, of shape :math:`(A, D)`.
        mu: Means, of shape :math:`(B, D)`.
        log_variance: Of shape :math:`(B, D)`.

    Returns:
        Nats, of shape :math:`(A, B)`.
    """
    if z.device.type == "mps":
        squares = (z.unsqueeze(1) - mu).square() * (-log_variance).exp()
        return -0.5 * (squares + log_variance + math.log(2 * math.pi)).sum(-1)
    dtype = z.dtype
    z, mu, log_variance = z.double(), mu.double(), log_variance.double()
    precision = (-log_variance).exp()
    constant = mu.square() * precision + log_variance + math.log(2 * math.pi)
    # The matrix product is the only operation on a tensor of all pairs.
    features = torch.cat([z.square(), z, torch.ones_like(z[:, :1])], dim=1)
    coefficients = [-0.5 * precision, mu * precision, -0.5 * constant.sum(1, keepdim=True)]
    return (features @ torch.cat(coefficients, dim=1).T).to(dtype)
