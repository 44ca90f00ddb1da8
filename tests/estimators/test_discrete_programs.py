"""Estimators of discrete sites on programs of all kinds, what they need, and what they refuse."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from pyro import poutine
from pyro.infer import SVI
from torch import Tensor, nn

from tests.estimators.outcomes import PROGRAMS, z_scores
from tests.estimators.programs import (
    SPECS,
    Given,
    Pair,
    Spec,
    combinations,
    enumerate_all,
    gradients,
)
from tests.estimators.test_programs import KINDS, small
from train.estimators import (
    DiscreteELBO,
    DoubleCV,
    Enumerate,
    GumbelSoftmax,
    Rebar,
    Relax,
)
from train.estimators.discrete import elbo as discrete_elbo
from train.estimators.discrete import exhaustive
from train.estimators.discrete.dependencies import Dependencies, find_dependencies
from train.estimators.discrete.elbo import Group

CLOSE = {"rtol": 1e-8, "atol": 1e-8}


def examples(number: int) -> settings:
    return settings(
        max_examples=int(os.environ.get("PROGRAMS", number)),
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


# Programs of all kinds


class CopiedPair(Pair):
    """A pair in a plate of copies, each of which has parameters of its own.

    Args:
        spec: What the pair has.
        copies: The number of copies.
    """

    def __init__(self, spec: Spec, copies: int) -> None:
        super().__init__(spec)
        self.parameters = {
            name: value.detach().reshape(2, 1, 1, 1).repeat(1, copies, 1, 1).requires_grad_()
            for name, value in self.parameters.items()
        }
        # A loss has the derivative of its own loss by the scale of a copy.
        self.copy_scale = torch.ones(copies, 1, 1, dtype=torch.float64, requires_grad=True)
        model, guide = self.model, self.guide

        def in_copies(program: Callable[[], None]) -> None:
            with (
                pyro.plate("combinations", copies, dim=-3),
                poutine.scale(scale=self.copy_scale),
            ):
                program()

        self.model = lambda: in_copies(model)
        self.guide = lambda: in_copies(guide)

    def estimate(
        self, estimator: DiscreteELBO, values: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Gradients and, as ``elbo``, values of all copies, with copies first.

        Args:
            estimator: The estimator.
            values: What is drawn, if it is given. The noise is that of enumerate_all.
        """
        with warnings.catch_warnings(), Given(values):
            # Pyro warns of sites of the guide alone.
            warnings.simplefilter("ignore")
            loss = estimator.differentiable_loss(self.model, self.guide)
        leaves = [*self.parameters.values(), self.copy_scale]
        *values, elbo = torch.autograd.grad(loss, leaves, materialize_grads=True, allow_unused=True)
        pairs = zip(self.parameters, values, strict=True)
        return {
            **{name: -value.reshape(2, -1).T for name, value in pairs},
            "elbo": -elbo.reshape(-1, 1),
        }


def exact(pair: Pair) -> dict[str, Tensor]:
    mean = enumerate_all(pair).mean
    return {**gradients(mean, pair), "elbo": mean.detach().reshape(1)}


def check_rloo(spec: Spec) -> None:
    """Sums the estimate over all draws of two particles."""
    pair = Pair(small(spec))
    shapes = pair.presences | pair.draws
    log_q = enumerate_all(pair).log_q.detach()
    # After an absent object none is drawn.
    possible = (log_q > -27).nonzero()[:, 0]
    places = [place.flatten() for place in torch.meshgrid(possible, possible, indexing="ij")]
    every = list(combinations(shapes))
    values = {}
    for name, shape in shapes.items():
        value = torch.stack([combination[name] for combination in every])
        value = value.reshape(len(every), *(1,) * (2 - len(shape)), *shape)
        values[name] = torch.stack([value[place] for place in places])
    copied = CopiedPair(pair.spec, len(possible) ** 2)
    drawn = copied.estimate(DiscreteELBO("rloo", analytic=False), values)
    weights = sum(log_q[place] for place in places).exp()
    for name, wanted in exact(pair).items():
        actual = torch.tensordot(weights, drawn[name], 1)
        torch.testing.assert_close(actual, wanted, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_rloo_is_exact_in_expectation(kind):
    check_rloo(KINDS[kind])


@examples(12)
@given(spec=SPECS)
def test_rloo_is_exact_in_expectation_on_any_program(spec):
    check_rloo(spec)


def check_enumeration(spec: Spec, *, vectorized: bool = True) -> None:
    pair = Pair(small(spec))
    estimator = DiscreteELBO("enumerate", analytic=False, vectorize_particles=vectorized)
    with warnings.catch_warnings(), Given():
        warnings.simplefilter("ignore")
        loss = estimator.differentiable_loss(pair.model, pair.guide)
    actual = {**gradients(loss, pair), "elbo": loss.detach().reshape(1)}
    for name, wanted in exact(pair).items():
        torch.testing.assert_close(-actual[name], wanted, **CLOSE)
    torch.testing.assert_close(estimator.terms["elbo"], -loss.detach(), **CLOSE)


@examples(25)
@given(spec=SPECS)
def test_enumeration_is_exact_on_any_program(spec):
    check_enumeration(spec)


@pytest.mark.parametrize("kind", KINDS)
def test_enumeration_is_exact_with_one_value_after_another(kind):
    check_enumeration(KINDS[kind], vectorized=False)


def check_drawn(spec: Spec, name: str, *, vectorized: bool, copies: int = 2_000) -> Tensor:
    pair = Pair(small(spec))
    estimator = DiscreteELBO(name, 2, analytic=False, vectorize_particles=vectorized)
    return z_scores(CopiedPair(pair.spec, copies).estimate(estimator), exact(pair))


@examples(6)
@given(spec=SPECS)
@pytest.mark.parametrize("vectorized", [True, False])
@pytest.mark.parametrize("name", ["rloo", "disarm", "mvd"])
def test_draws_have_the_exact_mean_on_any_program(name, vectorized, spec):
    pyro.set_rng_seed(5)
    assert (check_drawn(spec, name, vectorized=vectorized) < 5).all()
