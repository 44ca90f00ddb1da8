"""Estimators by their names, and the package that imports them when they are used."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys

import pyro
import pytest
import torch
from pyro.infer import ELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor

import train.estimators
from guides.icvae import EchoGuide, GaussianGuide
from pyro_models.icvae import ICVAE
from train.data.conditions import Condition
from train.errors import InputError
from train.estimators import (
    ESTIMATORS,
    SITE_ESTIMATORS,
    WITHOUT_PRESENCE,
    ConcreteELBO,
    MarginalELBO,
    TraceGraphELBO,
    annealed_names,
    make,
    restored,
)
from train.losses.invariance import invariance
from train.objective import ELBOObjective

LIGHT = """
import sys
import train.estimators, train.bench
heavy = {"torch", "pyro", "numpy"} & set(sys.modules)
assert not heavy, heavy
assert "MarginalELBO" in dir(train.estimators)
"""


def test_the_package_and_its_command_import_no_torch():
    subprocess.run([sys.executable, "-c", LIGHT], check=True)


def test_every_public_name_is_there_and_no_other():
    for name in train.estimators.__all__:
        assert getattr(train.estimators, name) is not None
    assert set(train.estimators.__all__) <= set(dir(train.estimators))
    with pytest.raises(AttributeError, match="has no attribute 'NoSuchELBO'"):
        _ = train.estimators.NoSuchELBO


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators_by_name(name):
    assert type(make(name)) is ESTIMATORS[name]
    assert make(name, 8).num_particles == 8
    fewest = SITE_ESTIMATORS[name].particles if name in SITE_ESTIMATORS else 1
    assert make(name).num_particles == (10 if name in ("iw", "rws") else fewest)
    assert type(pickle.loads(pickle.dumps(make(name)))) is ESTIMATORS[name]


class Own(MarginalELBO):
    """A user's."""


class Stubborn(TraceGraphELBO):
    """Takes no arguments."""

    def __init__(self) -> None:
        super().__init__()


class OwnRelaxed(ConcreteELBO):
    """A user's, with a temperature."""


def test_a_users_own_estimator():
    assert type(make(f"{__name__}:Own", 3)) is Own
    assert type(make(f"{__name__}:Own", names=WITHOUT_PRESENCE)) is Own
    assert type(make(f"{__name__}:Stubborn")) is Stubborn
    assert type(make("pyro.infer:Trace_ELBO")) is Trace_ELBO


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("margnal", "not known: give marginal, tracegraph"),
        ("no_such_module:Thing", "ModuleNotFoundError"),
        ("math:nothing", "AttributeError"),
        ("broken_estimators:Own", "ZeroDivisionError"),
        ("math:pi", "no subclass of pyro.infer.ELBO"),
        ("torch.nn:Module", "no subclass"),
        ("pyro.infer:ELBO", "no subclass"),
        (":", "cannot be imported"),
    ],
)
def test_bad_estimators(name, words, tmp_path, monkeypatch):
    (tmp_path / "broken_estimators.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError) as caught:
        make(name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)
    assert words in str(caught.value)
    assert "broken_estimators" not in sys.modules


def test_too_few_draws_are_named():
    with pytest.raises(InputError, match=r"--estimator rws .* 2 or more"):
        make("rws", 1)
    with pytest.raises(InputError, match="Stubborn"):
        make(f"{__name__}:Stubborn", 3)
    assert math.isfinite(make("rws", 2).num_particles)


def test_an_estimator_says_what_is_annealed():
    for name in ESTIMATORS:
        assert annealed_names(make(name)) == (("temperature",) if name == "concrete" else ())
    assert annealed_names(OwnRelaxed()) == ("temperature",)
    assert annealed_names(Trace_ELBO()) == ()
    assert annealed_names(restored("somewhere:Own")) == ()


# ICVAE: no presences, and a guide with a penalty

IMAGES, C = (6, 1, 10, 12), 3
GUIDES = ("none", "pairwise", "kt", "direct", "mmd", "club", "adversarial", "echo")


def icvae(kind: str, estimator: ELBO) -> ELBOObjective:
    torch.manual_seed(0)
    model = ICVAE(IMAGES[1:], C, 2, hidden=(8, 8), prior=kind != "echo")
    if kind == "echo":
        guide = EchoGuide(model, terms=4, hidden=(8, 8))
    else:
        penalty = invariance(kind, [Condition(C, torch.zeros(0), torch.zeros(0))], 2)
        guide = GaussianGuide(model, penalty, hidden=(8, 8))
    annealed = {"beta": lambda step: 0.5 + 0.0 * step, "invariance": lambda step: 0.7 + 0.0 * step}
    return ELBOObjective(model, guide, estimator, annealed=annealed)


def estimate(
    objective: ELBOObjective, draws: int = 1, copies: int = 1
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """The mean loss, metrics and gradient over draws, of several copies of the images each."""
    images = torch.rand(*IMAGES, generator=torch.Generator().manual_seed(1))
    images = images.repeat(copies, 1, 1, 1)
    batch = images, torch.eye(C)[torch.arange(len(images)) % C]
    losses, metrics, gradients = [], [], []
    pyro.set_rng_seed(2)
    for _ in range(draws):
        loss, terms = objective(batch, torch.tensor(0))
        gradient = torch.autograd.grad(loss["elbo"], list(objective.parameters()))
        losses.append(loss["elbo"].detach())
        metrics.append(terms)
        gradients.append(torch.cat([gradient.flatten() for gradient in gradient]))
    means = {name: torch.stack([terms[name] for terms in metrics]).mean() for name in metrics[0]}
    return torch.stack(losses).mean(), means, torch.stack(gradients).mean(0)


@pytest.mark.parametrize("kind", GUIDES)
@pytest.mark.parametrize("name", WITHOUT_PRESENCE)
def test_icvae_with_each_estimator_that_it_may_have(name, kind):
    loss, metrics, gradient = estimate(icvae(kind, make(name, names=WITHOUT_PRESENCE)))
    assert loss.isfinite()
    assert gradient.isfinite().all()
    penalty = metrics.get("invariance", torch.zeros(()))
    assert ("invariance" in metrics) == (kind not in ("none", "echo"))
    # The loss has the divergence at beta 0.5; echo's weight has the invariance in it too.
    weight = 1.2 if kind == "echo" else 0.5
    wanted = weight * metrics["kl_z"] - metrics["log_likelihood"] + penalty
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(metrics["elbo"], metrics["log_likelihood"] - metrics["kl_z"])


@pytest.mark.parametrize("kind", ["none", "echo"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("network", ["dense", "conv"])
def test_icvae_refuses_images_of_other_axes(kind, channels, network):
    """The mutation: without channels, or as a single image, they are broadcast."""
    options = {"hidden": (8, 8), "network": network}
    model = ICVAE((channels, 10, 12), C, 2, prior=kind != "echo", **options)
    guide = (
        EchoGuide(model, terms=2, **options) if kind == "echo" else GaussianGuide(model, **options)
    )
    images, c = torch.rand(3, channels, 10, 12), torch.eye(C)
    model(images, c)
    guide(images, c)
    for other in (images[:, 0], images.repeat(1, 2, 1, 1), images[0]):
        for take in (model, guide, guide.encode):
            with pytest.raises(ValueError, match=r"images have shape .*: give \((\*|B), C, H, W\)"):
                take(other, c)


def test_icvaes_estimators_have_one_mean():
    reference, _, wanted = estimate(icvae("pairwise", make("meanfield")), 40, copies=10)
    loss, _, gradient = estimate(icvae("pairwise", make("tracegraph")), 40, copies=10)
    torch.testing.assert_close(loss, reference, rtol=0.02, atol=0.0)
    assert (gradient - wanted).norm() < 0.1 * wanted.norm()


def test_icvae_with_pyros_own():
    pyros = make("pyro.infer:TraceMeanField_ELBO", names=WITHOUT_PRESENCE)
    assert type(pyros) is TraceMeanField_ELBO
    loss, metrics, gradient = estimate(icvae("none", pyros))
    wanted, _, wanted_gradient = estimate(icvae("none", make("meanfield")))
    assert metrics == {}
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(gradient, wanted_gradient)


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name not in WITHOUT_PRESENCE])
def test_estimators_of_presence_are_refused_without(name):
    message = (
        f"--estimator {name} does not fit this model: give meanfield, tracegraph, or module:Class"
    )
    for function in (make, restored):
        with pytest.raises(InputError, match=message) as caught:
            function(name, names=WITHOUT_PRESENCE)
        assert "\n" not in str(caught.value)
