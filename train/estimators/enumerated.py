"""Pyro's own enumeration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.poutine import Trace
from torch import Tensor

from train.estimators.base import Program, at_the_draw


class EnumELBO(TraceEnum_ELBO):
    r"""Pyro's :class:`~pyro.infer.TraceEnum_ELBO` over the presences, in parallel.

    It is :class:`~train.estimators.MarginalELBO`'s value with the divergences at the draw, but
    knows nothing of their order: it evaluates the model at all :math:`2^N` combinations.

    Args:
        num_particles: The number of draws that are averaged.
        max_plate_nesting: The number of plates of model and guide, one inside another.
        options: Passed to :class:`~pyro.infer.TraceEnum_ELBO`.

    Attributes:
        terms: What the last estimate was made of, by name: detached sums over the batch in nats.

    References:
        | https://docs.pyro.ai/en/stable/inference_algos.html
    """

    terms: Mapping[str, Tensor] = {}

    def __init__(
        self, num_particles: int = 1, *, max_plate_nesting: int = 1, **options: Any
    ) -> None:
        super().__init__(
            num_particles=num_particles, max_plate_nesting=max_plate_nesting, **options
        )

    def _get_traces(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Iterator[tuple[Trace, Trace]]:
        self.terms = {}
        guide = config_enumerate(guide, "parallel")
        for model_trace, guide_trace in super()._get_traces(model, guide, args, kwargs):
            # The guide's probability of each combination: of what comes after an absence too,
            # which its masks leave out.
            q = 1.0
            for site in guide_trace.nodes.values():
                if site["type"] == "sample" and site["infer"].get("presence"):
                    q = q * site["unscaled_log_prob"].exp()
            terms = at_the_draw(model_trace, guide_trace, q)
            self.terms = {
                name: self.terms.get(name, 0.0) + value / self.num_particles
                for name, value in terms.items()
            }
            yield model_trace, guide_trace
