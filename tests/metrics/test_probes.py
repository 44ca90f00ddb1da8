from __future__ import annotations

import numpy as np
import pytest
import torch

from guides.icvae import EchoGuide, GaussianGuide
from pyro_models.icvae import ICVAE
from tests.data.refusals import refused
from train.data.conditions import Condition
from train.data.labelled import Images, Split
from train.metrics import probes
from train.metrics.coding import ICVAEWatch, encode
from train.metrics.probes import leakage

ADVERSARIES = {"linear", "mlp1", "mlp2", "mlp3", "nearest1", "nearest15", "trees"}
SMOOTH = ("linear", "mlp1", "mlp2", "mlp3")


def rings(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two classes at two radii: nothing for a line, all for a network."""
    labels = rng.integers(0, 2, n)
    angles, radii = rng.uniform(0, 2 * np.pi, n), 1 + 2 * labels + 0.1 * rng.normal(size=n)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1), labels


def test_what_a_line_cannot_read_a_network_can():
    rng = np.random.default_rng(0)
    found = leakage(rings(2_000, rng), rings(1_000, rng))
    assert found.best > 0.98
    assert found.linear < 0.6
    assert set(found.scores) == ADVERSARIES
    assert found.best == max(found.scores.values())


def test_noise_gives_nothing_away():
    rng = np.random.default_rng(0)
    labels = rng.choice(3, size=3_000, p=[0.5, 0.3, 0.2])
    codes = rng.normal(size=(3_000, 4))
    found = leakage((codes[:2_000], labels[:2_000]), (codes[2_000:], labels[2_000:]))
    assert found.chance == pytest.approx(np.mean(labels[2_000:] == 0))
    error = (0.25 / 1_000) ** 0.5
    assert found.best < found.chance + 5 * error


@pytest.mark.parametrize("columns", [1, 2])
def test_quantities_are_read_as_r2(columns):
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(3_000, 3))
    wanted = np.stack([codes[:, 0] ** 2, codes[:, 1] * codes[:, 2]], 1)[:, :columns]
    wanted = wanted[:, 0] if columns == 1 else wanted
    found = leakage((codes[:2_000], wanted[:2_000]), (codes[2_000:], wanted[2_000:]))
    assert found.best > 0.8
    assert found.linear < 0.1
    assert found.chance == 0


def test_fine_structure_is_read_by_neighbours_and_trees():
    """A class that alternates along a line, and a wave: networks take both for noise."""
    rng = np.random.default_rng(0)
    codes = rng.uniform(size=(3_000, 1))
    stripes, wave = (codes[:, 0] * 50).astype(int) % 2, np.sin(200 * codes[:, 0])
    for labels, blind, near, trees in ((stripes, 0.6, 0.95, 0.9), (wave, 0.1, 0.95, 0.8)):
        found = leakage((codes[:2_000], labels[:2_000]), (codes[2_000:], labels[2_000:]))
        assert max(found.scores[name] for name in SMOOTH) < blind
        assert found.scores["nearest1"] > near
        assert found.scores["trees"] > trees
        assert found.best > near


def test_adversaries_of_many_classes_and_many_codes(monkeypatch):
    """Trees have a limit, and say so by not being there; a class may have a single member."""
    codes = np.random.default_rng(0).normal(size=(120, 2))
    few = np.r_[np.zeros(119, dtype=int), 1]
    assert set(probes.local_adversaries(few, 0, classes=True)) == {"nearest1", "nearest15", "trees"}
    probes.fit(probes.local_adversaries(few, 0, classes=True), (codes, few))
    many = np.arange(120) % (probes.MOST_CLASSES + 1)
    assert set(probes.local_adversaries(many, 0, classes=True)) == {"nearest1", "nearest15"}
    monkeypatch.setattr(probes, "MOST_CODES", 60)
    known = (codes, np.arange(120) % 2)
    # Half of what it is asked about the nearest neighbour has seen, and knows.
    nearest = leakage(known, known).scores["nearest1"]
    assert nearest == pytest.approx(0.75, abs=5 * (0.25 / 60) ** 0.5 / 2)


# Conditions


def images(labels: torch.Tensor | None) -> Images:
    n = 8 if labels is None else len(labels)
    return Images(torch.zeros(n, 1, 5, 5, dtype=torch.uint8), labels)


def test_classes_are_one_hot():
    data = images(torch.tensor([2, 0, 1, 2]))
    condition = Condition.fit(data, data)
    assert condition.size == condition.classes == 3
    assert condition(data.labels).tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert condition.of_images(data, use_labels=False).shape == (4, 0)


@pytest.mark.parametrize("shape", [(50,), (50, 2)])
def test_quantities_are_standardised_by_the_training_split(shape):
    train, held_out = images(5 + 3 * torch.randn(shape)), images(torch.full(shape, 5.0))
    condition = Condition.fit(train, held_out)
    c = condition.of_images(train)
    assert condition.classes == 0
    assert c.shape == (50, condition.size)
    torch.testing.assert_close(c.mean(0), torch.zeros(condition.size), atol=1e-5, rtol=0)
    torch.testing.assert_close(c.std(0), torch.ones(condition.size))
    wanted = (5 - train.labels.reshape(50, -1).mean(0)) / train.labels.reshape(50, -1).std(0)
    torch.testing.assert_close(condition.of_images(held_out)[0], wanted)


@pytest.mark.parametrize(
    ("train", "held_out", "words"),
    [
        (None, None, "has no labels"),
        (torch.zeros(4, dtype=torch.int64), torch.zeros(4, dtype=torch.int64), "a single class"),
        (torch.tensor([0, 1, 0]), torch.tensor([0, 2]), "all images of class 2 are held out"),
        (torch.tensor([[1.0, 2], [1, 3]]), torch.tensor([[1.0, 2]]), "the same for every image"),
    ],
)
def test_labels_that_will_not_do(train, held_out, words):
    with refused(words):
        Condition.fit(images(train), images(held_out))


# Codes


def labelled(n: int) -> Images:
    return Images(torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8), torch.arange(n) % 3)


def test_measures_of_codes():
    data = labelled(230)
    condition = Condition.fit(data, data)
    model = ICVAE((8, 8), 3, 2, hidden=(12, 12))
    guide = GaussianGuide(model, hidden=(12, 12))
    codes = encode(model, guide, data.images, condition.of_images(data), batch=50)
    x, c = data.images / 255, condition.of_images(data)
    mu, log_variance = guide.encode(x, c)
    torch.testing.assert_close(codes.parameters, torch.cat([mu, log_variance], 1))
    torch.testing.assert_close(codes.mean, mu)
    wanted = (model.decode(mu, c) - x).square().mean().item()
    assert codes.reconstruction_mse == pytest.approx(wanted, rel=1e-5)
    noise = (codes.sampled - mu) / (0.5 * log_variance).exp()
    assert noise.mean().abs() < 5 / 460**0.5
    assert (noise.std() - 1).abs() < 5 / 920**0.5


@pytest.mark.parametrize("kind", ["gaussian", "echo"])
def test_a_watch_has_figures_and_measures(kind):
    data = labelled(150)
    condition = Condition.fit(data, data)
    model = ICVAE((8, 8), 3, 2, hidden=(12, 12), prior=kind == "gaussian")
    guide = (
        GaussianGuide(model, hidden=(12, 12))
        if kind == "gaussian"
        else EchoGuide(model, terms=20, hidden=(12, 12))
    )
    watch = ICVAEWatch(model, guide, Split(data, data), condition)
    assert set(watch.evaluate(1)) == {"held_out_elbo", "held_out_mse"}
    assert {rows.shape for rows in watch.reconstructions().values()} == {(3, 1, 8, 8)}
    assert [rows.shape for rows in watch.swaps().values()] == [(4, 1, 8, 8)] * 3
    found = watch.measure()
    read = ("leakage", "leakage_mean", "leakage_parameters")
    assert all(0 <= found[name] <= 1 for name in read)
    assert found["leakage"] == max(found["leakage_adversaries"].values())
    assert found["chance"] == pytest.approx(1 / 3)
    z, labels = watch.codes(100)
    assert z.shape == (100, 2)
    assert len(labels) == 100
