"""Penalties with a network of their own: what they are, what they move, and that they work."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import SVI
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from guides.icvae import GaussianGuide
from guides.predictors import (
    AdversarialPenalty,
    ClassPrediction,
    CLUBPenalty,
    PredictivePenalty,
    QuantityPrediction,
    Target,
)
from pyro_models.icvae import ICVAE
from tests.test_compiled import CASES, CPU, batches, build
from train.data.conditions import Condition
from train.engine.loop import fit
from train.engine.runs import Run
from train.engine.steps import Stepper
from train.estimators import MeanFieldELBO
from train.losses.invariance import invariance
from train.objective import ELBOObjective

KINDS = pytest.mark.parametrize("kind", [AdversarialPenalty, CLUBPenalty])
TARGETS = (Target(3, classes=True), Target(2, classes=False))
SIZES = {"hidden": (12, 10)}


def conditions(n: int = 9) -> Tensor:
    """A class and two quantities."""
    return torch.cat([torch.eye(3)[torch.arange(n) % 3], torch.randn(n, 2)], dim=1)


@pytest.fixture
def data(double: None) -> tuple[Tensor, Tensor]:
    return torch.rand(9, 1, 7, 6), conditions()


def pair(kind: type[PredictivePenalty]) -> tuple[ICVAE, GaussianGuide]:
    model = ICVAE((7, 6), 5, 2, **SIZES)
    return model, GaussianGuide(model, kind(2, TARGETS, (8,)), **SIZES)


def gradients(value: Tensor, module: nn.Module) -> dict[str, Tensor | None]:
    weights = dict(module.named_parameters())
    found = torch.autograd.grad(value, list(weights.values()), retain_graph=True, allow_unused=True)
    return dict(zip(weights, found, strict=True))


# What is predicted


def test_predictions_have_the_densities_of_pytorch(double):
    c, outputs = conditions(), torch.randn(9, 7)
    classes, quantities = ClassPrediction(outputs[:, :3]), QuantityPrediction(outputs[:, 3:])
    categorical = torch.distributions.OneHotCategorical(logits=outputs[:, :3])
    log_variance = 4 * (outputs[:, 5:] / 4).tanh()
    normal = torch.distributions.Normal(outputs[:, 3:5], (0.5 * log_variance).exp())
    torch.testing.assert_close(classes.log_prob(c[:, :3]), categorical.log_prob(c[:, :3]))
    torch.testing.assert_close(quantities.log_prob(c[:, 3:]), normal.log_prob(c[:, 3:]).sum(-1))


@KINDS
def test_the_networks_loss_is_the_negative_log_likelihood(double, kind):
    penalty, z, c = kind(2, TARGETS, (8,)), torch.randn(9, 2), conditions()
    outputs = penalty.network(z)
    likelihood = ClassPrediction(outputs[:, :3]).log_prob(c[:, :3])
    likelihood = likelihood + QuantityPrediction(outputs[:, 3:]).log_prob(c[:, 3:])
    torch.testing.assert_close(penalty.loss(z, c), -likelihood)
    if kind is AdversarialPenalty:
        torch.testing.assert_close(penalty(z, z, z, c), likelihood)


@pytest.mark.parametrize("target", TARGETS)
def test_club_is_its_sum_over_pairs(double, target):
    """The mutation: a sum over all j, without the factor B / (B - 1) that takes i out."""
    c = conditions()[:, :3] if target.classes else conditions()[:, 3:]
    penalty = CLUBPenalty(4, [target])
    z = torch.randn(9, 4)
    q = target.predicted(penalty.network(z))
    pairs = torch.stack([q.log_prob(c.roll(shift, 0)) for shift in range(9)])
    torch.testing.assert_close(penalty(z, z, z, c), pairs[0] - pairs[1:].mean(0))


def test_club_bounds_the_information_of_a_known_channel(double):
    r"""Of correlated Normals, with the true conditional, it is rho^2 / (1 - rho^2) in the mean.

    Batches are of five, so that the mutation of the test above is off by 20%.
    """
    rho, n = 0.8, 2_000
    truth = -0.5 * math.log(1 - rho**2)
    bound = rho**2 / (1 - rho**2)
    penalty = CLUBPenalty(1, [Target(1, classes=False)])
    limit = QuantityPrediction.LIMIT
    log_variance = limit * math.atanh(math.log(1 - rho**2) / limit)
    means = []
    for _ in range(n):
        c = torch.randn(5, 1)
        z = rho * c + math.sqrt(1 - rho**2) * torch.randn(5, 1)
        q = QuantityPrediction(torch.cat([rho * z, torch.full_like(z, log_variance)], dim=1))
        means.append(penalty.of_condition(q, c).mean())
    found = torch.stack(means)
    error = found.std() / math.sqrt(n)
    assert abs(found.mean() - bound) < 4 * error
    assert found.mean() - truth > 10 * error
    assert 0.2 * bound > 10 * error


def test_an_adversary_bounds_the_information_from_below(double):
    """Of a class seen through a symmetric channel, summed over all cases: the best one has it."""
    flip = 0.2
    z = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    c = torch.eye(2)[torch.tensor([0, 1, 0, 1])]
    joint = torch.tensor([0.5 * (1 - flip), 0.5 * flip, 0.5 * flip, 0.5 * (1 - flip)])
    truth = math.log(2) + flip * math.log(flip) + (1 - flip) * math.log(1 - flip)
    penalty = AdversarialPenalty(1, [Target(2, classes=True)], hidden=())
    information = []
    for scale in (0.0, 0.5, 1.0, 2.0):
        # Logits 0 and scale * (2 z - 1) * log((1 - flip) / flip).
        slope = scale * math.log((1 - flip) / flip)
        penalty.network[0].weight.data = torch.tensor([[0.0], [2 * slope]])
        penalty.network[0].bias.data = torch.tensor([0.0, -slope])
        information.append((joint * penalty(z, z, z, c)).sum().item() + math.log(2))
    assert information[2] == pytest.approx(truth)
    assert max(information[0], information[1], information[3]) < truth - 0.01
    assert information[0] == pytest.approx(0)


@KINDS
def test_penalties_and_losses_of_conditions_add_up(double, kind):
    c, z = conditions(), torch.randn(9, 2)
    both = kind(2, TARGETS, (8,))
    value, loss = both(z, z, z, c), both.loss(z, c)
    columns = (slice(0, 3), slice(3, 5))
    for target, rows, own in zip(TARGETS, (slice(0, 3), slice(3, 7)), columns, strict=True):
        one = kind(2, [target], (8,))
        one.network[0].load_state_dict(both.network[0].state_dict())
        one.network[-1].weight.data = both.network[-1].weight.data[rows]
        one.network[-1].bias.data = both.network[-1].bias.data[rows]
        value = value - one(z, z, z, c[:, own])
        loss = loss - one.loss(z, c[:, own])
    torch.testing.assert_close(value, torch.zeros(9))
    torch.testing.assert_close(loss, torch.zeros(9))


# What moves what


@KINDS
def test_the_penalty_is_the_codes_and_the_loss_the_networks(double, kind):
    """Mutations: weights that are no constants in the penalty, codes that are none in the loss."""
    penalty, c = kind(2, TARGETS, (8,)), conditions()
    z = torch.randn(9, 2, requires_grad=True)
    value, loss = penalty(z, z, z, c).mean(), penalty.loss(z, c).mean()
    assert all(gradient is None for gradient in gradients(value, penalty).values())
    assert all(gradient.any() for gradient in gradients(loss, penalty).values())
    assert torch.autograd.grad(loss, z, allow_unused=True) == (None,)

    # Down the penalty's gradient codes say less, and down the loss' the network reads more.
    (slope,) = torch.autograd.grad(value, z)
    after = z - 0.1 * slope
    assert penalty(after, after, after, c).mean() < value
    step = copy.deepcopy(penalty)
    for weight, gradient in zip(step.parameters(), gradients(loss, penalty).values(), strict=True):
        weight.data -= 0.01 * gradient
    assert step.loss(z, c).mean() < loss


@KINDS
@pytest.mark.parametrize("weight", [0.0, 7.0])
def test_each_network_has_the_gradient_of_its_own_loss(data, kind, weight):
    """Also where the penalty weighs nothing yet.

    Mutations: the weight on the network's loss, or its value in the loss, the ELBO or a term.
    """
    model, guide = pair(kind)
    x, c = data
    elbo = MeanFieldELBO()

    def estimate(guide: GaussianGuide) -> Tensor:
        pyro.set_rng_seed(1)
        return elbo.differentiable_loss(model, guide, x, c, invariance=weight)

    loss, terms = estimate(guide), dict(elbo.terms)
    pyro.set_rng_seed(1)
    mu, log_variance = guide.encode(x, c)
    z = mu + (0.5 * log_variance).exp() * torch.randn_like(mu)
    network = guide.invariance
    # The same penalty as a function, beside which no network is trained.
    guide.invariance = None
    plain = GaussianGuide(model, lambda *codes: network(*codes), **SIZES)
    plain.load_state_dict(guide.state_dict())
    expected, expected_terms = estimate(plain), elbo.terms

    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(terms, dict(expected_terms))
    torch.testing.assert_close(terms["invariance"], weight * network(z, mu, mu, c).sum().detach())
    torch.testing.assert_close(gradients(loss, guide), gradients(expected, plain))
    torch.testing.assert_close(gradients(loss, model), gradients(expected, model))
    own = gradients(network.loss(z, c).sum(), network)
    torch.testing.assert_close(gradients(loss, network), own)


@pytest.mark.parametrize("optimiser", ["adam", "rmsprop"])
def test_the_network_has_an_own_learning_rate_and_memory(optimiser):
    """The mutation: a group that is left out, or that has weights of the others too."""
    settings = replace(CASES["icvae adversarial"], predictor_learning_rate=0.3, optimiser=optimiser)
    objective = build(settings)
    stepper = Stepper(objective, settings, CPU)
    others, own = stepper.optimisers["elbo"].param_groups
    network = list(objective.guide.invariance.parameters())
    assert [id(weight) for weight in own["params"]] == [id(weight) for weight in network]
    assert len(others["params"]) + len(network) == len(list(objective.parameters()))
    assert (others["lr"], own["lr"]) == (settings.learning_rate, 0.3)
    if optimiser == "adam":
        assert (others["betas"], own["betas"]) == ((0.9, 0.999), (0.5, 0.999))
    stepper(batches(settings)(0), 0)


@KINDS
def test_svi_trains_both(data, kind):
    """Pyro alone, without the loop."""
    model, guide = pair(kind)
    x, c = data
    before = {name: weight.detach().clone() for name, weight in guide.named_parameters()}
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), loss=MeanFieldELBO())
    losses = []
    for _ in range(60):
        svi.step(x, c, invariance=0.1)
        losses.append(guide.invariance.loss(guide.mean(x, c), c).mean().item())
    assert sum(losses[-10:]) < sum(losses[:10])
    assert not any(torch.equal(weight, before[name]) for name, weight in guide.named_parameters())


# That they work


class Untold(nn.Module):
    """A model whose decoder is told nothing, so that reconstructing needs the class in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.model = ICVAE((4, 4), 0, 2, hidden=(32, 32))

    def forward(self, images: Tensor, c: Tensor, **weights: Any) -> Tensor:
        return self.model(images, c[:, :0], **weights)


@cache
def leakage(name: str, weight: float) -> float:
    """Trains on images in which a row is the class; returns what is read in sampled codes."""
    torch.manual_seed(0)
    labels = torch.arange(400) % 2
    x, c = torch.rand(400, 1, 4, 4), torch.eye(2)[labels]
    x[:, 0, 0] = labels[:, None].float()
    untold = Untold()
    penalty = invariance(name, [Condition(2, torch.zeros(0), torch.zeros(0))], z_dim=2)
    guide = GaussianGuide(untold.model, penalty, hidden=(32, 32))
    annealed = {"invariance": lambda step: torch.tensor(weight), "beta": lambda step: 0.1}
    objective = ELBOObjective(untold, guide, MeanFieldELBO(), annealed=annealed)
    optimiser = torch.optim.Adam(objective.parameters(), 3e-3)
    for step in range(150):
        rows = torch.randperm(400)[:100]
        optimiser.zero_grad()
        objective((x[rows], c[rows]), torch.tensor(step))[0]["elbo"].backward()
        optimiser.step()
    with torch.no_grad():
        z = guide.draw(x, c).numpy()
    return float(LogisticRegression().fit(z[:200], labels[:200]).score(z[200:], labels[200:]))


@pytest.mark.parametrize(
    ("name", "weight"), [("mmd", 300.0), ("club", 10.0), ("adversarial", 10.0)]
)
def test_a_class_that_is_copied_into_images_leaves_the_codes(name, weight):
    """Of 200 codes chance is 50%, with a standard error of 3.5 points."""
    assert leakage("none", 0.0) > 0.9
    assert leakage(name, weight) < 0.5 + 4 * 0.035


@pytest.mark.parametrize("name", ["icvae club", "icvae adversarial"])
def test_a_run_resumes_exactly(tmp_path, name):
    """The network and its moments, too. The mutation: a network that no checkpoint has."""
    often = {"log_every": 4, "checkpoint_every": 4, "eval_every": 4, "device": "cpu"}
    settings = replace(CASES[name], decay="none", anneal_steps=6, steps=8, **often)

    def run(folder: Path, steps: int, *, resume: bool = False) -> dict[str, Tensor]:
        torch.manual_seed(0)
        changed = replace(settings, run_dir=folder, steps=steps, resume=resume)
        objective = build(changed)
        fit(objective, batches(changed), Run.create(changed, "icvae"), changed, CPU)
        return objective.state_dict()

    whole = run(tmp_path / "whole", 8)
    half = run(tmp_path / "half", 4)
    found = run(tmp_path / "half", 8, resume=True)
    names = [name for name in whole if "network" in name]
    assert len(names) == 6
    for name, value in whole.items():
        assert torch.equal(found[name], value), name
    assert not any(torch.equal(half[name], whole[name]) for name in names)
