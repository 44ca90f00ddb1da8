"""What the estimators have in common that extend one of Pyro's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO
from pyro.ops.provenance import detach_provenance
from pyro.poutine import Trace
from torch import Tensor

from train.estimators.costs import Cost, Site, elbo_terms, site_costs
from train.estimators.programs import (
    Program,
    max_nesting,
    preserved_state,
    run_guide,
    run_model,
    samples,
)


class PyroELBO(ELBO):
    """A mixin for an ELBO of Pyro's that records its terms.

    Plates are counted without drawing random numbers and without a log line.

    Attributes:
        terms: The terms of the last estimate by name, averaged over the draws: detached sums over
            the batch, in nats, of shape ().
    """

    terms: Mapping[str, Tensor] = {}
    differentiable_loss: Callable[..., Tensor]

    def loss_and_terms(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Estimates the negative ELBO, summed over the batch, of shape (), and its terms."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        return loss, self.terms

    def costs(self, model_trace: Trace, guide_trace: Trace) -> list[Cost]:
        """Returns the cost of each site in one pair of traces."""
        return sampled_costs(model_trace, guide_trace)

    def _get_traces(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Iterator[tuple[Trace, Trace]]:
        self.terms = {}
        for model_trace, guide_trace in super()._get_traces(model, guide, args, kwargs):
            self._add_terms(self.costs(model_trace, guide_trace))
            yield model_trace, guide_trace

    def _add_terms(self, costs: list[Cost]) -> None:
        if costs:
            terms = elbo_terms(costs, self.num_particles)
            self.terms = {
                **self.terms,
                **{
                    name: self.terms.get(name, 0.0) + detach_provenance(value)
                    for name, value in terms.items()
                },
            }

    def _guess_max_plate_nesting(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        with preserved_state(model, guide):
            guide_trace, _ = run_guide(guide, args, kwargs)
            nesting = max_nesting(guide_trace, run_model(model, guide_trace, args, kwargs))
        particle_plates = int(self.vectorize_particles and self.num_particles > 1)
        self.max_plate_nesting = nesting + particle_plates


def sampled_costs(
    model_trace: Trace, guide_trace: Trace, weights: Mapping[str, Tensor | float] | None = None
) -> list[Cost]:
    """Returns what each site of two traces adds to the ELBO at the drawn values.

    Args:
        model_trace: The model's trace, replayed on the guide's.
        guide_trace: The guide's trace.
        weights: By site, a factor of its log-probability.
    """
    model, guide = samples(model_trace), samples(guide_trace)

    def expectation(site: Site, value: Tensor) -> Tensor:
        value = scale_and_mask(value, mask=site["mask"])
        return value if weights is None else weights[site["name"]] * value

    return site_costs(model, guide, expectation, expectation)
