"""Estimators of discrete sites on programs of all kinds, what they need, and what they refuse."""

from __future__ import annotations

import itertools
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
from tests.estimators.test_programs import KINDS, nothing_alone, small
from train.estimators import (
    SITE_ESTIMATORS,
    DiscreteELBO,
    DoubleCV,
    GumbelSoftmax,
    Rebar,
    Relax,
    SiteEstimator,
    costs,
)
from train.estimators.discrete import dependencies, exhaustive, families
from train.estimators.discrete.dependencies import Dependencies, find_dependencies

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


@examples(8)
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


@examples(15)
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


@examples(4)
@given(spec=SPECS)
@pytest.mark.parametrize("vectorized", [True, False])
@pytest.mark.parametrize("name", ["rloo", "disarm", "mvd"])
def test_draws_have_the_exact_mean_on_any_program(name, vectorized, spec):
    pyro.set_rng_seed(5)
    assert (check_drawn(spec, name, vectorized=vectorized) < 5).all()


# Mutations, each of which has to be told from what is right


def nothing_masked(value: Tensor, scale: Any = 1.0, mask: Any = None) -> Tensor:
    return value


def without(name: str) -> Callable[[Dependencies, str], frozenset[Any]]:
    keep = Dependencies.downstream
    return lambda self, latent: frozenset(k for k in keep(self, latent) if k[1] != name)


MUTANTS: dict[str, tuple[str, Callable[[Spec], None], Any, str, Any]] = {
    "the scale": ("scale_likelihood", check_rloo, costs, "scaled", lambda value, scale: value),
    "the scale of a subsample": (
        *("subsampled", check_rloo, costs, "scaled"),
        lambda value, scale: value,
    ),
    "the mask": ("row_mask", check_rloo, dependencies, "scale_and_mask", nothing_masked),
    "the factor": ("factor_in", check_rloo, Dependencies, "downstream", without("f")),
    "the guide's factor": ("factor_in", check_rloo, costs, "guide_only_cost", nothing_alone),
    "a further latent": ("discrete", check_rloo, Dependencies, "downstream", without("d")),
    "a latent after it": ("plain", check_rloo, Dependencies, "downstream", without("w_0")),
    "the weight of a value": (
        *("plain", check_enumeration, exhaustive.Enumerate, "weights"),
        lambda self, draws: torch.full(draws.log_prob.shape, 1 / draws.particles),
    ),
    "the global latent's values in a plate": (
        *("discrete_global", check_enumeration, Dependencies, "closure"),
        lambda self, latents: latents - {"d"},
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_what_leaves_something_out_is_told_from_what_is_right(mutant, monkeypatch):
    kind, check, owner, name, mutation = MUTANTS[mutant]
    check(KINDS[kind])
    monkeypatch.setattr(owner, name, mutation)
    with pytest.raises(AssertionError):
        check(KINDS[kind])


# A distribution of no family


@pytest.mark.parametrize("own_mask", [False, True])
def test_a_distribution_without_logits_has_a_score(own_mask):
    rate = torch.full((20_000,), 0.7, dtype=torch.float64, requires_grad=True)
    scale = torch.ones(20_000, dtype=torch.float64, requires_grad=True)

    def draw(rate: Any, mask: bool) -> Tensor:
        fn = dist.Poisson(rate)
        return pyro.sample("n", fn.mask(False) if mask else fn)

    def in_rows(body: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            with pyro.plate("rows", 20_000), poutine.scale(scale=scale):
                body()

        return run

    def model() -> None:
        n = draw(torch.full((20_000,), 1.2, dtype=torch.float64), own_mask)
        pyro.sample("x", dist.Normal(n, 1.5), obs=torch.tensor(2.0, dtype=torch.float64))

    loss = DiscreteELBO("rloo").differentiable_loss(
        in_rows(model), in_rows(lambda: draw(rate, own_mask))
    )
    drawn = torch.autograd.grad(-loss, [rate, scale])
    n = torch.arange(60.0, dtype=torch.float64)
    one = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    log_q = torch.distributions.Poisson(one).log_prob(n)
    cost = torch.distributions.Normal(n, 1.5).log_prob(torch.tensor(2.0, dtype=torch.float64))
    if not own_mask:
        cost = cost + torch.distributions.Poisson(1.2).log_prob(n) - log_q
    elbo = (log_q.exp() * cost).sum()
    (gradient,) = torch.autograd.grad(elbo, one)
    exact = {"rate": gradient, "elbo": elbo.detach()}
    assert (z_scores(dict(zip(exact, drawn, strict=True)), exact) < 4.5).all()


# Dependencies


def graph_guide() -> None:
    a = pyro.sample("a", dist.Bernoulli(0.4))
    w = pyro.sample("w", dist.Normal(a, 1.0))
    b = pyro.sample("b", dist.Bernoulli(logits=w))
    pyro.sample("c", dist.Bernoulli(0.3))
    with poutine.mask(mask=a > 0):
        pyro.sample("m", dist.Normal(0.0, 1.0))
    with poutine.scale(scale=1 + b):
        pyro.sample("s", dist.Normal(0.0, 1.0))


def graph_model() -> None:
    a = pyro.sample("a", dist.Bernoulli(0.5))
    pyro.sample("w", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Bernoulli(0.5))
    c = pyro.sample("c", dist.Bernoulli(0.5))
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    pyro.sample("s", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 3):
        pyro.sample("x", dist.Normal(a, 1.0), obs=torch.zeros(3))
        with poutine.mask(mask=c > 0):
            pyro.sample("y", dist.Normal(0.0, 1.0), obs=torch.zeros(3))
        with poutine.scale(scale=1 + b):
            pyro.sample("z", dist.Normal(0.0, 1.0), obs=torch.zeros(3))
    pyro.sample("v", dist.Normal(m, 1.0), obs=torch.tensor(0.0))
    pyro.sample("alone", dist.Normal(0.0, 1.0), obs=torch.tensor(0.0))


def names(keys: Any) -> set[str]:
    return {name for _, name in keys}


def test_dependencies_are_followed_through_values_masks_and_scales():
    found = find_dependencies(graph_model, graph_guide, (), {})
    assert found.discrete == ("a", "b", "c")
    assert found.ancestors == {
        "a": set(),
        "w": {"a"},
        "b": {"a", "w"},
        "c": set(),
        "m": {"a"},
        "s": {"a", "w", "b"},
    }
    assert names(found.downstream("a")) == {"a", "w", "b", "m", "s", "x", "z"}
    assert names(found.downstream("b")) == {"b", "s", "z"}
    assert names(found.downstream("c")) == {"c", "y"}
    # A mask changes no value: v has that of m.
    assert names(found.downstream("m")) == {"m", "v"}
    # What b changes has no derivative by a.
    assert names(found.direct("a")) == {"a", "w", "m", "x"}
    assert found.direct("b") == found.downstream("b")
    assert found.descendants("a") == {"w", "b", "m", "s"}
    assert found.not_after("a") == {"c"}
    assert found.not_after("c") == {"a", "w", "b", "m", "s"}
    assert found.closure(frozenset({"b"})) == {"a", "w", "b"}
    assert found.plates["log_likelihood", "x"] == {-1}
    assert found.plates["log_likelihood", "v"] == frozenset()


# Errors: one line, which names the site


def pair(
    draw: Callable[[], Any], prior: Callable[[], Any] | None = None
) -> tuple[Callable[[], None], Callable[[], None]]:
    """A model and a guide of one draw each."""

    def model() -> None:
        value = (prior or draw)()
        pyro.sample("x", dist.Normal(value.sum(), 1.0), obs=torch.tensor(1.0))

    return model, draw


def bernoulli(shape: tuple[int, ...] = (), **infer: Any) -> Callable[[], Tensor]:
    fn = dist.Bernoulli(torch.full(shape, 0.4)).to_event(len(shape))
    return lambda: pyro.sample("b", fn, infer=infer)


def categorical() -> Tensor:
    return pyro.sample("c", dist.Categorical(torch.ones(3)))


def poisson() -> Tensor:
    return pyro.sample("n", dist.Poisson(1.5))


def two_events() -> Tensor:
    fn = dist.Bernoulli(torch.full((7,), 0.4)).to_event(1)
    return pyro.sample("b", fn) + pyro.sample("d", fn)


def baselines(baseline: dict[str, Any]) -> Callable[[], Tensor]:
    return bernoulli(estimator="reinforce", baseline=baseline)


REFUSED: dict[str, tuple[Callable[[], Any], DiscreteELBO, str]] = {
    "an unknown name": (
        bernoulli(estimator="disram"),
        DiscreteELBO(),
        r"site b names the estimator 'disram', which is not known: give one of reinforce, rloo",
    ),
    "no form": (poisson, DiscreteELBO("disarm"), r"site n is a Poisson, for which disarm has no"),
    "no form to enumerate": (poisson, DiscreteELBO("enumerate"), r"site n is a Poisson"),
    "another form": (
        categorical,
        DiscreteELBO("arms", 3),
        r"site c is a Categorical, and arms has a form for Bernoulli",
    ),
    "no gradient of an index": (
        categorical,
        DiscreteELBO("rebar"),
        r"site c is a Categorical, whose indices have no gradient, which rebar needs",
    ),
    "no value between indices": (
        categorical,
        DiscreteELBO("gumbel"),
        r"site c is a Categorical, whose indices have no gradient, which gumbel needs",
    ),
    "one particle": (
        bernoulli(),
        DiscreteELBO("rloo", 1),
        r"site b is estimated by rloo, which needs 2 or more: num_particles is 1",
    ),
    "an odd number of particles": (
        bernoulli(),
        DiscreteELBO("disarm", 3),
        r"site b is estimated by disarm, which needs an even number of particles, 2 or more",
    ),
    "a site's own estimator": (
        bernoulli(estimator="double-cv"),
        DiscreteELBO("reinforce"),
        r"site b is estimated by double-cv, which needs 2 or more: num_particles is 1",
    ),
    "marked for enumeration": (
        bernoulli(enumerate="parallel"),
        DiscreteELBO(),
        r"site b is marked for Pyro's enumeration, and DiscreteELBO draws it",
    ),
    "too many values": (
        bernoulli((13,)),
        DiscreteELBO("enumerate"),
        r"site b has 2\^13 values that change one cost, more than the 4,096",
    ),
    "too many values together": (
        two_events,
        DiscreteELBO("enumerate"),
        r"sites b, d have 16,384 values together, more than the 4,096",
    ),
    "too many variables": (
        bernoulli((5_000,)),
        DiscreteELBO("mvd"),
        r"site b has 5,000 variables that change one cost, for which mvd needs 5,001 evaluations",
    ),
    "a set of several variables": (
        bernoulli((2,)),
        DiscreteELBO("unordered-set"),
        r"site b has 2 variables that change one cost, and unordered-set has a form for one",
    ),
    "a set that is too large": (
        categorical,
        DiscreteELBO("unordered-set", 4),
        r"site c has 3 values, and unordered-set takes at most 3 different ones",
    ),
    "a baseline of another shape": (
        baselines({"baseline_value": torch.zeros(3)}),
        DiscreteELBO(),
        r"site b has a baseline of shape \(3,\), which does not broadcast with its cost of shape",
    ),
    "an unknown option": (
        baselines({"use_decaying_avg_baseline": True}),
        DiscreteELBO(),
        r"site b has the baseline option use_decaying_avg_baseline: give baseline_value",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_estimate_is_refused_by_name(case):
    draw, estimator, words = REFUSED[case]
    programs = pair(draw)
    # The second time, too.
    for _ in range(2):
        with pytest.raises(ValueError, match=words) as caught:
            estimator.differentiable_loss(*programs)
        assert "\n" not in str(caught.value)


def test_a_latent_that_the_model_alone_enumerates_is_refused():
    def model() -> None:
        b = bernoulli()() + pyro.sample("d", dist.Bernoulli(0.4), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(b, 1.0), obs=torch.tensor(1.0))

    with pytest.raises(ValueError, match=r"site d is drawn by the model and is not in the guide"):
        DiscreteELBO().differentiable_loss(model, bernoulli())


def test_an_unknown_default_is_refused():
    with pytest.raises(ValueError, match="there is no estimator 'rlo' of this name"):
        DiscreteELBO("rlo")


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize("make", [GumbelSoftmax, Rebar, lambda t: Relax(nn.Linear(1, 1), t)])
def test_a_temperature_is_above_zero(make, temperature):
    with pytest.raises(ValueError, match=r"temperature is .*: it must be above 0"):
        make(temperature)


# Batches, random numbers and handlers


def batch_model(x: Tensor, *, joint: bool) -> None:
    with pyro.plate("rows", len(x), dim=-1):
        b = pyro.sample("b", dist.Bernoulli(0.3 * torch.ones(len(x), 2)).to_event(1))
        if not joint:
            pyro.sample("x", dist.Normal(b.sum(-1), 1.0), obs=x)
    if joint:
        loc = b.sum(-1).sum(-1, keepdim=True)
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x.sum())


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("vectorized", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        *("reinforce", "rloo", "disarm", "arms", "double-cv", "rodeo", "muprop", "rebar"),
        *("enumerate", "mvd", "gumbel", "straight-through"),
    ],
)
def test_a_batch_can_have_another_size(name, vectorized, joint):
    """The mutation: the number of values is that of the first batch."""
    logits = torch.tensor([0.3, -0.4], requires_grad=True)

    def guide(x: Tensor, *, joint: bool) -> None:
        with pyro.plate("rows", len(x), dim=-1):
            fn = dist.Bernoulli(logits=logits.expand(len(x), 2)).to_event(1)
            pyro.sample("b", fn)

    def one(estimator: DiscreteELBO, size: int) -> Tensor:
        pyro.set_rng_seed(size)
        loss = estimator.differentiable_loss(
            batch_model, guide, torch.linspace(0, 1, size), joint=joint
        )
        return torch.cat([loss.detach().reshape(1), torch.autograd.grad(loss, logits)[0]])

    def make() -> DiscreteELBO:
        torch.manual_seed(3)
        return DiscreteELBO(name, 2, vectorize_particles=vectorized)

    estimator = make()
    for size in (3, 2, 4):
        actual = one(estimator, size)
        torch.testing.assert_close(actual, one(make(), size))


def test_looking_at_a_pair_draws_no_random_numbers():
    programs = Pair(Spec(objects=2))
    for name in ("rloo", "disarm", "mvd", "enumerate", "rebar"):
        estimator = DiscreteELBO(name, 2)
        losses = []
        for _ in range(2):
            pyro.set_rng_seed(4)
            losses.append(estimator.loss(programs.model, programs.guide))
        # The first one looked at the pair, the second did not.
        assert losses[0] == losses[1]


def test_particles_of_a_coupled_site_share_what_a_handler_draws():
    """The mutation: what is before the site is drawn again, whatever has drawn it."""
    program = PROGRAMS["chain"]()
    program.copy(1)

    class Fixed(poutine.messenger.Messenger):
        def _pyro_sample(self, msg: dict[str, Any]) -> None:
            if msg["name"] == "w" and not msg["done"]:
                msg["value"] = torch.full(msg["fn"].batch_shape, 5.0)
                msg["done"] = True

    seen = []

    def model() -> None:
        with poutine.trace() as trace:
            program.model()
        seen.append(trace.trace.nodes["w"]["value"])

    estimator = DiscreteELBO("disarm", 2, analytic=False)
    estimator.prepare(model, program.guide, (), {})
    seen.clear()
    with Fixed():
        estimator.differentiable_loss(model, program.guide)
    assert len(seen) == 2
    assert all((value == 5).all() for value in seen)


# Values


@pytest.mark.parametrize("kind", ["plain", "pixels", "scale_prior", "factor_in", "auxiliary"])
@pytest.mark.parametrize("name", ["rloo", "disarm", "mvd", "enumerate", "unordered-set"])
def test_terms_are_of_the_loss(kind, name):
    programs = Pair(KINDS[kind])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = DiscreteELBO(name, 2)
        loss = estimator.differentiable_loss(programs.model, programs.guide).detach()
    terms = dict(estimator.terms)
    torch.testing.assert_close(terms.pop("elbo"), -loss, **CLOSE)
    summed = terms.pop("log_likelihood") - sum(terms.values())
    torch.testing.assert_close(summed, -loss, **CLOSE)


def test_terms_are_those_of_the_sum_over_values():
    program = PROGRAMS["event"]()
    program.copy(1)
    estimator = DiscreteELBO("enumerate")
    estimator.differentiable_loss(program.model, program.guide)
    p = {name: value.detach().reshape(-1) for name, value in program.parameters.items()}
    b = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    log_q = torch.distributions.Bernoulli(logits=p["b"]).log_prob(b).sum(-1)
    log_p = torch.distributions.Bernoulli(logits=p["prior"]).log_prob(b).sum(-1)
    loc = b @ p["weight"] + 0.7 * b[:, 0] * b[:, 1]
    log_x = torch.distributions.Normal(loc, 0.8).log_prob(torch.tensor(1.3))
    q = log_q.exp()
    torch.testing.assert_close(estimator.terms["log_likelihood"], (q * log_x).sum())
    torch.testing.assert_close(estimator.terms["kl_b"], (q * (log_q - log_p)).sum())


def test_without_gradients_there_is_the_same_value():
    programs = Pair(Spec(objects=2))
    for name in ("rloo", "disarm", "rebar", "enumerate"):
        estimator = DiscreteELBO(name, 2)
        pyro.set_rng_seed(2)
        with_gradients = estimator.differentiable_loss(programs.model, programs.guide).item()
        pyro.set_rng_seed(2)
        # A relaxed cost takes random numbers after the draws.
        assert estimator.loss(programs.model, programs.guide) == pytest.approx(with_gradients)


@pytest.mark.parametrize("size", [60.0, 1e4])
@pytest.mark.parametrize("name", SITE_ESTIMATORS)
def test_a_site_that_is_sure_of_itself_has_finite_gradients(name, size):
    """The mutation: probabilities that are too small for a number, in a denominator."""
    logits = torch.tensor([size, -size, 0.3], requires_grad=True)
    bernoulli_only = name in ("arm", "arms", "rodeo")

    def draw(logits: Tensor, one_hot: bool) -> Tensor:
        fn = dist.OneHotCategorical if one_hot else dist.Bernoulli
        fn = fn(logits=logits.expand(50, 3))
        return pyro.sample("b", fn if one_hot else fn.to_event(1))

    def model(one_hot: bool) -> None:
        with pyro.plate("rows", 50):
            b = draw(torch.zeros(3), one_hot)
            loc = b @ torch.tensor([1.0, 2.0, -1.0])
            pyro.sample("x", dist.Normal(loc, 1.0), obs=torch.tensor(0.5))

    def guide(one_hot: bool) -> None:
        with pyro.plate("rows", 50):
            draw(logits, one_hot)

    for one_hot in (False, True):
        if (one_hot and bernoulli_only) or (name == "unordered-set" and not one_hot):
            continue
        estimator = DiscreteELBO(name, 2)
        loss = estimator.differentiable_loss(model, guide, one_hot)
        weights = [logits, *estimator.estimators.parameters()]
        for value in (loss, *torch.autograd.grad(loss, weights)):
            assert value.isfinite().all()


# Relaxed values, which are biased


class Noise:
    """Uniform draws that are given, in turn."""

    def __init__(self) -> None:
        self.given: list[Tensor] = []

    def __call__(self, shape: Any, like: Tensor) -> Tensor:
        self.given.append(torch.rand(shape, dtype=like.dtype))
        return self.given[-1]


@pytest.mark.parametrize("name", ["gumbel", "straight-through"])
def test_a_relaxed_program_has_the_gradient_of_its_value(name, monkeypatch, double):
    """By hand: log-probabilities are linear between values."""
    noise = Noise()
    program = PROGRAMS["event"]()
    program.copy(7)
    estimator = DiscreteELBO(GumbelSoftmax(0.7) if name == "gumbel" else name)
    estimator.prepare(program.model, program.guide, (), {})
    monkeypatch.setattr(families, "uniform", noise)
    loss = estimator.differentiable_loss(program.model, program.guide)
    (u,) = noise.given
    p = program.parameters
    z = p["b"] + u.log() - (-u).log1p()
    if name == "gumbel":
        b = (z / 0.7).sigmoid()
    else:
        mean = p["b"].sigmoid()
        b = (z > 0).to(mean) + mean - mean.detach()

    def log_bernoulli(logits: Tensor) -> Tensor:
        return (b * logits - torch.nn.functional.softplus(logits)).sum(-1)

    loc = (b * p["weight"]).sum(-1) + 0.7 * b[..., 0] * b[..., 1]
    log_x = torch.distributions.Normal(loc, 0.8).log_prob(torch.tensor(1.3))
    wanted = -(log_x + log_bernoulli(p["prior"]) - log_bernoulli(p["b"])).sum()
    torch.testing.assert_close(loss, wanted)
    actual, by_hand = (torch.autograd.grad(value, list(p.values())) for value in (loss, wanted))
    torch.testing.assert_close(actual, by_hand)


@pytest.mark.parametrize("estimator", [GumbelSoftmax(1.0), "straight-through"], ids=str)
@pytest.mark.parametrize("name", ["event", "pairs"])
def test_a_relaxed_program_is_biased(estimator, name, double):
    program = PROGRAMS[name]()
    exact_values = program.exact()
    drawn = program.drawn(lambda: DiscreteELBO(estimator, 1), 4_000)
    site = "b" if name == "event" else "c"
    assert (z_scores(drawn, {site: exact_values[site]}) > 6).any()
    # Others have no such bias, of as many draws.
    drawn = program.drawn(lambda: DiscreteELBO("reinforce", 1), 4_000)
    assert (z_scores(drawn, {site: exact_values[site]}) < 4.5).all()


@pytest.mark.parametrize("name", ["event", "pairs"])
def test_a_relaxed_value_becomes_the_draw_as_it_cools(name, double):
    program = PROGRAMS[name]()
    exact_value = {"elbo": program.exact()["elbo"]}
    for temperature, is_close in ((1e-3, True), (1.0, False)):
        drawn = program.drawn(lambda t=temperature: DiscreteELBO(GumbelSoftmax(t)), 4_000)
        assert bool((z_scores(drawn, exact_value) < 4.5).all()) == is_close


# Parameters of estimators


def linear_model() -> None:
    with pyro.plate("rows", 20):
        b = pyro.sample("b", dist.Bernoulli(0.3 * torch.ones(20, 2)).to_event(1))
        pyro.factor("f", b @ torch.tensor([0.7, -1.2]))


def linear_guide() -> None:
    logits = pyro.param("logits", torch.tensor([0.4, -0.3]))
    with pyro.plate("rows", 20):
        pyro.sample("b", dist.Bernoulli(logits=logits.expand(20, 2)).to_event(1))


def test_svi_trains_the_parameters_of_an_estimator():
    estimator = DiscreteELBO("double-cv")
    # The guide stays as it is: where it is right, there is nothing to be learned.
    optimizer = pyro.optim.Adam(lambda name: {"lr": 0.0 if name == "logits" else 0.05})
    svi = SVI(linear_model, linear_guide, optimizer, estimator)
    for _ in range(100):
        svi.step()
    # Of a linear cost, all is removed.
    alpha = estimator.estimators["double-cv"].alpha
    assert alpha.item() == pytest.approx(-1.0, abs=0.1)
    (name,) = (name for name in pyro.get_param_store() if name != "logits")
    assert name.startswith("estimators")
    assert name.endswith("alpha")


@pytest.mark.parametrize("name", ["rebar", "rodeo", "double-cv"])
def test_svi_trains_the_parameters_of_a_site_s_estimator(name):
    def guide() -> None:
        logits = pyro.param("logits", torch.tensor([0.4, -0.3]))
        with pyro.plate("rows", 20):
            fn = dist.Bernoulli(logits=logits.expand(20, 2)).to_event(1)
            pyro.sample("b", fn, infer={"estimator": name})

    estimator = DiscreteELBO("rloo")
    svi = SVI(linear_model, guide, pyro.optim.Adam({"lr": 0.05}), estimator)
    estimator.prepare(linear_model, guide, (), {})
    before = {n: p.clone() for n, p in estimator.estimators.named_parameters()}
    assert before
    for _ in range(3):
        svi.step()
    after = dict(estimator.estimators.named_parameters())
    assert any(not torch.equal(before[n], after[n]) for n in before)


class Module(nn.Module):
    """A program that is a module, with an estimator of its own."""

    def __init__(self, body: Callable[..., None], estimator: nn.Module | str | None = None) -> None:
        super().__init__()
        self.body = body
        self.estimator = estimator
        self.logits = nn.Parameter(torch.tensor([0.4, -0.3]))

    def forward(self) -> None:
        self.body(self)


def module_guide(module: Module) -> None:
    infer = {} if module.estimator is None else {"estimator": module.estimator}
    with pyro.plate("rows", 20):
        fn = dist.Bernoulli(logits=module.logits.expand(20, 2)).to_event(1)
        pyro.sample("b", fn, infer=infer)


def test_a_loss_as_a_module_has_the_parameters_of_its_estimators():
    estimator = DiscreteELBO("rebar", 2)
    guide = Module(module_guide)
    loss = estimator(Module(lambda _: linear_model()), guide)
    parameters = list(loss.parameters())
    for weight in (*estimator.estimators.parameters(), guide.logits):
        assert any(weight is parameter for parameter in parameters)
    rebar = estimator.estimators["rebar"]
    loss().backward()
    assert rebar.log_temperature.grad != 0
    assert rebar.scale.grad != 0


def test_an_instance_of_the_guide_is_trained_with_it():
    guide = Module(module_guide, DoubleCV())
    estimator = DiscreteELBO()
    loss = estimator(Module(lambda _: linear_model()), guide)
    assert any(guide.estimator.alpha is parameter for parameter in loss.parameters())
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    for _ in range(40):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert guide.estimator.alpha < -0.5
    assert "double-cv" not in estimator.estimators


def test_parameters_that_are_made_too_late_are_refused():
    loss = DiscreteELBO()(Module(lambda _: linear_model()), Module(module_guide, "rebar"))
    # The second time, too: else they would never be trained.
    for _ in range(2):
        with pytest.raises(ValueError, match=r"site b names rebar, whose parameters are made"):
            loss()
    # Those without parameters, and those that were made before, are none.
    DiscreteELBO()(Module(lambda _: linear_model()), Module(module_guide, "disarm"))()
    DiscreteELBO("rebar", 2)(Module(lambda _: linear_model()), Module(module_guide, "rebar"))()


@pytest.mark.parametrize("name", ["rebar", "double-cv"])
def test_parameters_learn_to_lower_the_squares_of_the_gradient(name, double):
    """By finite differences, with the same draws."""
    program = PROGRAMS["event"]()
    program.copy(40)

    def make(shift: float) -> tuple[DiscreteELBO, nn.Parameter]:
        estimator = DiscreteELBO(DoubleCV(-0.4 + shift) if name == "double-cv" else "rebar", 2)
        made = estimator.default
        weight = made.alpha if name == "double-cv" else made.scale
        if name == "rebar":
            with torch.no_grad():
                weight.fill_(0.6 + shift)
        return estimator, weight

    squares = []
    surrogate = SiteEstimator.gradient_surrogate

    def keep(self: SiteEstimator, draws: Any, gradient: Tensor) -> Tensor:
        squares.append(gradient.detach().square().sum())
        return surrogate(self, draws, gradient)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SiteEstimator, "gradient_surrogate", keep)
        gradient = None
        for shift in (0.0, 1e-5, -1e-5):
            estimator, weight = make(shift)
            pyro.set_rng_seed(6)
            loss = estimator.differentiable_loss(program.model, program.guide)
            if gradient is None:
                (gradient,) = torch.autograd.grad(loss, weight)
    torch.testing.assert_close(gradient, (squares[1] - squares[2]) / 2e-5, rtol=1e-6, atol=1e-6)
    # Its value is that of the loss alone, and others have no gradient of it.
    torch.testing.assert_close(loss.detach(), -estimator.terms["elbo"])


def test_what_cannot_be_followed_is_found_by_changing_it(double):
    """A branch on a number and a write in place; the mutation: costs that depend on them left out.

    The sum over the four values is exact.
    """
    logit, slope, weight = (torch.tensor(v, requires_grad=True) for v in (0.3, -0.8, 1.4))
    x = torch.tensor(1.7)

    def logit_of_b(a: float) -> Tensor:
        return slope if a > 0 else -slope

    def model():
        a = pyro.sample("a", dist.Bernoulli(0.4 * torch.ones(())))
        b = pyro.sample("b", dist.Bernoulli(0.7 * torch.ones(())))
        canvas = torch.zeros(2)
        canvas[0] = a
        canvas[1] = 2 * b
        pyro.sample("x", dist.Normal(canvas.sum() * weight, 1.0), obs=x)

    def guide():
        a = pyro.sample("a", dist.Bernoulli(logits=logit))
        pyro.sample("b", dist.Bernoulli(logits=logit_of_b(a.item())))

    exact = torch.zeros(())
    for a, b in itertools.product((0.0, 1.0), repeat=2):
        values = torch.tensor([a, b])
        log_q = dist.Bernoulli(logits=torch.stack([logit, logit_of_b(a)])).log_prob(values).sum()
        log_p = dist.Bernoulli(torch.tensor([0.4, 0.7])).log_prob(values).sum()
        log_p = log_p + dist.Normal((a + 2 * b) * weight, 1.0).log_prob(x)
        exact = exact + log_q.exp() * (log_p - log_q)
    wanted = torch.autograd.grad(exact, [logit, slope, weight])
    elbo = DiscreteELBO("enumerate", vectorize_particles=False)
    loss = elbo.differentiable_loss(model, guide)
    torch.testing.assert_close(loss, -exact, **CLOSE)
    for actual, expected in zip(
        torch.autograd.grad(loss, [logit, slope, weight]), wanted, strict=True
    ):
        torch.testing.assert_close(actual, -expected, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_networks_of_estimators_have_the_precision_of_the_program(dtype):
    """The mutation: single precision, whatever the program has."""
    logits = torch.zeros(2, dtype=dtype, requires_grad=True)

    def model():
        z = pyro.sample("z", dist.Bernoulli(0.5 * torch.ones(2, dtype=dtype)).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=torch.tensor(1.0, dtype=dtype))

    def guide():
        pyro.sample("z", dist.Bernoulli(logits=logits).to_event(1))

    elbo = DiscreteELBO("rodeo")
    (gradient,) = torch.autograd.grad(elbo.differentiable_loss(model, guide), [logits])
    assert gradient.isfinite().all()
    assert {weight.dtype for weight in elbo.estimators.parameters()} == {dtype}
