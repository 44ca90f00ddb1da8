"""Importance weights of a run, one for each datum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from train.estimators.costs import (
    PARTICLES,
    Cost,
    Site,
    Summand,
    Weight,
    annealed_weights,
    latent_sites,
    sum_to_plates,
)
from train.estimators.counts import Counts

W = TypeVar("W", Tensor, Weight)


class ImportanceWeights:
    r"""The importance weights of a run of guide and model.

    .. math:: \log W = \log \sum_n q(n | z, x) \exp \Big( \frac{1}{\beta} \sum_s C_s(n) \Big)

    with :math:`C_s(n)` the cost of site :math:`s` at count :math:`n` and :math:`\beta` the scale of
    the guide's draws. There is a weight for each member of the plates that are around every site,
    and for each draw if draws are vectorised. Costs are summed over all other plates.

    Args:
        run: The run.
        costs: Its :meth:`~train.estimators.counts.Counts.costs_by_count`.
        annealing: Whether costs and scale include annealed weights.

    Attributes:
        plates: The plates of the weights.
        scale: The scale :math:`\beta`.
    """

    def __init__(self, run: Counts, costs: Sequence[Cost], *, annealing: bool = True) -> None:
        self.run = run
        self.costs = costs
        self.annealing = annealing
        self.plates = run.plates
        self.scale = self._guide_scale()

    def _guide_scale(self) -> Weight:
        draws = latent_sites(self.run.guide)
        if not draws:
            return 1.0
        return self._annealed(draws[0]["scale"], annealed_weights(draws[0]))

    def _annealed(self, value: W, weights: tuple[Weight, ...]) -> W:
        for weight in () if self.annealing else weights:
            value = value / weight
        return value

    def _log_ratio(self, cost: Cost) -> Tensor:
        """Returns a cost divided by the scale."""

        def value_of(summand: Summand) -> Tensor:
            return self._annealed(summand.value, summand.annealed)

        first, *others = map(value_of, cost.summands)
        value = sum(others, start=first)
        scale = self.scale
        return value if isinstance(scale, int | float) and scale == 1 else value / scale

    @cached_property
    def _log_ratios(self) -> tuple[Tensor | float, list[tuple[Tensor, tuple]]]:
        """Costs divided by the scale.

        Those that depend on the count are summed by count, to the presences' plates. The others
        come with their plates.
        """
        run = self.run
        by_count: Tensor | float = 0.0
        others = []
        presence_plates = [frame for frame in run.stack if frame.vectorized]
        for cost in self.costs:
            value = self._log_ratio(cost)
            if not run.has_counts(value):
                others.append((value, cost.stack))
                continue
            dims = [f.dim for f in cost.stack if f.vectorized and f not in presence_plates]
            by_count = by_count + (value.sum(dims, keepdim=True) if dims else value)
        return by_count, others

    @cached_property
    def _log_joint(self) -> Tensor:
        r""":math:`\log q(n | z, x) + C(n) / \beta`, by count."""
        assert self.run.log_q is not None
        return self.run.log_q + self._log_ratios[0]

    def log_weights(self) -> Tensor:
        r"""Returns :math:`\log W`, of the shape of :attr:`plates`."""
        values = list(self._log_ratios[1])
        if self.run.log_q is not None:
            values.append((self._log_joint.logsumexp(-self.run.dim), self.run.stack))
        return self.to_plates(values)

    def divergence(self) -> Tensor:
        r"""Returns :math:`\text{KL}(q(n | z, x) \| p(n | z, x))`, shaped as :attr:`plates`."""
        run = self.run
        if run.log_q is None:
            return torch.zeros_like(self.log_weights())
        log_ratio = run.log_q - self._log_joint.log_softmax(-run.dim)
        return self.to_plates([((run.q * log_ratio).sum(-run.dim), run.stack)])

    def elbo(self) -> Tensor:
        """Returns the scaled ELBO with KL divergences at the draw, shaped as :attr:`plates`."""
        run = self.run
        by_count, values = self._log_ratios
        values = list(values)
        if run.log_q is not None and isinstance(by_count, Tensor):
            values.append((run.mean(by_count), run.stack))
        return self.scale * self.to_plates(values)

    def to_plates(self, values: Sequence[tuple[Tensor, Sequence[Any]]]) -> Tensor:
        """Sums pairs of a value and its plates to the shape of :attr:`plates`."""
        return torch.as_tensor(sum_to_plates(values, self.plates))

    def by_datum(self, value: Tensor, site: Site) -> Tensor:
        """Sums a value of a site over draws and over plates that are not in :attr:`plates`."""
        plates = [frame for frame in self.plates if frame.name != PARTICLES]
        return torch.as_tensor(sum_to_plates([(value, site["cond_indep_stack"])], plates))

    def data_shaped(self, value: Tensor) -> Tensor:
        """Drops the leading dimensions of a value that is averaged over draws."""
        width = max((-f.dim for f in self.plates if f.name != PARTICLES), default=0)
        return value.reshape(value.shape[value.ndim - width :])


def importance_weighted(log_weights: Tensor) -> Tensor:
    r"""Returns the importance-weighted bound :math:`\log \frac{1}{K} \sum_k W_k`.

    Args:
        log_weights: :math:`\log W`, of shape :math:`(K, *)`.

    Returns:
        Nats, of shape :math:`(*)`.
    """
    return log_weights.logsumexp(0) - math.log(log_weights.shape[0])
