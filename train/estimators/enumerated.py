"""Pyro's own enumeration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.poutine import Trace
from torch import Tensor

from train.estimators.contract import Program, require_match, samples
from train.estimators.costs import plates, terms
from train.estimators.traces import PyrosELBO, costs_at_the_draw


class EnumELBO(PyrosELBO, TraceEnum_ELBO):
    r"""Pyro's :class:`~pyro.infer.TraceEnum_ELBO` over the guide's discrete draws, in parallel.

    It is :class:`~train.estimators.MarginalELBO`'s value with the divergences at the draw, but
    knows nothing of the order of presences: it evaluates the model at all :math:`2^N` combinations.

    Args:
        num_particles: The number of draws that are averaged.
        options: Passed to :class:`~pyro.infer.TraceEnum_ELBO`.

    Attributes:
        terms: What the last estimate was made of, by name: detached sums over the batch in nats.

    Raises:
        ValueError: If the guide lacks a latent of the model that is not enumerated there, or has a
            factor without ``has_rsample=True``; the message names the site.

    References:
        | https://docs.pyro.ai/en/stable/inference_algos.html
    """

    terms: Mapping[str, Tensor] = {}

    def __init__(self, num_particles: int = 1, **options: Any) -> None:
        super().__init__(num_particles=num_particles, **options)

    def _get_traces(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Iterator[tuple[Trace, Trace]]:
        self.terms = {}
        guide = config_enumerate(guide, "parallel")
        for model_trace, guide_trace in super()._get_traces(model, guide, args, kwargs):
            require_match(model_trace, guide_trace, enumerates=True)
            for name, value in self._terms(model_trace, guide_trace).items():
                self.terms = {**self.terms, name: self.terms.get(name, 0.0) + value}
            yield model_trace, guide_trace

    def _get_trace(self, *args: Any) -> tuple[Trace, Trace]:
        try:
            return super()._get_trace(*args)
        except ValueError as error:
            if "packing tensors" not in str(error):
                raise
            # An observed site, say, whose mask has a dimension that its log-probability lacks.
            site = str(error).split("'")[1]
            raise ValueError(
                f"site {site} has a shape or a mask that Pyro's enumeration does not take: use "
                "MarginalELBO or TraceGraphELBO"
            ) from error

    def _terms(self, model_trace: Trace, guide_trace: Trace) -> dict[str, Tensor]:
        guide, model = samples(guide_trace), samples(model_trace)
        if any(name not in guide and not site["is_observed"] for name, site in model.items()):
            return {}
        enumerated = [
            (plates(site), site["unscaled_log_prob"])
            for site in guide.values()
            if site["infer"].get("_enumerate_dim") is not None
        ]
        weights: dict[str, Tensor | float] = {}
        for name, site in (model | guide).items():
            # What is enumerated in a plate cannot matter outside of it, and the probabilities of
            # what does not matter sum to one. Masks are not in the probabilities: a draw that is
            # masked is drawn.
            inside = [value for own, value in enumerated if own <= plates(site)]
            weights[name] = sum(inside).exp() if inside else 1.0
        return terms(costs_at_the_draw(model_trace, guide_trace, weights), self.num_particles)
