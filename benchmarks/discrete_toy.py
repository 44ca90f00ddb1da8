r"""Compares gradient estimators on one binary variable, whose two values cost nearly the same.

    python benchmarks/discrete_toy.py

The expectation of :math:`(b - t)^2` over a Bernoulli variable :math:`b` is made small, from a
probability of 1/2 on. With t of .499, as in the paper of REBAR, the best probability is 0, and a
draw's cost hardly tells: .249 for b = 0 and .251 for b = 1. Copies of the problem are trained side
by side, each by itself. A row has the variance of the gradient at a probability of 1/4, before an
estimator learns anything; the probability after the last step, with its standard error over copies;
and in how many copies it has become smaller.

Reference: Tucker et al., REBAR: Low-variance, unbiased gradient estimates for discrete latent
variable models, 2017, https://arxiv.org/abs/1703.07370
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from train.estimators import SITE_ESTIMATORS, DiscreteELBO, Relax
from train.tables import markdown

NAMES = (*SITE_ESTIMATORS, "relax")


def problem(logits: Tensor, target: float) -> tuple[Callable[[], None], Callable[[], None]]:
    """Returns model and guide, whose ELBO is minus the cost."""

    def guide() -> None:
        with pyro.plate("copies", len(logits)):
            pyro.sample("b", dist.Bernoulli(logits=logits[:, None]).to_event(1))

    def model() -> None:
        with pyro.plate("copies", len(logits)):
            # With the guide's probabilities, but for their gradient: the factor alone is left.
            fn = dist.Bernoulli(logits=logits.detach()[:, None]).to_event(1)
            b = pyro.sample("b", fn)
            pyro.factor("cost", -((b[..., 0] - target) ** 2))

    return model, guide


def estimator(name: str) -> DiscreteELBO:
    """Makes an estimator with as many evaluations as it needs."""
    if name == "relax":
        return DiscreteELBO(
            Relax(nn.Sequential(nn.Linear(1, 10), nn.Tanh(), nn.Linear(10, 1))), analytic=False
        )
    return DiscreteELBO(name, analytic=False)


def variance(name: str, target: float, copies: int) -> float:
    """Returns the variance of an estimator's gradient at a probability of 1/4."""
    pyro.set_rng_seed(0)
    logits = torch.full((copies,), 0.25).logit().requires_grad_()
    loss = estimator(name).differentiable_loss(*problem(logits, target))
    return torch.autograd.grad(loss, logits)[0].var().item()


def row(name: str, target: float, copies: int, steps: int, rate: float) -> dict[str, object]:
    """Trains all copies with an estimator, and returns a row of the table."""
    at_a_quarter = variance(name, target, copies)
    pyro.set_rng_seed(0)
    logits = torch.zeros(copies, requires_grad=True)
    model, guide = problem(logits, target)
    elbo = estimator(name)
    elbo.prepare(model, guide, (), {})
    weights = [*elbo.estimators.parameters()]
    # Each copy has an update of its own, as Adam's is by element.
    optimiser = torch.optim.Adam([{"params": [logits]}, {"params": weights}], rate)
    for _ in range(steps):
        optimiser.zero_grad()
        elbo.differentiable_loss(model, guide).backward()
        optimiser.step()
    p = logits.detach().sigmoid()
    return {
        "estimator": name,
        "t": target,
        "variance at 1/4": f"{at_a_quarter:.2e}",
        "probability at the end": f"{p.mean():.4f} ± {p.std() / copies**0.5:.4f}",
        "became smaller": f"{(p < 0.5).float().mean():.1%}",
    }


def main() -> None:
    """Trains with each estimator and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", nargs="*", default=NAMES, help="estimators")
    parser.add_argument("--targets", nargs="*", type=float, default=(0.499, 0.49), help="t")
    parser.add_argument("--copies", type=int, default=1_000, help="copies of the problem")
    parser.add_argument("--steps", type=int, default=2_000, help="training steps")
    parser.add_argument("--rate", type=float, default=0.01, help="Adam's learning rate")
    given = parser.parse_args()
    rows = [
        row(name, target, given.copies, given.steps, given.rate)
        for target in given.targets
        for name in given.names
    ]
    print(markdown(rows, list(rows[0])))


if __name__ == "__main__":
    main()
