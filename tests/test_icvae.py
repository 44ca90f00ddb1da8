"""ICVAE's model and guides, and the ELBO that they are trained with."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from guides.icvae import EchoGuide, GaussianGuide, Memory, model_and_guide
from pyro_models.icvae import ICVAE
from train.estimators import MeanFieldELBO
from train.losses.invariance import INVARIANCES

NETWORKS = pytest.mark.parametrize("network", ["dense", "conv"])
SMALL: dict[str, Any] = {"hidden": (12, 10)}


@pytest.fixture
def data(double: None) -> tuple[Tensor, Tensor]:
    return torch.rand(9, 1, 7, 6), torch.eye(3)[torch.arange(9) % 3]


def pair(invariance: str = "none", **model: Any) -> tuple[ICVAE, GaussianGuide]:
    net = ICVAE(model.pop("shape", (7, 6)), 3, 2, **(SMALL | model))
    return net, GaussianGuide(net, INVARIANCES[invariance], **SMALL)


def echo(terms: int = 5) -> tuple[ICVAE, EchoGuide]:
    net = ICVAE((7, 6), 3, 2, prior=False, **SMALL)
    return net, EchoGuide(net, terms=terms, **SMALL)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("likelihood", ["normal", "bernoulli"])
@pytest.mark.parametrize("invariance", list(INVARIANCES))
def test_the_loss_is_its_formula(data, invariance, likelihood, channels):
    model, guide = pair(invariance, likelihood=likelihood, shape=(channels, 7, 6))
    x, c = torch.rand(9, channels, 7, 6), data[1]
    weights = {"beta": 0.3, "reconstruction": 2.5, "invariance": torch.tensor(1.7)}
    pyro.set_rng_seed(1)
    elbo = MeanFieldELBO()
    loss = elbo.differentiable_loss(model, guide, x, c, **weights)

    pyro.set_rng_seed(1)
    mu, log_variance = guide.encode(x, c)
    q = Normal(mu, (0.5 * log_variance).exp())
    z = q.rsample()
    out = model.decoder(torch.cat([z, c], dim=1)).reshape(x.shape)
    # With their constants, so that numbers of nats compare.
    p = Normal(out, math.sqrt(0.5)) if likelihood == "normal" else None
    bernoulli = Bernoulli(logits=out, validate_args=False)
    log_likelihood = (p or bernoulli).log_prob(x).sum()
    kl = kl_divergence(q, Normal(0.0, 1.0)).sum()
    term = INVARIANCES[invariance]
    extra = 0 * kl if term is None else term(z, mu, log_variance, c).sum()
    wanted = -2.5 * log_likelihood + 0.3 * kl + 1.7 * extra
    torch.testing.assert_close(loss, wanted)
    named = [*model.parameters(), *guide.parameters()]
    found = torch.autograd.grad(loss, named)
    torch.testing.assert_close(found, torch.autograd.grad(wanted, named))
    torch.testing.assert_close(elbo.terms["elbo"], (log_likelihood - kl).detach())
    torch.testing.assert_close(elbo.terms["kl_z"], kl.detach())
    if term is not None:
        torch.testing.assert_close(elbo.terms["invariance"], 1.7 * extra.detach())


def test_it_is_pyros_mean_field_elbo(data):
    """Pyro's own takes the pair as it is, and its loss is this one's."""
    model, guide = pair()
    losses, gradients = [], []
    for elbo in (TraceMeanField_ELBO(num_particles=2), MeanFieldELBO(num_particles=2)):
        pyro.set_rng_seed(1)
        loss = elbo.differentiable_loss(model, guide, *data, beta=0.5, reconstruction=3.0)
        losses.append(loss)
        gradients.append(torch.autograd.grad(loss, list(guide.parameters())))
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=0)
    pyro.set_rng_seed(1)
    number = MeanFieldELBO(num_particles=2).loss(model, guide, *data, beta=0.5, reconstruction=3.0)
    assert number == pytest.approx(losses[0].item())


def test_the_term_stays_with_another_estimator(data):
    """A sampled KL in place of the analytic one: the mean loss is the same."""
    model, guide = pair("kt")
    many = [part.repeat(20, *(part.ndim - 1) * [1]) for part in data]
    found = []
    for elbo in (Trace_ELBO(), MeanFieldELBO()):
        losses = [elbo.loss(model, guide, *many, invariance=200.0) / 180 for _ in range(20)]
        found.append(torch.tensor(losses))
    error = ((found[0].var() + found[1].var()) / 20).sqrt()
    assert (found[0].mean() - found[1].mean()).abs() < 5 * error
    without = torch.tensor([MeanFieldELBO().loss(model, guide, *many) / 180 for _ in range(20)])
    assert (found[1].mean() - without.mean()).abs() > 5 * error


def test_the_memory_forgets_the_oldest_first():
    memory = Memory(5, 2, 3)
    codes = [torch.arange(12.0)[:, None].repeat(1, size) + 1 for size in (2, 2, 3)]
    assert not any(part.any() for part in memory())
    for rows in (slice(0, 3), slice(3, 6)):
        memory.put(*(part[rows] for part in codes))
    for part in memory():
        assert part[:, 0].tolist() == [6, 2, 3, 4, 5]
    # A batch larger than it.
    memory.put(*codes)
    assert memory()[0][:, 0].sort().values.tolist() == [1, 2, 3, 4, 5]


def test_the_term_is_given_past_codes_in_training_only(data):
    seen = []

    def term(z: Tensor, mu: Tensor, log_variance: Tensor, c: Tensor, past: Any = None) -> Tensor:
        seen.append(None if past is None else past[2].clone())
        return z.sum(-1)

    model = ICVAE((7, 6), 3, 2, **SMALL)
    guide = GaussianGuide(model, term, memory=20, **SMALL)
    for training in (True, True, False, True):
        guide.train(training)
        guide(*data, invariance=1.0)
    assert [None if past is None else int(past.sum()) for past in seen] == [0, 9, None, 18]
    assert guide.memory.mu.requires_grad is False
    assert set(guide.memory.state_dict()) == {"mu", "log_variance", "c", "place"}


def test_the_estimate_does_not_wait_for_the_device(data, monkeypatch):
    model, guide = pair("direct")
    elbo = MeanFieldELBO()
    with pyro.validation_enabled(False):
        elbo.differentiable_loss(model, guide, *data)

        def item(self: Tensor) -> float:
            raise AssertionError("waited for the device")

        monkeypatch.setattr(Tensor, "item", item)
        elbo.differentiable_loss(model, guide, *data)
        with pytest.raises(AssertionError, match="waited"):
            TraceMeanField_ELBO().differentiable_loss(*pair(), *data)


# Echo


def test_echo_noise_is_its_sum(data):
    """Brute force over the images that each noise was made of."""
    _, guide = echo(terms=3)
    f, s = torch.randn(9, 2), torch.rand(9, 2)
    pyro.set_rng_seed(1)
    noise = guide.noise(f, s)
    pyro.set_rng_seed(1)
    order = torch.rand(9, 9)
    for i in range(9):
        others = sorted((j for j in range(9) if j != i), key=lambda j, i=i: -order[i, j].item())[:3]
        wanted, gain = torch.zeros(2), torch.ones(2)
        for j in others:
            wanted = wanted + gain * f[j]
            gain = gain * s[j]
        torch.testing.assert_close(noise[i], wanted)


def test_an_echo_is_of_others_each_once():
    _, guide = echo(terms=8)
    f = torch.nn.functional.one_hot(torch.arange(9)).float()
    noise = guide.noise(f, torch.ones(9, 9))
    torch.testing.assert_close(noise, 1 - torch.eye(9))


def test_echo_has_the_marginal_that_it_makes():
    """z = f + S eps has the distribution of eps itself: that is what makes its rate exact."""
    _, guide = echo(terms=60)
    f, s = torch.randn(4_000, 1).tanh(), torch.full((4_000, 1), 0.6)
    # Pieces of a batch: a row of 4,000 others for each is not needed.
    pieces = [
        (a + b * guide.noise(a, b), guide.noise(a, b))
        for a, b in zip(f.split(200), s.split(200), strict=True)
    ]
    z, noise = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    for power in (1, 2, 4):
        a, b = z**power, noise**power
        error = ((a.var() + b.var()) / 4_000).sqrt()
        # Draws of a batch share their images: errors are larger than those of independent ones.
        assert (a.mean() - b.mean()).abs() < 10 * error


def test_echos_loss_has_its_rate(data):
    model, guide = echo()
    x, c = data
    pyro.set_rng_seed(1)
    elbo = MeanFieldELBO()
    weights = {"beta": 0.2, "reconstruction": 2.0, "invariance": 1.0}
    loss = elbo.differentiable_loss(model, guide, x, c, **weights)
    pyro.set_rng_seed(1)
    f, s = guide.encode(x, c)
    z = f + s * guide.noise(f, s)
    rate = -s.log().sum()
    assert rate > 9 * 2 * -math.log(0.8373)
    log_likelihood = Normal(model.decode(z, c), math.sqrt(0.5)).log_prob(x).sum()
    torch.testing.assert_close(loss, -2 * log_likelihood + 1.2 * rate)
    torch.testing.assert_close(elbo.terms["elbo"], (log_likelihood - rate).detach())
    pyro.set_rng_seed(1)
    number = Trace_ELBO().loss(model, guide, x, c, **weights)
    assert number == pytest.approx(loss.item())


def test_a_batch_too_small_for_echo(data):
    _, guide = echo(terms=9)
    with pytest.raises(ValueError, match="more than 9 images, but this one has 9"):
        guide(*data)


# Shapes and networks


@NETWORKS
@pytest.mark.parametrize("shape", [(1, 7, 6), (1, 28, 28), (1, 13, 30), (3, 13, 30)])
def test_shapes(network, shape):
    model = ICVAE(shape, 3, 4, network=network, **SMALL)
    x, c = torch.rand(5, *shape), torch.eye(3)[torch.tensor([0, 1, 2, 0, 1])]
    for sees_c in (True, False):
        guide = GaussianGuide(model, network=network, sees_c=sees_c, **SMALL)
        assert guide(x, c).shape == guide.draw(x, c).shape == guide.mean(x, c).shape == (5, 4)
        changed = guide.mean(x, c.flip(1))
        assert torch.equal(changed, guide.mean(x, c)) != sees_c
    assert model.decode(torch.randn(5, 4), c).shape == model.sample(c).shape == (5, *shape)
    assert model(None, c).shape == (5, *shape)


def test_a_vae_needs_no_condition():
    model = ICVAE((7, 6), 0, 2, **SMALL)
    loss = MeanFieldELBO().differentiable_loss(
        model, GaussianGuide(model, **SMALL), torch.rand(4, 1, 7, 6), torch.zeros(4, 0)
    )
    assert loss.isfinite()


def test_the_log_variance_is_bounded(data):
    model, guide = pair()
    x, c = data
    guide.heads[-1].weight.data *= 1e6
    _, log_variance = guide.encode(x, c)
    assert log_variance.abs().max() <= 8
    assert MeanFieldELBO().differentiable_loss(model, guide, x, c).isfinite()


def test_sites(data):
    model, guide = pair("direct")
    for net, wanted in ((model, {"z", "x"}), (guide, {"z", "invariance"})):
        nodes = poutine.trace(net).get_trace(*data).nodes
        found = {name for name, site in nodes.items() if site["type"] == "sample"}
        assert found == {*wanted, "images"}


@pytest.mark.parametrize("kind", ["gaussian", "echo"])
def test_svi_learns(data, kind):
    model, guide = pair("kt") if kind == "gaussian" else echo()
    before = [weight.detach().clone() for weight in [*model.parameters(), *guide.parameters()]]
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), loss=MeanFieldELBO())
    losses = torch.tensor([svi.step(*data, reconstruction=10.0) for _ in range(80)])
    assert losses[-10:].mean() < losses[:10].mean() - 5 * losses[-10:].std() / 10**0.5
    after = nn.ModuleList([model, guide]).parameters()
    assert not any(torch.equal(a, b) for a, b in zip(after, before, strict=True))


@NETWORKS
@pytest.mark.parametrize("invariance", [*INVARIANCES, "echo"])
def test_the_factory_draws_weights_in_the_order_of_saved_seeds(network, invariance):
    """Model, then guide: the same seed gives the weights that it always gave.

    The mutation: another order, a setting that is not passed on, or a memory for each penalty.
    """
    sizes = {"hidden": (12, 10), "network": network}
    pixels = {"likelihood": "bernoulli", "likelihood_scale": 0.3}
    penalty = INVARIANCES.get(invariance)
    torch.manual_seed(1)
    model = ICVAE((7, 6), 3, 4, **sizes, **pixels, prior=invariance != "echo")
    if invariance == "echo":
        guide = EchoGuide(model, terms=5, sees_c=True, **sizes)
    else:
        memory = 20 if invariance == "direct" else 0
        guide = GaussianGuide(model, penalty, memory=memory, sees_c=True, **sizes)

    torch.manual_seed(1)
    options = {"z_dim": 4, "encoder_sees_labels": True, "memory": 20, "echo_terms": 5}
    options |= {"invariance": invariance, **sizes, **pixels}
    actual = model_and_guide((7, 6), 3, penalty, **options)
    for net, wanted in zip(actual, (model, guide), strict=True):
        assert type(net) is type(wanted)
        weights = net.state_dict()
        for name, weight in wanted.state_dict().items():
            assert torch.equal(weights.pop(name), weight), name
        assert not weights
    for name in ("shape", "c_dim", "z_dim", "likelihood", "likelihood_scale", "prior"):
        assert getattr(actual[0], name) == getattr(model, name)
    assert getattr(actual[1], "invariance", None) is penalty
    assert getattr(actual[1], "terms", None) == getattr(guide, "terms", None)
