"""What is shared by estimators that are Pyro's own, with a few things added."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO
from pyro.poutine import Trace
from torch import Tensor

from train.estimators.contract import (
    Program,
    nesting_of,
    run_guide,
    run_model,
    samples,
    undisturbed,
)
from train.estimators.costs import Cost, Site, of_sites


class PyrosELBO(ELBO):
    """An ELBO of Pyro's: its plates are counted without drawing random numbers or a line of log."""

    def _guess_max_plate_nesting(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        with undisturbed(model, guide):
            guide_trace, _ = run_guide(guide, args, kwargs)
            nesting = nesting_of(guide_trace, run_model(model, guide_trace, args, kwargs))
        extra = int(self.vectorize_particles and self.num_particles > 1)
        self.max_plate_nesting = nesting + extra


def costs_at_the_draw(
    model_trace: Trace, guide_trace: Trace, weights: Mapping[str, Tensor | float] | None = None
) -> list[Cost]:
    """What each site adds to the ELBO, of two traces.

    Args:
        model_trace: The model's, replayed on the guide's.
        guide_trace: The guide's.
        weights: What log-probabilities are multiplied by, for each site.
    """
    model, guide = samples(model_trace), samples(guide_trace)

    def mean(site: Site, value: Tensor) -> Tensor:
        value = scale_and_mask(value, mask=site["mask"])
        return value if weights is None else weights[site["name"]] * value

    return of_sites(model, guide, mean, mean)
