"""The plain autoencoder and its objective."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from pyro_models import acai
from pyro_models.ae import convolutional, dense
from train.objective import ReconstructionObjective
from train.transformers import ACAITransformer, AETransformer


@pytest.mark.parametrize("make", [convolutional, dense])
@pytest.mark.parametrize("shape", [(28, 28), (15, 21), (2, 5)])
def test_shapes(make, shape):
    """Sides that cannot be halved twice are rounded up, and cut off again."""
    autoencoder = make(shape, 3)
    images = torch.rand(2, 4, *shape)
    z = autoencoder.encode(images)
    assert z.shape == (2, 4, 3)
    drawn = autoencoder.decode(z)
    assert drawn.shape == images.shape
    assert (drawn >= 0).all()
    assert (drawn <= 1).all()
    assert autoencoder.decode(z[0, 0]).shape == shape


def test_a_decoder_is_told_by_its_code_alone():
    autoencoder = dense((8, 8), 2, (16,))
    images = torch.rand(5, 8, 8)
    torch.testing.assert_close(autoencoder(images), autoencoder.decode(autoencoder.encode(images)))


def test_noise_is_on_what_the_encoder_sees_only():
    torch.manual_seed(0)
    autoencoder = dense((8, 8), 2, (16,))
    images = torch.rand(5, 8, 8)
    torch.manual_seed(1)
    losses, metrics = ReconstructionObjective(autoencoder, noise=0.3)((images,), torch.zeros(()))
    torch.manual_seed(1)
    noisy = (images + 0.3 * torch.randn_like(images)).clamp(0, 1)
    wanted = (autoencoder(noisy) - images).square().mean()
    torch.testing.assert_close(losses["autoencoder"], wanted)
    torch.testing.assert_close(metrics["mse"], wanted.detach())
    plain, _ = ReconstructionObjective(autoencoder)((images,), torch.zeros(()))
    assert plain["autoencoder"] != wanted


def squares(number: int) -> np.ndarray:
    """Black images of 16 by 16 with none, one or two bright squares."""
    rng = np.random.default_rng(0)
    images = np.zeros((number, 16, 16), dtype=np.float32)
    for image in images:
        for _ in range(rng.integers(3)):
            side = rng.integers(3, 6)
            row, column = rng.integers(0, 17 - side, 2)
            image[row : row + side, column : column + side] = rng.uniform(0.6, 1)
    return images


@pytest.mark.parametrize("kind", [AETransformer, ACAITransformer])
def test_an_autoencoder_of_images_that_are_mostly_black_does_not_end_all_black(kind):
    """The mutation: biases that start at zero. It ends at the error of black images."""
    images = squares(200)
    model = kind(steps=60, batch_size=32, z_dim=10, hidden=(200,), learning_rate=1e-2)
    if kind is ACAITransformer:
        model.set_params(network="dense")
    drawn = model.fit(images).trained_.reconstruct(images).numpy()
    mean = ((images - images.mean(0)) ** 2).mean()
    assert mean < 0.95 * (images**2).mean()
    assert ((drawn - images) ** 2).mean() < 0.6 * mean


@pytest.mark.parametrize("make", [convolutional, dense])
def test_an_autoencoder_starts_at_the_mean_image(make):
    """All of it where each pixel has a bias, and its mean where one bias is for all of them."""
    autoencoder = make((8, 8), 3)
    # Pixels that are always black, too, whose logit is not finite.
    mean = torch.rand(8, 8) * (torch.arange(8) > 2)
    before = {name: each.shape for name, each in autoencoder.state_dict().items()}
    autoencoder.start_at(mean)
    assert {name: each.shape for name, each in autoencoder.state_dict().items()} == before
    # What comes to the last layer is zero.
    with torch.no_grad():
        layers = [each for each in autoencoder.decoder.modules() if hasattr(each, "weight")]
        for layer in layers[:-1]:
            layer.bias.zero_()
        drawn = autoencoder.decode(torch.zeros(3))
    wanted = mean.clamp(0.01, 0.99) if make is dense else torch.full((8, 8), mean.mean())
    torch.testing.assert_close(drawn, wanted)


def test_a_decoder_without_a_sigmoid_stays_as_it_is():
    autoencoder, _ = acai.convolutional((8, 8), 16, 2)
    before = copy.deepcopy(autoencoder.state_dict())
    autoencoder.start_at(torch.rand(8, 8))
    for name, weight in autoencoder.state_dict().items():
        assert torch.equal(weight, before[name])


def test_the_mean_image_is_that_of_the_batches():
    images = torch.rand(3, 5, 4, 4)
    objective = ReconstructionObjective(dense((4, 4), 2, (8,)))
    objective.start((each,) for each in images)
    bias = objective.autoencoder.decoder[0][-1].bias
    torch.testing.assert_close(bias.sigmoid().view(4, 4), images.mean((0, 1)))
