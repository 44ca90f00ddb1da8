"""Estimators on programs of all kinds: the exact value and gradients, or an error naming a site."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from pyro import poutine
from torch import Tensor

from pyro_models.presence import FixPresence
from tests.estimators.outcomes import PROGRAMS
from tests.estimators.programs import (
    SPECS,
    Given,
    Pair,
    Spec,
    enumerate_all,
    gradients,
    in_the_mean,
)
from train.estimators import (
    ConcreteELBO,
    EnumELBO,
    ImportanceWeightedELBO,
    MarginalELBO,
    MeanFieldELBO,
    ReweightedWakeSleepELBO,
    TraceGraphELBO,
    costs,
    counts,
)
from train.estimators.wake_sleep import DetachedDraws

EXAMPLES = settings(
    max_examples=int(os.environ.get("PROGRAMS", "20")),
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
CLOSE = {"rtol": 1e-8, "atol": 1e-8}


def small(spec: Spec) -> Spec:
    """A program whose combinations are few: two rows where it has two discrete draws or more."""
    spec = (
        spec if spec.discrete != "no" or spec.conditioned != "d" else replace(spec, discrete="row")
    )
    many = spec.objects + (spec.discrete in ("object", "row")) + (spec.auxiliary == "discrete")
    if many > 3:
        spec = replace(spec, auxiliary="no")
    return replace(spec, subsampled=True) if many > 1 else spec


def check_marginal(spec: Spec) -> None:
    pair = Pair(small(spec))
    exact = enumerate_all(pair).mean
    wanted = gradients(exact, pair)
    estimator = MarginalELBO(analytic=False)
    loss, actual = in_the_mean(estimator, pair, pair.draws)
    torch.testing.assert_close(loss, -exact.detach(), **CLOSE)
    for name, gradient in actual.items():
        torch.testing.assert_close(gradient, -wanted[name], **CLOSE)


@EXAMPLES
@given(spec=SPECS)
def test_marginal_is_exact(spec):
    check_marginal(spec)


@EXAMPLES
@given(spec=SPECS)
def test_enumeration_is_exact_and_its_terms_are_of_its_loss(spec):
    pair = Pair(small(spec))
    exact = enumerate_all(pair).mean
    wanted = gradients(exact, pair)
    estimator = EnumELBO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if spec.conditioned == "w_0" and not spec.unmasked:
            # The model has it observed, and the guide masks it by what is enumerated.
            with pytest.raises(ValueError, match=r"site w_0 .* use MarginalELBO"):
                estimator.differentiable_loss(pair.model, Given()(pair.guide))
            return
        loss = estimator.differentiable_loss(pair.model, Given()(pair.guide))
    torch.testing.assert_close(loss, -exact, **CLOSE)
    for name, gradient in gradients(loss, pair).items():
        torch.testing.assert_close(gradient, -wanted[name], **CLOSE)
    torch.testing.assert_close(estimator.terms["elbo"], -loss.detach(), **CLOSE)


# What each kind of thing in a program does, one at a time

KINDS = {
    "plain": Spec(objects=2),
    "pixels": Spec(pixels=True),
    "side": Spec(side=True, latent="before"),
    "subsampled": Spec(subsampled=True, objects=2),
    "row_mask": Spec(row_mask=True),
    "scale_all": Spec(scale_all=True),
    "scale_likelihood": Spec(scale_likelihood=True),
    "scale_prior": Spec(scale_prior=True),
    "unmasked": Spec(unmasked=True),
    "factor": Spec(factor="out"),
    "factor_in": Spec(factor="in", guide_factor="in"),
    "guide_factor": Spec(guide_factor="out"),
    "latent": Spec(latent="before"),
    "latent_after": Spec(latent="after"),
    "observation": Spec(observation=True),
    "discrete": Spec(discrete="row", subsampled=True),
    "discrete_global": Spec(discrete="global"),
    "discrete_object": Spec(discrete="object", subsampled=True),
    "auxiliary": Spec(auxiliary="continuous"),
    "auxiliary_discrete": Spec(auxiliary="discrete", subsampled=True),
    "auxiliary_observed": Spec(auxiliary="observed"),
    "conditioned": Spec(conditioned="z_0"),
    "conditioned_latent": Spec(conditioned="w_0"),
}
ONE_BY_ONE = pytest.mark.parametrize("kind", KINDS)


@ONE_BY_ONE
def test_drawn_presences_are_exact_in_the_mean(kind):
    pair = Pair(KINDS[kind])
    if pair.rows == 3:
        # Three rows of two draws each have 64 combinations, each of which is run.
        pair = Pair(replace(pair.spec, subsampled=True))
    exact = enumerate_all(pair).mean
    wanted = gradients(exact, pair)
    with warnings.catch_warnings():
        # Pyro warns of sites of the guide alone.
        warnings.simplefilter("ignore")
        for estimator in (TraceGraphELBO(), MeanFieldELBO(analytic=False)):
            loss, actual = in_the_mean(estimator, pair, pair.presences | pair.draws)
            torch.testing.assert_close(loss, -exact.detach(), **CLOSE)
            for name, gradient in actual.items():
                torch.testing.assert_close(gradient, -wanted[name], **CLOSE)


def means(estimator: Any, pair: Pair, runs: int = 10) -> Tensor:
    """Losses and gradients of runs of many draws, a row for each run."""
    rows = []
    for seed in range(runs):
        pyro.set_rng_seed(seed)
        loss = estimator.differentiable_loss(pair.model, pair.guide)
        actual = gradients(loss, pair)
        rows.append(torch.cat([loss.detach().reshape(1), *actual.values()]))
    return torch.stack(rows)


@ONE_BY_ONE
@pytest.mark.parametrize(
    "estimator",
    [
        MarginalELBO(500, vectorize_particles=True),
        MeanFieldELBO(500, vectorize_particles=True),
        ConcreteELBO(500, temperature=1e-3, vectorize_particles=True),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_divergences_in_closed_form_have_the_mean_of_those_at_the_draw(kind, estimator):
    pair = Pair(KINDS[kind])
    reference = means(MarginalELBO(500, analytic=False, vectorize_particles=True), pair)
    actual = means(estimator, pair)
    if isinstance(estimator, ConcreteELBO):
        # Its gradient is biased, its value is not as it cools.
        reference, actual = reference[:, :1], actual[:, :1]
    variance = (reference.var(0) + actual.var(0)) / len(actual)
    gap = (reference.mean(0) - actual.mean(0)).abs()
    assert (gap <= 5 * variance.sqrt() + 1e-9).all()
    assert estimator.terms["elbo"].shape == ()


# Bounds of several draws: of each row, or of all together where a site is outside the plate

DRAWS = 2
WEIGHTED = {
    name: spec
    for name, spec in KINDS.items()
    if spec.discrete == "no" and spec.auxiliary != "discrete"
}


def seeded(pair: Pair) -> Callable[[], None]:
    """The guide, with other noise at each run."""

    def guide() -> None:
        with Given(seed=int(torch.randint(10**6, ()))):
            pair.guide()

    return guide


@pytest.mark.parametrize("kind", WEIGHTED)
def test_the_bound_is_exact(kind):
    pair = Pair(WEIGHTED[kind])
    estimator = ImportanceWeightedELBO(DRAWS, tight=0.3, vectorize_particles=False)
    if pair.spec.subsampled and pair.outside:
        with pytest.raises(ValueError, match="different scales"):
            estimator.differentiable_loss(pair.model, pair.guide)
        return
    pyro.set_rng_seed(1)
    runs = [enumerate_all(pair, int(torch.randint(10**6, ()))) for _ in range(DRAWS)]
    beta = pair.scale
    joint = [run.elbo[:, None] if pair.outside else run.by_row for run in runs]
    log_w = [
        (run.log_q[:, None] + value / beta).logsumexp(0)
        for run, value in zip(runs, joint, strict=True)
    ]
    elbo = sum(run.mean for run in runs) / DRAWS
    bound = beta * (torch.stack(log_w).logsumexp(0) - math.log(DRAWS)).sum()
    divergence = beta * torch.stack(log_w).sum() / DRAWS - elbo
    wanted = gradients(0.3 * (bound - divergence) + 0.7 * elbo, pair)
    pyro.set_rng_seed(1)
    loss = estimator.differentiable_loss(pair.model, seeded(pair))
    torch.testing.assert_close(loss, -bound, **CLOSE)
    for name, gradient in gradients(loss, pair).items():
        torch.testing.assert_close(gradient, -wanted[name], **CLOSE)
    torch.testing.assert_close(estimator.terms["elbo"], elbo.detach(), **CLOSE)
    torch.testing.assert_close(estimator.terms["iw_bound"], bound.detach(), **CLOSE)


@pytest.mark.parametrize("discrete", ["row", "global"])
def test_the_bound_of_a_further_discrete_draw_has_its_gradient_in_the_mean(discrete):
    pair = Pair(Spec(discrete=discrete, subsampled=discrete == "row"))
    estimator = ImportanceWeightedELBO(1, tight=0.0, vectorize_particles=False)
    exact = enumerate_all(pair)
    wanted = gradients(exact.mean, pair)
    _, actual = in_the_mean(estimator, pair, pair.draws)
    for name, gradient in actual.items():
        torch.testing.assert_close(gradient, -wanted[name], **CLOSE)


@ONE_BY_ONE
def test_wake_sleep_is_exact(kind):
    pair = Pair(KINDS[kind])
    estimator = ReweightedWakeSleepELBO(DRAWS, vectorize_particles=False)
    pyro.set_rng_seed(1)
    log_p, log_q, factors = [], [], []
    for _ in range(DRAWS):
        with DetachedDraws():
            guide = poutine.trace(pair.guide).get_trace()
        guide.detach_()
        model = poutine.trace(poutine.replay(pair.model, trace=guide)).get_trace()
        totals: list[Any] = [0.0, 0.0, 0.0]
        for place, trace in enumerate((model, guide)):
            trace = poutine.util.prune_subsample_sites(trace)
            trace.compute_log_prob()
            for site in trace.nodes.values():
                if site["type"] == "sample":
                    value = site["log_prob"] / pair.scale
                    if pair.outside:
                        value = value.sum()
                    elif pair.spec.pixels:
                        value = value.sum(-1)
                    which = 2 if place and site["is_observed"] else place
                    totals[which] = totals[which] + value
        for values, total in zip((log_p, log_q, factors), totals, strict=True):
            values.append(torch.as_tensor(total, dtype=torch.float64).reshape(-1))
    p, q, f = (torch.stack(torch.broadcast_tensors(*values)) for values in (log_p, log_q, factors))
    log_w = p - q.detach() - f
    bound = pair.scale * (log_w.logsumexp(0) - math.log(DRAWS)).sum()
    phi = pair.scale * (log_w.detach().softmax(0) * q).sum()
    wanted = gradients(bound + phi, pair)
    pyro.set_rng_seed(1)
    loss = estimator.differentiable_loss(pair.model, pair.guide)
    torch.testing.assert_close(loss, -bound, **CLOSE)
    for name, gradient in gradients(loss, pair).items():
        torch.testing.assert_close(gradient, -wanted[name], **CLOSE)
    elbo = pair.scale * (p - q - f).sum(1).mean()
    torch.testing.assert_close(estimator.terms["elbo"], elbo.detach(), **CLOSE)


@ONE_BY_ONE
def test_terms_are_of_the_loss(kind):
    pair = Pair(KINDS[kind])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for estimator in (
            MarginalELBO(2),
            MeanFieldELBO(2, vectorize_particles=True),
            ConcreteELBO(2),
            TraceGraphELBO(2),
            TraceGraphELBO(2, vectorize_particles=True),
        ):
            loss = estimator.differentiable_loss(pair.model, pair.guide).detach()
            terms = dict(estimator.terms)
            torch.testing.assert_close(terms.pop("elbo"), -loss, **CLOSE)
            summed = terms.pop("log_likelihood") - sum(terms.values())
            torch.testing.assert_close(summed, -loss, **CLOSE)


# Mutations, each of which has to be told from what is right


class OnceARow(counts.Counts):
    """A mutant that takes every site for one of the presences' plate."""

    def mean(self, value: Tensor) -> Tensor:
        if self.log_q is None:
            return value
        return (self.q * value.expand(torch.broadcast_shapes(value.shape, self.q.shape))).sum(
            -self.dim
        )


def nothing(*args: Any, **kwargs: Any) -> float:
    return 0.0


MUTANTS: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], None]]] = {
    "the scale": (
        "scale_likelihood",
        lambda patch: patch.setattr(costs, "scaled", lambda value, scale: value),
    ),
    "the scale of a subsample": (
        "subsampled",
        lambda patch: patch.setattr(costs, "scaled", lambda value, scale: value),
    ),
    "the mask": (
        "row_mask",
        lambda patch: patch.setattr(counts, "masked", lambda value, mask: value),
    ),
    "the factor": (
        "factor",
        lambda patch: patch.setattr(
            costs,
            "observed_cost",
            lambda site, mean, keep=costs.observed_cost: (
                nothing_alone(site, mean) if isinstance(site["fn"], dist.Unit) else keep(site, mean)
            ),
        ),
    ),
    "the guide's factor": (
        "guide_factor",
        lambda patch: patch.setattr(costs, "guide_only_cost", nothing_alone),
    ),
    "the guide's own latent": (
        "auxiliary",
        lambda patch: patch.setattr(costs, "guide_only_cost", nothing_alone),
    ),
    "the plate": ("latent", lambda patch: patch.setattr(counts, "Counts", OnceARow)),
    "the score function": (
        "discrete",
        lambda patch: patch.setattr(costs, "score_surrogate", nothing),
    ),
    "the guide's mask": (
        "plain",
        lambda patch: patch.setattr(counts.Counts, "guide_mean", counts.Counts.model_mean),
    ),
}


def nothing_alone(site: Any, under_guide: Any, **_: Any) -> costs.Cost:
    return costs.Cost(site["name"], "factor", (costs.Summand(torch.zeros(()), ()),), ())


@pytest.mark.parametrize("mutant", MUTANTS)
def test_what_leaves_something_out_is_told_from_what_is_right(mutant, monkeypatch):
    kind, mutate = MUTANTS[mutant]
    check_marginal(KINDS[kind])
    mutate(monkeypatch)
    with pytest.raises((AssertionError, RuntimeError, ValueError)):
        check_marginal(KINDS[kind])


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_presence_that_both_are_conditioned_on_keeps_its_value(value, monkeypatch):
    pair = Pair(Spec(objects=2, subsampled=True))
    given = {"z_0": torch.full(pair.shape, value, dtype=torch.float64)}
    pair.model, pair.guide = (
        poutine.condition(function, data=given) for function in (pair.model, pair.guide)
    )
    del pair.presences["z_0"]
    exact = enumerate_all(pair).mean
    loss = MarginalELBO(analytic=False).differentiable_loss(pair.model, Given()(pair.guide))
    torch.testing.assert_close(loss, -exact, **CLOSE)

    # The mutation: it is given like the others.
    def overwrite(self: FixPresence, message: dict[str, Any]) -> None:
        if message["infer"].get("presence"):
            message["value"] = self.value(len(self.names), message)
            message["is_observed"], message["done"] = False, True
            self.names.append(message["name"])

    monkeypatch.setattr(FixPresence, "_pyro_sample", overwrite)
    mutated = MarginalELBO(analytic=False).differentiable_loss(pair.model, Given()(pair.guide))
    assert (mutated + exact).abs() > 1e-3


# Programs that an estimator cannot take are refused, by the name of a site


def program(
    guide: Callable[[], Any], model: Callable[[], Any]
) -> tuple[Callable[[], None], Callable[[], None]]:
    """A model and guide in a plate of three; each function gets to draw in it."""

    def inside(function: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            with pyro.plate("rows", 3):
                function()

        return run

    return inside(model), inside(guide)


def presence(name: str = "z_0", probs: Any = 0.4) -> Tensor:
    return pyro.sample(name, dist.Bernoulli(probs), infer={"presence": True})


def appearance(loc: Any = 0.0, name: str = "w") -> Tensor:
    return pyro.sample(name, dist.Normal(loc, 1.0))


def observe(loc: Any) -> None:
    pyro.sample("x", dist.Normal(loc, 1.0), obs=DATA)


DATA = torch.tensor([1.3, -0.2, 2.4])


def in_another_plate() -> None:
    z = presence()
    with pyro.plate("pairs", 2, dim=-2):
        presence("z_1", 0.5 * z)


REFUSED: dict[str, tuple[Callable[[], Any], Callable[[], Any], str]] = {
    "a latent that depends on a presence": (
        lambda: appearance(presence()),
        lambda: observe(presence() * appearance()),
        r"site w of the guide depends on presences",
    ),
    "presences that do not end": (
        lambda: (presence(), presence("z_1")),
        lambda: observe(presence() + presence("z_1")),
        r"site z_1 may be present after z_0 is absent",
    ),
    "presences in two plates": (
        in_another_plate,
        in_another_plate,
        r"site z_1 is marked as a presence and is in other plates than z_0",
    ),
    "a mask that is no matter of presence alone": (
        lambda: poutine.mask(appearance, mask=(presence() + torch.arange(3.0)) > 1)(),
        lambda: observe(presence() * appearance()),
        r"site w of the guide is masked by something else than the presence",
    ),
    "another row's presence": (
        presence,
        lambda: observe(presence().mean(-1, keepdim=True)),
        r"site x of the model depends on presences of other members of its plate",
    ),
    "another row's mask": (
        lambda: poutine.mask(appearance, mask=presence().flip(-1) > 0)(),
        lambda: [z := presence(), observe(z * poutine.mask(appearance, mask=z > 0)())],
        r"site w of the (guide|model) depends on presences of other members of its plate",
    ),
    "a row seen whole": (
        presence,
        lambda: observe(presence().sum(-1, keepdim=True)),
        r"site x of the model has another log-probability given all numbers of objects at once",
    ),
    "a branch": (
        presence,
        lambda: observe(1.0 if presence().sum() > 2 else 0.0),
        r"site x of the model has another log-probability given all numbers of objects at once",
    ),
    "a model that does not broadcast": (
        presence,
        lambda: observe(presence().view(3)),
        r"the model fails given presences of shape \(2, 1\)",
    ),
    "a latent that the guide lacks": (
        presence,
        lambda: observe(presence() * appearance()),
        r"site w is drawn by the model and is not in the guide",
    ),
    "a factor of the guide that does not say": (
        lambda: (presence(), pyro.factor("f", torch.ones(3))),
        lambda: observe(presence()),
        r"site f is a factor of the guide: give pyro.factor\(..., has_rsample=True\)",
    ),
    "a presence of another kind": (
        lambda: pyro.sample("z_0", dist.Categorical(torch.ones(2)), infer={"presence": True}),
        lambda: observe(pyro.sample("z_0", dist.Categorical(torch.ones(2)))),
        r"site z_0 is marked as a presence and is a Categorical",
    ),
    "no presence": (
        lambda: pyro.sample("z_0", dist.Bernoulli(0.4)),
        lambda: observe(pyro.sample("z_0", dist.Bernoulli(0.4))),
        r"no site of the guide is marked",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_summed_out_is_refused_by_name(case):
    guide, model, words = REFUSED[case]
    with pytest.raises(ValueError, match=words) as caught:
        MarginalELBO().differentiable_loss(*program(guide, model))
    assert "\n" not in str(caught.value)


# Draws, plates and random numbers


class Learner(torch.nn.Module):
    """A baseline of a user's own: one value for each step, no dimension of draws."""

    def __init__(self) -> None:
        super().__init__()
        self.value = torch.nn.Parameter(torch.tensor(-3.0))


@pytest.mark.parametrize("side_by_side", [True, False])
@pytest.mark.parametrize("kind", ["baseline_value", "nn_baseline", "use_decaying_avg_baseline"])
def test_every_baseline_takes_every_draw(kind, side_by_side):
    torch.manual_seed(0)
    learner = Learner()
    options = {
        "baseline_value": lambda: {"baseline_value": learner.value.expand(3)},
        "nn_baseline": lambda: {
            "nn_baseline": lambda given: learner.value + given,
            "nn_baseline_input": torch.zeros(3),
        },
        "use_decaying_avg_baseline": lambda: {"use_decaying_avg_baseline": True},
    }
    logits = torch.tensor(0.4, requires_grad=True)

    def guide(baseline: bool = True) -> None:
        with pyro.plate("rows", 3):
            infer = {"presence": True} | ({"baseline": options[kind]()} if baseline else {})
            pyro.sample("z", dist.Bernoulli(logits=logits), infer=infer)

    def model(baseline: bool = True) -> None:
        with pyro.plate("rows", 3):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            observe(2.0 * z)

    exact = -MarginalELBO().differentiable_loss(model, guide)
    (wanted,) = torch.autograd.grad(exact, logits)
    rows = []
    for _ in range(40):
        estimator = TraceGraphELBO(50 if side_by_side else 3, vectorize_particles=side_by_side)
        loss = estimator.differentiable_loss(model, guide)
        rows.append(torch.autograd.grad(loss, logits, retain_graph=True)[0])
        if kind != "use_decaying_avg_baseline":
            assert torch.autograd.grad(loss, learner.value)[0].abs() > 0
    drawn = -torch.stack(rows)
    assert (drawn.mean() - wanted).abs() < 5 * drawn.std() / len(drawn) ** 0.5


def test_looking_at_a_pair_draws_no_random_numbers_and_moves_no_buffers():
    class Counted(torch.nn.Module):
        def __init__(self, pair: Pair) -> None:
            super().__init__()
            self.run = pair.guide
            self.register_buffer("calls", torch.zeros(()))

        def forward(self) -> None:
            self.calls += 1
            self.run()

    pair = Pair(Spec(objects=2, pixels=True))
    for estimator in (
        MarginalELBO(vectorize_particles=True, num_particles=3),
        ConcreteELBO(),
        ReweightedWakeSleepELBO(2),
        MeanFieldELBO(),
        TraceGraphELBO(3, vectorize_particles=True),
        EnumELBO(),
    ):
        guide = Counted(pair)
        losses = []
        for _ in range(2):
            pyro.set_rng_seed(4)
            losses.append(estimator.loss(pair.model, guide))
        # The first one looked at the pair, the second did not.
        assert losses[0] == losses[1]
        assert guide.calls == 2
        assert estimator.max_plate_nesting == 2 + (estimator.vectorize_particles is True)


def test_another_pair_is_examined_anew():
    estimator = MarginalELBO(analytic=False)
    for spec in (Spec(), Spec(objects=2, pixels=True, subsampled=True), Spec(latent="after")):
        pair = Pair(spec)
        loss = estimator.differentiable_loss(pair.model, Given()(pair.guide))
        torch.testing.assert_close(loss, -enumerate_all(pair).mean, **CLOSE)


@pytest.mark.parametrize(
    "estimator",
    [
        MarginalELBO(),
        MeanFieldELBO(),
        ConcreteELBO(),
        ImportanceWeightedELBO(2),
        ReweightedWakeSleepELBO(2),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_a_pair_that_changes_is_examined_anew(estimator):
    """The mutation: sites that come later are left out, and latents without a guide drawn."""
    more: set[str] = set()

    def draw() -> Tensor:
        z = presence()
        return z * appearance() if "both" in more else z

    def model() -> None:
        with pyro.plate("rows", 3):
            observe(draw() + (appearance(name="v") if "model" in more else 0.0))

    def guide() -> None:
        with pyro.plate("rows", 3):
            draw()

    estimator.loss(model, guide)
    assert "kl_w" not in estimator.terms
    more.add("both")
    if isinstance(estimator, MarginalELBO):
        assert estimator.elbo(model, guide).shape == (3,)
        more.remove("both")
        estimator.loss(model, guide)
        more.add("both")
    estimator.loss(model, guide)
    assert "kl_w" in estimator.terms
    more.add("model")
    with pytest.raises(ValueError, match="site v is drawn by the model and is not in the guide"):
        estimator.loss(model, guide)


def test_too_few_plates_are_refused():
    pair = Pair(Spec(pixels=True))
    with pytest.raises(ValueError, match="give max_plate_nesting=2, or leave it out"):
        MarginalELBO(max_plate_nesting=1).differentiable_loss(pair.model, pair.guide)


@pytest.mark.parametrize("program", ["masked", "own_masked", "wholly_masked"])
def test_a_draw_that_is_masked_changes_costs_all_the_same(double, program):
    """By a handler's mask, and by one of the distribution's own.

    The mutation: a score function that the mask of a distribution takes out.
    """
    pair = PROGRAMS[program]()
    found, _ = pair.moments(lambda: MeanFieldELBO(analytic=False))
    torch.testing.assert_close(found, pair.exact(), **CLOSE)
