"""The importance-weighted bound of discrete latents: exact in expectation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
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


BOUND_PROGRAMS: dict[str, Callable[[], Copied]] = {
    **PROGRAMS,
    # Two sites, neither of which depends on the other's draw.
    "two": lambda: Copied(
        dict.fromkeys(("a", "w", "b", "prior", "weight"), (1,)), two_guide, two_model
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
    *[("disarm", n, "classes") for n in (2, 4)],
    ("disarm", 2, "pairs"),
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


def test_terms_have_the_bound():
    program = BOUND_PROGRAMS["rows"]()
    program.copy(5)
    estimator = MultiSampleELBO(3)
    loss = estimator.differentiable_loss(program.model, program.guide)
    terms = dict(estimator.terms)
    torch.testing.assert_close(terms.pop("iw_bound"), -loss.detach())
    elbo = terms.pop("elbo")
    torch.testing.assert_close(elbo, terms.pop("log_likelihood") - sum(terms.values()))
    # Of the same draws, the bound is not below the ELBO.
    assert elbo < -loss


def test_more_draws_make_a_tighter_bound():
    bounds = [
        BOUND_PROGRAMS["rows"]().value(lambda k=k: MultiSampleELBO(k, gradient="reinforce"))
        for k in (1, 2, 3)
    ]
    assert bounds[0] < bounds[1] < bounds[2]
    # The ELBO is that of one.
    exact = BOUND_PROGRAMS["rows"]().exact()["elbo"]
    torch.testing.assert_close(bounds[0], exact.reshape(()), **CLOSE)


def without_control(sets: Tensor) -> Tensor:
    """Each draw's weight replaced by the mean of all, the own one too."""
    geometric = sets.mean(1, keepdim=True).expand(sets.shape)
    return sets.logsumexp(1, keepdim=True) - bound.with_one_replaced(sets, geometric)


def uncoupled(self: DisARM, logits: Tensor, particles: int) -> Tensor:
    full = logits.expand(particles, *logits.shape[1:])
    return torch.distributions.Bernoulli(logits=full).sample()


MUTANTS: dict[str, tuple[str, int, str, Any, str, Any]] = {
    "a control that sees its own draw": (
        *("vimco", 3, "rows"),
        *(bound, "vimco_signal", without_control),
    ),
    "the sign of the signal": (
        *("vimco", 2, "rows"),
        *(bound, "vimco_signal", lambda sets, keep=bound.vimco_signal: -keep(sets)),
    ),
    "no gradient of a weight's own log q": (
        *("vimco", 2, "rows"),
        *(bound, "log_prob", lambda site: site["fn"].log_prob(site["value"]).detach()),
    ),
    "a weight's own log q without its mask": (
        *("vimco", 2, "masked"),
        *(bound, "scale_and_mask", lambda value, mask: value),
    ),
    "the score of what is masked left out": (
        *("reinforce", 2, "own_masked"),
        *(bound, "unmasked", lambda fn: fn),
    ),
    "draws that are not coupled": (
        *("disarm", 4, "event"),
        *(DisARM, "bits", uncoupled),
    ),
    "a draw of the other set": (
        *("disarm", 4, "event"),
        *(bound, "pair_differences", lambda sets, keep=bound.pair_differences: keep(sets).flip(0)),
    ),
    "weights of all rows together": (
        *("vimco", 2, "rows"),
        *(bound, "to_plates", lambda value, kept, keep=bound.to_plates: keep(value, kept - {-1})),
    ),
    "weights of each row": (
        *("vimco", 2, "together"),
        *(bound, "to_plates", lambda value, kept: value),
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_what_is_wrong_is_told_from_what_is_right(mutant, monkeypatch):
    gradient, particles, name, owner, attribute, mutation = MUTANTS[mutant]
    monkeypatch.setattr(owner, attribute, mutation)
    with pytest.raises(AssertionError):
        check(gradient, particles, name)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gradient": "rloo"}, "gradient is 'rloo': give vimco, disarm, reinforce"),
        ({"num_particles": 1}, "num_particles is 1: vimco needs particles, 2 or more"),
        (
            {"num_particles": 3, "gradient": "disarm"},
            "num_particles is 3: disarm needs an even number of particles, 2 or more",
        ),
        ({"num_particles": 0, "gradient": "reinforce"}, "reinforce needs particles, 1 or more"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        MultiSampleELBO(**options)


def test_disarm_refuses_a_site_by_name():
    words = r"site b depends on the draw of [aw], and disarm of the importance-weighted"
    program = BOUND_PROGRAMS["chain"]()
    program.copy(1)
    estimator = MultiSampleELBO(2, gradient="disarm")
    # The second time, too.
    for _ in range(2):
        with pytest.raises(ValueError, match=words) as caught:
            estimator.differentiable_loss(program.model, program.guide)
        assert "\n" not in str(caught.value)
