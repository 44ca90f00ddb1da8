"""Divergences in closed form, presences drawn like other latents."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from train.estimators.base import DifferentiableELBO, Program
from train.estimators.costs import loss_and_terms
from train.estimators.counts import count_out


class MeanFieldELBO(DifferentiableELBO):
    r"""The ELBO with divergences in closed form where there is one.

    It is :class:`pyro.infer.TraceMeanField_ELBO`'s value and gradient for the programs for which
    that one is right, without a wait for the device. A divergence is taken in closed form only
    where the prior depends on nothing that the guide draws later. Draws that are not
    reparameterised have a score function.

    Args:
        num_particles: The number of draws that are averaged.
        analytic: Whether to take KL divergences in closed form where PyTorch has one, rather than
            at the draw.
        options: See :class:`~train.estimators.base.DifferentiableELBO`.

    References:
        | https://docs.pyro.ai/en/stable/inference_algos.html
    """

    def __init__(self, num_particles: int = 1, *, analytic: bool = True, **options: Any) -> None:
        super().__init__(num_particles, **options)
        self.analytic = analytic

    def estimate(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        contract = self.prepare(model, guide, args, kwargs)
        runs = (
            count_out(*pair, args, kwargs, contract, nesting=self.max_plate_nesting)
            for pair in self.particles(model, guide)
        )
        pairs = ((run.costs(analytic=self.analytic), run.scored()) for run in runs)
        return loss_and_terms(pairs, self.num_particles)
