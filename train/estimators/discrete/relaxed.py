"""Estimators with relaxed values: Gumbel-softmax, straight-through, REBAR and RELAX."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from train.estimators.discrete.families import Family
from train.estimators.discrete.site import SiteDraws, SiteEstimator


class RelaxedDraws(SiteEstimator):
    """The base of estimators whose program gets relaxed values. They are biased."""

    relaxes = True

    def surrogate(self, draws: SiteDraws) -> Tensor:
        # The gradient flows through the values.
        return draws.log_prob.new_zeros(())


class GumbelSoftmax(RelaxedDraws):
    r"""Relaxed values, :math:`\text{softmax}((\phi + \text{Gumbel noise}) / \tau)`. **Biased.**

    A Bernoulli's is :math:`\sigma((\phi + \text{logistic noise}) / \tau)`. Log-probabilities are
    those of the discrete distributions, linear between values, so the loss bounds nothing.

    Args:
        temperature: :math:`\tau`, above 0. Towards 0 the bias vanishes and the variance grows.

    References:
        | Categorical Reparameterization with Gumbel-Softmax (Jang et al., 2017)
        | https://arxiv.org/abs/1611.01144
        | The Concrete Distribution (Maddison et al., 2017)
        | https://arxiv.org/abs/1611.00712
    """

    title = "gumbel"

    def __init__(self, temperature: float = 0.5) -> None:
        super().__init__()
        self.temperature = positive(temperature)

    def draw_relaxed(self, family: type[Family]) -> Callable[[Tensor], Tensor]:
        return lambda logits: family.soft(family.perturbed(logits), self.temperature)


class StraightThrough(RelaxedDraws):
    r"""Discrete values with the gradient of their mean, :math:`z + p - \bot(p)`. **Biased.**

    References:
        | Estimating or Propagating Gradients Through Stochastic Neurons for Conditional Computation
          (Bengio et al., 2013)
        | https://arxiv.org/abs/1308.3432
    """

    title = "straight-through"

    def draw_relaxed(self, family: type[Family]) -> Callable[[Tensor], Tensor]:
        def draw(logits: Tensor) -> Tensor:
            mean = family.mean(logits)
            hard = family.hard(family.perturbed(logits.detach()))
            return hard + mean - mean.detach()

        return draw


class Rebar(SiteEstimator):
    r"""The score function with a relaxed control variate.

    .. math::
        (f(b) - \eta \, c(\tilde z)) \, \nabla_\phi \log q(b) + \eta \, \nabla_\phi c(z)
            - \eta \, \nabla_\phi c(\tilde z), \quad c(z) = f(\text{soft}(z / \tau))

    with :math:`z` the logits with noise whose value is :math:`b`, and :math:`\tilde z` another draw
    of them given :math:`b`. It needs 3 evaluations of the cost for each particle. Temperature
    :math:`\tau` and scale :math:`\eta` are learned.

    Args:
        temperature: The first temperature.
        learn: Whether temperature and scale are learned.

    References:
        | REBAR: Low-variance, Unbiased Gradient Estimates for Discrete Latent Variable Models
          (Tucker et al., 2017)
        | https://arxiv.org/abs/1703.07370
    """

    title = "rebar"
    softens = True

    def __init__(self, temperature: float = 0.5, *, learn: bool = True) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(math.log(positive(temperature))))
        self.scale = nn.Parameter(torch.ones(()))
        self.requires_grad_(learn)

    def control(self, draws: SiteDraws, perturbed: Tensor) -> Tensor:
        """Returns the control variate, of shape (n K, plates), at logits with noise."""
        temperature = self.log_temperature.exp()
        return self.scale * draws.evaluate(draws.family.soft(perturbed, temperature))

    def surrogate(self, draws: SiteDraws) -> Tensor:
        family, particles = draws.family, draws.particles
        logits = draws.fixed_logits.clone().requires_grad_()
        # Given b, z has the law of logits with noise: b is drawn by the program, z here.
        z, z_given = (family.perturbed_given(logits, draws.value) for _ in range(2))
        # Its derivative is that of the draw of z, not of z given b.
        normalized = family.normalized(logits)
        z = normalized + (z - normalized).detach()
        control, given = self.control(draws, torch.cat([z, z_given])).split(particles)
        learns = any(weight.requires_grad for weight in self.parameters())
        slope = torch.autograd.grad(
            (control - given).sum(), logits, create_graph=learns, materialize_grads=True
        )[0]
        signal = draws.to_logits(draws.cost - given)
        gradient = (signal * draws.score + slope) / particles
        return self.gradient_surrogate(draws, gradient)


class Relax(Rebar):
    r""":class:`Rebar` with a network beside the relaxed cost.

    .. math:: c(z) = \eta \, f(\text{soft}(z / \tau)) + r(z)

    The network :math:`r` maps logits with noise, of shape (*, event), to (*). It is learned with
    temperature and scale.

    Args:
        network: The network :math:`r`.
        temperature: The first temperature.

    References:
        | Backpropagation through the Void (Grathwohl et al., 2018)
        | https://arxiv.org/abs/1711.00123
    """

    title = "relax"

    def __init__(self, network: nn.Module, temperature: float = 0.1) -> None:
        super().__init__(temperature)
        self.network = network

    def control(self, draws: SiteDraws, perturbed: Tensor) -> Tensor:
        control = super().control(draws, perturbed)
        return control + self.network(perturbed).reshape(control.shape)


def positive(temperature: float) -> float:
    """Returns a temperature; raises :class:`ValueError` if it is not above 0."""
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}: it must be above 0")
    return temperature
