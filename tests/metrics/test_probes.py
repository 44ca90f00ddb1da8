from __future__ import annotations

import pytest
import torch

from guides.icvae import EchoGuide, GaussianGuide
from pyro_models.icvae import ICVAE
from tests.data.refusals import refused
from train.data.conditions import Condition
from train.data.labelled import Images, Split
from train.metrics.coding import ICVAEWatch
from train.metrics.invariance import encode


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
    watch = ICVAEWatch(model, guide, Split(data, data), condition)
    codes = encode(model, guide, data.images, condition.of_images(data), watch.error, batch=50)
    x, c = data.images / 255, condition.of_images(data)
    mu, log_variance = guide.encode(x, c)
    torch.testing.assert_close(codes.parameters, torch.cat([mu, log_variance], 1))
    torch.testing.assert_close(codes.mean, mu)
    wanted = (model.decode(mu, c) - x).square().mean().item()
    assert codes.error == pytest.approx(wanted, rel=1e-5)
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
