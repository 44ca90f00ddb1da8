"""Estimators that sum the number of objects out, without a score function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from train.estimators.base import DifferentiableELBO
from train.estimators.costs import (
    PARTICLES,
    Cost,
    elbo_terms,
    mean_loss_and_terms,
    score_function,
    sum_to_plates,
)
from train.estimators.counts import Counts, count_out
from train.estimators.programs import Program
from train.estimators.weights import ImportanceWeights, importance_weighted


class PathELBO(DifferentiableELBO):
    """An estimator that runs guide and model on the path with every object present."""

    sums_counts = True

    def runs(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Counts]:
        """Runs guide and model once for each draw, or once for all if draws are vectorised."""
        contract = self.prepare(model, guide, args, kwargs)
        return [
            count_out(*pair, args, kwargs, contract, nesting=self.max_plate_nesting)
            for pair in self.particles(model, guide)
        ]


class MarginalELBO(PathELBO):
    r"""The ELBO with the number of objects summed out exactly.

    .. math:: \sum_{n = 0}^{N} q(n | z, x) \Big[ \log p(x | z_{1:n}, n)
        - \sum_{i \le n} \text{KL}_i - \log \frac{q(n | z, x)}{p(n)} \Big]

    Guide and model run once, on the path with every object present; see :func:`count_out`.
    Reparameterised latents need neither a score function nor a baseline. A user's own discrete
    latents beside the presences get a score function, with the cost of everything in their plates.
    The value is that of :class:`~pyro.infer.TraceEnum_ELBO`, which runs the model :math:`2^N`
    times.

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
        >>> elbo(torch.rand(4, 1, 50, 50)).shape  # the loss, summed over the batch
        torch.Size([])
    """

    def __init__(self, num_particles: int = 1, *, analytic: bool = True, **options: Any) -> None:
        super().__init__(num_particles, **options)
        self.analytic = analytic

    def estimate(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        runs = (
            (run.costs(analytic=self.analytic), run.latents())
            for run in self.runs(model, guide, args, kwargs)
        )
        return mean_loss_and_terms(runs, self.num_particles)

    @torch.no_grad()
    def elbo(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        r"""Returns the ELBO of each datum in nats, of shape :math:`(B)`.

        :math:`B` is the size of the plates around every site.
        """
        result: Tensor | float = 0.0
        for run in self.examined(self.runs, model, guide, args, kwargs):
            plates = [frame for frame in run.plates if frame.name != PARTICLES]
            costs = run.costs(analytic=self.analytic)
            result = result + sum_to_plates([(cost.value, cost.stack) for cost in costs], plates)
        return result / self.num_particles


class ImportanceWeightedELBO(PathELBO):
    r"""The importance-weighted bound of :math:`K` draws, with the count summed out in each.

    .. math:: \mathcal{L}_K = \log \frac{1}{K} \sum_{k = 1}^K W_k, \qquad
        W_k = \sum_{n = 0}^{N} p(n) \, p(x | z^k_{1:n}, n)
        \prod_{i \le n} \frac{p(z^k_i)}{q(z^k_i)}

    The bound grows with :math:`K` towards :math:`\log p(x)`, and for one draw it is at least the
    value of :class:`MarginalELBO`. But it does not contain the guide's :math:`q(n | z, x)`, so its
    gradient for the guide's presence probabilities is zero (as that of
    :class:`~pyro.infer.RenyiELBO`, pyro issue 3289). And the signal-to-noise ratio of the gradient
    for the guide's other latents falls with :math:`K`. So the value is :math:`-\mathcal{L}_K`, and
    the gradient is that of

    .. math:: - \alpha \Big[ \mathcal{L}_K - \frac{1}{K} \sum_k
        \text{KL}(q(n | z^k, x) \, \| \, p(n | z^k, x)) \Big]
        - (1 - \alpha) \frac{1}{K} \sum_k \mathcal{L}^k, \qquad
        p(n | z^k, x) \propto \text{the summands of } W_k,

    with :math:`\mathcal{L}^k` the draw's :class:`MarginalELBO`. Both summands are bounds, and they
    are equal for one draw.

    A draw has one weight for each datum of the plates that are around every site. A site outside a
    plate makes it one weight for the whole plate.

    With a scale :math:`\beta` of all draws of the guide, by annealing, subsampling or
    ``poutine.scale``, the bound is :math:`\beta` times the bound for the other factors to the power
    of :math:`1 / \beta`.

    Args:
        num_particles: The number :math:`K` of draws.
        tight: :math:`\alpha`, in [0, 1].
        vectorize_particles: Whether the draws are made in parallel rather than one after another.
        options: See :class:`~train.estimators.base.DifferentiableELBO`.

    Attributes:
        terms: The terms of the ELBO, and ``iw_bound``: :math:`\mathcal{L}_K` without annealed
            weights.

    Raises:
        ValueError: If the guide's draws have different scales.

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
        runs = self._runs_with_one_scale(model, guide, args, kwargs)
        costs = [run.costs_by_count() for run in runs]
        weights = [ImportanceWeights(*pair) for pair in zip(runs, costs, strict=True)]
        bound = self._bound(weights)
        objective = self._objective(weights, bound)
        surrogate = objective.sum()
        for run_weights in weights:
            for term in _score_terms(run_weights, objective.detach()):
                surrogate = surrogate + term
        terms = self._terms(runs, costs)
        return (surrogate - bound.sum()).detach() - surrogate, terms

    @torch.no_grad()
    def bound(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        r"""Returns the bound :math:`\mathcal{L}_K` of each datum in nats, of shape :math:`(B)`."""
        runs = self.examined(self._runs_with_one_scale, model, guide, args, kwargs)
        return self._unannealed_bound(runs, [run.costs_by_count() for run in runs])

    def _runs_with_one_scale(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Counts]:
        runs = self.runs(model, guide, args, kwargs)
        self.prepare(model, guide, args, kwargs).require_one_scale("ImportanceWeightedELBO")
        return runs

    def _bound(self, weights: list[ImportanceWeights]) -> Tensor:
        log_weights = self.by_particle([run_weights.log_weights() for run_weights in weights])
        first = weights[0]
        return first.scale * first.data_shaped(importance_weighted(log_weights))

    def _objective(self, weights: list[ImportanceWeights], bound: Tensor) -> Tensor:
        """Returns the combination of bounds whose gradient is taken, of each datum."""

        def mean(values: list[Tensor]) -> Tensor:
            return weights[0].data_shaped(self.by_particle(values).mean(0))

        divergence = mean([run_weights.divergence() for run_weights in weights])
        elbo = mean([run_weights.elbo() for run_weights in weights])
        tight_bound = bound - weights[0].scale * divergence
        return self.tight * tight_bound + (1 - self.tight) * elbo

    def _terms(self, runs: list[Counts], costs: list[list[Cost]]) -> dict[str, Tensor]:
        mean_costs = [
            cost
            for run, run_costs in zip(runs, costs, strict=True)
            for cost in run.mean_costs(run_costs)
        ]
        terms = elbo_terms(mean_costs, self.num_particles)
        with torch.no_grad():
            terms["iw_bound"] = self._unannealed_bound(runs, costs).sum()
        return terms

    def _unannealed_bound(self, runs: list[Counts], costs: list[list[Cost]]) -> Tensor:
        return self._bound(
            [
                ImportanceWeights(run, run_costs, annealing=False)
                for run, run_costs in zip(runs, costs, strict=True)
            ]
        )


def _score_terms(weights: ImportanceWeights, objective: Tensor) -> list[Tensor]:
    """Returns the score function's terms of a run's draws that are not reparameterised."""
    return [
        (weights.by_datum(value, site) * objective).sum()
        for site in weights.run.latents()
        if (value := score_function(site)) is not None
    ]
