"""The exact values and gradients that estimators are held against."""

from __future__ import annotations

import math
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence

from guides.air import ConvolutionalGuide
from guides.places import PlaceNormal
from pyro_models.air import AIR
from tests.conftest import SmallAIR
from train.estimators import MarginalELBO


def parameters(air: SmallAIR) -> dict[str, nn.Parameter]:
    """What the ELBO is a function of: not the baseline."""
    named = [*air.model.named_parameters(), *air.guide.named_parameters()]
    return {name: weight for name, weight in named if not name.startswith("baseline")}


def gradients(loss: Tensor, air: SmallAIR, *, keep: bool = False) -> dict[str, Tensor]:
    named = parameters(air)
    values = torch.autograd.grad(loss, list(named.values()), retain_graph=keep)
    return dict(zip(named, values, strict=True))


def require_exact_sum(air: SmallAIR, beta: float = 1.0) -> Tensor:
    """Compares the sum over counts with Pyro's enumeration of presences: its value and gradients.

    Args:
        air: Model, guide and images.
        beta: Weight of the latents.

    Returns:
        The loss.
    """
    pyro.set_rng_seed(1)
    enumerated = config_enumerate(air.guide, "parallel")
    pyros = TraceEnum_ELBO(max_plate_nesting=1)
    expected = pyros.differentiable_loss(air.model, enumerated, air.images, beta=beta)
    pyro.set_rng_seed(1)
    loss = MarginalELBO(analytic=False).differentiable_loss(*air, beta=beta)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    actual, wanted = gradients(loss, air, keep=True), gradients(expected, air)
    assert all(gradient.any() for gradient in wanted.values())
    torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-9)
    return loss


def log_normal(value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return -0.5 * ((value - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)


def kl_normal(loc: Tensor, scale: Tensor, prior_loc: Tensor, prior_scale: Tensor) -> Tensor:
    ratio, distance = scale / prior_scale, (loc - prior_loc) / prior_scale
    return (0.5 * (ratio**2 + distance**2 - 1) - ratio.log()).sum(-1)


def kl_bernoulli(p: Tensor, prior: float) -> Tensor:
    return p * (p / prior).log() + (1 - p) * ((1 - p) / (1 - prior)).log()


def picture(model: AIR, z_what: Tensor, z_where: Tensor) -> Tensor:
    """One object's canvas, pixel by pixel from the definition of its place."""
    first, last = model.decoder[0], model.decoder[2]
    hidden = (z_what @ first.weight.T + first.bias).clamp(min=0)
    size = model.window_size
    logits = (hidden @ last.weight.T + last.bias).reshape(len(z_what), -1, size, size)
    window = 1 / (1 + (-logits[:, :1] - model.decoder_bias).exp())
    if model.shape.channels > 1:
        window = window / (1 + (-logits[:, 1:]).exp())
    weights = []
    for pixels, shift in zip(model.shape.sides, (z_where[:, 2], z_where[:, 1]), strict=True):
        u = torch.linspace(-1 + 1 / pixels, 1 - 1 / pixels, pixels)
        # A square window is a smaller part of the longer side.
        point = z_where[:, :1].exp() * pixels / min(model.shape.sides) * u + shift[:, None]
        index = ((point + 1) * size - 1) / 2
        weights.append((1 - (index[..., None] - torch.arange(size)).abs()).clamp(min=0))
    return torch.einsum("byi,bcij,bxj->bcyx", weights[0], window, weights[1])


def prior_presences(model: AIR, pi: float) -> list[float]:
    """P(count > i | count >= i), from the prior of the count."""
    steps = range(model.max_objects + 1)
    p = [pi**n * (1 - pi if model.count_prior == "steps" else 1) for n in steps]
    p[-1] = pi**model.max_objects
    return [sum(p[i + 1 :]) / sum(p[i:]) for i in steps[:-1]]


def kl_where(fn: Any, loc: Tensor, scale: Tensor) -> Tensor:
    """The KL divergence of a guide's place from the prior.

    A place without correlations has a formula here. The divergence of the other kind is held
    against draws in tests of its own.
    """
    if isinstance(fn, PlaceNormal):
        return kl_divergence(fn, Independent(Normal(loc, scale), 1))
    return kl_normal(fn.base_dist.loc, fn.base_dist.scale, loc, scale)


def brute_force(air: SmallAIR, *, beta: float, pi: float) -> Tensor:
    """The formula of the reference: every count in turn, on the path with every object there."""
    model, guide, x = air
    n_max, batch = model.max_objects, len(x)
    present = {f"z_pres_{i}": torch.ones(batch) for i in range(n_max)}
    sites = poutine.trace(poutine.condition(guide, data=present)).get_trace(x).nodes
    canvases = [torch.zeros_like(x)]
    p, kl = [], torch.zeros(batch)
    survival = torch.ones(batch)
    where_loc = torch.tensor([math.log(2.0), 0.0, 0.0])
    where_scale = torch.tensor([0.4 / 2, 0.5, 0.5])
    for i, prior in enumerate(prior_presences(model, pi)):
        p.append(1 / (1 + (-sites[f"z_pres_{i}"]["fn"].logits).exp()))
        where, what = (sites[f"{name}_{i}"]["fn"] for name in ("z_where", "z_what"))
        kappa, what = kl_where(where, where_loc, where_scale), what.base_dist
        kappa = kappa + kl_normal(what.loc, what.scale, torch.zeros(()), torch.ones(()))
        kl = kl + survival * kl_bernoulli(p[i], prior)
        survival = survival * p[i]
        kl = kl + survival * kappa
        latents = (sites[f"{name}_{i}"]["value"] for name in ("z_what", "z_where"))
        canvases.append(canvases[-1] + picture(model, *latents))
    expected = torch.zeros(batch)
    for n, canvas in enumerate(canvases):
        weight = math.prod(p[:n], start=torch.ones(batch))
        if n < n_max:
            weight = weight * (1 - p[n])
        likelihood = log_normal(x, canvas, torch.tensor(model.likelihood_scale)).sum((-3, -2, -1))
        expected = expected + weight * likelihood
    return (beta * kl - expected).sum()


class Projections:
    """Gradients of batches as a few numbers, whose mean and variance can then be told.

    The first two are the biases of the presence logit and of the places' spreads; the others are
    random directions in a part of the weights each.
    """

    def __init__(self, air: SmallAIR) -> None:
        self.air = air
        self.named = parameters(air)
        generator = torch.Generator().manual_seed(5)
        everything = slice(None)
        if isinstance(air.guide, ConvolutionalGuide):
            regions = [
                ("head.bias", slice(0, 1)),
                ("head.bias", slice(4, 7)),
                ("head.weight", slice(0, 1)),
                ("features.0.weight", everything),
                ("gains", everything),
            ]
        else:
            regions = [
                ("step.2.bias", slice(0, 1)),
                ("step.2.bias", slice(4, 7)),
                ("step.2.weight", slice(0, 1)),
                ("step.0.weight", everything),
                ("recurrence.weight", everything),
            ]
        regions += [("encoder.2.weight", everything), ("decoder.2.weight", everything)]
        rows = []
        for name, region in regions:
            blank = {key: torch.zeros_like(weight) for key, weight in self.named.items()}
            direction = torch.randn(blank[name][region].shape, generator=generator)
            blank[name][region] = 1 if name.endswith("bias") else direction
            rows.append(torch.cat([weight.flatten() for weight in blank.values()]))
        self.directions = torch.stack(rows)

    def draw(self, estimator: Any, batches: int = 20, copies: int = 150) -> Tensor:
        """A row for each batch, which has the images many times over."""
        model, guide, images = self.air
        many = images.repeat(copies, 1, 1, 1)
        rows = []
        for _ in range(batches):
            loss = estimator.differentiable_loss(model, guide, many) / len(many)
            values = torch.autograd.grad(loss, list(self.named.values()))
            rows.append(self.directions @ torch.cat([gradient.flatten() for gradient in values]))
        return torch.stack(rows)


def z_scores(draws: Tensor, others: Tensor) -> Tensor:
    variance = draws.var(0) / len(draws) + others.var(0) / len(others)
    return ((draws.mean(0) - others.mean(0)) / variance.sqrt()).abs()
