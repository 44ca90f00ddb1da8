"""What a guide and its model share in one estimate is right, and gone afterwards."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from contextlib import AbstractContextManager, nullcontext

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI
from pyro.optim import Adam
from torch import Tensor, nn

from guides.air import RecurrentGuide, ResidualGuide
from pyro_models.sharing import cached, one_estimate
from tests.conftest import SmallAIR
from train.estimators import (
    ConcreteELBO,
    EnumELBO,
    MarginalELBO,
    ReweightedWakeSleepELBO,
    TraceGraphELBO,
)
from train.estimators.wake_sleep import frozen
from train.objective import ELBOObjective


def calls_of_the_decoder(air: SmallAIR) -> list[None]:
    """A list that grows by one whenever windows are decoded."""
    calls: list[None] = []
    air.model.decoder.register_forward_hook(lambda *_: calls.append(None))
    return calls


def gradients_of_the_model(air: SmallAIR, context: AbstractContextManager) -> list[Tensor]:
    """Of the log-joint at what a guide draws in a context of its own."""
    pyro.set_rng_seed(1)
    air.model.zero_grad()
    with context:
        drawn = poutine.trace(air.guide).get_trace(air.images)
    replayed = poutine.replay(air.model, trace=drawn)
    (-poutine.trace(replayed).get_trace(air.images).log_prob_sum()).backward()
    return [weight.grad for weight in air.model.parameters()]


@pytest.mark.parametrize(
    ("estimator", "residual", "recurrent"),
    [
        (MarginalELBO(), 3, 3),
        (MarginalELBO(2), 6, 6),
        (MarginalELBO(2, vectorize_particles=True), 3, 3),
        (TraceGraphELBO(), 3, 3),
        (ConcreteELBO(), 3, 3),
        (EnumELBO(), 3, 3),
        # The guide's pictures are of frozen weights, and no use to the model.
        (ReweightedWakeSleepELBO(2), 5, 3),
    ],
)
def test_a_step_of_an_objective_decodes_each_object_once(small_air, estimator, residual, recurrent):
    for guide_class, wanted in ((ResidualGuide, residual), (RecurrentGuide, recurrent)):
        air = small_air(guide_class)
        calls = calls_of_the_decoder(air)
        objective = ELBOObjective(air.model, air.guide, estimator)
        # Before the first one an estimator looks at the pair.
        for _ in range(2):
            calls.clear()
            losses, _ = objective((air.images,), torch.tensor(0))
            losses["elbo"].backward()
        assert len(calls) == wanted


def test_steps_of_svi_in_one_estimate_each_are_those_without(small_air):
    trained = []
    for context, wanted in ((one_estimate, 3), (nullcontext, 5)):
        air = small_air()
        calls = calls_of_the_decoder(air)
        pyro.set_rng_seed(1)
        pyro.clear_param_store()
        estimator = MarginalELBO()
        estimator.prepare(air.model, air.guide, (air.images,), {})
        calls.clear()
        svi = SVI(air.model, air.guide, Adam({"lr": 0.01}), estimator)
        for _ in range(3):
            with context():
                svi.step(air.images)
        assert len(calls) == 3 * wanted
        trained.append(list(air.model.parameters()))
    torch.testing.assert_close(*trained)


@pytest.mark.parametrize("estimator", [MarginalELBO(), TraceGraphELBO()])
def test_pictures_that_are_shared_change_no_loss_and_no_gradient(small_air, estimator):
    air = small_air()
    estimator.loss(*air)
    calls = calls_of_the_decoder(air)
    results = []
    for context in (one_estimate(), nullcontext()):
        pyro.set_rng_seed(1)
        nn.ModuleList(air[:2]).zero_grad()
        with context:
            loss = estimator.differentiable_loss(*air)
        loss.backward()
        weights = [*air.model.parameters(), *air.guide.parameters()]
        results.append((loss.detach(), [weight.grad for weight in weights]))
    assert len(calls) == 3 + 5
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("make", [lambda model: torch.no_grad(), frozen], ids=["no_grad", "frozen"])
def test_pictures_that_another_needs_are_drawn_anew(small_air, make):
    """Drawn without gradients, or while weights were frozen."""
    air = small_air()
    wanted = gradients_of_the_model(air, make(air.model))
    with one_estimate():
        gradients = gradients_of_the_model(air, make(air.model))
    assert all(gradient.any() for gradient in wanted)
    torch.testing.assert_close(gradients, wanted)
    # And outside, where nothing is kept, the first time is as the second.
    torch.testing.assert_close(gradients_of_the_model(air, make(air.model)), wanted)


def test_what_is_shared_is_of_one_model_and_one_estimate(small_air):
    first, second = small_air().model, small_air().model
    second.decoder_bias = 1.0
    z_what, z_where = torch.randn(2, 3), torch.randn(2, 3)
    assert first.paste(z_what, z_where) is not first.paste(z_what, z_where)
    with one_estimate():
        picture = first.paste(z_what, z_where)
        assert first.paste(z_what, z_where) is picture
        assert first.paste(z_what.clone(), z_where) is not picture
        assert not torch.equal(second.paste(z_what, z_where), picture)
        with torch.no_grad():
            assert not first.paste(z_what, z_where).requires_grad
        with one_estimate():
            assert first.paste(z_what, z_where) is not picture
        assert first.paste(z_what, z_where) is picture
        z_what.mul_(2)
        later = first.paste(z_what, z_where)
        assert not torch.equal(later, picture)
        with torch.no_grad():
            first.decoder[0].weight.mul_(2)
        assert not torch.equal(first.paste(z_what, z_where), later)
    assert first.paste(z_what, z_where) is not picture


class Signed(nn.Module):
    """A module without weights, and with two methods."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign = sign

    def times(self, x: Tensor) -> Tensor:
        return self.sign * x

    def plus(self, x: Tensor) -> Tensor:
        return self.sign + x


def test_a_result_is_of_one_module_one_method_and_one_tensor():
    modules = [Signed(1.0), Signed(-1.0)]
    with one_estimate():
        # Each tensor is gone before the next one is made, which would be at its place.
        for i in range(20):
            for module in modules:
                assert cached(module.times, torch.tensor(float(i))) == module.sign * i
        x = torch.tensor(2.0)
        for module in modules:
            assert cached(module.times, x) == 2 * module.sign
            assert cached(module.plus, x) == 2 + module.sign
    with torch.inference_mode(), one_estimate():
        x = torch.tensor(2.0)
        assert cached(modules[0].plus, x) is cached(modules[0].plus, x)


def test_nothing_is_kept_after_an_estimate_that_broke(small_air):
    model = small_air().model
    z_what, z_where = torch.randn(2, 3), torch.randn(2, 3)
    references = []

    @one_estimate()
    def broken() -> None:
        references.append(weakref.ref(model.paste(z_what, z_where)))
        assert references[0]() is not None
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    gc.collect()
    assert references[0]() is None


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copy", "pickle"]
)
def test_a_pair_that_was_used_is_copied_and_stays_together(small_air, copied):
    air = small_air()
    pair = nn.ModuleList([air.model, air.guide])
    objective = ELBOObjective(*pair, MarginalELBO())
    objective((air.images,), torch.tensor(0))[0]["elbo"].backward()
    poutine.trace(air.guide).get_trace(air.images)
    model, guide = copied(pair)
    assert guide.model is model is not air.model
    twin = copied(objective)
    assert twin.guide.model is twin.model
    losses = []
    for copy_ in (objective, ELBOObjective(model, guide, MarginalELBO()), twin):
        pyro.set_rng_seed(1)
        losses.append(copy_((air.images,), torch.tensor(0))[0]["elbo"])
    assert losses[0] == losses[1] == losses[2]
    # What moves the copy's decoder moves what its guide sees, and the original's not.
    before = guide.detect(air.images), air.guide.detect(air.images)
    model.decoder[-1].bias.data += 5
    after = guide.detect(air.images), air.guide.detect(air.images)
    assert not torch.equal(before[0].z_where[:, 1], after[0].z_where[:, 1])
    assert torch.equal(before[1].z_where, after[1].z_where)
