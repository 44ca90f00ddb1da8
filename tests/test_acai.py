"""ACAI's networks, and that each of its losses moves its own network."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pyro_models import acai
from pyro_models.ae import Autoencoder
from pyro_models.shapes import Shape
from train.engine.steps import Stepper
from train.objective import InterpolationObjective
from train.settings import Settings

CPU = torch.device("cpu")


def assert_equal_with_gradients(actual, expected, weights):
    torch.testing.assert_close(actual, expected)
    cotangent = torch.randn_like(actual)
    gradients = [
        torch.autograd.grad((output * cotangent).sum(), weights) for output in (actual, expected)
    ]
    torch.testing.assert_close(*gradients)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("inputs", [1, 3])
def test_a_pointwise_and_a_3x3_convolution_are_fused(inputs):
    """Biases too: beyond the edge the 3x3 convolution reads zeros, not the pointwise bias."""
    fused = acai.PointwiseConv2d(inputs, 5)
    nn.init.normal_(fused.lift.bias)
    images = torch.randn(2, inputs, 6, 9, requires_grad=True)
    expected = fused.convolution(fused.lift(images))
    assert_equal_with_gradients(fused(images), expected, [images, *fused.parameters()])


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("shape", [(4, 4), (1, 3)])
def test_upsampling_and_a_convolution_are_fused(shape):
    fused = acai.UpsampleConv2d(3, 5).double()
    features = torch.randn(2, 3, *shape, requires_grad=True)
    upsampled = F.interpolate(features, scale_factor=2, mode="nearest")
    expected = F.conv2d(upsampled, fused.weight, fused.bias, padding=1)
    assert_equal_with_gradients(fused(features), expected, [features, *fused.parameters()])


SHAPES = [
    ((1, 32, 32), 32),
    ((1, 32, 32), 256),
    ((1, 16, 24), 48),
    ((1, 28, 28), 32),
    ((1, 5, 4), 18),
    ((1, 3, 9), 10),
    ((3, 28, 28), 32),
    ((3, 5, 4), 18),
]


@pytest.mark.parametrize(("shape", "z_dim"), SHAPES)
def test_shapes(shape, z_dim):
    autoencoder, critic = acai.convolutional(shape, z_dim, depth=4)
    images = torch.rand(3, *shape)
    z = autoencoder.encode(images)
    assert z.shape == (3, z_dim)
    assert autoencoder.decode(z).shape == images.shape
    assert critic(images).shape == (3,)
    autoencoder, critic = acai.dense(shape, z_dim, (20, 10))
    assert autoencoder(images).shape == images.shape
    assert critic(images).shape == (3,)


@pytest.mark.parametrize(
    ("shape", "padded", "halvings", "places"),
    [
        (Shape(1, 28, 28), (1, 32, 32), 3, 16),
        (Shape(1, 32, 32), (1, 32, 32), 3, 16),
        (Shape(1, 28, 33), (1, 32, 40), 3, 20),
        (Shape(1, 33, 64), (1, 48, 64), 4, 12),
        (Shape(1, 5, 4), (1, 6, 4), 1, 6),
        (Shape(1, 1, 3), (1, 2, 4), 1, 2),
        (Shape(3, 28, 33), (3, 32, 40), 3, 20),
    ],
)
def test_places_of_a_code(shape, padded, halvings, places):
    """They are those of the padded shape: a run's config.json may have either."""
    assert acai.padded_shape(shape) == padded
    assert acai.halvings(shape) == acai.halvings(Shape(*padded)) == halvings
    assert acai.places(shape) == acai.places(Shape(*padded)) == places
    autoencoder, _ = acai.convolutional(shape, places, depth=2)
    assert autoencoder.encode(torch.rand(1, *shape)).shape == (1, places)


@pytest.mark.parametrize(("z_dim", "channels"), [(1, 2), (30, 2), (100, 7)])
def test_a_code_that_is_no_multiple_of_its_places_is_made_by_a_dense_layer(z_dim, channels):
    autoencoder, critic = acai.convolutional((28, 28), z_dim, depth=2)
    for network in (autoencoder.encoder, critic.features):
        assert (network[-1].in_features, network[-1].out_features) == (16 * channels, z_dim)
    first = autoencoder.decoder[0]
    assert (first.in_features, first.out_features) == (z_dim, 16 * channels)
    assert first.weight.std().item() == pytest.approx((1.04 * z_dim) ** -0.5, rel=0.3)
    images = torch.rand(3, 1, 28, 28)
    z = autoencoder.encode(images)
    assert z.shape == (3, z_dim)
    assert autoencoder.decode(z).shape == images.shape
    assert critic(images).shape == (3,)
    z.sum().backward()
    assert all((weight.grad != 0).any() for weight in autoencoder.encoder.parameters())


@pytest.mark.parametrize("shape", [(1, 13, 16), (1, 14, 15), (3, 14, 15)])
def test_padded_networks_are_those_of_the_padded_images(shape):
    """One set of weights, on images that are padded inside or outside: the weights of saved runs.

    The mutation: a margin that is not centred, or another padded shape.
    """
    inside = acai.convolutional(shape, 16, depth=3)
    outside = acai.convolutional((shape[0], 16, 16), 16, depth=3)
    for network, other in zip(inside, outside, strict=True):
        other.load_state_dict(network.state_dict())
    images = torch.rand(4, *shape)
    channels, height, width = shape
    padded = torch.zeros(4, channels, 16, 16)
    top, left = (16 - height) // 2, (16 - width) // 2
    region = (..., slice(top, top + height), slice(left, left + width))
    padded[region] = images
    z = inside[0].encode(images)
    assert torch.equal(z, outside[0].encode(padded))
    assert torch.equal(inside[0].decode(z), outside[0].decode(z)[region])
    assert torch.equal(inside[1](images), outside[1](padded))


@pytest.mark.parametrize("make", [acai.convolutional, acai.dense])
def test_padded_networks_are_exported_for_any_batch(make):
    autoencoder, _ = make((13, 14), 16)
    autoencoder.eval()
    images = torch.rand(2, 1, 13, 14)
    batch = {0: torch.export.Dim("batch")}
    exported = torch.export.export(autoencoder, (images,), dynamic_shapes=(batch,)).module()
    for size in (1, 2, 5):
        images = torch.rand(size, 1, 13, 14)
        torch.testing.assert_close(exported(images), autoencoder(images))


def test_features_keep_their_scale():
    torch.manual_seed(0)
    encoder = acai.convolutional_encoder(1, 32, 3, 16)
    size = encoder(torch.randn(64, 1, 32, 32)).std().item()
    # PyTorch's own weights lose a third of it at each layer, nearly all after eight.
    assert 0.1 < size < 10
    weight = encoder[-3].weight
    assert weight.std().item() == pytest.approx(1 / math.sqrt(1.04 * 9 * 128), rel=0.05)


def objective(**options: float) -> InterpolationObjective:
    torch.manual_seed(0)
    return InterpolationObjective(*acai.convolutional((16, 16), 16, depth=4), **options)


def test_each_loss_moves_its_own_weights():
    """As two forward passes with the same draws would, each with the other network fixed.

    The mutation: the critic's loss reaching the autoencoder, or the autoencoder's the critic.
    """
    both = objective()
    images = torch.rand(8, 1, 16, 16)
    settings = Settings(learning_rate=1e-3, device="cpu")
    stepper = Stepper(both, settings, CPU)
    before = {name: weight.clone() for name, weight in both.named_parameters()}

    expected = {}
    for name, module in (("autoencoder", both.autoencoder), ("critic", both.critic)):
        torch.manual_seed(1)
        losses, _ = both((images,), torch.zeros(()))
        expected[name] = torch.autograd.grad(losses[name], list(module.parameters()))
    torch.manual_seed(1)
    stepper((images,), 0)
    for name, module in (("autoencoder", both.autoencoder), ("critic", both.critic)):
        for weight, gradient in zip(module.parameters(), expected[name], strict=True):
            torch.testing.assert_close(weight.grad, gradient)
    moved = {
        name: not torch.equal(weight, before[name]) for name, weight in both.named_parameters()
    }
    assert all(moved.values()), moved


def test_a_loss_that_is_zero_moves_nothing():
    both = objective(weight=0.0)
    images = torch.rand(4, 1, 16, 16)
    losses, _ = both((images,), torch.zeros(()))
    actual = torch.autograd.grad(losses["autoencoder"], list(both.autoencoder.parameters()))
    error = (both.autoencoder(images) - images).square().mean()
    expected = torch.autograd.grad(error, list(both.autoencoder.parameters()))
    torch.testing.assert_close(actual, expected)


def test_a_critic_learns_the_mixing_coefficient():
    """On a fixed autoencoder that decodes to blends, better than the best constant estimate."""
    torch.manual_seed(0)
    flat = nn.Sequential(nn.Flatten(), nn.Identity())
    fixed = Autoencoder(flat, nn.Unflatten(1, (1, 8, 8)), (8, 8))
    critic = acai.Critic(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    )
    both = InterpolationObjective(fixed, critic)
    optimiser = torch.optim.Adam(critic.parameters(), lr=3e-3)
    history = []
    for _ in range(400):
        # One white pixel in eight: mixes are grey.
        images = (torch.rand(64, 1, 8, 8) < 0.125).float()
        losses, _ = both((images,), torch.zeros(()))
        optimiser.zero_grad()
        losses["critic"].backward(inputs=list(critic.parameters()))
        optimiser.step()
        history.append(losses["critic"].item())
    # The constant c that is best has (1 / 4 - c)^2 + 1 / 48 + c^2 = 0.052.
    assert sum(history[-20:]) / 20 < 0.03 < history[0]


def test_every_image_has_a_partner():
    """In a batch of odd size too. The mutation: a reversed batch mixes its middle with itself."""
    flat = nn.Sequential(nn.Flatten(), nn.Identity())
    identity = Autoencoder(flat, nn.Unflatten(1, (1, 2, 2)), (2, 2))
    inputs = []

    class Recorder(nn.Module):
        def forward(self, images):
            inputs.append(images)
            return images.mean((1, 2, 3))

    images = torch.rand(3, 1, 2, 2)
    InterpolationObjective(identity, Recorder(), reach=0.0)((images,), torch.zeros(()))
    mixes, unmixed = inputs
    torch.testing.assert_close(mixes, images[[2, 0, 1]])
    torch.testing.assert_close(unmixed, images)
