"""The importance-weighted bound of discrete latents: exact in expectation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from tests.estimators.outcomes import PROGRAMS, Copied
from train.estimators import MultiSampleELBO
from train.estimators.discrete import bound
from train.estimators.discrete.coupled import DisARM

pytestmark = pytest.mark.usefixtures("double")

CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def two_guide(p: Mapping[str, Tensor], infer: Callable[[str], dict[str, Any]]) -> None:
    pyro.sample("a", dist.Bernoulli(logits=p["a"]), infer=infer("a"))
    pyro.sample("w", dist.Normal(p["w"], 0.7))
    pyro.sample("b", dist.Bernoulli(logits=p["b"]), infer=infer("b"))


def two_model(p: Mapping[str, Tensor]) -> None:
    a = pyro.sample("a", dist.Bernoulli(logits=p["prior"]))
    w = pyro.sample("w", dist.Normal(0.5 * a, 1.1))
    b = pyro.sample("b", dist.Bernoulli(logits=p["prior"] - a))
    pyro.sample("x", dist.Normal(a * w + b * p["weight"], 0.8), obs=torch.tensor(1.3))


def masked_guide(p: Mapping[str, Tensor], infer: Callable[[str], dict[str, Any]]) -> None:
    """Of two rows, the guide leaves the second one's draw out of its log-probability."""
    with (
        pyro.plate("rows", 2, dim=-1),
        poutine.mask(mask=torch.tensor([True, False])),
    ):
        pyro.sample("b", dist.Bernoulli(logits=p["b"]), infer=infer("b"))


def masked_model(p: Mapping[str, Tensor]) -> None:
    with pyro.plate("rows", 2, dim=-1):
        b = pyro.sample("b", dist.Bernoulli(logits=p["prior"]))
        pyro.sample("x", dist.Normal(b * p["weight"], 0.8), obs=torch.tensor([1.3, -0.4]))


def own_masked_guide(p: Mapping[str, Tensor], infer: Callable[[str], dict[str, Any]]) -> None:
    """As :func:`masked_guide`, by a mask of the distribution's own."""
    with pyro.plate("rows", 2, dim=-1):
        fn = dist.Bernoulli(logits=p["b"]).mask(torch.tensor([True, False]))
        pyro.sample("b", fn, infer=infer("b"))


BOUND_PROGRAMS: dict[str, Callable[[], Copied]] = {
    **PROGRAMS,
    # Two sites, neither of which depends on the other's draw.
    "two": lambda: Copied(
        dict.fromkeys(("a", "w", "b", "prior", "weight"), (1,)), two_guide, two_model
    ),
    "masked": lambda: Copied(
        dict.fromkeys(("b", "prior", "weight"), (2,)), masked_guide, masked_model
    ),
    "own_masked": lambda: Copied(
        dict.fromkeys(("b", "prior", "weight"), (2,)), own_masked_guide, masked_model
    ),
}
TOGETHER = ("event", "together", "chain", "one_hot", "pairs", "two")

CASES = [
    *[("vimco", 2, name) for name in BOUND_PROGRAMS],
    *[("vimco", 3, name) for name in ("rows", "chain", "two", "masked")],
    *[("reinforce", 1, name) for name in ("rows", "chain")],
    *[("reinforce", 2, name) for name in BOUND_PROGRAMS],
    *[("reinforce", 3, name) for name in ("rows", "two")],
    *[("disarm", 2, n) for n in ("event", "rows", "together", "two", "masked", "own_masked")],
    *[("disarm", 4, n) for n in ("event", "rows", "together", "two", "masked")],
    *[("disarm", 6, n) for n in ("rows", "two")],
]


def check(gradient: str, particles: int, name: str, vectorized: bool = True) -> None:
    program = BOUND_PROGRAMS[name]()
    draws = particles // 2 if gradient == "disarm" else particles
    wanted = program.exact_bound(draws, name in TOGETHER)

    def make() -> MultiSampleELBO:
        return MultiSampleELBO(particles, gradient=gradient, vectorize_particles=vectorized)

    actual, _ = program.moments(make)
    # A score function is not differentiated by the scale.
    actual["elbo"] = program.value(make)
    wanted["elbo"] = wanted["elbo"].reshape(())
    torch.testing.assert_close(actual, wanted, **CLOSE)


@pytest.mark.parametrize(("gradient", "particles", "name"), CASES)
def test_the_bound_is_exact_in_expectation(gradient, particles, name):
    check(gradient, particles, name)


@pytest.mark.parametrize(
    ("gradient", "particles", "name"),
    [("vimco", 3, "chain"), ("reinforce", 2, "rows"), ("disarm", 4, "two")],
)
def test_so_it_is_with_draws_one_after_another(gradient, particles, name):
    check(gradient, particles, name, vectorized=False)
