"""Losses beside the ELBO: pure functions of tensors, in nats."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

AT_ONCE = 2**22
"""How many numbers a tensor of pairs may have; of more, rows are taken in turn."""


def by_rows(function: Callable[..., Tensor], *rows: Tensor, width: int) -> Tensor:
    r"""A function of rows, each by itself, without all of its intermediate results at once.

    What compares all pairs of a batch has a tensor of :math:`n \times m \times D` numbers on the
    way. Above :data:`AT_ONCE` the rows are taken in turn, and for the gradient computed again, so
    that memory is that of a part, whatever :math:`n` and :math:`m`.

    Args:
        function: From the place of the first row and the rows, of shapes :math:`(*, k, \cdot)`, to
            a value for each, of shape :math:`(*, k)`.
        rows: Tensors of shapes :math:`(*, n, \cdot)`.
        width: The numbers that a row has on the way.

    Returns:
        Of shape :math:`(*, n)`.
    """
    size = max(AT_ONCE // max(width * rows[0][..., 0, 0].numel(), 1), 1)
    n = rows[0].shape[-2]
    if n <= size:
        return function(0, *rows)
    parts = []
    for start in range(0, n, size):
        part = [each.narrow(-2, start, min(size, n - start)) for each in rows]
        # Nothing is random in what compares pairs.
        parts.append(
            checkpoint(function, start, *part, use_reentrant=False, preserve_rng_state=False)
        )
    return torch.cat(parts, dim=-1)


def pairwise_kl(
    mu: Tensor, log_variance: Tensor, others: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    r"""KL divergences between all pairs of diagonal Gaussians.

    .. math:: K_{ij} = \text{KL}(q_i \, \| \, q_j) = \frac{1}{2} \sum_d \Big[ e^{l_{id} - l_{jd}}
        + (\mu_{id} - \mu_{jd})^2 e^{-l_{jd}} - 1 + l_{jd} - l_{id} \Big]

    In ICVAE's loss its mean, with a weight :math:`\lambda`, stands beside :math:`1 + \lambda` times
    the reconstruction, from :math:`I(z; c) \le I(z; x) - H(x|c) - \mathbb{E} \log p(x|z, c)`.

    It is computed from differences. An expanded square, :math:`\mu_i^2 - 2 \mu_i \mu_j + \mu_j^2`,
    is one matrix product less memory and cancels: distances below zero come out in float32.

    Args:
        mu: Means of :math:`q_i`, of shape :math:`(A, D)`.
        log_variance: :math:`l_i`, of shape :math:`(A, D)`.
        others: Means and log-variances of :math:`q_j`, of shape :math:`(B, D)`; the same if not
            given.

    Returns:
        :math:`K`, of shape :math:`(A, B)`, in nats, 0 or more, zero where the two are one.

    Example:
        >>> mu = torch.tensor([[0.0], [2.0]])
        >>> pairwise_kl(mu, torch.zeros(2, 1))
        tensor([[0., 2.],
                [2., 0.]])
    """
    other_mu, other_log_variance = (mu, log_variance) if others is None else others
    ratio = log_variance.unsqueeze(1) - other_log_variance
    squares = (mu.unsqueeze(1) - other_mu).square() * (-other_log_variance).exp()
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
    codes = (mu, log_variance)

    def means(_: int, *rows: Tensor) -> Tensor:
        return pairwise_kl(*rows, codes).sum(1) / (len(mu) - 1)

    return by_rows(means, *codes, width=mu.numel())


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
    codes = (mu, log_variance)

    def bounds(_: int, *rows: Tensor) -> Tensor:
        return math.log(len(mu)) - (-pairwise_kl(*rows, codes)).logsumexp(1)

    return by_rows(bounds, *codes, width=mu.numel())


def gaussian_log_prob(z: Tensor, mu: Tensor, log_variance: Tensor) -> Tensor:
    r"""Each sample under each diagonal Gaussian: :math:`\log q_j(z_i)`.

    The squares are expanded, which makes all of it one matrix product, in double precision, in
    which they do not cancel; where there is none (MPS) they are taken from differences.

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
    # A row of features times a row of coefficients: nothing else is done at the product's size.
    features = torch.cat([z.square(), z, torch.ones_like(z[:, :1])], dim=1)
    coefficients = [-0.5 * precision, mu * precision, -0.5 * constant.sum(1, keepdim=True)]
    return (features @ torch.cat(coefficients, dim=1).T).to(dtype)


def class_information(
    z: Tensor,
    mu: Tensor,
    log_variance: Tensor,
    c: Tensor,
    past: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    r"""What samples say about a class, estimated from codes at hand: :math:`I(z; c)`.

    .. math:: \log q(z_i | c_i) - \log q(z_i), \quad
        q(z_i | c_i) = \frac{\sum_j [c_j = c_i] \, q_j(z_i)}{\sum_j [c_j = c_i]}, \quad
        q(z_i) = \frac{1}{M} \sum_j q_j(z_i)

    Both sums have :math:`j = i`: without, the mean could be made as low as one likes. With it, a
    code that lies apart from all others is taken to say all of its class, and nothing pulls it
    back. A code of :math:`R` nats has a share of :math:`e^{-R}` of the others near it, so a batch
    is enough for the 2 or 3 nats of a code in two dimensions only. Past codes make up for that.

    **The estimate is too high**, as a sample's own :math:`q_i` counts for more among the codes of
    its class than among all: the less, the more codes there are, and the more, the more classes.
    For codes of two dimensions and unit variance within a class, each :math:`q_j` of standard
    deviation 0.1, and a batch of 256, it is in nats (standard errors of 0.004 to 0.008):

    ======================  =====  =========  ===========  ===========  ============
    classes                 truth  512 codes  2,048 codes  8,192 codes  32,768 codes
    ======================  =====  =========  ===========  ===========  ============
    2, at :math:`\pm 0.6`   0.153  0.252      0.193        0.167        0.149
    10, around a circle     0.165  0.844      0.494        0.300        0.213
    ======================  =====  =========  ===========  ===========  ============

    So compare estimates with the same number of past codes only. With past codes all :math:`q_j`
    are constants, and the gradient is that of the samples. Of the information itself it would miss
    nothing in the mean, for :math:`\mathbb{E}_q \, \partial \log q(z) = 0`; of finitely many codes
    it has the estimate's bias.

    Args:
        z: A sample of each :math:`q_i`, of shape :math:`(B, D)`.
        mu: Means, of shape :math:`(B, D)`.
        log_variance: Of shape :math:`(B, D)`.
        c: Classes, one-hot, of shape :math:`(B, C)`.
        past: Means, log-variances and classes of earlier images, which join the sums; a row whose
            class is all zeros does not.

    Returns:
        Nats for each datum, of shape :math:`(B)`.
    """
    if past is not None:
        mu = torch.cat([mu, past[0]]).detach()
        log_variance = torch.cat([log_variance, past[1]]).detach()
    others = c if past is None else torch.cat([c, past[2]])
    counts = others.sum(0)

    def information(_: int, z: Tensor, c: Tensor) -> Tensor:
        log_q = gaussian_log_prob(z, mu, log_variance)
        # One exponential of the largest matrix, where two masked logsumexp take five times as long.
        density = (log_q - log_q.detach().amax(1, keepdim=True)).exp()
        by_class = density @ others
        within = ((by_class * c).sum(1) / (c @ counts)).clamp(min=torch.finfo(z.dtype).tiny)
        return within.log() - (by_class.sum(1) / counts.sum()).log()

    return by_rows(information, z, c, width=len(mu))


INVARIANCES = {
    "none": None,
    "pairwise": lambda z, mu, log_variance, c: mean_pairwise(mu, log_variance),
    "kt": lambda z, mu, log_variance, c: kolchinsky_tracey(mu, log_variance),
    "direct": class_information,
}
"""Terms for invariance by their names on the command line, as a guide takes them."""


Similarity = Literal["l2sq", "l2", "l1", "linf", "cosine"]
"""Similarities of embeddings: see :func:`similarity`."""


def similarity(u: Tensor, v: Tensor, kind: Similarity = "l2sq") -> Tensor:
    r"""How alike embeddings are, each of one stack to each of another.

    .. math:: -|u - v|_2^2, \quad -|u - v|_2, \quad -|u - v|_1, \quad -|u - v|_\infty, \quad
        \frac{u \cdot v}{|u| \, |v|}

    for ``"l2sq"``, ``"l2"``, ``"l1"``, ``"linf"`` and ``"cosine"``. Distances are taken from
    differences, which do not cancel; where two embeddings are one, the gradient is zero.

    Args:
        u: Of shape :math:`(*, n, D)`.
        v: Of shape :math:`(*, m, D)`.
        kind: Which of the five.

    Returns:
        Of shape :math:`(*, n, m)`.

    Raises:
        ValueError: If there is no such similarity.
    """
    if kind == "cosine":
        u, v = (torch.nn.functional.normalize(each, dim=-1) for each in (u, v))
        return u @ v.mT
    difference = u.unsqueeze(-2) - v.unsqueeze(-3)
    if kind == "l2sq":
        return -difference.square().sum(-1)
    if kind == "l2":
        square = difference.square().sum(-1)
        # The root's slope at zero is infinite, and zero times that is not a number.
        apart = square > 0
        return -torch.where(apart, torch.where(apart, square, 1.0).sqrt(), 0.0)
    if kind == "l1":
        return -difference.abs().sum(-1)
    if kind == "linf":
        return -difference.abs().amax(-1)
    raise ValueError(f"{kind!r} is no similarity: take l2sq, l2, l1, linf or cosine")


def cycle(
    a: Tensor,
    b: Tensor,
    back: Tensor | None = None,
    *,
    kind: Similarity = "l2sq",
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    r"""ABC's loss in one direction: from a stack to another, and back to where one began.

    .. math:: e_i = \sum_j \text{softmax}_j \Big( \frac{s(a_i, b_j)}{\tau} \Big) b_j, \qquad
        L(A, B) = - \frac{1}{n} \sum_i \log \text{softmax}_i
        \Big( \frac{s(e_i, a'_\cdot)}{\tau} \Big)

    The soft neighbour :math:`e_i` of :math:`a_i` in the other stack is to be nearer to
    :math:`a'_i` than to the rest of :math:`A'`. Embeddings that are all one have :math:`\log n`.

    Args:
        a: Embeddings of a stack, of shape :math:`(*, n, D)`.
        b: Embeddings of the other, of shape :math:`(*, m, D)`.
        back: :math:`a'`, those of a second view of the first stack's images; ``a`` if not given.
        kind: :math:`s`: see :func:`similarity`.
        temperature: :math:`\tau > 0`.

    Returns:
        Nats, of shape :math:`(*)`; and whether each :math:`e_i` is nearest to :math:`a'_i`, of
        shape :math:`(*, n)`.

    Example:
        >>> stack = 10 * torch.eye(4)  # far from each other, and all in both stacks
        >>> loss, found = cycle(stack, stack.flip(0))
        >>> round(loss.item(), 6), found.all().item()
        (0.0, True)

    References:
        | Learning ABCs: Approximate Bijective Correspondence for Isolating Factors of Variation
          with Weak Supervision (Murphy et al., 2022)
        | https://arxiv.org/abs/2103.03240
    """
    seen = a if back is None else back

    def search(start: int, a: Tensor) -> Tensor:
        neighbour = (similarity(a, b, kind) / temperature).softmax(-1) @ b
        logits = similarity(neighbour, seen, kind) / temperature
        own = logits.diagonal(offset=start, dim1=-2, dim2=-1)
        # All at once is not nearest: embeddings that have collapsed find nothing.
        found = (own >= logits.amax(-1)) & (own > logits.amin(-1))
        return torch.stack([logits.logsumexp(-1) - own, found.to(own.dtype)])

    width = max(b.shape[-2], seen.shape[-2]) * (1 if kind == "cosine" else a.shape[-1])
    nats, found = by_rows(search, a, width=width)
    return nats.mean(-1), found > 0


def collapse(n: int, m: int) -> float:
    r"""ABC's loss, both ways, of embeddings that are all one: :math:`\log n + \log m` nats."""
    return math.log(n) + math.log(m)
