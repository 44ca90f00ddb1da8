"""ABC's loss: similarities of embeddings, and the cycle between two stacks."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from train.losses.chunks import apply_in_chunks

Similarity = Literal["l2sq", "l2", "l1", "linf", "cosine"]
"""Similarities of embeddings: see :func:`similarity`."""


def similarity(u: Tensor, v: Tensor, kind: Similarity = "l2sq") -> Tensor:
    r"""Returns the similarity of each embedding of a stack to each embedding of another stack.

    .. math:: -|u - v|_2^2, \quad -|u - v|_2, \quad -|u - v|_1, \quad -|u - v|_\infty, \quad
        \frac{u \cdot v}{|u| \, |v|}

    for ``"l2sq"``, ``"l2"``, ``"l1"``, ``"linf"`` and ``"cosine"``. Distances are computed from
    differences, which do not cancel. The gradient is zero where two embeddings are equal.

    Args:
        u: Of shape :math:`(*, n, D)`.
        v: Of shape :math:`(*, m, D)`.
        kind: The kind of similarity.

    Returns:
        Of shape :math:`(*, n, m)`.

    Raises:
        ValueError: If ``kind`` is none of the five.
    """
    if kind == "cosine":
        u, v = (torch.nn.functional.normalize(x, dim=-1) for x in (u, v))
        return u @ v.mT
    difference = u.unsqueeze(-2) - v.unsqueeze(-3)
    if kind == "l2sq":
        return -difference.square().sum(-1)
    if kind == "l2":
        square = difference.square().sum(-1)
        # The gradient of the root at zero is infinite, which times zero is nan.
        positive = square > 0
        return -torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)
    if kind == "l1":
        return -difference.abs().sum(-1)
    if kind == "linf":
        return -difference.abs().amax(-1)
    raise ValueError(f"{kind!r} is no similarity: take l2sq, l2, l1, linf or cosine")


def cycle(
    a: Tensor,
    b: Tensor,
    target: Tensor | None = None,
    *,
    kind: Similarity = "l2sq",
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    r"""Returns ABC's cycle loss in one direction: from a stack to another and back.

    .. math:: e_i = \sum_j \text{softmax}_j \Big( \frac{s(a_i, b_j)}{\tau} \Big) b_j, \qquad
        L(A, B) = - \frac{1}{n} \sum_i \log \text{softmax}_i
        \Big( \frac{s(e_i, a'_\cdot)}{\tau} \Big)

    The soft neighbour :math:`e_i` of :math:`a_i` in the other stack is pulled towards :math:`a'_i`
    and away from the rest of :math:`A'`. If all embeddings are equal, the loss is :math:`\log n`.

    Args:
        a: Embeddings of a stack, of shape :math:`(*, n, D)`.
        b: Embeddings of the other stack, of shape :math:`(*, m, D)`.
        target: :math:`a'`, the embeddings of a second view of the first stack's images, of shape
            :math:`(*, n, D)`; ``a`` if not given.
        kind: The similarity :math:`s`: see :func:`similarity`.
        temperature: :math:`\tau`, above 0.

    Returns:
        The loss in nats, of shape :math:`(*)`; and whether each :math:`e_i` is nearest to
        :math:`a'_i`, of shape :math:`(*, n)`.

    Example:
        >>> stack = 10 * torch.eye(4)  # far from each other, and all in both stacks
        >>> loss, nearest = cycle(stack, stack.flip(0))
        >>> round(loss.item(), 6), nearest.all().item()
        (0.0, True)

    References:
        | Learning ABCs: Approximate Bijective Correspondence for Isolating Factors of Variation
          with Weak Supervision (Murphy et al., 2022)
        | https://arxiv.org/abs/2103.03240
    """
    target = a if target is None else target

    def loss_and_nearest(start: int, a: Tensor) -> Tensor:
        neighbour = (similarity(a, b, kind) / temperature).softmax(-1) @ b
        logits = similarity(neighbour, target, kind) / temperature
        positive = logits.diagonal(offset=start, dim1=-2, dim2=-1)
        # Where all embeddings are equal, none is nearest.
        nearest = (positive >= logits.amax(-1)) & (positive > logits.amin(-1))
        return torch.stack([logits.logsumexp(-1) - positive, nearest.to(positive.dtype)])

    width = max(b.shape[-2], target.shape[-2]) * (1 if kind == "cosine" else a.shape[-1])
    nats, nearest = apply_in_chunks(loss_and_nearest, a, width=width)
    return nats.mean(-1), nearest > 0


def collapse(n: int, m: int) -> float:
    r"""Returns ABC's loss in both directions if all embeddings are equal: :math:`\log n + \log m`.

    Args:
        n: The size of one stack.
        m: The size of the other stack.

    Returns:
        Nats.
    """
    return math.log(n) + math.log(m)
