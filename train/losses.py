"""Losses other than the ELBO: pure functions of tensors, in nats."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 2**22
"""The largest number of elements of an intermediate tensor of pairs; more rows are split into
chunks."""


def apply_in_chunks(function: Callable[..., Tensor], *rows: Tensor, width: int) -> Tensor:
    r"""Applies a row-wise function in chunks and recomputes each in the backward pass.

    This bounds memory: a comparison of all pairs of a batch has an intermediate tensor of
    :math:`n \times m \times D` elements, of which at most :data:`CHUNK_ELEMENTS` exist at a time.

    Args:
        function: Maps the index of the first row and tensors of :math:`k` rows, of shapes
            :math:`(*, k, \cdot)`, to a value for each row, of shape :math:`(*, k)`. It must not
            draw random numbers.
        rows: Tensors of shapes :math:`(*, n, \cdot)`.
        width: The number of elements of a row in the intermediate tensor.

    Returns:
        The values, of shape :math:`(*, n)`.
    """
    size = max(CHUNK_ELEMENTS // max(width * rows[0][..., 0, 0].numel(), 1), 1)
    n = rows[0].shape[-2]
    if n <= size:
        return function(0, *rows)
    values = []
    for start in range(0, n, size):
        chunk = [tensor.narrow(-2, start, min(size, n - start)) for tensor in rows]
        values.append(
            checkpoint(function, start, *chunk, use_reentrant=False, preserve_rng_state=False)
        )
    return torch.cat(values, dim=-1)


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

    def means(_: int, *rows: Tensor) -> Tensor:
        return pairwise_kl(*rows, codes).sum(1) / (len(mu) - 1)

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

    def bounds(_: int, *rows: Tensor) -> Tensor:
        return math.log(len(mu)) - (-pairwise_kl(*rows, codes)).logsumexp(1)

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


def class_information(
    z: Tensor,
    mu: Tensor,
    log_variance: Tensor,
    c: Tensor,
    past: tuple[Tensor, Tensor, Tensor] | None = None,
    *,
    sizes: Sequence[int] | None = None,
) -> Tensor:
    r"""Estimates the information between samples and a class, :math:`I(z; c)`, from given codes.

    .. math:: \log q(z_i | c_i) - \log q(z_i), \quad
        q(z_i | c_i) = \frac{\sum_j [c_j = c_i] \, q_j(z_i)}{\sum_j [c_j = c_i]}, \quad
        q(z_i) = \frac{1}{M} \sum_j q_j(z_i)

    Both sums contain :math:`j = i`; without it the mean is not bounded below. With it, the estimate
    for a code far from all others is that it determines its class, and its gradient vanishes. A
    code of :math:`R` nats has a fraction :math:`e^{-R}` of the others near it, so a batch suffices
    for the 2 or 3 nats of a two-dimensional code only. Codes of earlier batches, in ``past``,
    extend the range.

    **The estimate is biased upwards**, because a sample's :math:`q_i` weighs more among the codes
    of its class than among all codes. The bias falls with the number of codes and grows with the
    number of classes. For two-dimensional codes of unit variance within a class, each :math:`q_j`
    of standard deviation 0.1, and a batch of 256, the estimates in nats are (standard errors 0.004
    to 0.008):

    ======================  =====  =========  ===========  ===========  ============
    classes                 truth  512 codes  2,048 codes  8,192 codes  32,768 codes
    ======================  =====  =========  ===========  ===========  ============
    2, at :math:`\pm 0.6`   0.153  0.252      0.193        0.167        0.149
    10, around a circle     0.165  0.844      0.494        0.300        0.213
    ======================  =====  =========  ===========  ===========  ============

    So compare estimates only at equal numbers of past codes. With past codes all :math:`q_j` are
    constants, and the gradient is that of the samples. For the exact information this gradient is
    unbiased, because :math:`\mathbb{E}_q \, \partial \log q(z) = 0`; for finitely many codes it has
    the estimate's bias.

    Of several conditions :math:`c = (c_1, \dots, c_K)` the estimate is that of

    .. math:: \sum_k I(z; c_k)

    All terms use the same densities, so that further conditions cost next to nothing. The joint
    information :math:`I(z; c_1, \dots, c_K)` would also see what only a combination of conditions
    reveals. But its classes are as many as there are combinations, and so the bias above is larger.

    Args:
        z: A sample of each :math:`q_i`, of shape :math:`(B, D)`.
        mu: Means, of shape :math:`(B, D)`.
        log_variance: Of shape :math:`(B, D)`.
        c: Classes, one-hot, of shape :math:`(B, C)`; of several conditions, concatenated.
        past: Means, log-variances and classes of earlier images, of shapes :math:`(M, *)`, which
            are added to both sums; rows whose class is all zeros are not.
        sizes: The number of classes of each condition; a single condition if not given.

    Returns:
        Nats for each datum, of shape :math:`(B)`.
    """
    if past is not None:
        mu = torch.cat([mu, past[0]]).detach()
        log_variance = torch.cat([log_variance, past[1]]).detach()
    others = c if past is None else torch.cat([c, past[2]])
    counts = others.sum(0)
    sizes = [c.shape[1]] if sizes is None else list(sizes)

    def information(_: int, z: Tensor, c: Tensor) -> Tensor:
        log_q = gaussian_log_prob(z, mu, log_variance)
        # A single exponential of the matrix of pairs: two masked logsumexp take five times as long.
        density = (log_q - log_q.detach().amax(1, keepdim=True)).exp()
        parts = (density @ others, c, counts)
        terms = [term(*part) for part in zip(*(x.split(sizes, dim=-1) for x in parts), strict=True)]
        return terms[0] if len(terms) == 1 else torch.stack(terms).sum(0)

    def term(by_class: Tensor, c: Tensor, counts: Tensor) -> Tensor:
        within = ((by_class * c).sum(1) / (c @ counts)).clamp(min=torch.finfo(z.dtype).tiny)
        return within.log() - (by_class.sum(1) / counts.sum()).log()

    return apply_in_chunks(information, z, c, width=len(mu))


INVARIANCES = {
    "none": None,
    "pairwise": lambda z, mu, log_variance, c: mean_pairwise(mu, log_variance),
    "kt": lambda z, mu, log_variance, c: kolchinsky_tracey(mu, log_variance),
    "direct": class_information,
}
"""Invariance terms by their names on the command line, called with (z, mu, log_variance, c)."""


def invariance(name: str, sizes: Sequence[int]) -> Callable[..., Tensor] | None:
    """Returns an invariance term for several conditions.

    Args:
        name: Its name; one that is not in :data:`INVARIANCES` has no term.
        sizes: The size of each condition.
    """
    term = INVARIANCES.get(name)
    return partial(term, sizes=sizes) if name == "direct" and len(sizes) > 1 else term


def penalty_weights(
    invariance: str, weight: Callable[[Tensor], Tensor]
) -> dict[str, Callable[[Tensor], Tensor]]:
    """Returns the keyword arguments of ICVAE's guide and model that a penalty's weight sets.

    The bounds of Moyer et al. (2018) and Echo's rate trade against the reconstruction, whose weight
    is then one plus the penalty's.

    Args:
        invariance: The penalty's name; ``"none"`` has no weight.
        weight: The penalty's weight as a function of the steps done.
    """
    weights = {} if invariance == "none" else {"invariance": weight}
    if invariance in ("pairwise", "kt", "echo"):
        weights["reconstruction"] = lambda step: 1 + weight(step)
    return weights


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
