"""The number of objects summed out: no score function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from train.estimators.base import DifferentiableELBO, Program
from train.estimators.costs import (
    PARTICLES,
    Cost,
    loss_and_terms,
    score,
    summed,
    terms,
)
from train.estimators.counts import Counts, count_out
from train.estimators.weights import Weighted, importance_weighted


class PathELBO(DifferentiableELBO):
    """An estimator that runs guide and model on the path on which every object is present."""

    by_count = True

    def runs(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Counts]:
        """Each run of guide and model."""
        contract = self.prepare(model, guide, args, kwargs)
        return [
            count_out(*pair, args, kwargs, contract, nesting=self.max_plate_nesting)
            for pair in self.particles(model, guide)
        ]


class MarginalELBO(PathELBO):
    r"""The ELBO with the number of objects summed out exactly.

    .. math:: \sum_{n = 0}^{N} q(n | z, x) \Big[ \log p(x | z_{1:n}, n)
        - \sum_{i \le n} \text{KL}_i - \log \frac{q(n | z, x)}{p(n)} \Big]

    Guide and model run once, on the path on which every object is present; see :func:`count_out`.
    Other latents that are reparameterised need no score function, and no baseline. Others than
    presences that are not, a user's own, get one: the cost of all that is in their plates. It is
    :class:`~pyro.infer.TraceEnum_ELBO`'s value, without running anything :math:`2^N` times.

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
        runs = (
            (run.costs(analytic=self.analytic), run.scored())
            for run in self.runs(model, guide, args, kwargs)
        )
        return loss_and_terms(runs, self.num_particles)

    @torch.no_grad()
    def elbo(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        r"""The ELBO of each datum in nats, of the shape :math:`(B)` of the plates of all sites."""
        result: Tensor | float = 0.0
        for run in self.examined(self.runs, model, guide, args, kwargs):
            plates = [frame for frame in run.plates if frame.name != PARTICLES]
            costs = run.costs(analytic=self.analytic)
            result = result + summed([(cost.value, cost.stack) for cost in costs], plates)
        return result / self.num_particles


class ImportanceWeightedELBO(PathELBO):
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

    A draw has one weight for each datum of the plates that all sites share. Where a site is outside
    a plate, the weight is that of all of the plate together.

    With a scale :math:`\beta` of all of the guide's draws, by annealing, subsampling or
    ``poutine.scale``, the bound is :math:`\beta` times that of the other terms to the power of
    :math:`1 / \beta`.

    Args:
        num_particles: The number :math:`K` of draws.
        tight: :math:`\alpha`, in [0, 1].
        vectorize_particles: Whether they are made side by side rather than one after another.
        options: See :class:`~train.estimators.base.DifferentiableELBO`.

    Attributes:
        terms: As elsewhere, for the ELBO; and ``iw_bound``, :math:`\mathcal{L}_K` without annealed
            weights.

    Raises:
        ValueError: If the guide's draws have different scales: a weight is of one.

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
        runs = self.runs(model, guide, args, kwargs)
        self.prepare(model, guide, args, kwargs).require_one_scale("ImportanceWeightedELBO")
        joints = [run.joint() for run in runs]
        weighted = [Weighted(run, costs) for run, costs in zip(runs, joints, strict=True)]
        scale, datum = weighted[0].scale, weighted[0].data

        def mean(values: list[Tensor]) -> Tensor:
            return datum(self.by_particle(values).mean(0))

        log_weights = self.by_particle([each.log_weights() for each in weighted])
        bound = scale * datum(importance_weighted(log_weights))
        divergence = mean([each.divergence() for each in weighted])
        elbo = mean([each.elbo() for each in weighted])
        learnt = self.tight * (bound - scale * divergence) + (1 - self.tight) * elbo
        surrogate = learnt.sum()
        for run, each in zip(runs, weighted, strict=True):
            for site in run.scored():
                if (value := score(site)) is not None:
                    value = each.by_datum(value, site) * learnt.detach()
                    surrogate = surrogate + value.sum()
        pairs = list(zip(runs, joints, strict=True))
        costs = [cost for run, joint in pairs for cost in run.averaged(joint)]
        named = terms(costs, self.num_particles)
        with torch.no_grad():
            named["iw_bound"] = self._plain_bound(pairs).sum()
        return (surrogate - bound.sum()).detach() - surrogate, named

    @torch.no_grad()
    def bound(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        r"""The bound :math:`\mathcal{L}_K` of each datum, in nats, of shape :math:`(B)`."""
        runs = self.examined(self.runs, model, guide, args, kwargs)
        self.prepare(model, guide, args, kwargs).require_one_scale("ImportanceWeightedELBO")
        return self._plain_bound([(run, run.joint()) for run in runs])

    def _plain_bound(self, pairs: list[tuple[Counts, list[Cost]]]) -> Tensor:
        weighted = [Weighted(run, costs, plain=True) for run, costs in pairs]
        log_weights = self.by_particle([each.log_weights() for each in weighted])
        return weighted[0].scale * weighted[0].data(importance_weighted(log_weights))
