"""Importance weights of a run, for each datum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from train.estimators.costs import PARTICLES, Cost, Site, Weight, annealed_at, drawn, summed
from train.estimators.counts import Counts


class Weighted:
    r"""A run of guide and model as importance weights.

    .. math:: \log W = \log \sum_n q(n | z, x) \exp \Big( \frac{1}{\beta} \sum_s C_s(n) \Big)

    with :math:`C_s(n)` the cost of site :math:`s` at count :math:`n` and :math:`\beta` the scale of
    the guide's draws. There is a weight for each member of the plates that all sites share, and for
    each draw if they are side by side; plates that a site is outside of are summed over.

    Args:
        run: The run.
        costs: Its :meth:`~train.estimators.counts.Counts.joint`.
        plain: Whether annealed weights are left out.
    """

    def __init__(self, run: Counts, costs: Sequence[Cost], *, plain: bool = False) -> None:
        self.run = run
        self.costs = costs
        self.plain = plain
        self.plates = run.plates
        self.scale = self._scale()

    def _scale(self) -> Weight:
        draws = drawn(self.run.guide)
        if not draws:
            return 1.0
        return self._without(draws[0]["scale"], annealed_at(draws[0]))

    def _without(self, value: Weight, weights: tuple[Weight, ...]) -> Weight:
        for weight in weights if self.plain else ():
            value = value / weight
        return value

    def _value(self, cost: Cost) -> Tensor:
        parts = [self._without(piece.value, piece.annealed) for piece in cost.pieces]
        value = sum(parts[1:], start=parts[0])
        scale = self.scale
        return value if isinstance(scale, int | float) and scale == 1 else value / scale

    @cached_property
    def _joint(self) -> tuple[Tensor | float, list[tuple[Tensor, tuple]]]:
        """Costs over the scale: by count, summed to the presences' plates; and all others."""
        run = self.run
        by_count: Tensor | float = 0.0
        others = []
        inside = [frame for frame in run.stack if frame.vectorized]
        for cost in self.costs:
            value = self._value(cost)
            if not run.counted(value):
                others.append((value, cost.stack))
                continue
            dims = [f.dim for f in cost.stack if f.vectorized and f not in inside]
            by_count = by_count + (value.sum(dims, keepdim=True) if dims else value)
        return by_count, others

    @cached_property
    def _log_terms(self) -> Tensor:
        r""":math:`\log q(n | z, x) + C(n) / \beta`, by count."""
        return self.run.log_q + self._joint[0]

    def log_weights(self) -> Tensor:
        r""":math:`\log W`, of the shape of :attr:`plates`."""
        values = list(self._joint[1])
        if self.run.log_q is not None:
            values.append((self._log_terms.logsumexp(-self.run.dim), self.run.stack))
        return torch.as_tensor(summed(values, self.plates))

    def divergence(self) -> Tensor:
        r""":math:`\text{KL}(q(n | z, x) \| p(n | z, x))`, of the shape of :attr:`plates`."""
        run = self.run
        if run.log_q is None:
            return torch.zeros_like(self.log_weights())
        gap = run.log_q - self._log_terms.log_softmax(-run.dim)
        return torch.as_tensor(summed([((run.q * gap).sum(-run.dim), run.stack)], self.plates))

    def elbo(self) -> Tensor:
        """The ELBO at the draw, scaled, of the shape of :attr:`plates`."""
        run = self.run
        by_count, values = self._joint
        values = list(values)
        if run.log_q is not None and isinstance(by_count, Tensor):
            values.append((run.mean(by_count), run.stack))
        return self.scale * torch.as_tensor(summed(values, self.plates))

    def to_plates(self, values: Sequence[tuple[Tensor, Sequence[Any]]]) -> Tensor:
        """The sum of values with their plates, of the shape of :attr:`plates`."""
        return torch.as_tensor(summed(values, self.plates))

    def by_datum(self, value: Tensor, site: Site) -> Tensor:
        """A value of a site's shape, summed over draws and to the plates that all sites share."""
        plates = [frame for frame in self.plates if frame.name != PARTICLES]
        return torch.as_tensor(summed([(value, site["cond_indep_stack"])], plates))

    def data(self, value: Tensor) -> Tensor:
        """A value without draws, of the dimensions of the data's plates alone."""
        width = max((-f.dim for f in self.plates if f.name != PARTICLES), default=0)
        return value.reshape(value.shape[value.ndim - width :])


def importance_weighted(log_weights: Tensor) -> Tensor:
    r"""The bound :math:`\log \frac{1}{K} \sum_k W_k`.

    Args:
        log_weights: :math:`\log W`, of shape :math:`(K, *)`.

    Returns:
        Nats, of shape :math:`(*)`.
    """
    return log_weights.logsumexp(0) - math.log(log_weights.shape[0])
