"""A guide and model at every number of objects at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from torch import Tensor

from pyro_models.presence import all_present
from train.estimators.contract import (
    Contract,
    Pattern,
    Program,
    by_count,
    examine,
    run_guide,
    run_model,
    samples,
    with_values,
)
from train.estimators.costs import (
    Cost,
    Site,
    common,
    difference,
    drawn,
    log_prob,
    of_sites,
)


class Counts:
    r"""A guide and model on the path on which every object is present, for each count at once.

    Values by count have :math:`N + 1` rows, in a dimension left of all plates: row :math:`n` is
    what holds if the first :math:`n` objects are present and no more. A program without presences,
    or whose presences are draws like others, has no such dimension.

    Args:
        guide_trace: The guide's, every object present.
        model_trace: The model's, given every number of objects.
        contract: What holds of the two.
        dim: Which dimension, from the right, has the counts.
        steps: The presences that the model was given, by count: see
            :func:`~train.estimators.contract.by_count`.

    Raises:
        Changed: If the sites are not those of the contract.

    Attributes:
        log_q: :math:`\log q(n | z, x)` as the guide draws counts: not scaled, not masked; of shape
            :math:`(N + 1, *)`, with the presences' plates. ``None`` without presences.
        stack: The plates of the presences.
    """

    def __init__(
        self,
        guide_trace: Trace,
        model_trace: Trace,
        contract: Contract,
        dim: int,
        steps: Sequence[Tensor] = (),
    ) -> None:
        self.guide = samples(guide_trace)
        self.model = samples(model_trace)
        contract.require_same(self.guide, self.model)
        self.contract = contract
        self.dim = dim
        self.steps = steps
        self.log_q: Tensor | None = None
        self.stack: tuple[Any, ...] = ()
        self._reach: dict[Pattern, Tensor] = {}
        if contract.row:
            row = [self.guide[name] for name in contract.row]
            first = self.model.get(contract.row[0], row[0])
            self.stack = first["cond_indep_stack"]
            # After the first absent object nothing further is drawn.
            self.chosen = [
                self._until(i, site["fn"].log_prob(self.steps[i])) for i, site in enumerate(row)
            ]
            self.log_q = sum(self.chosen[1:], start=self.chosen[0])
            self.q = self.log_q.exp()

    def _until(self, step: int, value: Tensor) -> Tensor:
        """A value by count, zero where an object before the step's is absent."""
        if step == 0:
            return value
        return torch.where(self.steps[step - 1] > 0, value, value.new_zeros(()))

    def counted(self, value: Tensor) -> bool:
        """Whether a value depends on the count."""
        return self.log_q is not None and value.ndim >= self.dim and value.shape[-self.dim] > 1

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the count of a value by count."""
        return (self.q * value).sum(-self.dim) if self.counted(value) else value

    @cached_property
    def plates(self) -> list[Any]:
        """The plates that all sites share, that of the draws among them."""
        return common(
            site["cond_indep_stack"] for site in (*self.model.values(), *self.guide.values())
        )

    def holds(self, pattern: Pattern) -> Tensor:
        """Whether a mask of the guide's is true, by count."""
        first = pattern.index(True) if any(pattern) else len(pattern)
        if 0 < first < len(pattern) and all(pattern[first:]):
            # All counts from one on, as is usual.
            return self.steps[first - 1] > 0
        counts = sum(self.steps[1:], start=self.steps[0])
        chosen = [counts == n for n, there in enumerate(pattern) if there]
        return sum(chosen, start=torch.zeros_like(counts)) > 0

    def reach(self, pattern: Pattern) -> Tensor:
        """The probability that a mask of the guide's is true."""
        if pattern not in self._reach:
            self._reach[pattern] = self.mean(self.holds(pattern).to(self.q.dtype))
        return self._reach[pattern]

    def under_model(self, site: Site, value: Tensor) -> Tensor:
        """The mean of a value over the count, under a mask of the model's."""
        return self.mean(scale_and_mask(value, mask=site["mask"]))

    def under_guide(self, site: Site, value: Tensor) -> Tensor:
        """The mean of a value over the count, under a mask of the guide's."""
        value = scale_and_mask(value, mask=site["mask"])
        pattern = self.contract.guide[site["name"]]
        return value if all(pattern) else self.reach(pattern) * value

    def by_count_under_guide(self, site: Site, value: Tensor) -> Tensor:
        """A value by count, under a mask of the guide's."""
        value = scale_and_mask(value, mask=site["mask"])
        pattern = self.contract.guide[site["name"]]
        if all(pattern):
            return value
        return torch.where(self.holds(pattern), value, value.new_zeros(()))

    def costs(self, *, analytic: bool) -> list[Cost]:
        """What each site adds to the ELBO, in the mean over the count.

        Args:
            analytic: Whether to take KL divergences in closed form where there is one.
        """
        closed = self.contract.ordered if analytic else frozenset()
        return self._costs(self.under_model, self.under_guide, self.mean, closed)

    def joint(self) -> list[Cost]:
        """What each site adds to the ELBO by count, divergences at the draw."""

        def under_model(site: Site, value: Tensor) -> Tensor:
            return scale_and_mask(value, mask=site["mask"])

        return self._costs(under_model, self.by_count_under_guide, lambda value: value, frozenset())

    def averaged(self, costs: Iterable[Cost]) -> list[Cost]:
        """Costs by count in the mean over the count."""
        return [
            cost._replace(
                pieces=tuple(piece._replace(value=self.mean(piece.value)) for piece in cost.pieces)
            )
            for cost in costs
        ]

    def _costs(
        self,
        under_model: Callable[[Site, Tensor], Tensor],
        under_guide: Callable[[Site, Tensor], Tensor],
        mean: Callable[[Tensor], Tensor],
        closed: frozenset[str],
    ) -> list[Cost]:
        row = self.contract.row
        found = of_sites(
            self.model, self.guide, under_model, under_guide, left_out=row, closed=closed
        )
        for i, name in enumerate(row):
            guide_site, site = self.guide[name], self.model.get(name)
            q = mean(scale_and_mask(self.chosen[i], mask=guide_site["mask"]))
            p = None
            if site is not None and not site["is_observed"]:
                p = mean(scale_and_mask(log_prob(site), mask=site["mask"]))
            found.append(difference(guide_site, site, q, p))
        return found

    def scored(self) -> list[Site]:
        """The guide's draws that are not summed out."""
        return drawn(self.guide, self.contract.row)


def count_out(
    model: Program,
    guide: Program,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    contract: Contract | None = None,
    *,
    nesting: int | None = None,
) -> Counts:
    r"""Runs guide and model once and evaluates every count.

    After the first absent object nothing further matters, so the guide's steps on the path on
    which all are present serve every count. The model is replayed with presences that have one
    more dimension on the left, a row for each count; masks and canvases follow by broadcasting.

    Args:
        model: A model whose presences are marked as :mod:`pyro_models.presence` says.
        guide: Its guide, whose other latents depend on its presences by masks only.
        args: Passed to both.
        kwargs: Passed to both.
        contract: What :func:`~train.estimators.contract.examine` found; it is called if not given.
        nesting: The number of plates, with one that has been put around both programs for draws
            side by side; the contract's if not given.

    Raises:
        ValueError: If the guide marks no site as a presence, or depends on presences otherwise
            than by masks, or the model fails given every count at once.
    """
    kwargs = kwargs or {}
    if contract is None:
        contract = examine(model, guide, args, kwargs, by_count=True)
    dim = (contract.nesting if nesting is None else nesting) + 1
    guide_trace, row = run_guide(guide, args, kwargs, all_present if contract.row else None)
    steps = by_count(len(row), dim, guide_trace.nodes[row[0]]["fn"].logits) if row else []
    replayed = with_values(guide_trace, dict(zip(row, steps, strict=True)))
    return Counts(guide_trace, run_model(model, replayed, args, kwargs), contract, dim, steps)
