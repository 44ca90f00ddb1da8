"""Pyro's enumeration with named terms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.poutine import Trace
from torch import Tensor

from train.estimators.contract import require_match
from train.estimators.costs import Cost, plates
from train.estimators.programs import Program, samples
from train.estimators.pyro_elbo import PyroELBO, sampled_costs


class EnumELBO(PyroELBO, TraceEnum_ELBO):
    r"""Pyro's :class:`~pyro.infer.TraceEnum_ELBO`, with parallel enumeration of discrete latents.

    Its value is that of :class:`~train.estimators.MarginalELBO` with KL divergences at the draw.
    It does not use the order of the presences: it evaluates the model at all :math:`2^N`
    combinations.

    Args:
        num_particles: The number of draws that are averaged.
        options: Passed to :class:`~pyro.infer.TraceEnum_ELBO`.

    Attributes:
        terms: The terms of the last estimate by name: detached sums over the batch, in nats.

    Raises:
        ValueError: If the guide lacks a latent of the model that is not enumerated in the model,
            or has a factor without ``has_rsample=True``; the message names the site.

    References:
        | https://docs.pyro.ai/en/stable/inference_algos.html
    """

    def __init__(self, num_particles: int = 1, **options: Any) -> None:
        super().__init__(num_particles=num_particles, **options)

    def costs(self, model_trace: Trace, guide_trace: Trace) -> list[Cost]:
        """Returns the expected cost of each site; nothing if the model enumerates latents itself.

        Raises:
            ValueError: See the class.
        """
        require_match(model_trace, guide_trace, enumerates=True)
        guide, model = samples(guide_trace), samples(model_trace)
        if any(name not in guide and not site["is_observed"] for name, site in model.items()):
            return []
        enumerated = [
            (plates(site), site["unscaled_log_prob"])
            for site in guide.values()
            if site["infer"].get("_enumerate_dim") is not None
        ]
        weights: dict[str, Tensor | float] = {}
        for name, site in (model | guide).items():
            # A site depends only on enumerated sites whose plates contain it; the probabilities of
            # all others sum to one. A masked draw is drawn all the same, so no mask enters here.
            inside = [value for frames, value in enumerated if frames <= plates(site)]
            weights[name] = sum(inside).exp() if inside else 1.0
        return sampled_costs(model_trace, guide_trace, weights)

    def _get_traces(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Iterator[tuple[Trace, Trace]]:
        return super()._get_traces(model, config_enumerate(guide, "parallel"), args, kwargs)

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
