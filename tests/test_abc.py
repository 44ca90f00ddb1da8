"""The embedder, its second views, its objective, and retrieval."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from torch import nn

from pyro_models.abc import Embedder, augment
from pyro_models.components import MOST_IMAGES, PrincipalComponents
from pyro_models.shapes import Shape
from train.losses.correspondence import collapse, cycle
from train.losses.stacks import inhomogeneity, separation, unexplained
from train.metrics.embedding import retrieval
from train.objective import CorrespondenceObjective


def stacks(pairs: int = 2, n: int = 8, m: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Bars at different heights: thick ones in one stack, thin ones in the other."""
    images = torch.zeros(pairs, n + m, 1, 28, 28)
    for i in range(n + m):
        images[:, i, :, 3 + 2 * (i % n) : 4 + 2 * (i % n) + (i < n)] = 1
    return images[:, :n], images[:, n:]


@pytest.mark.parametrize("network", ["strided", "deep"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 15, 20), (1, 33, 16), (3, 15, 20)])
def test_shapes(shape, network):
    embedder = Embedder(shape, 5, channels=4, hidden=6, network=network)
    assert embedder(torch.rand(2, 3, *shape)).shape == (2, 3, 5)
    assert embedder(torch.rand(*shape)).shape == (5,)


@pytest.mark.parametrize(("side", "features"), [(8, 10), (14, 16), (15, 1), (28, 5)])
def test_short_sides_keep_their_length(side, features):
    """Halved twice, eight pixels would be a single position."""
    embedder = Embedder((side, 64), channels=2)
    assert embedder.network[-1][0].in_features == 2 * features * 14


def test_standardised_pixels_are_shifted_and_scaled():
    """The mutation: the same weights on the images as they are."""
    images = torch.rand(4, 1, 28, 28)
    plain, standardised = Embedder(), Embedder(standardise=True)
    standardised.load_state_dict(plain.state_dict())
    torch.testing.assert_close(standardised(images), plain(4 * images - 2))
    assert not torch.allclose(standardised(images), plain(images))


def test_normalised_embeddings_are_on_the_sphere():
    norms = Embedder(normalise=True)(torch.rand(4, 1, 28, 28)).norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones(4))


def test_initial_weights_do_not_begin_collapsed():
    """The mutation: PyTorch's own initial weights, with which the loss never leaves log n."""
    torch.manual_seed(0)
    a, b = stacks(1)
    pairs = {"glorot": Embedder(), "pytorch": Embedder()}
    for module in pairs["pytorch"].modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()
    gap = {}
    for name, embedder in pairs.items():
        with torch.no_grad():
            gap[name] = 8 * (embedder(a) - embedder(b)).square().mean().item()
    assert gap["glorot"] > 20 * gap["pytorch"]


@pytest.mark.parametrize("channels", [1, 3])
def test_shifted_moves_whole_pixels_and_dims(channels):
    """All channels of an image alike: the mutation is a shift for each."""
    torch.manual_seed(0)
    images = torch.zeros(2, 500, channels, 9, 7)
    images[..., 4, 3] = 0.5
    seen = augment(images)
    assert seen.shape == images.shape
    assert torch.equal(seen, seen[:, :, :1].expand_as(seen))
    bright = seen[:, :, 0].flatten(-2)
    assert (bright > 0).sum(-1).eq(1).all()
    peak = bright.amax(-1)
    assert peak.min() >= 0.4
    assert peak.max() <= 0.6
    rows, columns = torch.nonzero(seen[:, :, 0].flatten(0, 1))[:, 1:].T
    assert rows.unique().tolist() == [2, 3, 4, 5, 6]
    assert columns.unique().tolist() == [1, 2, 3, 4, 5]


def test_the_objective_is_both_ways():
    a, b = stacks(n=5, m=7)
    embedder = Embedder()
    objective = CorrespondenceObjective(embedder, similarity="l2", temperature=0.5)
    losses, metrics = objective((a, b), torch.zeros(()))
    u, v = embedder(a), embedder(b)
    there, back = (cycle(*pair, kind="l2", temperature=0.5)[0] for pair in ((u, v), (v, u)))
    torch.testing.assert_close(losses["cycle"], (there + back).mean())
    assert 0 <= metrics["cycle_accuracy"] <= 1


def test_two_views_find_with_one_and_return_to_the_other():
    torch.manual_seed(0)
    a, b = stacks()
    views = iter([lambda x: x, lambda x: 0.5 * x])
    embedder = Embedder()
    objective = CorrespondenceObjective(embedder, view=lambda x: next(views)(x))
    found = objective((a, b), torch.zeros(()))[0]["cycle"]
    u, v, u2, v2 = (embedder(x) for x in (a, b, 0.5 * a, 0.5 * b))
    wanted = (cycle(u, v, u2)[0] + cycle(v, u, v2)[0]).mean()
    torch.testing.assert_close(found, wanted)


def test_it_learns_to_correspond():
    torch.manual_seed(0)
    batch = stacks()
    objective = CorrespondenceObjective(Embedder(embed_dim=2, channels=8))
    adam = torch.optim.Adam(objective.parameters(), 1e-3)
    for step in range(150):
        losses, metrics = objective(batch, torch.tensor(step))
        adam.zero_grad()
        losses["cycle"].backward()
        adam.step()
    assert losses["cycle"] < 0.3 * collapse(8, 8)
    assert metrics["cycle_accuracy"] > 0.7


def test_components_are_those_of_scikit_learn():
    """Of what varies alone: of four values one is constant, and two are equal."""
    values = torch.rand(400, 3)
    images = torch.stack([values[:, 0], values[:, 1], values[:, 1], torch.ones(400)], 1)
    images = images.reshape(400, 1, 2, 2)
    components = PrincipalComponents(Shape(1, 2, 2), 4)
    assert not components(images).any()
    components.fit([images[:100], images[100:]])
    found = components(images)
    pca = PCA(2, whiten=True).fit(images.flatten(1).numpy())
    wanted = torch.from_numpy(pca.transform(images.flatten(1).numpy())).float()
    torch.testing.assert_close(found[:, :2].abs(), wanted.abs(), atol=1e-3, rtol=0)
    assert not found[:, 2:].any()


def test_components_are_of_the_first_images():
    """The mutation: all images are kept in memory."""
    batches = iter([torch.rand(MOST_IMAGES, 1, 2, 2), torch.rand(1, 1, 2, 2), None])
    PrincipalComponents(Shape(1, 2, 2), 2).fit(batches)
    assert len(next(batches)) == 1


def test_the_objective_has_terms_beside_the_cycle():
    torch.manual_seed(0)
    batch = tuple(torch.rand(2, n, 1, 28, 28) for n in (12, 16))
    objective = CorrespondenceObjective(
        Embedder(embed_dim=3, channels=4),
        components=5,
        component_weight=3.0,
        component_steps=2,
        energy_weight=7.0,
        separation_weight=4.0,
    )
    # Stacks that are told apart: a separation below chance adds nothing.
    batch[1].mul_(0.1)
    objective.start([batch])
    a, b = objective.embed(batch, None)
    apart, excess = inhomogeneity(a, b).mean(), separation(a, b).mean()
    share = torch.stack(
        [unexplained(z, objective.components(x)) for z, x in ((a, batch[0]), (b, batch[1]))]
    ).mean()
    nats = (cycle(a, b)[0] + cycle(b, a)[0]).mean()
    assert 0 < share < 1
    for step, wanted in ((1, 3 * share), (2, nats + 7 * apart + 4 * excess + 3 * share)):
        losses, metrics = objective(batch, torch.tensor(step))
        torch.testing.assert_close(losses["cycle"], wanted)
        torch.testing.assert_close(metrics["cycle_nats"], nats)
        torch.testing.assert_close(metrics["unexplained"], share)
        torch.testing.assert_close(metrics["inhomogeneity"], apart)
        torch.testing.assert_close(metrics["separation"], excess)
    assert excess > 0
    # Components are fixed.
    assert {id(x) for x in objective.parameters()} == {
        id(x) for x in objective.embedder.parameters()
    }


def test_a_separation_below_chance_adds_nothing():
    """The mutation: it is not clipped, so that neighbours of the other stack are rewarded."""
    torch.manual_seed(0)
    images = torch.rand(1, 12, 1, 28, 28)
    embedder = Embedder(embed_dim=3, channels=4)
    objective = CorrespondenceObjective(embedder, separation_weight=7.0, temperature=0.01)
    # Each image has its likeness in the other stack.
    losses, metrics = objective((images, images + 0), torch.tensor(0))
    assert metrics["separation"] < 0
    torch.testing.assert_close(losses["cycle"], metrics["cycle_nats"])


def coloured(stacks: int, rng: np.random.Generator) -> torch.Tensor:
    """Images of one value in each quarter: one is the stack's, one varies much, one little."""
    values = torch.from_numpy(rng.normal(0.5, [0.15, 0.01, 0.15], (stacks, 24, 3))).float()
    values[..., 2] = values[:, :1, 2]
    images = torch.zeros(stacks, 24, 1, 8, 8)
    for k, (rows, columns) in enumerate([(0, 0), (0, 4), (4, 0)]):
        images[..., rows : rows + 4, columns : columns + 4] = values[..., k, None, None, None]
    return images


@pytest.mark.parametrize("weight", [0.0, 6.0])
def test_with_components_embeddings_keep_what_varies_little(weight):
    """Without them it is not read: the mutation is their weight."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    objective = CorrespondenceObjective(
        Embedder((1, 8, 8), 2, channels=8, hidden=16, standardise=True),
        **({"components": 3, "component_weight": weight} if weight else {}),
    )
    data = coloured(400, rng)
    objective.start([(data[:100], data[100:200])])
    adam = torch.optim.Adam(objective.parameters(), 3e-3)
    for step in range(150):
        first, second = (data[rng.integers(200, size=4)] for _ in range(2))
        loss = objective((first, second), torch.tensor(step))[0]["cycle"]
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.no_grad():
        codes = objective.embedder(data).flatten(0, 1).numpy()
    values = data[:, :, 0].flatten(0, 1)
    score = {}
    for name, y in (
        ("much", values[:, 0, 0]),
        ("little", values[:, 0, 7]),
        ("constant", values[:, 7, 0]),
    ):
        probe = LinearRegression().fit(codes[:4800], y[:4800].numpy())
        score[name] = probe.score(codes[4800:], y[4800:].numpy())
    assert score["much"] > 0.9
    assert (score["little"] > 0.9) is bool(weight)
    assert score["constant"] < 0.1


def test_retrieval_is_between_oracle_and_random():
    rng = np.random.default_rng(0)
    styles, sets = rng.normal(size=(600, 3)), rng.integers(0, 3, 600)
    best = retrieval(styles / styles.std(0), styles, sets)
    assert best.oracle <= best.error < 1.2 * best.oracle
    blind = retrieval(rng.normal(size=(600, 4)), styles, sets)
    # A pick's error has a deviation of 0.5; 600 picks.
    assert blind.error == pytest.approx(blind.random, abs=5 * 0.5 / 600**0.5)
    assert blind.random == best.random
    # Two sets that are one and the same pile, away from a third.
    apart = styles + 100 * (sets == 2)[:, None]
    near = retrieval(apart, apart, sets).random
    with_it = retrieval(apart, apart, sets, only=(2,)).random
    assert with_it > 1.3 * near
