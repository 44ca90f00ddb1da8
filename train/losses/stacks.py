"""Terms beside ABC's cycle: what embeddings keep of images, and how far two stacks are apart."""

from __future__ import annotations

import torch
from torch import Tensor

from train.losses.chunks import apply_in_chunks
from train.losses.correspondence import Similarity, similarity

RIDGE = 5e-3
"""The ridge of :func:`unexplained`, as a part of the mean square of a dimension."""


def unexplained(z: Tensor, targets: Tensor) -> Tensor:
    r"""Returns the share of the variance of targets that no linear map of embeddings explains.

    .. math:: \frac{\sum_i |\bar{y}_i - W \bar{z}_i|^2}{\sum_i |\bar{y}_i|^2}, \qquad
        W = \text{argmin}_W \sum_i |\bar{y}_i - W \bar{z}_i|^2
        + \rho \, \frac{\sum_i |z_i|^2}{D} \, |W|^2

    with the deviations :math:`\bar{y}_i, \bar{z}_i` from the means of the stack, and a small ridge
    :math:`\rho` (:data:`RIDGE`). The best map is found for each stack on its own. So what all
    images of a stack have in common costs nothing if it is not in the embeddings, and neither does
    what it does to the targets of the stack, as long as that is linear. The ridge is in units of
    the embeddings, not of their deviations: embeddings that are nearly equal explain little.

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
    square = z.square().sum((-2, -1), keepdim=True) / z.shape[-1]
    z, targets = (x - x.mean(-2, keepdim=True) for x in (z, targets))
    tiny = torch.finfo(z.dtype).tiny
    # Products of halved precision would make the solution noise.
    with torch.autocast(z.device.type, enabled=False):
        unit = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
        products = z.mT @ z + (RIDGE * square + tiny) * unit
        # With its check of errors, the device would be waited for.
        weights = torch.linalg.solve_ex(products, z.mT @ targets)[0]
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


def separation(
    a: Tensor, b: Tensor, *, kind: Similarity = "l2sq", temperature: float = 1.0
) -> Tensor:
    r"""Returns how many of an embedding's neighbours are of its own stack, beyond chance.

    .. math:: S = \frac{(N - 1) (p_A + p_B) - (N - 2)}{N}, \qquad
        p_A = \frac{1}{n} \sum_{i \in A} \sum_{j \in A, j \neq i} w_{ij}, \qquad
        w_{ij} = \text{softmax}_{j \neq i} \Big( \frac{s(z_i, z_j)}{\tau} \Big)

    with the similarities :math:`s` of all :math:`N = n + m` embeddings :math:`z` of both stacks. It
    is 1 if all neighbours are of the own stack. If both stacks have one distribution, its mean is
    zero, since each other embedding is of the own stack with probability :math:`(n - 1) / (N - 1)`
    or :math:`(m - 1) / (N - 1)`. With the nearest neighbours in place of the softmax it is the
    statistic of Schilling's test of two samples. It sees what nearest neighbours read of the stack
    from an embedding.

    Args:
        a: Embeddings of a stack, of shape :math:`(*, n, D)`.
        b: Embeddings of the other stack, of shape :math:`(*, m, D)`.
        kind: The similarity :math:`s`: see :func:`train.losses.correspondence.similarity`.
        temperature: :math:`\tau`, above 0.

    Returns:
        Of shape :math:`(*)`, at most 1.

    References:
        | Multivariate two-sample tests based on nearest neighbors (Schilling, 1986)
        | https://doi.org/10.1080/01621459.1986.10478337

    Example:
        >>> stack = torch.randn(100, 2)
        >>> round(separation(stack, stack + 50).item(), 3)
        1.0
        >>> separation(stack, torch.randn(100, 2)).item() < 0.1
        True
    """
    z = torch.cat([a, b], -2)
    n, both = a.shape[-2], z.shape[-2]
    index = torch.arange(both, device=z.device)

    def in_first(start: int, rows: Tensor) -> Tensor:
        logits = similarity(rows, z, kind) / temperature
        itself = index[start : start + rows.shape[-2], None] == index
        return logits.masked_fill(itself, -torch.inf).softmax(-1)[..., :n].sum(-1)

    width = both * (1 if kind == "cosine" else z.shape[-1])
    share = apply_in_chunks(in_first, z, width=width)
    own = share[..., :n].mean(-1) + 1 - share[..., n:].mean(-1)
    return ((both - 1) * own - (both - 2)) / both
