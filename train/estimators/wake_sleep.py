"""Reweighted wake-sleep: the guide learns from the draws that explain the data best."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn

from train.estimators.base import DifferentiableELBO, Program, at_the_draw, unscaled


class ReweightedWakeSleepELBO(DifferentiableELBO):
    r"""Reweighted wake-sleep: no gradient goes through a draw, so presences need no estimator.

    With :math:`K` draws from the guide for each datum and their weights

    .. math:: w_k = \frac{p(x, z^k)}{q(z^k | x)}, \qquad \bar w_k = \frac{w_k}{\sum_j w_j},

    the model climbs :math:`\log \frac{1}{K} \sum_k w_k` (wake-theta) and the guide
    :math:`\sum_k \bar w_k \log q(z^k | x)` with the draws and their weights held fixed (wake-phi).
    Both are consistent as :math:`K` grows, not unbiased, and wake-phi is another objective than the
    ELBO's: :math:`\text{KL}(p \| q)`, not :math:`\text{KL}(q \| p)`. The value is the bound.

    :class:`pyro.infer.ReweightedWakeSleep` is not used for two reasons: it has one weight for a
    whole batch, which one draw then takes all of, and where a guide's distributions depend on
    earlier reparameterised draws its wake-phi has the gradient through them.

    Args:
        num_particles: The number :math:`K` of draws, 2 or more.
        vectorize_particles: Whether they are made side by side rather than one after another.
        options: See :class:`~train.estimators.base.DifferentiableELBO`.

    Raises:
        ValueError: If there are fewer than 2 draws: a single one's weight is 1, whatever it is.

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
        log_joints, log_qs, wakes, terms = [], [], [], []
        for particle_model, particle_guide in self.particles(model, guide):
            # A guide may draw with the model's own decoder; wake-phi is not to change it.
            with frozen(model), HeldDraws():
                guide_trace = poutine.trace(particle_guide).get_trace(*args, **kwargs)
            model_trace = poutine.trace(
                poutine.replay(particle_model, trace=guide_trace)
            ).get_trace(*args, **kwargs)
            guide_trace, model_trace = map(prune_subsample_sites, (guide_trace, model_trace))
            for trace in (guide_trace, model_trace):
                trace.compute_log_prob()
            model_sites, guide_sites = (
                [site for site in trace.nodes.values() if site["type"] == "sample"]
                for trace in (model_trace, guide_trace)
            )
            log_joints.append(sum(site["log_prob"] for site in model_sites))
            log_qs.append(sum(site["log_prob"] for site in guide_sites).detach())
            wakes.append(sum(unscaled(site) for site in guide_sites))
            terms.append(at_the_draw(model_trace, guide_trace))
        log_joint, log_q, wake = map(self.by_particle, (log_joints, log_qs, wakes))
        log_weights = log_joint - log_q
        bound = (log_weights.logsumexp(0) - math.log(self.num_particles)).sum()
        phi = (log_weights.detach().softmax(0) * wake).sum()
        mean = {name: sum(t[name] for t in terms) / self.num_particles for name in terms[0]}
        return -bound - (phi - phi.detach()), mean


class HeldDraws(Messenger):
    """A Pyro handler that draws latents without a gradient through the draw."""

    def _pyro_sample(self, message: dict[str, Any]) -> None:
        if not message["done"] and not message["is_observed"]:
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
