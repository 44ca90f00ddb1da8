"""Bias, variance and cost of estimates of a gradient."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple

import pyro
import torch
from torch import Tensor, nn
from tqdm import tqdm

from train.objective import Batch, ELBOObjective


class Moments(NamedTuple):
    """Mean and variance of gradients, in double precision.

    Attributes:
        mean: By the name of a weight, the mean gradient.
        variance: By the name of a weight, the variance of each of its entries over the draws.
        draws: How many gradients were taken.
    """

    mean: dict[str, Tensor]
    variance: dict[str, Tensor]
    draws: int


class Quality(NamedTuple):
    r"""What an estimator's gradient is worth in a group of weights.

    Attributes:
        variance: The variance of a gradient, summed over the group's weights.
        bias: The distance :math:`|\bar g - g|` of the mean gradient from the exact one.
        bias_se: That distance in its standard errors: about 1 if there is no bias.
        bias_share: The part of the distance that is more than chance, as a share of the exact
            gradient's norm: :math:`\sqrt{\max(0, |\bar g - g|^2 - \text{se}^2)} \, / \, |g|`.
    """

    variance: float
    bias: float
    bias_se: float
    bias_share: float


def moments(loss: Callable[[], Tensor], weights: Mapping[str, Tensor], draws: int) -> Moments:
    """Draws gradients and takes their mean and variance (Welford's way).

    Args:
        loss: Makes an estimate; called once a draw.
        weights: What it is differentiated by, by name.
        draws: How many, 2 or more.
    """
    mean = {name: torch.zeros_like(weight, dtype=torch.float64) for name, weight in weights.items()}
    squares = {name: torch.zeros_like(value) for name, value in mean.items()}
    for i in tqdm(range(1, draws + 1), disable=None, leave=False):
        found = torch.autograd.grad(loss(), list(weights.values()), allow_unused=True)
        for name, gradient in zip(weights, found, strict=True):
            # A weight that the estimate does not depend on has a gradient of zero.
            value = mean[name].new_zeros(()) if gradient is None else gradient.double()
            delta = value - mean[name]
            mean[name] += delta / i
            squares[name] += delta * (value - mean[name])
    return Moments(mean, {name: value / (draws - 1) for name, value in squares.items()}, draws)


def quality(found: Moments, exact: Moments, names: Iterable[str]) -> Quality:
    """Holds an estimator's gradients against exact ones, in a group of weights.

    Args:
        found: The estimator's gradients.
        exact: Draws of an unbiased gradient, independent of them; their own spread is allowed for.
        names: The weights of the group.
    """
    names = list(names)

    def total(values: Mapping[str, Tensor]) -> float:
        return sum(values[name].sum().item() for name in names)

    distance = sum((found.mean[name] - exact.mean[name]).square().sum().item() for name in names)
    size = sum(exact.mean[name].square().sum().item() for name in names)
    variance = total(found.variance)
    error = variance / found.draws + total(exact.variance) / exact.draws
    return Quality(
        variance=variance,
        bias=distance**0.5,
        bias_se=(distance / error) ** 0.5 if error else float("nan"),
        bias_share=(max(0.0, distance - error) / size) ** 0.5 if size else float("nan"),
    )


def groups(weights: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Names of weights by the network that they are in: ``all``, ``model.decoder`` and so on."""
    found: dict[str, list[str]] = {"all": list(weights)}
    for name in weights:
        found.setdefault(".".join(name.split(".")[:2]), []).append(name)
    return found


def learnt(**modules: nn.Module) -> dict[str, Tensor]:
    """The weights of modules that an ELBO is a function of, by name: no baseline's."""
    return {
        f"{prefix}.{name}": weight
        for prefix, module in modules.items()
        for name, weight in module.named_parameters()
        if not name.startswith("baseline.")
    }


def milliseconds(steps: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median time of each step in milliseconds, taken in turn: a machine's speed drifts."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            # The first round is a warm-up.
            if turn:
                taken[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(times) for name, times in taken.items()}


def learn_baseline(objective: ELBOObjective, batch: Batch, step: Tensor, steps: int) -> None:
    """Lets an objective's baseline learn on one batch, and nothing else."""
    baseline = objective.guide.baseline
    if baseline is None:
        return
    weights = list(baseline.parameters())
    optimiser = torch.optim.Adam(weights, lr=1e-3) if weights else None
    for _ in range(steps):
        loss = objective(batch, step)[0]["elbo"]
        # A decaying average learns from being asked.
        if optimiser:
            for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                weight.grad = gradient
            optimiser.step()


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
    """Measures the gradients of objectives that differ in their estimator alone, on one batch.

    Args:
        objectives: The objectives by name, with the same weights.
        exact: One more, whose estimator has the ELBO's gradient without bias.
        batch: What all are evaluated on.
        step: The number of steps done, for what is annealed.
        draws: How many gradients are drawn of each.
        exact_draws: How many of the exact objective.
        baseline_steps: In how many steps a baseline learns before.
        rounds: How many steps of each are timed.

    Returns:
        A row for each objective and group of weights: ``estimator``, ``group``, ``draws``, the
        fields of :class:`Quality`, ``milliseconds`` a step (a loss and its gradients), and
        ``variance_time``, their product with the variance in nats squared times seconds.
    """
    done = torch.tensor(step, device=batch[0].device)

    def estimate(objective: ELBOObjective) -> Tensor:
        return objective(batch, done)[0]["elbo"]

    def gradient(objective: ELBOObjective) -> object:
        weights = [weight for weight in objective.parameters() if weight.requires_grad]
        return torch.autograd.grad(estimate(objective), weights, allow_unused=True)

    def drawn(objective: ELBOObjective, number: int) -> Moments:
        weights = learnt(model=objective.model, guide=objective.guide)
        return moments(lambda: estimate(objective), weights, number)

    with pyro.validation_enabled(False):
        held = drawn(exact, exact_draws)
        found = {}
        for name, objective in objectives.items():
            learn_baseline(objective, batch, done, baseline_steps)
            found[name] = drawn(objective, draws)
        steps = {name: partial(gradient, objective) for name, objective in objectives.items()}
        times = milliseconds(steps, rounds)
    return [
        {
            "estimator": name,
            "group": group,
            "draws": draws,
            **(worth := quality(found[name], held, names))._asdict(),
            "milliseconds": times[name],
            "variance_time": worth.variance * times[name] / 1e3,
        }
        for name in objectives
        for group, names in groups(held.mean).items()
    ]
