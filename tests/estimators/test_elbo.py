from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import ELBO, SVI, TraceGraph_ELBO
from pyro.nn import PyroModule
from pyro.ops.provenance import detach_provenance
from torch import Tensor, nn

from guides.air import (
    BaselineNetwork,
    ConvolutionalGuide,
    DecayingAverage,
    RecurrentGuide,
    ResidualGuide,
)
from tests.conftest import SmallAIR
from tests.estimators.exact import (
    Projections,
    brute_force,
    gradients,
    parameters,
    require_exact_sum,
    z_scores,
)
from train.estimators import ConcreteELBO, EnumELBO, MarginalELBO, TraceGraphELBO, count_out

GUIDES = pytest.mark.parametrize("guide_class", [ResidualGuide, RecurrentGuide, ConvolutionalGuide])
RESTS = ("z_where", "z_what")
PRIORS = pytest.mark.parametrize("count_prior", ["steps", "geometric"])
ESTIMATORS = pytest.mark.parametrize(
    "estimator_class", [MarginalELBO, TraceGraphELBO, EnumELBO, ConcreteELBO]
)
BASELINES = {
    "none": lambda: None,
    "average": lambda: DecayingAverage(3),
    "network": lambda: BaselineNetwork(110, 8, hidden=8),
}


def stepwise_gradients(estimator: Any, air: SmallAIR, **kwargs: Any) -> tuple[float, dict]:
    """The loss, and the gradients that ``loss_and_grads`` leaves, the baseline's among them."""
    modules = nn.ModuleList([air.model, air.guide])
    modules.zero_grad()
    loss = estimator.loss_and_grads(air.model, air.guide, air.images, **kwargs)
    return loss, {name: weight.grad for name, weight in modules.named_parameters()}


def estimate(
    estimator: ELBO, air: SmallAIR, **kwargs: Any
) -> tuple[Tensor, poutine.Trace, poutine.Trace]:
    """Estimates a loss, and traces the model and guide that the estimator ran.

    Returns:
        The differentiable loss, and the traces of the model and of the guide.
    """
    model, guide = poutine.trace(air.model), poutine.trace(air.guide)
    loss = estimator.differentiable_loss(model, guide, air.images, **kwargs)
    for trace in (model.trace, guide.trace):
        trace.compute_log_prob()
    return loss, model.trace, guide.trace


class Stop(poutine.messenger.Messenger):
    """Gives presences: image ``b`` has its first ``counts[b]`` objects."""

    def __init__(self, counts: Tensor) -> None:
        super().__init__()
        self.counts = counts

    def _pyro_sample(self, message: dict[str, Any]) -> None:
        if message["name"].startswith("z_pres_") and not message["done"]:
            step = int(message["name"][-1])
            message["value"] = (self.counts > step).to(torch.get_default_dtype())
            message["done"] = True


# The value and the gradient of the marginal estimator


@GUIDES
@PRIORS
@pytest.mark.parametrize(
    ("channels", "beta", "pi"), [(1, 1.0, None), (1, 0.7, None), (1, 1.3, 0.6), (3, 1.3, 0.6)]
)
def test_marginal_is_brute_force_over_all_counts(
    small_air, guide_class, count_prior, channels, beta, pi
):
    air = small_air(guide_class, count_prior=count_prior, shape=(channels, 10, 11))
    pyro.set_rng_seed(1)
    expected = brute_force(air, beta=beta, pi=0.3 if pi is None else pi)
    pyro.set_rng_seed(1)
    annealed = {"beta": torch.tensor(beta), "presence_prior": pi}
    loss = MarginalELBO().differentiable_loss(*air, **annealed)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    actual, wanted = gradients(loss, air), gradients(expected, air)
    assert all(gradient.any() for gradient in wanted.values())
    torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-9)


@GUIDES
@PRIORS
@pytest.mark.parametrize(("channels", "beta"), [(1, 1.0), (1, 0.7), (3, 0.7)])
def test_marginal_is_pyros_enumeration(small_air, guide_class, count_prior, channels, beta):
    air = small_air(guide_class, count_prior=count_prior, shape=(channels, 10, 11))
    require_exact_sum(air, beta)


@GUIDES
def test_each_count_is_the_joint_with_its_presences_fixed(small_air, guide_class):
    air = small_air(guide_class)
    pyro.set_rng_seed(1)
    counts = count_out(air.model, air.guide, (air.images,), {"beta": 0.5})
    assert counts.log_q.shape == (4, 6)
    torch.testing.assert_close(counts.log_q.exp().sum(0), torch.ones(6))
    costs = sum(cost.value for cost in counts.costs_by_count())
    for n in range(4):
        pyro.set_rng_seed(1)
        with Stop(torch.full((6,), n)):
            q = poutine.trace(air.guide).get_trace(air.images, beta=0.5)
        p = poutine.trace(poutine.replay(air.model, trace=q)).get_trace(air.images, beta=0.5)
        q.compute_log_prob()
        p.compute_log_prob()
        log_p, log_q = (
            sum(site["log_prob"] for site in trace.nodes.values() if "log_prob" in site)
            for trace in (p, q)
        )
        drawn = sum(q.nodes[f"z_pres_{i}"]["unscaled_log_prob"] for i in range(3))
        torch.testing.assert_close(counts.log_q[n], drawn)
        torch.testing.assert_close(costs[n], log_p - log_q)


# The score-function estimator against Pyro's


@GUIDES
# Not two draws with the average: by the second it has learnt from the first.
@pytest.mark.parametrize(
    ("baseline", "num_particles"),
    [("none", 1), ("none", 2), ("average", 1), ("network", 1), ("network", 2)],
)
def test_tracegraph_is_pyros(small_air, guide_class, baseline, num_particles):
    air = small_air(guide_class, baseline=BASELINES[baseline]())
    TraceGraphELBO().differentiable_loss(*air)  # an average now knows something
    state = {name: value.clone() for name, value in air.guide.state_dict().items()}
    options = {"num_particles": num_particles}

    pyro.set_rng_seed(1)
    expected, wanted = stepwise_gradients(TraceGraph_ELBO(**options), air, beta=0.7)
    air.guide.load_state_dict(state)
    pyro.set_rng_seed(1)
    nn.ModuleList([air.model, air.guide]).zero_grad()
    loss = TraceGraphELBO(**options).differentiable_loss(*air, beta=0.7)
    loss.backward()
    named = nn.ModuleList([air.model, air.guide]).named_parameters()
    torch.testing.assert_close(
        {name: weight.grad for name, weight in named}, wanted, rtol=0, atol=0
    )
    assert all(gradient.any() for gradient in wanted.values())
    assert loss.item() == pytest.approx(expected, rel=1e-12)

    air.guide.load_state_dict(state)
    pyro.set_rng_seed(1)
    stepped, actual = stepwise_gradients(TraceGraphELBO(**options), air, beta=0.7)
    assert stepped == expected
    torch.testing.assert_close(actual, wanted, rtol=0, atol=0)


# The mean of the score-function estimator's gradient, and what would spoil it


@pytest.fixture(scope="module")
def known() -> dict[Any, Tensor]:
    return {}


@pytest.fixture
def against(small_air: Callable[..., SmallAIR], known: dict) -> Callable[..., Any]:
    """Makes a small AIR's projections, and draws of the exact gradient to hold others against."""

    def make(
        guide_class: type = ResidualGuide, baseline: nn.Module | None = None, **settings: Any
    ) -> tuple[Projections, Tensor]:
        # Two steps: Pyro's time goes with the number of sites. A small prior: a large divergence.
        settings = {"max_objects": 2, "presence_prior": 0.05, **settings}
        project = Projections(small_air(guide_class, baseline=baseline, **settings))
        key = (guide_class, *settings.items())
        if key not in known:
            pyro.set_rng_seed(1)
            known[key] = project.draw(MarginalELBO())
        pyro.set_rng_seed(2)
        return project, known[key]

    return make


class LikelihoodAlone(TraceGraphELBO):
    """A mutant whose presences learn from the likelihood, and from no KL that follows them."""

    # The method by which subclasses of Pyro's ELBO make their traces; it has no public name.
    def _get_trace(self, *args: Any) -> Any:
        traces = super()._get_trace(*args)
        for trace in traces:
            for name, site in trace.nodes.items():
                if name.startswith("z_"):
                    for key in ("log_prob", "log_prob_sum"):
                        site[key] = detach_provenance(site[key])
        return traces


class PaysForTheFirstAbsent(TraceGraphELBO):
    """A mutant that masks where and what by the presence of the object before."""

    def _get_trace(self, *args: Any) -> Any:
        traces = super()._get_trace(*args)
        for trace in traces:
            before: Any = True
            for i in range(2):
                for name in RESTS:
                    site = trace.nodes[f"{name}_{i}"]
                    site["mask"] = before
                    for key in ("log_prob", "log_prob_sum", "unscaled_log_prob", "score_parts"):
                        site.pop(key, None)
                before = trace.nodes[f"z_pres_{i}"]["value"] > 0
        traces[0].compute_log_prob()
        traces[1].compute_score_parts()
        return traces


class AttachedNetwork(BaselineNetwork):
    """A mutant whose squared error moves the guide's state too."""

    def forward(self, step: int, images: Tensor, hidden: Tensor) -> Tensor:
        features = self.image(images.flatten(-3)) + self.state(hidden)
        return self.unit * self.head(features.relu()).squeeze(-1)


class AttachedCost(TraceGraphELBO):
    """A mutant whose cost is no constant beside the score."""

    def differentiable_loss(self, model: Any, guide: Any, *args: Any) -> Tensor:
        model, guide = poutine.trace(model), poutine.trace(guide)
        loss = super().differentiable_loss(model, guide, *args)
        for trace in (model.trace, guide.trace):
            trace.compute_log_prob()
        likelihood = model.trace.nodes["x"]["log_prob"]
        scores = sum(guide.trace.nodes[f"z_pres_{i}"]["log_prob"] for i in range(2))
        return loss - detach_provenance((scores.detach() * likelihood).sum())


@GUIDES
def test_tracegraphs_mean_gradient_is_the_marginal_one(against, guide_class):
    project, exact = against(guide_class)
    assert (z_scores(project.draw(TraceGraphELBO()), exact) < 5).all()


def test_divergences_at_the_draw_have_the_same_mean_gradient(against):
    project, exact = against()
    assert (z_scores(project.draw(MarginalELBO(analytic=False)), exact) < 5).all()


@pytest.mark.parametrize("mutant", [LikelihoodAlone, PaysForTheFirstAbsent, AttachedCost])
def test_a_wrong_gradient_is_told_from_a_right_one(against, mutant):
    project, exact = against()
    assert (z_scores(project.draw(mutant()), exact) > 5).any()


def test_a_baseline_attached_to_the_guide_is_told_from_a_right_one(against):
    project, exact = against(baseline=AttachedNetwork(110, 8, hidden=8, unit=10.0))
    assert (z_scores(project.draw(TraceGraphELBO()), exact) > 5).any()


def warm_average(air: SmallAIR) -> None:
    for _ in range(3):
        TraceGraphELBO().differentiable_loss(*air)


def train_network(air: SmallAIR) -> None:
    optimiser = torch.optim.Adam(air.guide.baseline.parameters(), lr=0.02)
    images = air.images.repeat(20, 1, 1, 1)
    for _ in range(50):
        optimiser.zero_grad()
        loss = TraceGraphELBO().differentiable_loss(air.model, air.guide, images)
        loss.backward(inputs=list(air.guide.baseline.parameters()))
        optimiser.step()


def test_a_baseline_changes_the_variance_and_not_the_mean(against):
    # The likelihood's constant is large and the same for each image: what a baseline is for.
    settings = {"likelihood_scale": 2.0}
    project, exact = against(**settings)
    without = project.draw(TraceGraphELBO())
    assert (z_scores(without, exact) < 5).all()
    for baseline, prepare in (("average", warm_average), ("network", train_network)):
        project, exact = against(baseline=BASELINES[baseline](), **settings)
        prepare(project.air)
        actual = project.draw(TraceGraphELBO())
        assert (z_scores(actual, exact) < 5).all()
        presence = [0, 2]
        assert (actual.var(0)[presence] < without.var(0)[presence] / 20).all()


# The running average


def test_decaying_average_is_a_weighted_mean(double):
    average = DecayingAverage(2, decay=0.9)
    images, hidden = torch.zeros(3, 1, 10, 11), torch.zeros(3, 8)
    assert average(0, images, hidden).tolist() == [0.0, 0.0, 0.0]
    average.update(0, torch.tensor([1.0, 3.0]), torch.ones(2))
    assert average(0, images, hidden).tolist() == [2.0, 2.0, 2.0]
    average.update(0, torch.tensor([10.0, 99.0, 4.0]), torch.tensor([1.0, 0.0, 1.0]))
    expected = torch.full((3,), (0.9 * 4 + 14) / (0.9 * 2 + 2))
    torch.testing.assert_close(average(0, images, hidden), expected)
    assert average(1, images, hidden).tolist() == [0.0, 0.0, 0.0]


def test_decaying_average_learns_the_cost_after_each_presence(small_air):
    air = small_air(baseline=DecayingAverage(3))
    loss = TraceGraphELBO().differentiable_loss(*air, beta=0.7)
    average = air.guide.baseline
    assert average.weight[0] == 6
    torch.testing.assert_close(average.total[0], -loss.detach())


def test_decaying_average_learns_what_a_step_can_change(small_air):
    air = small_air(baseline=DecayingAverage(3))
    estimator = TraceGraphELBO()
    _, p, q = estimate(estimator, air, beta=0.7)
    average = air.guide.baseline
    present = torch.ones(6)
    for i in range(3):
        later = [f"{name}_{j}" for j in range(i, 3) for name in ("z_pres", *RESTS)]
        cost = p.nodes["x"]["log_prob"] + sum(
            p.nodes[name]["log_prob"] - q.nodes[name]["log_prob"] for name in later
        )
        assert average.weight[i] == present.sum()
        torch.testing.assert_close(
            average.total[i], detach_provenance((present * cost).sum()).detach()
        )
        present = detach_provenance(q.nodes[f"z_pres_{i}"]["value"])


def test_decaying_average_lives_in_the_state_dict(small_air):
    air = small_air(baseline=DecayingAverage(3))
    elbo = TraceGraphELBO()
    for images in (air.images, air.images[:4], air.images.repeat(2, 1, 1, 1)):
        assert elbo.differentiable_loss(air.model, air.guide, images).isfinite()
    state = air.guide.state_dict()
    assert state["baseline.weight"][0] > 0
    assert state["baseline.total"][0] != 0
    assert not [name for name in pyro.get_param_store() if "baseline" in name]
    fresh = small_air(baseline=DecayingAverage(3)).guide
    fresh.load_state_dict(state)
    assert torch.equal(fresh.baseline.total, air.guide.baseline.total)


def test_decaying_average_learns_only_with_gradients(small_air):
    air = small_air(baseline=DecayingAverage(3))
    elbo = TraceGraphELBO()
    with torch.no_grad():
        elbo.differentiable_loss(*air)
    elbo.loss(*air)
    assert not air.guide.baseline.weight.any()
    elbo.differentiable_loss(*air)
    assert air.guide.baseline.weight[0] == 6


# Absent objects


@GUIDES
def test_absent_objects_add_exactly_nothing(small_air, guide_class):
    air = small_air(guide_class)
    counts = torch.tensor([0, 1, 2, 3, 0, 1])
    estimator = TraceGraphELBO()
    with Stop(counts):
        loss, p, q = estimate(estimator, air)
    for i in range(3):
        normals = [q.nodes[f"{name}_{i}"] for name in RESTS]
        for trace in (p, q):
            for name in RESTS:
                log_prob = trace.nodes[f"{name}_{i}"]["log_prob"]
                assert torch.equal(log_prob != 0, counts > i)
            assert torch.equal(trace.nodes[f"z_pres_{i}"]["log_prob"] != 0, counts >= i)
        fns = [getattr(site["fn"], "base_dist", site["fn"]) for site in normals]
        of_step = [(fn.loc, counts > i) for fn in fns] + [(fn.scale, counts > i) for fn in fns]
        of_step.append((q.nodes[f"z_pres_{i}"]["fn"].logits, counts >= i))
        outputs, matters = zip(*of_step, strict=True)
        actual = torch.autograd.grad(loss, outputs, retain_graph=True)
        for gradient, matter in zip(actual, matters, strict=True):
            assert torch.equal(
                gradient.flatten(1).any(1) if gradient.ndim > 1 else gradient != 0, matter
            )


@GUIDES
def test_an_empty_scene_moves_nothing_but_the_first_presence(small_air, guide_class):
    air = small_air(guide_class)
    estimator = TraceGraphELBO()
    with Stop(torch.zeros(6)):
        loss, p, q = estimate(estimator, air)
    for trace in (p, q):
        for i in range(3):
            assert trace.nodes[f"z_where_{i}"]["log_prob_sum"].item() == 0.0
            assert trace.nodes[f"z_what_{i}"]["log_prob_sum"].item() == 0.0
            assert i == 0 or trace.nodes[f"z_pres_{i}"]["log_prob_sum"].item() == 0.0
    actual = dict(
        zip(
            parameters(air),
            torch.autograd.grad(loss, list(parameters(air).values()), materialize_grads=True),
            strict=True,
        )
    )
    moved = {name for name, gradient in actual.items() if gradient.any()}
    if guide_class is ConvolutionalGuide:
        layers = ("features.0", "features.2", "features.4", "head")
        others, head = {"gains", "choice.weight"}, "head"
    else:
        layers, others, head = ("image", "step.0", "step.2"), set(), "step.2"
    assert moved == others | {f"{name}.{kind}" for name in layers for kind in ("weight", "bias")}
    assert not actual[f"{head}.weight"][1:].any()
    assert not actual[f"{head}.bias"][1:].any()


def test_what_an_absent_object_would_be_does_not_matter(small_air):
    model, _, images = small_air()
    counts = torch.tensor([0, 1, 2, 3, 0, 1])

    def run(absent: float) -> tuple[Tensor, Tensor]:
        data = {}
        for i in range(3):
            present = counts > i
            data[f"z_pres_{i}"] = present.to(images.dtype)
            for name, size in zip(RESTS, (3, 3), strict=True):
                value = torch.linspace(-0.5, 0.5, size).expand(6, size)
                data[f"{name}_{i}"] = torch.where(present[:, None], value, absent + value)
        trace = poutine.trace(poutine.condition(model, data=data)).get_trace(images)
        trace.compute_log_prob()
        log_joint = sum(site["log_prob"] for site in trace.nodes.values() if "log_prob" in site)
        return log_joint, trace.nodes["x"]["fn"].mean

    for actual, wanted in zip(run(0.0), run(4.0), strict=True):
        assert torch.equal(actual, wanted)


# Small batches, Pyro's own ways of use, and what an estimate is made of


@GUIDES
@pytest.mark.parametrize(
    ("estimator_class", "baseline"),
    # A baseline matters to one estimator; the others have to take a guide that has one.
    [*((TraceGraphELBO, name) for name in BASELINES)]
    + [(other, "none") for other in (MarginalELBO, EnumELBO)]
    + [(ConcreteELBO, "network")],
)
def test_a_batch_of_one(small_air, guide_class, estimator_class, baseline):
    air = small_air(guide_class, images=1, baseline=BASELINES[baseline]())
    estimator = estimator_class()
    loss = estimator.differentiable_loss(*air)
    assert loss.shape == ()
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(loss, air).values())
    assert math.isfinite(estimator.loss(*air))
    assert all(value.shape == () for value in estimator.terms.values())


@pytest.mark.parametrize(
    ("estimator_class", "guide_class", "baseline"),
    [
        (MarginalELBO, ResidualGuide, "none"),
        (MarginalELBO, RecurrentGuide, "none"),
        (TraceGraphELBO, ResidualGuide, "average"),
    ],
)
def test_svi_learns(small_air, estimator_class, guide_class, baseline):
    air = small_air(guide_class, baseline=BASELINES[baseline](), max_objects=2)
    before = {name: weight.detach().clone() for name, weight in parameters(air).items()}
    optimiser = pyro.optim.Adam({"lr": 0.01})
    svi = SVI(air.model, air.guide, optimiser, loss=estimator_class())
    images = air.images.repeat(8, 1, 1, 1)
    losses = torch.tensor([svi.step(images) for _ in range(100)])
    spread = losses[-10:].std()
    assert losses[-10:].mean() < losses[:10].mean() - 5 * spread / 10**0.5
    for name, weight in parameters(air).items():
        assert not torch.equal(weight, before[name]), name
    assert isinstance(svi.evaluate_loss(images), float)


@GUIDES
@ESTIMATORS
def test_as_a_module(small_air, guide_class, estimator_class):
    network = BaselineNetwork(110, 8, hidden=8) if estimator_class is TraceGraphELBO else None
    air = small_air(guide_class, baseline=network)
    elbo = estimator_class()(air.model, air.guide)
    owned = {id(weight) for weight in elbo.parameters()}
    wanted = [*air.model.parameters(), *air.guide.parameters()]
    assert owned == {id(weight) for weight in wanted}
    elbo(air.images).backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in wanted)


def test_a_loss_is_a_number_without_a_graph(small_air):
    air = small_air()
    estimator = MarginalELBO()
    pyro.set_rng_seed(1)
    loss = estimator.loss(*air)
    assert isinstance(loss, float)
    assert not any(value.requires_grad for value in estimator.terms.values())
    pyro.set_rng_seed(1)
    differentiable = estimator.differentiable_loss(*air)
    assert differentiable.requires_grad
    assert not any(value.requires_grad for value in estimator.terms.values())
    pyro.set_rng_seed(1)
    stepped, actual = stepwise_gradients(estimator, air)
    assert loss == pytest.approx(differentiable.item(), rel=1e-12)
    assert stepped == differentiable.item()
    torch.testing.assert_close(
        {name.split(".", 1)[1]: gradient for name, gradient in actual.items()},
        gradients(differentiable, air),
        rtol=1e-12,
        atol=1e-12,
    )


@ESTIMATORS
def test_particles_are_averaged(small_air, estimator_class):
    air = small_air()
    pyro.set_rng_seed(1)
    one = estimator_class()
    losses, terms = [], []
    for _ in range(3):
        losses.append(one.differentiable_loss(*air).detach())
        terms.append(one.terms)
    pyro.set_rng_seed(1)
    three = estimator_class(num_particles=3)
    loss = three.differentiable_loss(*air).detach()
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    for name, value in three.terms.items():
        torch.testing.assert_close(value, torch.stack([term[name] for term in terms]).mean())


@GUIDES
@ESTIMATORS
def test_terms_are_those_of_the_elbo_at_beta_1(small_air, guide_class, estimator_class):
    air = small_air(guide_class)
    actual = []
    for beta in (1.0, 0.5, torch.tensor(2.0)):
        pyro.set_rng_seed(1)
        estimator = estimator_class()
        loss = estimator.differentiable_loss(*air, beta=beta).detach()
        terms = estimator.terms
        assert set(terms) == {"log_likelihood", "kl_z_pres", "kl_z_where", "kl_z_what", "elbo"}
        kl = terms["kl_z_pres"] + terms["kl_z_where"] + terms["kl_z_what"]
        torch.testing.assert_close(terms["elbo"], terms["log_likelihood"] - kl)
        torch.testing.assert_close(loss, beta * kl - terms["log_likelihood"])
        assert not any(value.requires_grad for value in terms.values())
        actual.append(terms)
    for terms in actual[1:]:
        torch.testing.assert_close(terms, actual[0])


@ESTIMATORS
def test_a_number_has_terms_too(small_air, estimator_class):
    air = small_air()
    estimator = estimator_class()
    estimator.differentiable_loss(*air)
    loss = estimator.loss(*air)
    assert loss == pytest.approx(-estimator.terms["elbo"].item(), rel=1e-12)


def test_a_guide_without_presences_is_refused(small_air):
    air = small_air()

    class Unmarked(PyroModule):
        def forward(self, images: Tensor) -> None:
            with pyro.plate("scenes", len(images)):
                pyro.sample("z_pres_0", dist.Bernoulli(torch.tensor(0.5)))

    with pytest.raises(ValueError, match="presence"):
        MarginalELBO().differentiable_loss(air.model, Unmarked(), air.images)
