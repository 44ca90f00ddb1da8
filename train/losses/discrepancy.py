"""The maximum mean discrepancy between codes of each class and codes of the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from train.losses.chunks import apply_in_chunks

WIDTH = 0.25
"""Width of the kernel, as a part of the mean squared distance of two codes of the batch."""


def class_discrepancy(z: Tensor, c: Tensor, *, sizes: Sequence[int] | None = None) -> Tensor:
    r"""Estimates how far codes of each class are from codes of the others, without bias.

    .. math:: \sum_k \frac{n_k}{B} \, \text{MMD}^2_k, \quad
        \text{MMD}^2_k = \overline{K}_{kk} + \overline{K}_{\bar{k} \bar{k}}
            - 2 \overline{K}_{k \bar{k}}, \quad
        K_{ij} = \exp \frac{-|z_i - z_j|^2}{s}

    with the mean :math:`\overline{K}_{ab}` of the kernel over pairs of two different codes, one of
    :math:`a` and one of :math:`b`; :math:`k` are the :math:`n_k` codes of a class, and
    :math:`\bar{k}` all others. Of two classes it is :math:`\text{MMD}^2` between them.

    As pairs of a code with itself are left out, its expectation is zero where codes do not depend
    on the class, and it may be negative. Louizos et al. approximate the same kernel by 500 random
    features. A batch of no more codes than that has fewer pairs than features, so the kernel is
    taken exactly, which adds no noise of features. The width :math:`s` is a quarter of the mean
    squared distance of two codes of the batch, a constant for the gradient, so that the term does
    not depend on the scale of codes.

    Classes with a single code in the batch, and those with all codes but one, are left out.

    Args:
        z: Codes, of shape :math:`(B, D)`.
        c: Classes, one-hot, of shape :math:`(B, C)`; of several conditions, concatenated.
        sizes: The number of classes of each condition, whose terms are added; a single condition if
            not given.

    Returns:
        The same value for each datum, below 2 for each condition, of shape :math:`(B)`. It has no
        unit.

    References:
        | The Variational Fair Autoencoder (Louizos et al., 2016)
        | https://arxiv.org/abs/1511.00830
        | A Kernel Two-Sample Test (Gretton et al., 2012)
        | https://jmlr.org/papers/v13/gretton12a.html

    Example:
        >>> z = torch.tensor([[0.0], [0.0], [50.0], [50.0]])
        >>> class_discrepancy(z, torch.eye(2)[torch.tensor([0, 0, 1, 1])])[0] > 1.5
        tensor(True)
    """
    n = len(z)
    centred = z.detach() - z.detach().mean(0)
    mean_square = centred.square().sum() * (2 / max(n - 1, 1))
    width = (WIDTH * mean_square).clamp(min=torch.finfo(z.dtype).tiny)

    def sums(_: int, rows: Tensor, classes: Tensor) -> Tensor:
        kernel = (-(rows.unsqueeze(1) - z).square().sum(-1) / width).exp()
        # The kernel of a code with itself is 1.
        return (kernel @ c - classes).mT

    pairs = apply_in_chunks(sums, z, c, width=z.numel()) @ c
    terms, start = [], 0
    for size in [c.shape[1]] if sizes is None else sizes:
        own = slice(start, start + size)
        terms.append(_one_against_others(pairs[own, own], c[:, own].sum(0), n))
        start += size
    return sum(terms[1:], start=terms[0]).expand(n)


def _one_against_others(pairs: Tensor, counts: Tensor, n: int) -> Tensor:
    r"""Returns the weighted sum over classes, of shape ().

    Args:
        pairs: Sums of the kernel over pairs of two classes, of shape :math:`(C, C)`.
        counts: Numbers of codes, of shape :math:`(C)`.
        n: The number of all codes.
    """
    within, by_class = pairs.diagonal(), pairs.sum(1)
    across, others = by_class - within, pairs.sum() - 2 * by_class + within
    rest = n - counts
    numbers = (counts * (counts - 1), rest * (rest - 1), counts * rest)
    own, other, mixed = (number.clamp(min=1) for number in numbers)
    discrepancies = within / own + others / other - 2 * across / mixed
    return (discrepancies * counts / n * ((counts > 1) & (rest > 1))).sum()
