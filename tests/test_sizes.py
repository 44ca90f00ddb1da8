"""Networks of images of any size, from 8x8 to 256x256 pixels, of any aspect, grey and in colour."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guides.icvae import model_and_guide
from pyro_models import acai as acai_networks
from pyro_models import ae as ae_networks
from pyro_models.abc import Embedder
from pyro_models.networks import Convolutions, Deconvolutions, further_halvings
from pyro_models.shapes import Shape
from train import abc, acai, ae, icvae
from train.data.labelled import Images, Split, ValidationSplit
from train.trained import load

SIDES = [(8, 8), (9, 31), (64, 65), (8, 256), (256, 256)]
SHAPES = [Shape(channels, *sides) for sides in SIDES for channels in (1, 3)]
CPU = torch.device("cpu")


def images(shape: Shape, n: int = 8) -> Images:
    pixels = torch.randint(256, (n, *shape), dtype=torch.uint8)
    return Images(pixels, torch.arange(n) % 2)


def begun(method, given, shape):
    """The resolved settings, the objective, and the first batch."""
    data = images(shape)
    split = ValidationSplit(data, data, data) if method is ae.METHOD else Split(data, data)
    given = method.resolved(given, split)
    prepared = method.prepare(given, split, CPU)
    return given, prepared, prepared.batches(0)


def step(objective, batch) -> None:
    """Checks that one step of training is finite, and changes something."""
    losses, _ = objective(batch, torch.tensor(0))
    for name, loss in losses.items():
        assert torch.isfinite(loss), name
        loss.backward(retain_graph=True)
    gradients = [weight.grad for weight in objective.parameters() if weight.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any((gradient != 0).any() for gradient in gradients)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_ae(shape):
    given, prepared, batch = begun(ae.METHOD, ae.AESettings(batch_size=4), shape)
    assert given.network == ("dense" if shape.values <= 12288 else "conv")
    autoencoder = prepared.objective.autoencoder
    z = autoencoder.encode(batch[0])
    assert z.shape == (4, 10)
    assert autoencoder.decode(z).shape == (4, *shape)
    step(prepared.objective, batch)


@pytest.mark.parametrize("z_dim", [32, 7])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_acai(shape, z_dim):
    given = acai.ACAISettings(batch_size=2, depth=2, z_dim=z_dim)
    _, prepared, batch = begun(acai.METHOD, given, shape)
    autoencoder = prepared.objective.autoencoder
    z = autoencoder.encode(batch[0])
    assert z.shape == (2, z_dim)
    assert autoencoder.decode(z).shape == (2, *shape)
    step(prepared.objective, batch)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_icvae(shape):
    given = icvae.ICVAESettings(batch_size=4, memory=8)
    given, prepared, batch = begun(icvae.METHOD, given, shape)
    assert given.network == ("dense" if shape.values <= 12288 else "conv")
    model, guide = prepared.objective.model, prepared.objective.guide
    z, _ = guide.encode(*batch)
    assert z.shape == (4, 2)
    assert model.decode(z, batch[1]).shape == (4, *shape)
    step(prepared.objective, batch)


@pytest.mark.parametrize("network", ["strided", "deep"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_abc(shape, network):
    given = abc.ABCSettings(stack_size=2, withheld=(), network=network, channels=4)
    _, prepared, batch = begun(abc.METHOD, given, shape)
    assert prepared.objective.embedder(batch[0]).shape == (1, 2, 4)
    step(prepared.objective, batch)


@given(st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 70)), st.integers(1, 40))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_networks_of_any_sides(sides, z_dim):
    shape = Shape(*sides)
    pixels = torch.rand(2, *shape)
    if min(shape.sides) > 1:
        assert Convolutions(shape, 5, channels=(2, 2, 2))(pixels).shape == (2, 5)
    for network in ("strided", "deep"):
        assert Embedder(shape, 5, channels=2, network=network)(pixels).shape == (2, 5)
    for autoencoder in (
        acai_networks.convolutional(shape, z_dim, depth=1)[0],
        ae_networks.convolutional(shape, z_dim),
    ):
        z = autoencoder.encode(pixels)
        assert z.shape == (2, z_dim)
        assert autoencoder.decode(z).shape == pixels.shape


@pytest.mark.parametrize("sides", [(256, 256), (256, 8), (129, 200)])
def test_large_images_need_no_large_layers(sides):
    """No layer has more weights than with images of 64x64."""
    shape = Shape(3, *sides)
    number = {"further_halvings": further_halvings(shape)}
    autoencoder = ae_networks.convolutional(shape, 10, **number)
    model, guide = model_and_guide(shape, 2, network="conv", **number)
    embedder = Embedder(shape, **number)
    for module in (autoencoder, model, guide, embedder):
        assert max(weight.numel() for weight in module.parameters()) <= 64 * 16**2 * 512
    pixels, c = torch.rand(2, *shape), torch.eye(2)
    assert autoencoder(pixels).shape == pixels.shape
    assert model.decode(guide.mean(pixels, c), c).shape == pixels.shape
    assert embedder(pixels).shape == (2, 8)


@pytest.mark.parametrize(("longer", "number"), [(8, 0), (64, 0), (65, 1), (128, 1), (256, 2)])
def test_further_halvings(longer, number):
    assert further_halvings(Shape(1, 8, longer)) == number
    assert further_halvings(Shape(3, longer, 8)) == number


class TestSavedRuns:
    """Runs of earlier versions, whose inputs have no further halvings, keep their networks."""

    def shapes(self, module):
        return [tuple(weight.shape) for weight in module.parameters() if weight.ndim > 1]

    @pytest.mark.parametrize("side", [28, 64, 256])
    def test_of_ae(self, side):
        given = ae.AESettings(network="conv", z_dim=3)
        objective = ae.METHOD.build(given, {"shape": (side, side)})
        encoder = self.shapes(objective.autoencoder.encoder)
        assert encoder[-1] == (3, 8 * (side // 4) ** 2)
        assert len(encoder) == 5
        assert len(self.shapes(objective.autoencoder.decoder)) == 4

    @pytest.mark.parametrize("side", [30, 256])
    def test_of_icvae(self, side):
        condition = {"classes": 2, "loc": [], "scale": [], "values": [0, 1]}
        given = icvae.ICVAESettings(network="conv", hidden=(4,))
        inputs = {"shape": (side, side), "condition": condition}
        objective = icvae.METHOD.build(given, inputs)
        features = 64 * (-(-side // 4)) ** 2
        assert self.shapes(objective.guide)[:3] == [(32, 1, 4, 4), (64, 32, 4, 4), (4, features)]
        assert self.shapes(objective.model)[1:] == [
            (features, 4),
            (64, 32, 4, 4),
            (32, 1, 4, 4),
        ]

    @pytest.mark.parametrize("side", [15, 28, 256])
    def test_of_abc(self, side):
        objective = abc.METHOD.build(abc.ABCSettings(), {"shape": (side, side)})
        weights = self.shapes(objective.embedder)
        assert weights[:3] == [(32, 1, 4, 4), (32, 32, 4, 4), (32, 32, 3, 3)]
        assert weights[3] == (128, 32 * (side // 2 // 2 - 2) ** 2)

    @pytest.mark.parametrize("number", [-1, 16, 1.0, "1", True])
    def test_damaged_inputs_are_refused(self, number):
        inputs = {"shape": (28, 28), "further_halvings": number}
        with pytest.raises(ValueError, match="further_halvings"):
            ae.METHOD.build(ae.AESettings(), inputs)


def test_a_run_saves_what_it_chose_and_is_loaded(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 3, 129, 33), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", images=pixels)
    run = tmp_path / "run"
    small = {"steps": 1, "batch_size": 4, "cluster_starts": 1, "device": "cpu"}
    ae.main(ae.AESettings(data=str(tmp_path / "own.npz"), run_dir=run, **small))
    config = json.loads((run / "config.json").read_text())
    assert config["settings"]["network"] == "conv"
    assert config["inputs"]["further_halvings"] == 2
    z = load(run).encode(pixels[:5])
    assert load(run).decode(z).shape == (5, 3, 129, 33)


def test_channels_say_how_often_sides_are_halved():
    shape = Shape(3, 33, 70)
    features = Convolutions(shape, 5, channels=(4, 6, 8))(torch.rand(2, 7, *shape))
    assert features.shape == (2, 7, 5)
    assert Deconvolutions(5, shape, channels=(8, 6, 4))(features).shape == (2, 7, shape.values)


@pytest.mark.parametrize("sides", [(1, 40), (40, 1), (1, 1)])
def test_convolutions_of_a_row_of_pixels(sides):
    """The mutation: the second kernel, which is larger than what the first one leaves."""
    network = Convolutions(Shape(1, *sides), 4, (8,))
    images = torch.rand(5, 1, *sides, requires_grad=True)
    features = network(images)
    assert features.shape == (5, 4)
    (gradient,) = torch.autograd.grad(features.square().sum(), images)
    assert gradient.any()
