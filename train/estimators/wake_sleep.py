"""Reweighted wake-sleep: the guide learns from the draws that explain the data best."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from train.estimators.base import DifferentiableELBO, Program
from train.estimators.contract import run_model
from train.estimators.costs import (
    Cost,
    Piece,
    annealed_at,
    guide_alone,
    log_prob,
    scaled,
    terms,
)
from train.estimators.counts import Counts
from train.estimators.weights import Weighted, importance_weighted


class ReweightedWakeSleepELBO(DifferentiableELBO):
    r"""Reweighted wake-sleep: no gradient goes through a draw, so presences need no estimator.

    With :math:`K` draws from the guide for each datum and their weights

    .. math:: w_k = \frac{p(x, z^k)}{q(z^k | x)}, \qquad \bar w_k = \frac{w_k}{\sum_j w_j},

    the model climbs :math:`\log \frac{1}{K} \sum_k w_k` (wake-theta) and the guide
    :math:`\sum_k \bar w_k \log q(z^k | x)` with the draws and their weights held fixed (wake-phi).
    Both are consistent as :math:`K` grows, not unbiased, and wake-phi is another objective than the
    ELBO's: :math:`\text{KL}(p \| q)`, not :math:`\text{KL}(q \| p)`. The value is the bound. For
    weights where sites are outside a plate, and under a scale :math:`\beta` of all of the guide's
    draws, see :class:`~train.estimators.ImportanceWeightedELBO`.

    :class:`pyro.infer.ReweightedWakeSleep` is not used for two reasons: it has one weight for a
    whole batch, which one draw then takes all of, and where a guide's distributions depend on
    earlier reparameterised draws its wake-phi has the gradient through them.

    Args:
        num_particles: The number :math:`K` of draws, 2 or more.
        vectorize_particles: Whether they are made side by side rather than one after another.
        options: See :class:`~train.estimators.base.DifferentiableELBO`.

    Raises:
        ValueError: If there are fewer than 2 draws: a single one's weight is 1, whatever it is; or
            if the guide's draws have different scales.

    References:
        | Revisiting Reweighted Wake-Sleep for Models with Stochastic Control Flow (Le et al., 2019)
        | https://arxiv.org/abs/1805.10469
    """

    def __init__(
        self, num_particles: int = 10, *, vectorize_particles: bool = True, **options: Any
    ) -> None:
        if num_particles < 2:
            raise ValueError(f"num_particles is {num_particles}: wake-sleep needs 2 or more")
        super().__init__(num_particles, vectorize_particles=vectorize_particles, **options)

    def estimate(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        contract = self.prepare(model, guide, args, kwargs)
        contract.require_one_scale("ReweightedWakeSleepELBO")
        log_weights, wakes, every = [], [], []
        for particle_model, particle_guide in self.particles(model, guide):
            # A guide may draw with the model's own decoder; wake-phi is not to change it.
            with frozen(model), HeldDraws():
                guide_trace = poutine.trace(particle_guide).get_trace(*args, **kwargs)
            run = Counts(
                guide_trace,
                run_model(particle_model, guide_trace, args, kwargs),
                contract,
                self.max_plate_nesting + 1,
            )
            costs = [*held(run)]
            weighted = Weighted(run, costs)
            log_weights.append(weighted.log_weights())
            wakes.append(weighted.to_plates(log_probs(run)))
            every += costs
        log_weights, wake = map(self.by_particle, (log_weights, wakes))
        bound = weighted.scale * importance_weighted(log_weights).sum()
        phi = weighted.scale * (log_weights.detach().softmax(0) * wake).sum()
        return -bound - (phi - phi.detach()), terms(every, self.num_particles)


def held(run: Counts) -> Iterator[Cost]:
    """What each site adds to the ELBO, the guide's draws without a gradient of their density."""
    for name, site in run.model.items():
        value = scaled(scale_and_mask(log_prob(site), mask=site["mask"]), site["scale"])
        kind = "log_likelihood" if site["is_observed"] else "kl"
        yield Cost(name, kind, (Piece(value, annealed_at(site)),), site["cond_indep_stack"])
    for site in run.guide.values():
        taken = guide_alone(site, partial(scale_and_mask, mask=site["mask"]))
        if not site["is_observed"]:
            pieces = (piece._replace(value=piece.value.detach()) for piece in taken.pieces)
            taken = taken._replace(pieces=tuple(pieces))
        yield taken


def log_probs(run: Counts) -> list[tuple[Tensor, Any]]:
    """The log-probabilities of the guide's draws, with their plates: what wake-phi raises."""
    return [
        (scale_and_mask(log_prob(site), mask=site["mask"]), site["cond_indep_stack"])
        for site in run.guide.values()
        if not site["is_observed"]
    ]


class HeldDraws(Messenger):
    """A Pyro handler that draws latents without a gradient through the draw."""

    def _pyro_sample(self, message: dict[str, Any]) -> None:
        # A value that is there already is that of a subsample.
        if not message["done"] and not message["is_observed"] and message["value"] is None:
            message["value"] = message["fn"].sample()
            message["done"] = True


@contextmanager
def frozen(module: Program) -> Iterator[None]:
    """Takes a module's weights as constants for a while; any other callable has none."""
    weights = list(module.parameters()) if isinstance(module, nn.Module) else []
    wanted = [weight.requires_grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(False)
        yield
    finally:
        for weight, want in zip(weights, wanted, strict=True):
            weight.requires_grad_(want)
