"""Pairs in one process train their own weights, or say why they cannot."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule, PyroParam
from pyro.optim import Adam
from torch import Tensor, nn

from guides.air import BaselineNetwork, RecurrentGuide, ResidualGuide
from guides.icvae import EchoGuide, GaussianGuide
from pyro_models.air import AIR
from pyro_models.icvae import ICVAE
from pyro_models.store import GuardedModule, ParameterStoreError, named_weights
from train.estimators import MarginalELBO, MeanFieldELBO, TraceGraphELBO


class OwnNoise(AIR):
    """A user's model, with a positive parameter of its own."""

    def __init__(self, **options):
        super().__init__(**options)
        self.noise = PyroParam(torch.tensor(0.4), constraints.positive)

    def observe(self, canvas, images):
        self.likelihood_scale = self.noise
        return super().observe(canvas, images)


def air(model: type[AIR] = AIR, guide: type[RecurrentGuide] = ResidualGuide, side: int = 12):
    model = model(shape=(side, side), window_size=6, what_dim=2, hidden=4, max_objects=2)
    sizes = {"hidden": 4, "encoder_hidden": 4, "anchors": 2}
    network = BaselineNetwork(side**2, 4, hidden=4)
    return nn.ModuleList([model, guide(model, baseline=network, **sizes)])


def icvae(guide: type[nn.Module] = GaussianGuide, **options):
    model = ICVAE((12, 12), c_dim=2, hidden=(4,), prior=guide is GaussianGuide)
    return nn.ModuleList([model, guide(model, hidden=(4,), **options)])


PAIRS = {
    "residual": air,
    "subclass": lambda: air(OwnNoise),
    "gaussian": icvae,
    "echo": lambda: icvae(EchoGuide, terms=2),
}
each_pair = pytest.mark.parametrize("make", PAIRS.values(), ids=PAIRS)


def svi(pair: nn.ModuleList) -> SVI:
    loss = TraceGraphELBO() if isinstance(pair[0], AIR) else MeanFieldELBO()
    return SVI(*pair, Adam({"lr": 0.1}), loss)


def data(pair: nn.ModuleList) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, *pair[0].shape, generator=generator)
    return (images,) if isinstance(pair[0], AIR) else (images, torch.eye(2)[[0, 1, 0, 1]])


def step(trained: SVI, pair: nn.ModuleList) -> bool:
    """Whether a step moves weights of a model and of its guide."""
    before = copy.deepcopy(pair.state_dict())
    trained.step(*data(pair))
    after = pair.state_dict()
    return all(
        any(not torch.equal(after[name], before[name]) for name in after if name[0] == part)
        for part in "01"
    )


def refused(function: Callable[[], object], *more: str) -> None:
    with pytest.raises(ParameterStoreError) as error:
        function()
    message = str(error.value)
    assert "\n" not in message
    for part in ("clear_param_store()", ".scope()", "state_dict", *more):
        assert part in message


@each_pair
def test_a_second_pair_is_refused_and_trains_with_either_remedy(make):
    first, second = make(), make()
    trained = svi(first)
    assert step(trained, first)
    assert step(trained, first)
    assert step(svi(first), first)
    before = copy.deepcopy(second.state_dict())
    refused(lambda: step(svi(second), second), type(second[1]).__name__, "weight'")
    torch.testing.assert_close(second.state_dict(), before, rtol=0, atol=0)

    pyro.clear_param_store()
    second_svi = svi(second)
    assert step(second_svi, second)
    refused(lambda: step(trained, first))
    for _ in range(2):
        for optimised, pair in ((trained, first), (second_svi, second)):
            with pyro.get_param_store().scope():
                assert step(optimised, pair)


@each_pair
def test_names_are_those_in_the_store(make):
    pair = make()
    poutine.trace(pair[1]).get_trace(*data(pair))
    poutine.trace(pair[0]).get_trace(*data(pair))
    stored = dict(pyro.get_param_store().named_parameters())
    named = [weight for module in pair for weight in named_weights(module)]
    assert len(named) == len(stored)
    assert all(stored[name] is weight for name, weight, _ in named)
    assert [name for name, _, replaced in named if replaced] == ["noise"] * hasattr(
        pair[0], "noise"
    )


@pytest.mark.parametrize(
    "make",
    [
        copy.deepcopy,
        lambda pair: pickle.loads(pickle.dumps(pair)),
        lambda pair: air(side=20),
        # An error on the way is the guard's too, of the model as of the guide.
        lambda pair: nn.ModuleList([air()[0], pair[1]]),
    ],
    ids=["deepcopy", "pickle", "another size", "a new model"],
)
def test_whatever_has_the_same_names_is_refused(make):
    pair = air()
    assert step(svi(pair), pair)
    other = make(pair)
    refused(lambda: step(svi(other), other))
    assert step(svi(pair), pair)


def test_weights_that_were_moved_or_frozen_are_their_own():
    pair = air()
    trained = svi(pair)
    assert step(trained, pair)
    pair.to("cpu").double().float()
    assert step(trained, pair)
    pair[0].requires_grad_(False).eval()
    trained.step(*data(pair))
    # Pyro leaves frozen weights out, so those of another are in nobody's way.
    frozen = air()[0].requires_grad_(False).eval()
    with poutine.trace(param_only=True) as captured:
        frozen()
    assert not captured.trace.nodes


def test_weights_in_the_stores_own_file_are_refused(tmp_path):
    """They are neither used nor trained; a state dict is both."""
    pair, new = air(), air()
    assert step(svi(pair), pair)
    pyro.get_param_store().save(tmp_path / "store")
    pyro.clear_param_store()
    pyro.get_param_store().load(tmp_path / "store")
    images = data(new)[0]
    for function in (
        lambda: new[1].detect(images),
        lambda: new[0].sample(2),
        lambda: MarginalELBO().loss(*new, images),
        lambda: step(svi(new), new),
    ):
        refused(function)
    pyro.clear_param_store()
    new.load_state_dict(pair.state_dict())
    assert torch.equal(new[1].detect(images).boxes, pair[1].detect(images).boxes)
    assert step(svi(new), new)


@pytest.mark.parametrize("estimator", [MarginalELBO(), TraceGraphELBO(), Trace_ELBO()])
def test_pairs_that_are_not_trained_by_the_store_go_side_by_side(estimator):
    """As with Pyro's own: each computes with its weights, which PyTorch's optimisers move."""
    pairs = [air(guide=RecurrentGuide) for _ in range(2)]
    assert step(svi(pairs[0]), pairs[0])
    second = pairs[1]
    images = data(second)[0]
    losses = []
    for clear in (False, True):
        if clear:
            pyro.clear_param_store()
        pyro.set_rng_seed(1)
        second.zero_grad()
        loss = estimator.differentiable_loss(*second, images)
        loss.backward()
        losses.append((loss.detach(), [weight.grad for weight in second.parameters()]))
    torch.testing.assert_close(*losses, rtol=0, atol=0)
    assert all(gradient.any() for gradient in losses[0][1][:4])
    poutine.trace(second[0]).get_trace(images)
    svi(second).evaluate_loss(images)


def test_a_module_of_someone_elses_stands_in_no_way_where_nothing_is_trained():
    other = PyroModule()
    other.decoder = nn.Linear(2, 2)
    other.decoder.add_module("0", nn.Linear(2, 2))
    other.forward = lambda: other.decoder
    other()
    model = air()[0]
    model()
    model.sample(2)
    with poutine.trace(param_only=True):
        refused(model, "'decoder$$$0.weight'")


def test_a_pyro_param_is_not_replaced_by_anothers():
    """Not where nothing is trained either: from then on two models would share it."""
    first, second = air(OwnNoise)[0], air(OwnNoise)[0]
    first()
    unconstrained = second.noise_unconstrained
    refused(second, "'noise'")
    assert second.noise_unconstrained is unconstrained
    with pyro.get_param_store().scope():
        second()
    assert second.noise_unconstrained is unconstrained


def test_a_weight_that_the_store_would_copy_is_refused():
    pair = air()
    weight = pair[1].encoder[0].weight
    weight.data = weight.data.T.contiguous().T
    with pytest.raises(ParameterStoreError, match=r"'encoder\$\$\$0.weight'.*contiguous"):
        step(svi(pair), pair)
    weight.data = weight.data.contiguous()
    assert step(svi(pair), pair)


class Settled(GuardedModule):
    """A module with a buffer, and no weights."""

    def __init__(self):
        super().__init__()
        self.register_buffer("constant", torch.ones(()))

    def forward(self, *batch):
        return self.constant


class Both(GuardedModule):
    """A user's model with one of ours inside."""

    def __init__(self):
        super().__init__()
        self.inner = air()[0]

    def forward(self, images=None):
        return self.inner(images)


def test_modules_without_weights_and_modules_in_modules():
    for make, names in ((Settled, []), (Both, ["inner.decoder$$$0.weight"])):
        first, second = make(), make()
        with poutine.trace(param_only=True) as captured:
            first()
        assert list(captured.trace.nodes)[:1] == names
        with poutine.trace(param_only=True):
            if names:
                refused(second, *names)
            else:
                second()
