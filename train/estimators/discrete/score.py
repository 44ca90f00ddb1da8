"""Score-function estimators with baselines: REINFORCE and leave-one-out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from train.estimators.discrete.site import SiteDraws, SiteEstimator


def leave_one_out(cost: Tensor) -> Tensor:
    """Returns each particle's cost less the mean cost of the others, of shape (K, *)."""
    particles = cost.shape[0]
    return (cost - cost.mean(0)) * (particles / (particles - 1))


class Reinforce(SiteEstimator):
    r"""The score function with a baseline.

    .. math:: \frac{1}{K} \sum_k (f_k - b_k) \, \nabla_\phi \log q(z_k)

    The baseline :math:`b` is what the guide gives at the site as ``infer={"baseline": ...}``, with
    the options of Pyro's :class:`~pyro.infer.TraceGraph_ELBO`: ``baseline_value``, or
    ``nn_baseline`` with ``nn_baseline_input``. It must not depend on the site's own draw, and it is
    trained to predict the cost :math:`f`, by the squared error. A value without particles is that
    of all particles. Without the option :math:`b = 0`.

    References:
        | Simple Statistical Gradient-Following Algorithms (Williams, 1992)
        | https://doi.org/10.1007/BF00992696
        | Neural Variational Inference and Learning in Belief Networks (Mnih and Gregor, 2014)
        | https://arxiv.org/abs/1402.0030
    """

    title = "reinforce"
    needs_family = False

    def surrogate(self, draws: SiteDraws) -> Tensor:
        baseline = baseline_of(draws)
        signal = draws.cost
        loss: Tensor | float = 0.0
        if baseline is not None:
            baseline = baseline.expand(signal.shape)
            loss = (signal - baseline).square().sum() / draws.particles
            signal = signal - baseline.detach()
        return (signal * draws.log_prob).sum() / draws.particles - loss


class LeaveOneOut(SiteEstimator):
    r"""The score function; each draw's baseline is the mean cost of the others (RLOO).

    .. math:: \frac{1}{K - 1} \sum_k \Big( f_k - \frac{1}{K} \sum_j f_j \Big) \,
        \nabla_\phi \log q(z_k)

    It needs :math:`K \ge 2` evaluations of the cost.

    References:
        | Buy 4 REINFORCE Samples, Get a Baseline for Free! (Kool et al., 2019)
        | https://openreview.net/forum?id=r1lgTGL5DE
    """

    title = "rloo"
    particles = fewest = 2
    needs_family = False

    def surrogate(self, draws: SiteDraws) -> Tensor:
        return (leave_one_out(draws.cost) * draws.log_prob).sum() / draws.particles


def baseline_of(draws: SiteDraws) -> Tensor | None:
    """Returns the baseline that a guide gives at a site, which broadcasts with the cost.

    Raises:
        ValueError: If the options are none that is known, or the shape does not fit.
    """
    options = draws.infer.get("baseline", {})
    unknown = options.keys() - {"baseline_value", "nn_baseline", "nn_baseline_input"}
    if unknown:
        raise ValueError(
            f"site {draws.name} has the baseline option {min(unknown)}: give baseline_value, or "
            "nn_baseline and nn_baseline_input"
        )
    value: Tensor | None = options.get("baseline_value")
    network: Callable[[Tensor], Tensor] | None = options.get("nn_baseline")
    if network is not None:
        value = network(options["nn_baseline_input"].detach())
    if value is None:
        return None
    value = torch.as_tensor(value, dtype=draws.cost.dtype, device=draws.cost.device)
    try:
        fits = torch.broadcast_shapes(value.shape, draws.cost.shape) == draws.cost.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"site {draws.name} has a baseline of shape {tuple(value.shape)}, which does not "
            f"broadcast with its cost of shape {tuple(draws.cost.shape)}: give one value for each "
            "member of its plates"
        )
    return value
