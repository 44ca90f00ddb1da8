"""What objectives make of an estimator's loss and terms, and what their optimisers move."""

from __future__ import annotations

from typing import Any

import pyro
import pytest
import torch
from pyro.infer import ELBO, Trace_ELBO
from torch import Tensor, nn

from train.estimators import (
    ESTIMATORS,
    ConcreteELBO,
    MarginalELBO,
    TraceGraphELBO,
    loss_and_terms,
    make,
)
from train.objective import Anneal, Batch, ELBOObjective, Objective


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_loss_and_its_terms_are_those_of_the_loss_alone(small_air, name):
    air = small_air(max_objects=2)
    estimator, other = make(name), make(name)
    pyro.set_rng_seed(1)
    loss, terms = estimator.loss_and_terms(*air)
    pyro.set_rng_seed(1)
    wanted = other.differentiable_loss(*air)
    assert torch.equal(loss, wanted)
    assert loss.requires_grad
    assert terms.keys() == other.terms.keys() >= {"elbo", "log_likelihood", "kl_z_where"}
    for term in terms:
        assert torch.equal(terms[term], other.terms[term])
        assert terms[term].shape == ()
        assert not terms[term].requires_grad


@pytest.mark.parametrize("name", ["marginal", "iw", "concrete", "rws", "meanfield"])
def test_an_estimate_with_its_terms_leaves_the_estimator_as_it_was(small_air, name):
    air = small_air(max_objects=2)
    estimator = make(name)
    estimator.differentiable_loss(*air)
    before = dict(vars(estimator))
    estimator.loss_and_terms(*air)
    assert vars(estimator) == before


class WithTerms(Trace_ELBO):
    """A user's, which sets terms while it estimates."""

    def differentiable_loss(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().differentiable_loss(*args, **kwargs)
        self.terms = {"elbo": -loss.detach()}
        return loss


class Doubled(MarginalELBO):
    """A user's, which overrides the loss and nothing else."""

    def differentiable_loss(self, *args: Any, **kwargs: Any) -> Tensor:
        return 2 * super().differentiable_loss(*args, **kwargs)


def test_any_estimator_with_a_differentiable_loss_will_do(small_air):
    air = small_air(max_objects=2)

    def both(estimator: ELBO) -> tuple[Tensor, Any]:
        pyro.set_rng_seed(1)
        return loss_and_terms(estimator, *air)

    plain, none = both(Trace_ELBO())
    assert none == {}
    loss, terms = both(WithTerms())
    assert torch.equal(loss, plain)
    assert torch.equal(terms["elbo"], -loss.detach())
    (loss, terms), (doubled, doubled_terms) = both(MarginalELBO()), both(Doubled())
    assert torch.equal(doubled, 2 * loss)
    assert torch.equal(doubled_terms["elbo"], terms["elbo"])


@pytest.mark.parametrize("estimator", [MarginalELBO(), TraceGraphELBO(), Trace_ELBO()])
def test_an_objective_has_the_loss_and_the_terms_of_each_datum(small_air, estimator):
    air = small_air(max_objects=2)
    pyro.set_rng_seed(1)
    wanted, terms = loss_and_terms(estimator, *air, beta=0.5)
    objective = ELBOObjective(air.model, air.guide, estimator, annealed={"beta": lambda _: 0.5})
    pyro.set_rng_seed(1)
    losses, metrics = objective((air.images,), torch.tensor(0))
    assert torch.equal(losses["elbo"], wanted / len(air.images))
    assert metrics.keys() == terms.keys()
    for name, value in metrics.items():
        assert torch.equal(value, terms[name] / len(air.images))


def test_a_temperature_is_annealed_for_the_estimator_alone(small_air):
    air = small_air(max_objects=2)
    annealed = {"temperature": Anneal(1.0, 0.1, 10)}
    objective = ELBOObjective(air.model, air.guide, ConcreteELBO(), annealed=annealed)
    for step, temperature in ((0, 1.0), (5, 0.55), (20, 0.1)):
        pyro.set_rng_seed(1)
        loss = objective((air.images,), torch.tensor(step))[0]["elbo"]
        pyro.set_rng_seed(1)
        wanted = ConcreteELBO(temperature=temperature).differentiable_loss(*air)
        torch.testing.assert_close(loss, wanted / len(air.images))


class Unnamed(Objective):
    """An objective as short as can be."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, batch: Batch, step: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return {self.loss_name: self.layer(batch[0]).mean()}, {}


class Named(Unnamed):
    loss_name = "layer"


def test_one_optimiser_moves_everything_where_nothing_else_is_said():
    for objective, name in ((Unnamed(), "loss"), (Named(), "layer")):
        losses, _ = objective((torch.ones(3, 2),), torch.tensor(0))
        groups = objective.parameter_groups(0.1)
        assert losses.keys() == groups.keys() == {name}
        assert groups[name] == [{"params": list(objective.parameters()), "lr": 0.1}]
