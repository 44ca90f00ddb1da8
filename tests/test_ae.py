"""The plain autoencoder and its objective."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from pyro_models import acai
from pyro_models.ae import Autoencoder, convolutional, dense
from train.objective import ReconstructionObjective
from train.transformers import ACAITransformer, AETransformer


@pytest.mark.parametrize("make", [convolutional, dense])
@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 15, 21), (1, 2, 5), (3, 15, 21)])
def test_shapes(make, shape):
    """Sides that cannot be halved twice are rounded up, and cropped again."""
    autoencoder = make(shape, 3)
    images = torch.rand(2, 4, *shape)
    z = autoencoder.encode(images)
    assert z.shape == (2, 4, 3)
    drawn = autoencoder.decode(z)
    assert drawn.shape == images.shape
    assert (drawn >= 0).all()
    assert (drawn <= 1).all()
    assert autoencoder.decode(z[0, 0]).shape == shape


@pytest.mark.parametrize("make", [convolutional, dense])
def test_images_without_their_channels_are_refused(make):
    """The mutation: a batch of grey images that is taken for the channels of one image."""
    with pytest.raises(ValueError, match=r"\(3, 8, 8\), whose last three .*give \(\*, C, H, W\)"):
        make((1, 8, 8), 2).encode(torch.rand(3, 8, 8))
    assert make((8, 8), 2).shape == (1, 8, 8)


def test_forward_is_encode_and_decode():
    autoencoder = dense((3, 8, 8), 2, (16,))
    images = torch.rand(5, 3, 8, 8)
    torch.testing.assert_close(autoencoder(images), autoencoder.decode(autoencoder.encode(images)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("padded", [(8, 8), (6, 7), (9, 8)])
def test_padding_is_inside_the_network(padded, channels):
    """Images are centred on zeros for the encoder, and the decoder's are cropped there."""
    inputs = []
    encoder = nn.Sequential(nn.Flatten(), nn.Identity())
    encoder.register_forward_hook(lambda module, args, output: inputs.append(args[0]))
    decoder = nn.Unflatten(1, (channels, *padded))
    autoencoder = Autoencoder(encoder, decoder, (channels, 6, 7), (channels, *padded))
    images = torch.rand(2, 3, channels, 6, 7)
    assert torch.equal(autoencoder(images), images)
    (read,) = inputs
    assert read.shape == (6, channels, *padded)
    top, left = (padded[0] - 6) // 2, (padded[1] - 7) // 2
    assert torch.equal(read[..., top : top + 6, left : left + 7], images.flatten(0, 1))
    torch.testing.assert_close(read.sum(), images.sum())


def test_the_convolutional_decoder_is_cropped_in_its_corner():
    """As in saved runs: the networks compute what they always did, whatever the padding."""
    autoencoder = convolutional((5, 6), 3)
    z = torch.randn(2, 3)
    drawn = autoencoder.decoder[:-1](z)
    assert drawn.shape == (2, 1, 8, 8)
    assert torch.equal(autoencoder.decode(z), drawn[..., :5, :6])
    images = torch.rand(2, 1, 5, 6)
    assert torch.equal(autoencoder.encode(images), autoencoder.encoder(images))


def test_noise_is_on_the_encoders_input_only():
    torch.manual_seed(0)
    autoencoder = dense((8, 8), 2, (16,))
    images = torch.rand(5, 1, 8, 8)
    torch.manual_seed(1)
    losses, metrics = ReconstructionObjective(autoencoder, noise=0.3)((images,), torch.zeros(()))
    torch.manual_seed(1)
    noisy = (images + 0.3 * torch.randn_like(images)).clamp(0, 1)
    expected = (autoencoder(noisy) - images).square().mean()
    torch.testing.assert_close(losses["autoencoder"], expected)
    torch.testing.assert_close(metrics["mse"], expected.detach())
    plain, _ = ReconstructionObjective(autoencoder)((images,), torch.zeros(()))
    assert plain["autoencoder"] != expected


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
    """The mutation: biases that start at zero. Training then ends at the error of black images."""
    images = squares(200)
    model = kind(steps=60, batch_size=32, z_dim=10, hidden=(200,), learning_rate=1e-2)
    if kind is ACAITransformer:
        model.set_params(network="dense")
    drawn = model.fit(images).trained_.reconstruct(images).numpy()
    mean = ((images - images.mean(0)) ** 2).mean()
    assert mean < 0.95 * (images**2).mean()
    assert ((drawn - images) ** 2).mean() < 0.6 * mean


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("make", [convolutional, dense])
def test_an_autoencoder_starts_at_the_mean_image(make, channels):
    """At every pixel if each has a bias, and at the mean pixel if a channel has a single bias."""
    autoencoder = make((channels, 8, 8), 3)
    # Also with pixels that are always black, whose logit is infinite.
    mean = torch.rand(channels, 8, 8) * (torch.arange(8) > 2)
    before = {name: weight.shape for name, weight in autoencoder.state_dict().items()}
    autoencoder.start_at(mean)
    assert {name: weight.shape for name, weight in autoencoder.state_dict().items()} == before
    # The last layer's input is zero.
    with torch.no_grad():
        layers = [layer for layer in autoencoder.decoder.modules() if hasattr(layer, "weight")]
        for layer in layers[:-1]:
            layer.bias.zero_()
        drawn = autoencoder.decode(torch.zeros(3))
    expected = mean.clamp(0.01, 0.99)
    if make is convolutional:
        expected = mean.mean((1, 2), keepdim=True).expand(channels, 8, 8)
    torch.testing.assert_close(drawn, expected)


@pytest.mark.parametrize("biases", [1, 64])
def test_a_padded_autoencoder_starts_at_the_mean_of_the_image(biases):
    """The mutation: a mean over the zeros around the image."""
    decoder = nn.Sequential(nn.Linear(2, 64), nn.Sigmoid(), nn.Unflatten(1, (1, 8, 8)))
    if biases == 1:
        decoder = nn.Sequential(
            nn.Unflatten(1, (2, 1, 1)),
            nn.Upsample(scale_factor=8),
            nn.Conv2d(2, 1, 1),
            nn.Sigmoid(),
        )
    autoencoder = Autoencoder(nn.Flatten(), decoder, (5, 6), (8, 8))
    mean = 0.2 + 0.6 * torch.rand(1, 5, 6)
    autoencoder.start_at(mean)
    drawn = autoencoder.decode(torch.zeros(2))
    expected = mean if biases > 1 else torch.full((1, 5, 6), mean.mean())
    torch.testing.assert_close(drawn, expected)


def test_a_decoder_without_a_sigmoid_stays_as_it_is():
    autoencoder, _ = acai.convolutional((8, 8), 16, 2)
    before = copy.deepcopy(autoencoder.state_dict())
    autoencoder.start_at(torch.rand(1, 8, 8))
    for name, weight in autoencoder.state_dict().items():
        assert torch.equal(weight, before[name])


def test_the_mean_image_is_that_of_the_batches():
    images = torch.rand(3, 5, 1, 4, 4)
    objective = ReconstructionObjective(dense((4, 4), 2, (8,)))
    objective.start((batch,) for batch in images)
    bias = objective.autoencoder.decoder[0][-1].bias
    torch.testing.assert_close(bias.sigmoid().view(1, 4, 4), images.mean((0, 1)))
