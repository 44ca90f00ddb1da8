"""Measures bias, variance and cost of gradient estimators."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import pyro
import torch
from torch import Tensor, nn

from train.objective import Batch, ELBOObjective
from train.progress import progress
from train.studies.timing import median_milliseconds


class Moments(NamedTuple):
    """Mean and variance of gradients, in double precision.

    Attributes:
        mean: The mean gradient of each weight, by name.
        variance: The variance of each entry of a weight's gradient over the draws, by name.
        draws: The number of gradients.
    """

    mean: dict[str, Tensor]
    variance: dict[str, Tensor]
    draws: int


class Quality(NamedTuple):
    r"""Variance and bias of an estimator's gradient :math:`\bar g` in a group of weights.

    Attributes:
        variance: The variance of a gradient, summed over the group's weights, in nats squared.
        bias: The distance :math:`|\bar g - g|` of the mean gradient from the exact gradient.
        bias_se: That distance in its standard errors: about 1 if there is no bias.
        bias_share: The significant distance as a fraction of the exact gradient's norm:
            :math:`\sqrt{\max(0, |\bar g - g|^2 - \text{se}^2)} \, / \, |g|`.
    """

    variance: float
    bias: float
    bias_se: float
    bias_share: float


def moments(
    loss: Callable[[], Tensor],
    weights: Mapping[str, Tensor],
    draws: int,
    name: str = "drawing gradients",
) -> Moments:
    """Draws gradients and computes their mean and variance by Welford's algorithm.

    Args:
        loss: Returns an estimate of the loss, of shape (); called once for each draw.
        weights: The weights with respect to which the loss is differentiated, by name.
        draws: The number of gradients, 2 or more.
        name: What is done, for :func:`~train.progress.progress`.
    """
    mean = {key: torch.zeros_like(weight, dtype=torch.float64) for key, weight in weights.items()}
    squares = {key: torch.zeros_like(value) for key, value in mean.items()}
    for i in progress(range(1, draws + 1), name, draws, "gradient"):
        gradients = torch.autograd.grad(loss(), list(weights.values()), allow_unused=True)
        for key, gradient in zip(weights, gradients, strict=True):
            # A weight that the estimate does not depend on has a gradient of zero.
            value = mean[key].new_zeros(()) if gradient is None else gradient.double()
            delta = value - mean[key]
            mean[key] += delta / i
            squares[key] += delta * (value - mean[key])
    return Moments(mean, {key: value / (draws - 1) for key, value in squares.items()}, draws)


def quality(estimated: Moments, exact: Moments, names: Iterable[str]) -> Quality:
    """Compares an estimator's gradients with exact ones, in a group of weights.

    Args:
        estimated: The estimator's gradients.
        exact: Independent draws of an unbiased gradient; standard errors include their variance.
        names: The weights of the group.
    """
    names = list(names)

    def total(values: Mapping[str, Tensor]) -> float:
        return sum(values[name].sum().item() for name in names)

    differences = ((estimated.mean[name] - exact.mean[name]) for name in names)
    distance = sum(difference.square().sum().item() for difference in differences)
    size = sum(exact.mean[name].square().sum().item() for name in names)
    variance = total(estimated.variance)
    error = variance / estimated.draws + total(exact.variance) / exact.draws
    return Quality(
        variance=variance,
        bias=distance**0.5,
        bias_se=(distance / error) ** 0.5 if error else float("nan"),
        bias_share=(max(0.0, distance - error) / size) ** 0.5 if size else float("nan"),
    )


def groups(weights: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Groups names of weights by network: ``all``, ``model.decoder`` and so on."""
    names: dict[str, list[str]] = {"all": list(weights)}
    for name in weights:
        names.setdefault(".".join(name.split(".")[:2]), []).append(name)
    return names


def elbo_weights(**modules: nn.Module) -> dict[str, Tensor]:
    """Returns the weights that the ELBO depends on: those of modules, without their baselines.

    Args:
        modules: The modules; their keywords are the prefixes of the names.
    """
    return {
        f"{prefix}.{name}": weight
        for prefix, module in modules.items()
        for name, weight in module.named_parameters()
        if not name.startswith("baseline.")
    }


def train_baseline(objective: ELBOObjective, batch: Batch, step: Tensor, steps: int) -> None:
    """Trains only the baseline of an objective, on one batch.

    Args:
        objective: The objective; nothing happens if its guide has no baseline.
        batch: The batch.
        step: The number of completed steps, for annealed values.
        steps: The number of optimiser steps.
    """
    baseline = objective.guide.baseline
    if baseline is None:
        return
    weights = list(baseline.parameters())
    optimiser = torch.optim.Adam(weights, lr=1e-3) if weights else None
    for _ in range(steps):
        loss = objective(batch, step)[0]["elbo"]
        # A decaying average has no weights: the estimate itself updates it.
        if optimiser:
            for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                weight.grad = gradient
            optimiser.step()


class Bench:
    """A batch and a training step at which objectives are measured.

    Args:
        batch: The batch.
        step: The number of completed steps, for annealed values.
    """

    def __init__(self, batch: Batch, step: int) -> None:
        self.batch = batch
        self.step = torch.tensor(step, device=batch[0].device)

    def loss(self, objective: ELBOObjective) -> Tensor:
        """Returns one estimate of an objective's loss, of shape ()."""
        return objective(self.batch, self.step)[0]["elbo"]

    def moments(self, objective: ELBOObjective, draws: int, name: str) -> Moments:
        """Draws gradients of an objective with respect to all weights except a baseline's."""
        weights = elbo_weights(model=objective.model, guide=objective.guide)
        return moments(lambda: self.loss(objective), weights, draws, f"gradients of {name}")

    def timed_step(self, objective: ELBOObjective) -> Callable[[int], object]:
        """Returns a function that computes a loss and its gradients with respect to all weights."""

        def step(_: int) -> object:
            weights = [weight for weight in objective.parameters() if weight.requires_grad]
            return torch.autograd.grad(self.loss(objective), weights, allow_unused=True)

        return step


def compare(
    objectives: Mapping[str, ELBOObjective],
    exact: ELBOObjective,
    batch: Batch,
    step: int,
    *,
    draws: int,
    exact_draws: int,
    baseline_steps: int,
    rounds: int,
) -> list[dict[str, str | float | int]]:
    """Measures the gradients of objectives that differ only in their estimator, on one batch.

    Args:
        objectives: The objectives by name, all with the same weights.
        exact: An objective with these weights and an unbiased estimator.
        batch: The batch on which all objectives are evaluated.
        step: The number of completed steps, for annealed values.
        draws: The number of gradients of each objective.
        exact_draws: The number of gradients of the exact objective.
        baseline_steps: The number of steps in which baselines are trained before measuring.
        rounds: The number of timed steps of each objective.

    Returns:
        A row for each objective and group of weights: ``estimator``, ``group``, ``draws``, the
        fields of :class:`Quality`, ``milliseconds`` a step (a loss and its gradients), and
        ``variance_time``, the product of variance and seconds, in nats squared times seconds.
    """
    bench = Bench(batch, step)
    with pyro.validation_enabled(False):
        exact_moments = bench.moments(exact, exact_draws, "the exact sum")
        estimated = {}
        for name, objective in objectives.items():
            train_baseline(objective, batch, bench.step, baseline_steps)
            estimated[name] = bench.moments(objective, draws, name)
        steps = {name: bench.timed_step(objective) for name, objective in objectives.items()}
        times = median_milliseconds(steps, rounds)
    weight_groups = groups(exact_moments.mean)
    return [
        row(name, group, quality(estimated[name], exact_moments, names), draws, times[name])
        for name in objectives
        for group, names in weight_groups.items()
    ]


def row(
    estimator: str, group: str, measured: Quality, draws: int, milliseconds: float
) -> dict[str, str | float | int]:
    """Returns a row of :func:`compare`."""
    return {
        "estimator": estimator,
        "group": group,
        "draws": draws,
        **measured._asdict(),
        "milliseconds": milliseconds,
        "variance_time": measured.variance * milliseconds / 1e3,
    }
