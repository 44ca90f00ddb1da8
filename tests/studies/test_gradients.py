from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from guides.air import BaselineNetwork, DecayingAverage, ResidualGuide
from pyro_models.air import AIR
from train.estimators import ConcreteELBO, MarginalELBO, TraceGraphELBO
from train.objective import ELBOObjective
from train.studies.gradients import (
    Moments,
    compare,
    elbo_weights,
    groups,
    moments,
    quality,
    train_baseline,
)


def test_moments_are_means_and_variances():
    weights = {"a": torch.zeros(3, requires_grad=True), "b": torch.zeros(2, 2, requires_grad=True)}
    draws = [{name: torch.randn_like(value) for name, value in weights.items()} for _ in range(20)]
    turn = iter(draws)

    def loss() -> torch.Tensor:
        now = next(turn)
        return sum((now[name] * weight).sum() for name, weight in weights.items())

    actual = moments(loss, weights, 20)
    assert actual.draws == 20
    for name in weights:
        stacked = torch.stack([draw[name] for draw in draws]).double()
        torch.testing.assert_close(actual.mean[name], stacked.mean(0))
        torch.testing.assert_close(actual.variance[name], stacked.var(0))


def test_a_weight_that_does_not_matter_has_no_gradient():
    weights = {"a": torch.zeros(2, requires_grad=True), "b": torch.zeros(2, requires_grad=True)}
    actual = moments(lambda: weights["a"].sum(), weights, 3)
    assert actual.mean["b"].tolist() == [0, 0]
    assert actual.variance["b"].tolist() == [0, 0]


@pytest.mark.parametrize("bias", [0.0, 0.2])
def test_a_bias_is_told_from_none(bias):
    """With a known spread and a known bias: the mutation is the bias itself."""
    size, draws = 400, 300

    def gradients(shift: float, number: int) -> Moments:
        values = shift + 2 * torch.randn(number, size, dtype=torch.float64)
        return Moments({"w": values.mean(0)}, {"w": values.var(0)}, number)

    actual = quality(gradients(1 + bias, draws), gradients(1.0, 3_000), ["w"])
    error = (size * 4 * (1 / draws + 1 / 3_000)) ** 0.5
    # A sum of squares of `size` entries has a relative deviation of sqrt(2 / size).
    spread = 5 * (2 / size) ** 0.5
    assert actual.variance == pytest.approx(4 * size, rel=5 * (2 / size / draws) ** 0.5)
    wanted = (1 + size * bias**2 / error**2) ** 0.5
    assert actual.bias_se == pytest.approx(wanted, rel=spread)
    assert actual.bias == pytest.approx(wanted * error, rel=spread)
    if bias:
        assert actual.bias_share == pytest.approx(bias, rel=0.2)
    else:
        assert actual.bias_share < 0.06


def test_groups_are_the_networks():
    model = AIR((10, 11), window_size=5, what_dim=3, hidden=8)
    guide = ResidualGuide(model, hidden=8, encoder_hidden=8, baseline=BaselineNetwork(110, 8))
    weights = elbo_weights(model=model, guide=guide)
    actual = groups(weights)
    networks = {f"guide.{name}" for name in ("image", "recurrence", "step", "encoder")}
    assert set(actual) == {"all", "model.decoder", *networks}
    assert sorted(actual["all"]) == sorted(weights)
    assert sum(map(len, actual.values())) == 2 * len(weights)
    assert not any("baseline" in name for name in weights)


def test_a_baseline_learns_alone(small_air):
    for baseline in (BaselineNetwork(110, 8, hidden=8), DecayingAverage(3)):
        air = small_air(baseline=baseline)
        objective = ELBOObjective(air.model, air.guide, TraceGraphELBO())
        before = {name: value.clone() for name, value in objective.state_dict().items()}
        train_baseline(objective, (air.images,), torch.tensor(0), 3)
        after = objective.state_dict()
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed == {name for name in before if name.startswith("guide.baseline.")}


def test_estimators_side_by_side(small_air):
    """On a small AIR: no bias where there is none, a bias where there is one, each variance."""

    def objective(estimator, baseline: nn.Module | None = None) -> ELBOObjective:
        air = small_air(max_objects=2, baseline=baseline)
        return ELBOObjective(air.model, air.guide, estimator)

    objectives = {
        "marginal": objective(MarginalELBO()),
        "tracegraph": objective(TraceGraphELBO()),
        "concrete": objective(ConcreteELBO(temperature=2.0)),
    }
    images = small_air().images.repeat(40, 1, 1, 1)
    counted = {"draws": 50, "exact_draws": 100, "baseline_steps": 2, "rounds": 1}
    table = compare(objectives, objective(MarginalELBO()), (images,), 0, **counted)
    actual = {row["estimator"]: row for row in table if row["group"] == "all"}
    assert len(table) == 3 * 6
    assert actual["marginal"]["bias_se"] < 3
    assert actual["tracegraph"]["bias_se"] < 3
    assert actual["concrete"]["bias_se"] > 5
    assert actual["marginal"]["variance"] < actual["tracegraph"]["variance"]
    for row in table:
        wanted = row["variance"] * row["milliseconds"] / 1e3
        assert row["variance_time"] == pytest.approx(wanted)
        assert math.isfinite(row["bias_share"])
