"""Losses beside the ELBO: pure functions of tensors, in nats."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def pairwise_kl(mu: Tensor, log_variance: Tensor) -> Tensor:
    r"""KL divergences between all pairs of diagonal Gaussians.

    .. math:: K_{ij} = \text{KL}(q_i \, \| \, q_j) = \frac{1}{2} \sum_d \Big[ e^{l_{id} - l_{jd}}
        + (\mu_{id} - \mu_{jd})^2 e^{-l_{jd}} - 1 + l_{jd} - l_{id} \Big]

    In ICVAE's loss its mean, with a weight :math:`\lambda`, stands beside :math:`1 + \lambda` times
    the reconstruction, from :math:`I(z; c) \le I(z; x) - H(x|c) - \mathbb{E} \log p(x|z, c)`.

    It is computed from differences. An expanded square, :math:`\mu_i^2 - 2 \mu_i \mu_j + \mu_j^2`,
    is one matrix product less memory and cancels: distances below zero come out in float32.

    Args:
        mu: Means, of shape :math:`(B, D)`.
        log_variance: :math:`l`, of shape :math:`(B, D)`.

    Returns:
        :math:`K`, of shape :math:`(B, B)`, in nats, 0 or more, with a diagonal of zero.
    """
    ratio = log_variance.unsqueeze(1) - log_variance
    squares = (mu.unsqueeze(1) - mu).square() * (-log_variance).exp()
    # exp(r) - 1 - r cancels for r near 0, where expm1 does not.
    return 0.5 * (torch.expm1(ratio) - ratio + squares).sum(-1)


def mean_pairwise(mu: Tensor, log_variance: Tensor) -> Tensor:
    r"""The loosest bound on :math:`\text{KL}(q(z|x_i) \, \| \, q(z))`: the mean over the others.

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
    return pairwise_kl(mu, log_variance).sum(1) / (len(mu) - 1)


def kolchinsky_tracey(mu: Tensor, log_variance: Tensor) -> Tensor:
    r"""A tighter bound on :math:`\text{KL}(q(z|x_i) \, \| \, q(z))`, of the batch's mixture.

    .. math:: - \log \frac{1}{B} \sum_j e^{-K_{ij}}

    It is at most :math:`\log B`, where it is flat.

    Args:
        mu: Means, of shape :math:`(B, D)`.
        log_variance: Of shape :math:`(B, D)`.

    Returns:
        Nats for each datum, of shape :math:`(B)`.

    References:
        | Estimating Mixture Entropy with Pairwise Distances (Kolchinsky and Tracey, 2017)
        | https://arxiv.org/abs/1706.02419
    """
    return math.log(len(mu)) - (-pairwise_kl(mu, log_variance)).logsumexp(1)


def gaussian_log_prob(z: Tensor, mu: Tensor, log_variance: Tensor) -> Tensor:
    r"""Each sample under each diagonal Gaussian: :math:`\log q_j(z_i)`.

    Args:
        z: Samples, of shape :math:`(A, D)`.
        mu: Means, of shape :math:`(B, D)`.
        log_variance: Of shape :math:`(B, D)`.

    Returns:
        Nats, of shape :math:`(A, B)`.
    """
    squares = (z.unsqueeze(1) - mu).square() * (-log_variance).exp()
    return -0.5 * (squares + log_variance + math.log(2 * math.pi)).sum(-1)


def class_information(z: Tensor, mu: Tensor, log_variance: Tensor, c: Tensor) -> Tensor:
    r"""What samples say about a class, estimated within the batch: :math:`I(z; c)`.

    .. math:: \log q(z_i | c_i) - \log q(z_i), \quad
        q(z_i | c_i) = \frac{\sum_j [c_j = c_i] \, q_j(z_i)}{\sum_j [c_j = c_i]}, \quad
        q(z_i) = \frac{1}{B} \sum_j q_j(z_i)

    Both sums have :math:`j = i`: without, the mean could be made as low as one likes.

    Args:
        z: A sample of each :math:`q_i`, of shape :math:`(B, D)`.
        mu: Means, of shape :math:`(B, D)`.
        log_variance: Of shape :math:`(B, D)`.
        c: Classes, one-hot, of shape :math:`(B, C)`.

    Returns:
        Nats for each datum, of shape :math:`(B)`.
    """
    log_q = gaussian_log_prob(z, mu, log_variance)
    same = c @ c.T > 0.5
    within = log_q.masked_fill(~same, -torch.inf).logsumexp(1) - same.sum(1).to(z.dtype).log()
    return within - (log_q.logsumexp(1) - math.log(len(z)))


INVARIANCES = {
    "none": None,
    "pairwise": lambda z, mu, log_variance, c: mean_pairwise(mu, log_variance),
    "kt": lambda z, mu, log_variance, c: kolchinsky_tracey(mu, log_variance),
    "direct": class_information,
}
"""Terms for invariance by their names on the command line, as a guide takes them."""
