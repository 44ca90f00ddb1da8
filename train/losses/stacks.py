"""Terms beside ABC's cycle: what embeddings keep of images, and how far two stacks are apart."""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 1e-3
"""The ridge of :func:`unexplained`, as a part of the mean variance of a dimension."""


def unexplained(z: Tensor, targets: Tensor) -> Tensor:
    r"""Returns the share of the variance of targets that no linear map of embeddings explains.

    .. math:: \frac{\min_W \sum_i |\bar{y}_i - W \bar{z}_i|^2}{\sum_i |\bar{y}_i|^2}

    with the deviations :math:`\bar{y}_i, \bar{z}_i` from the means of the stack. The best map is
    found for each stack on its own, with a small ridge (:data:`RIDGE`). So what all images of a
    stack have in common costs nothing if it is not in the embeddings, and neither does what it does
    to the targets of the stack, as long as that is linear.

    Args:
        z: Embeddings of stacks, of shape :math:`(*, n, D)`, of more images than dimensions.
        targets: Of shape :math:`(*, n, K)`; not constant.

    Returns:
        Of shape :math:`(*)`, in [0, 1].

    Example:
        >>> z = torch.randn(50, 3)
        >>> round(unexplained(z, z @ torch.randn(3, 8) + 5).item(), 2)
        0.0
        >>> unexplained(z, torch.randn(50, 8)).item() > 0.8
        True
    """
    z, targets = (x - x.mean(-2, keepdim=True) for x in (z, targets))
    tiny = torch.finfo(z.dtype).tiny
    # Products of halved precision would make the solution noise.
    with torch.autocast(z.device.type, enabled=False):
        products = z.mT @ z
        mean_square = products.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        unit = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
        ridge = (RIDGE * mean_square + tiny) * unit
        # With its check of errors, the device would be waited for.
        weights = torch.linalg.solve_ex(products + ridge, z.mT @ targets)[0]
        residual = (targets - z @ weights).square().sum((-2, -1))
    return residual / (targets.square().sum((-2, -1)) + tiny)


def inhomogeneity(a: Tensor, b: Tensor) -> Tensor:
    r"""Estimates the energy distance of two stacks, relative to its largest value.

    .. math:: H = \frac{2 \, \mathbb{E} |a - b| - \mathbb{E} |a - a'| - \mathbb{E} |b - b'|}
        {2 \, \mathbb{E} |a - b|}

    It is zero if and only if both distributions are the same, and one if each is a single point and
    they are two. As pairs of an embedding with itself are left out, an estimate may be negative.
    The energy distance itself would be made small by embeddings that are close together, whatever
    they tell; the quotient does not change with their scale.

    Args:
        a: Embeddings of a stack, of shape :math:`(*, n, D)`, with n of at least 2.
        b: Embeddings of the other stack, of shape :math:`(*, m, D)`, with m of at least 2.

    Returns:
        Of shape :math:`(*)`, at most 1; 0 if all embeddings are equal.

    References:
        | Energy statistics: A class of statistics based on distances (Székely and Rizzo, 2013)
        | https://doi.org/10.1016/j.jspi.2013.03.018

    Example:
        >>> stack = torch.randn(1_000, 2)
        >>> round(inhomogeneity(stack, stack + torch.tensor([18.0, 0.0])).item(), 1)
        0.9
    """

    def mean(u: Tensor, v: Tensor, pairs: int) -> Tensor:
        # Its gradient is zero where two embeddings are equal. By products, distances would cancel.
        distances = torch.cdist(u, v, compute_mode="donot_use_mm_for_euclid_dist")
        return distances.sum((-2, -1)) / pairs

    n, m = a.shape[-2], b.shape[-2]
    across = 2 * mean(a, b, n * m)
    within = mean(a, a, n * (n - 1)) + mean(b, b, m * (m - 1))
    return (across - within) / (across + torch.finfo(a.dtype).tiny)
