"""The number of objects summed out: no score function."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from train.estimators.base import DifferentiableELBO, Program, summarise
from train.estimators.counts import Counts, count_out


class MarginalELBO(DifferentiableELBO):
    r"""The ELBO with the number of objects summed out exactly.

    .. math:: \sum_{n = 0}^{N} q(n | z, x) \Big[ \log p(x | z_{1:n}, n)
        - \sum_{i \le n} \text{KL}_i - \log \frac{q(n | z, x)}{p(n)} \Big]

    Guide and model run once, on the path on which every object is present; see :func:`count_out`.
    The other latents are reparameterised, so the estimate's own gradient is an unbiased one: no
    score function and no baseline. It is :class:`~pyro.infer.TraceEnum_ELBO`'s value, without
    running anything :math:`2^N` times.

    Args:
        num_particles: The number of draws that are averaged.
        analytic: Whether to take KL divergences in closed form where PyTorch has one, rather than
            at the draw.
        options: See :class:`~train.estimators.base.DifferentiableELBO`.

    Example:
        >>> from guides.air import ResidualGuide
        >>> from pyro_models.air import AIR
        >>> model = AIR((50, 50))
        >>> elbo = MarginalELBO()(model, ResidualGuide(model))  # a module, as Pyro's are
        >>> elbo(torch.rand(4, 50, 50)).shape  # the loss, summed over the batch
        torch.Size([])
    """

    def __init__(self, num_particles: int = 1, *, analytic: bool = True, **options: Any) -> None:
        super().__init__(num_particles, **options)
        self.analytic = analytic

    def estimate(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        runs = [
            count_out(*pair, args, kwargs, analytic=self.analytic)
            for pair in self.particles(model, guide)
        ]
        log_likelihood, kl = averaged(runs, self.num_particles)
        loss = sum(runs[0].scales[name] * value for name, value in kl.items()) - log_likelihood
        return loss, summarise(log_likelihood, kl)


class ImportanceWeightedELBO(DifferentiableELBO):
    r"""The importance-weighted bound of :math:`K` draws, the number of objects summed out in each.

    .. math:: \mathcal{L}_K = \log \frac{1}{K} \sum_{k = 1}^K W_k, \qquad
        W_k = \sum_{n = 0}^{N} p(n) \, p(x | z^k_{1:n}, n)
        \prod_{i \le n} \frac{p(z^k_i)}{q(z^k_i)}

    It grows with :math:`K`, up to :math:`\log p(x)`, and already for one draw is no less than
    :class:`MarginalELBO`'s value. But the guide's :math:`q(n | z, x)` is not in it: it alone would
    never teach the guide to count (:class:`~pyro.infer.RenyiELBO` has the same gradient of zero,
    pyro issue 3289). And the more draws, the less a guide hears of where to put them. So the value
    is :math:`-\mathcal{L}_K`, and the gradient is that of

    .. math:: - \alpha \Big[ \mathcal{L}_K - \frac{1}{K} \sum_k
        \text{KL}(q(n | z^k, x) \, \| \, p(n | z^k, x)) \Big]
        - (1 - \alpha) \frac{1}{K} \sum_k \mathcal{L}^k, \qquad
        p(n | z^k, x) \propto \text{the summands of } W_k,

    with :math:`\mathcal{L}^k` the draw's :class:`MarginalELBO`. Both parts are bounds, and for one
    draw they are the same.

    With a weight :math:`\beta` on the latents' log-probabilities, the bound is
    :math:`\beta` times that of the likelihood to the power of :math:`1 / \beta`.

    Args:
        num_particles: The number :math:`K` of draws.
        tight: :math:`\alpha`, in [0, 1].
        vectorize_particles: Whether they are made side by side rather than one after another.
        options: See :class:`~train.estimators.base.DifferentiableELBO`.

    Attributes:
        terms: As elsewhere, for the ELBO; and ``iw_bound``, :math:`\mathcal{L}_K` at beta 1.

    References:
        | Importance Weighted Autoencoders (Burda et al., 2016)
        | https://arxiv.org/abs/1509.00519
        | Tighter Variational Bounds are Not Necessarily Better (Rainforth et al., 2018), where
          such a combination is CIWAE
        | https://arxiv.org/abs/1802.04537
    """

    def __init__(
        self,
        num_particles: int = 10,
        *,
        tight: float = 0.5,
        vectorize_particles: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(num_particles, vectorize_particles=vectorize_particles, **options)
        self.tight = tight

    def estimate(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        runs = self._runs(model, guide, args, kwargs)
        beta = runs[0].scales[runs[0].presence]
        log_joint = self.by_particle([run.log_joint(scaled=True) for run in runs], dim=1) / beta
        log_q = self.by_particle([run.log_q for run in runs], dim=1)
        bound = beta * importance_weighted(log_joint).sum()
        divergence = (log_q.exp() * (log_q - log_joint.log_softmax(0))).sum()
        elbo = (log_q.exp() * (log_joint - log_q)).sum()
        scale = beta / self.num_particles
        learnt = self.tight * (bound - scale * divergence) + (1 - self.tight) * scale * elbo
        terms = summarise(*averaged(runs, self.num_particles))
        terms["iw_bound"] = importance_weighted(self._log_joint(runs)).sum().detach()
        return (learnt - bound).detach() - learnt, terms

    @torch.no_grad()
    def bound(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        r"""The bound :math:`\mathcal{L}_K` of each datum, in nats, of shape :math:`(B)`."""
        return importance_weighted(self._log_joint(self._runs(model, guide, args, kwargs)))

    def _runs(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Counts]:
        pairs = self.particles(model, guide)
        return [count_out(*pair, args, kwargs, analytic=False) for pair in pairs]

    def _log_joint(self, runs: list[Counts]) -> Tensor:
        return self.by_particle([run.log_joint() for run in runs], dim=1)


def importance_weighted(log_joint: Tensor) -> Tensor:
    r"""The bound :math:`\log \frac{1}{K} \sum_k \sum_n \exp(\ell_{n k})`.

    Args:
        log_joint: :math:`\ell`, of shape :math:`(N + 1, K, B)`: see :meth:`Counts.log_joint`.

    Returns:
        Nats, of shape :math:`(B)`.
    """
    return log_joint.logsumexp((0, 1)) - math.log(log_joint.shape[1])


def averaged(runs: Sequence[Counts], particles: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-likelihood and divergences, in the mean over counts and draws, summed over the batch."""
    log_likelihoods, kls = zip(*(run.means() for run in runs), strict=True)
    kl = {name: sum(each[name] for each in kls) / particles for name in kls[0]}
    return sum(log_likelihoods) / particles, kl
