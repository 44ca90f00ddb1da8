"""A training step announces weights to Pyro only where somebody may listen."""

from __future__ import annotations

from typing import Any

import pyro
import pytest
import torch
from pyro.distributions import Normal
from pyro.infer import ELBO
from pyro.nn import PyroSample
from pyro.nn.module import to_pyro_module_
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from guides.air import ResidualGuide
from pyro_models import announcements
from pyro_models.air import AIR
from pyro_models.store import GuardedModule
from tests.test_store import OwnNoise
from train.estimators import (
    DiscreteELBO,
    MarginalELBO,
    MultiSampleELBO,
    ReweightedWakeSleepELBO,
)
from train.objective import ELBOObjective

STEP = torch.tensor(0)


class Listener(Messenger):
    """A user's handler, which wants to know the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: set[str] = set()

    def _pyro_post_param(self, msg: dict[str, Any]) -> None:
        self.heard.add(msg["name"])


class Watched(AIR):
    """A user's model that looks at the parameter store, maybe with a handler around it."""

    handler: Messenger | None = None

    def observe(self, canvas: Tensor, images: Tensor | None) -> Tensor:
        if self.handler is not None:
            with self.handler:
                assert isinstance(self.decoder, nn.Module)
        self.stored = sorted(pyro.get_param_store().keys())
        return super().observe(canvas, images)


def objective(
    kind: type[AIR] = Watched, estimator: ELBO | None = None
) -> tuple[ELBOObjective, tuple[Tensor]]:
    torch.manual_seed(0)
    model = kind(shape=(12, 12), window_size=6, what_dim=2, hidden=4, max_objects=2)
    guide = ResidualGuide(model, hidden=4, encoder_hidden=4, anchors=2)
    images = torch.rand(4, 1, 12, 12)
    made = ELBOObjective(model, guide, estimator or MarginalELBO())
    # The estimator examines the pair first.
    made((images,), STEP)
    return made, (images,)


def estimate(made: ELBOObjective, batch: tuple[Tensor], *, validates: bool) -> list[Tensor]:
    """Returns the loss and its gradients."""
    pyro.set_rng_seed(1)
    with pyro.validation_enabled(validates):
        loss = made(batch, STEP)[0]["elbo"]
    return [loss, *torch.autograd.grad(loss, list(made.parameters()))]


ESTIMATORS = (
    *(MarginalELBO(), DiscreteELBO("rloo"), DiscreteELBO("disarm"), DiscreteELBO("reinforce")),
    *(MultiSampleELBO(), ReweightedWakeSleepELBO()),
)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_the_first_step_announces_weights_and_the_others_do_not(estimator):
    made, batch = objective(estimator=estimator)
    estimate(made, batch, validates=True)
    assert "decoder$$$0.weight" in made.model.stored
    assert "encoder$$$0.weight" in made.model.stored
    estimate(made, batch, validates=False)
    assert made.model.stored == []


@pytest.mark.parametrize("kind", [AIR, OwnNoise])
def test_estimates_are_the_same(kind):
    """With a constrained parameter of the user's own, too, whose value Pyro makes."""
    made, batch = objective(kind)
    announced = estimate(made, batch, validates=True)
    quiet = estimate(made, batch, validates=False)
    assert all(torch.equal(a, b) for a, b in zip(announced, quiet, strict=True))
    if kind is OwnNoise:
        assert made.model.noise_unconstrained.requires_grad
        assert any(gradient.ndim == 0 and gradient for gradient in quiet[1:])


def test_a_handler_that_may_listen_hears_weights():
    made, batch = objective()
    around, inside = Listener(), Listener()
    made.model.handler = inside
    with around:
        estimate(made, batch, validates=False)
    for name in ("decoder$$$0.weight", "encoder$$$0.weight", "step$$$2.bias"):
        assert name in around.heard
    inside.heard.clear()
    estimate(made, batch, validates=False)
    assert "decoder$$$0.weight" in inside.heard
    assert made.model.stored == sorted(inside.heard)


class Outer(GuardedModule):
    """A user's model with a layer that has become a module of Pyro's, and has a random weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        to_pyro_module_(self.layer)
        self.layer.weight = PyroSample(Normal(0.0, 1.0).expand([2, 2]).to_event(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def test_modules_in_modules_have_their_names():
    """Pyro gives them at the first look-up."""
    with announcements.unannounced(), announcements.SampleTracer() as tracer:
        Outer()(torch.zeros(2))
    assert "layer.weight" in tracer.trace.nodes


def test_a_user_who_traces_or_replays_weights_gets_them():
    model = Watched(shape=(12, 12), window_size=6, hidden=4)
    with announcements.unannounced():
        with pyro.poutine.trace(param_only=True) as traced:
            model()
        assert "decoder$$$0.weight" in traced.trace.nodes
        pyro.clear_param_store()
        with announcements.SampleTracer() as quiet:
            model()
        assert model.stored == []
        assert not any(site["type"] == "param" for site in quiet.trace.nodes.values())
        with pyro.poutine.replay(trace=quiet.trace, params={}):
            model()
        assert model.stored
    pyro.clear_param_store()
    model()
    assert model.stored


def test_another_version_of_pyro_may_hide_its_handlers(monkeypatch):
    """Weights are announced then."""
    made, batch = objective()
    monkeypatch.setattr(announcements, "HANDLERS", None)
    estimate(made, batch, validates=False)
    assert "decoder$$$0.weight" in made.model.stored


def test_the_list_of_handlers_is_pyros():
    """If it were another one, listeners would not be seen."""
    with Listener() as listener:
        assert announcements.HANDLERS[-1] is listener
