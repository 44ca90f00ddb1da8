r"""Estimators with antithetic draws: ARM and ARMS for Bernoulli sites, DisARM for classes too.

A pair of draws :math:`b, b'` of one distribution with correlation :math:`\rho` has the gradient

.. math:: \frac{1}{2} \, \frac{(f(b) - f(b')) \, (b - b')}{1 - \rho}

of each variable, whatever the correlation: :math:`\mathbb{E}[b' - p \mid b] = \rho \, (b - p)`, so
that :math:`\mathbb{E}[f(b) \, (b - b')] = (1 - \rho) \, \mathbb{E}[f(b) \, (b - p)]`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from train.estimators.discrete.families import BernoulliFamily, Family, Vectors, uniform
from train.estimators.discrete.site import Common, SiteDraws, SiteEstimator
from train.estimators.discrete.tree import Tree


class Antithetic(SiteEstimator):
    """The base of estimators with coupled draws."""

    particles = fewest = 2
    coupled = True
    families: ClassVar[tuple[type[Family], ...] | None] = (BernoulliFamily,)

    def coupling(self, common: Common, particles: int) -> Tensor:
        if common.family.one_hot:
            tree = Tree(common.logits)
            return tree.vector(self.bits(tree.logits(common.logits), particles))
        return self.bits(common.logits, particles)

    def bits(self, logits: Tensor, particles: int) -> Tensor:
        """Draws values of shape (K, *) from logits of shape (1, *)."""
        raise NotImplementedError


class Pairs(Antithetic):
    """The base of estimators with antithetic pairs, one after the other in order of particles."""

    even = True

    def bits(self, logits: Tensor, particles: int) -> Tensor:
        u = uniform((particles // 2, *logits.shape[1:]), logits)
        pair = torch.stack([u > (-logits).sigmoid(), u < logits.sigmoid()], dim=1)
        return pair.to(logits.dtype).flatten(0, 1)


class DisARM(Pairs):
    r"""Antithetic pairs, with the uniform draw integrated out (DisARM, or U2G).

    .. math::
        b = 1[u > \sigma(-\phi)], & \quad b' = 1[u < \sigma(\phi)], \quad u \sim U(0, 1) \\
        \nabla_\phi \, \mathbb{E}[f] & \approx \tfrac{1}{2} (f(b) - f(b')) \, (-1)^{b'} \,
            1[b \ne b'] \, \sigma(|\phi|)

    A categorical variable is drawn as a tree of Bernoulli variables (:class:`~.tree.Tree`), each
    with an antithetic pair. A node that only one draw of the pair reaches has the gradient

    .. math:: \tfrac{1}{2} (f(z) - f(z')) \, (b - \sigma(\alpha))

    of its logit :math:`\alpha`, with the bit's sign and the costs' exchanged if it is
    :math:`z'`, and one that neither reaches has none.

    It needs 2 evaluations of the cost. With more, an even number, it is the mean of the pairs.

    References:
        | DisARM: An Antithetic Gradient Estimator for Binary Latent Variables (Dong et al., 2020)
        | https://arxiv.org/abs/2006.10680
        | Probabilistic Best Subset Selection via Gradient-Based Optimization (Yin et al., 2020)
        | https://arxiv.org/abs/2006.06448
        | Coupled Gradient Estimators for Discrete Latent Variables (Dong et al., 2021)
        | https://arxiv.org/abs/2106.08056
    """

    title = "disarm"
    families = None

    def surrogate(self, draws: SiteDraws) -> Tensor:
        difference = draws.to_logits(draws.cost[::2] - draws.cost[1::2])
        return pairs_surrogate(difference, draws.in_family) / len(difference)


class ARM(Pairs):
    r"""Antithetic pairs, weighted by the uniform draw (augment, reinforce, merge).

    .. math::
        b = 1[u > \sigma(-\phi)], & \quad b' = 1[u < \sigma(\phi)], \quad u \sim U(0, 1) \\
        \nabla_\phi \, \mathbb{E}[f] & \approx (f(b) - f(b')) \, (u - \tfrac{1}{2})

    :class:`DisARM` is its expectation given the pair, and takes no more time.

    References:
        | ARM: Augment-REINFORCE-Merge Gradient for Stochastic Binary Networks (Yin and Zhou, 2019)
        | https://arxiv.org/abs/1807.11143
    """

    title = "arm"

    def surrogate(self, draws: SiteDraws) -> Tensor:
        # Given the pair, u is uniform in an interval: where b = b', in the middle, between
        # sigma(-|phi|) and sigma(|phi|); else in the upper or the lower rest.
        cost, value = draws.cost, draws.value
        one, other = value[::2], value[1::2]
        logits = draws.fixed_logits[::2]
        low, high = (-logits.abs()).sigmoid(), logits.abs().sigmoid()
        again = uniform(logits.shape, logits)
        u = torch.where(
            one == other,
            low + again * (high - low),
            torch.where(one > other, high + again * low, again * low),
        )
        gradient = draws.to_logits(cost[::2] - cost[1::2]) * (u - 0.5) / len(u)
        return (gradient * draws.logits[::2]).sum()


class ARMS(Antithetic):
    r""":math:`K` draws that are antithetic to each other, by a Dirichlet copula.

    .. math::
        d \sim \text{Dirichlet}(1_K), \quad u_k = (1 - d_k)^{K - 1}, & \quad b_k = 1[u_k < p] \\
        \nabla_\phi \, \mathbb{E}[f] \approx \frac{1}{K - 1} \sum_k
            \Big( f_k - \frac{1}{K} \sum_j f_j \Big) & \frac{b_k - p}{1 - \rho}

    with :math:`\rho` the correlation of two draws; :math:`b_k = 1[u_k > 1 - p]` where
    :math:`p > 1/2`. For :math:`K = 2` it is :class:`DisARM`.

    References:
        | ARMS: Antithetic-REINFORCE-Multi-Sample Gradient for Binary Variables (Dimitriev and Zhou,
          2021)
        | https://arxiv.org/abs/2105.14141
    """

    title = "arms"

    def bits(self, logits: Tensor, particles: int) -> Tensor:
        exponential = -torch.log1p(-uniform((particles, *logits.shape[1:]), logits))
        d = exponential / exponential.sum(0)
        u = (1 - d) ** (particles - 1)
        # The rarer of the two values is the one whose draws exclude each other.
        rare = (-logits.abs()).sigmoid()
        return torch.where(logits < 0, u < rare, u >= rare).to(logits.dtype)

    def surrogate(self, draws: SiteDraws) -> Tensor:
        particles = draws.particles
        rare = (-draws.fixed_logits.abs()).sigmoid()
        centred = draws.cost - draws.cost.mean(0)
        signal = draws.to_logits(centred) / (particles - 1)
        return (signal * draws.score / (1 - correlation(rare, particles)) * draws.logits).sum()


def pairs_surrogate(difference: Tensor, vectors: Vectors) -> Tensor:
    """Returns a scalar with the gradient of :class:`DisARM`, summed over pairs.

    Args:
        difference: :math:`f(z) - f(z')` of each pair, which broadcasts with a pair's logits.
        vectors: The draws, one pair after another.
    """
    family, logits, value = vectors
    logits = logits[::2]
    if family.one_hot:
        tree = Tree(logits)
        logits = tree.logits(logits)
        one, other = tree.path(value[::2]), tree.path(value[1::2])
        both = (one.bits - other.bits) * logits.abs().sigmoid()
        # The score of a node is what its bit is above the mean, if a draw reaches it.
        scores = one.bits - other.bits - (one.reached - other.reached) * logits.sigmoid()
        signal = torch.where(one.reached * other.reached > 0, both, scores)
    else:
        signal = (value[::2] - value[1::2]) * logits.abs().sigmoid()
    return ((0.5 * difference * signal).detach() * logits).sum()


def correlation(rare: Tensor, particles: int) -> Tensor:
    r"""Returns the correlation of two draws of :class:`ARMS`.

    .. math::
        \rho = \frac{P(b_1 = b_2 = 1) - p^2}{p \, (1 - p)}, \quad
        P(b_1 = b_2 = 1) = \max(0, 2 p^{1 / (K - 1)} - 1)^{K - 1}

    Args:
        rare: The probability :math:`p` of the rarer value, at most 1/2.
        particles: The number of draws :math:`K`, 2 or more.
    """
    rare = rare.clamp(min=torch.finfo(rare.dtype).tiny)
    root = rare ** (1 / (particles - 1))
    both = (2 * root - 1).clamp(min=0) ** (particles - 1)
    return (both / rare - rare) / (1 - rare)
