"""Estimators whose control variates use the gradient of the cost with respect to values."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from train.estimators.discrete.families import BernoulliFamily
from train.estimators.discrete.score import leave_one_out
from train.estimators.discrete.site import SiteDraws, SiteEstimator


def mean_of_others(value: Tensor) -> Tensor:
    """Returns the mean over all other particles, of shape (K, *)."""
    return (value.sum(0) - value) / (value.shape[0] - 1)


class DoubleCV(SiteEstimator):
    r"""Leave-one-out with a second control variate from gradients of the cost.

    .. math::
        c_k = \alpha \, \bar g_{-k}^\top (z_k - p), & \quad
            \bar g_{-k} = \frac{1}{K - 1} \sum_{j \ne k} \nabla_z f(z_j) \\
        \frac{1}{K} \sum_k \Big( f_k + c_k - \frac{1}{K - 1} \sum_{j \ne k} & (f_j + c_j) \Big) \,
            (z_k - p) - \alpha \, \text{Cov}(z) \, \bar g_{-k}

    :math:`\alpha` is learned. It needs :math:`K \ge 2` evaluations of the cost and one gradient.

    Args:
        alpha: The first :math:`\alpha`. -1 would remove all that is linear in :math:`z` from the
            cost.

    References:
        | Double Control Variates for Gradient Estimation in Discrete Latent Variable Models
          (Titsias and Shi, 2022)
        | https://arxiv.org/abs/2111.05300
    """

    title = "double-cv"
    particles = fewest = 2
    needs_gradient = True

    def __init__(self, alpha: float = 0.0) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(float(alpha)))

    def surrogate(self, draws: SiteDraws) -> Tensor:
        others = mean_of_others(draws.slope())
        control = draws.inner(others, draws.score)
        signal = leave_one_out(draws.cost) + self.alpha * leave_one_out(control)
        correction = self.alpha * draws.covariance(others)
        gradient = (draws.to_logits(signal) * draws.score - correction) / draws.particles
        return self.gradient_surrogate(draws, gradient)


class MuProp(SiteEstimator):
    r"""The score function with the first-order Taylor expansion of the cost at the mean.

    .. math:: (f(z) - h(z)) \, (z - p) + \text{Cov}(z) \, \nabla f(p), \quad
        h(z) = f(p) + \nabla f(p)^\top (z - p)

    It needs 2 evaluations of the cost and a gradient for each particle, one of them at the mean.

    References:
        | MuProp: Unbiased Backpropagation for Stochastic Neural Networks (Gu et al., 2016)
        | https://arxiv.org/abs/1511.05176
    """

    title = "muprop"
    softens = True

    def surrogate(self, draws: SiteDraws) -> Tensor:
        mean = draws.mean.expand(draws.value.shape).detach().clone().requires_grad_()
        at_mean = draws.evaluate(mean)
        if at_mean.requires_grad:
            slope = torch.autograd.grad(at_mean.sum(), mean, materialize_grads=True)[0]
        else:
            slope = torch.zeros_like(mean)
        expansion = at_mean.detach() + draws.inner(slope, draws.score)
        signal = draws.to_logits(draws.cost - expansion)
        gradient = (signal * draws.score + draws.covariance(slope)) / draws.particles
        return self.gradient_surrogate(draws, gradient)


class Rodeo(SiteEstimator):
    r"""Leave-one-out with control variates from a discrete Stein operator (RODEO).

    .. math:: (A h)(z) = \frac{1}{D} \sum_d q(\bar z_d \mid z_{-d}) \, (h(z^{(d)}) - h(z)), \quad
        \mathbb{E}_q[A h] = 0

    with :math:`z^{(d)}` the value whose variable :math:`d` is flipped to :math:`\bar z_d`, the
    Barker operator. A network with two outputs :math:`h, h'` sees the mean cost of the other draws
    and the linear expansion of the cost around them. :math:`A h` is added to the leave-one-out
    baseline, and :math:`A (h' \cdot (z - p))` to the gradient, with weights :math:`\alpha, \beta`.
    Network and weights are learned. It needs :math:`K \ge 2` evaluations of the cost and one
    gradient, and memory for :math:`K D` outputs of the network a datum.

    Args:
        hidden: The number of hidden units.

    References:
        | Gradient Estimation with Discrete Stein Operators (Shi et al., 2022)
        | https://arxiv.org/abs/2202.09497
    """

    title = "rodeo"
    particles = fewest = 2
    needs_gradient = True
    families = (BernoulliFamily,)

    def __init__(self, hidden: int = 100) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(()))
        self.beta = nn.Parameter(torch.zeros(()))
        self.linear = nn.Linear(1, hidden)
        self.cost = nn.Linear(1, hidden)
        self.out = nn.Linear(hidden, 2)
        for layer in (self.linear, self.cost, self.out):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def network(self, linear: Tensor, cost: Tensor) -> Tensor:
        """Returns the two outputs, of shape (*, 2), for a linear expansion and a mean cost."""
        hidden = self.linear(linear[..., None]) + self.cost(cost[..., None])
        return self.out(nn.functional.leaky_relu(hidden, 0.3))

    def surrogate(self, draws: SiteDraws) -> Tensor:
        particles = draws.particles
        z, slope = draws.flat(draws.value), draws.flat(draws.slope())
        mean, score = draws.flat(draws.mean), draws.flat(draws.score)
        cost = (
            draws.inner(draws.to_logits(draws.cost), torch.ones_like(draws.value)) / (z.shape[-1])
        )
        # With two particles there is one other; with more, the mean of outputs over the others is
        # of less variance than the output at their mean, and costs K - 1 times as much.
        flip = mean * (1 - z) + (1 - mean) * z
        change = 1 - 2 * z
        baseline = control = z.new_zeros(())
        for shift in range(1, particles):
            other_z, other_slope = z.roll(shift, 0), slope.roll(shift, 0)
            other_cost = cost.roll(shift, 0)[..., None]
            linear = (other_slope * (z - other_z)).sum(-1, keepdim=True)
            here = self.network(linear, other_cost)
            flipped = self.network(linear + change * other_slope, other_cost.expand(z.shape))
            baseline = baseline + (flip * (flipped[..., 0] - here[..., 0])).mean(-1)
            # The score at a neighbour differs from that here in the flipped variable alone.
            weight, own = flip * flipped[..., 1], (flip * here[..., 1]).mean(-1, keepdim=True)
            control = control + (
                weight.mean(-1, keepdim=True) * score + weight * change / z.shape[-1] - own * score
            )
        baseline, control = baseline / (particles - 1), control / (particles - 1)
        signal = leave_one_out(draws.cost) - self.alpha * mean_of_others(
            baseline.reshape(draws.cost.shape[:1] + baseline.shape[1:])
        )
        gradient = draws.to_logits(signal) * draws.score + self.beta * draws.unflat(control)
        return self.gradient_surrogate(draws, gradient / particles)
