"""ACAI's networks, and that each of its losses moves its own network."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pyro_models import acai
from pyro_models.ae import Autoencoder
from train.engine.steps import Stepper
from train.objective import InterpolationObjective
from train.settings import Settings

CPU = torch.device("cpu")


def compare(found, wanted, weights):
    torch.testing.assert_close(found, wanted)
    cotangent = torch.randn_like(found)
    gradients = [torch.autograd.grad((each * cotangent).sum(), weights) for each in (found, wanted)]
    torch.testing.assert_close(*gradients)


@pytest.mark.usefixtures("double")
def test_lift_is_two_convolutions():
    """Biases too: at the edge the second convolution sees zeros and not the first one's bias."""
    lift = acai.Lift(5)
    nn.init.normal_(lift.lift.bias)
    images = torch.randn(2, 1, 6, 9, requires_grad=True)
    compare(lift(images), lift.convolution(lift.lift(images)), [images, *lift.parameters()])


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("shape", [(4, 4), (1, 3)])
def test_doubled_is_nearest_neighbours_and_a_convolution(shape):
    doubled = acai.Doubled(3, 5).double()
    features = torch.randn(2, 3, *shape, requires_grad=True)
    larger = F.interpolate(features, scale_factor=2, mode="nearest")
    wanted = F.conv2d(larger, doubled.weight, doubled.bias, padding=1)
    compare(doubled(features), wanted, [features, *doubled.parameters()])


@pytest.mark.parametrize(("shape", "z_dim"), [((32, 32), 32), ((32, 32), 256), ((16, 24), 48)])
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
    ("shape", "z_dim", "words"),
    [((30, 32), 32, "30x32"), ((5, 4), 16, "5x4"), ((32, 32), 30, "z_dim is 30")],
)
def test_sizes_that_cannot_be(shape, z_dim, words):
    with pytest.raises(ValueError, match=words):
        acai.convolutional(shape, z_dim)


def test_features_keep_their_size():
    torch.manual_seed(0)
    encoder = acai.convolutional_encoder(32, 3, 16)
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
    images = torch.rand(8, 16, 16)
    settings = Settings(learning_rate=1e-3, device="cpu")
    stepper = Stepper(both, settings, CPU)
    before = {name: weight.clone() for name, weight in both.named_parameters()}

    wanted = {}
    for name, module in (("autoencoder", both.autoencoder), ("critic", both.critic)):
        torch.manual_seed(1)
        losses, _ = both((images,), torch.zeros(()))
        wanted[name] = torch.autograd.grad(losses[name], list(module.parameters()))
    torch.manual_seed(1)
    stepper((images,), 0)
    for name, module in (("autoencoder", both.autoencoder), ("critic", both.critic)):
        for weight, gradient in zip(module.parameters(), wanted[name], strict=True):
            torch.testing.assert_close(weight.grad, gradient)
    moved = {name: not torch.equal(each, before[name]) for name, each in both.named_parameters()}
    assert all(moved.values()), moved


def test_a_loss_that_is_zero_moves_nothing():
    both = objective(weight=0.0)
    images = torch.rand(4, 16, 16)
    losses, _ = both((images,), torch.zeros(()))
    found = torch.autograd.grad(losses["autoencoder"], list(both.autoencoder.parameters()))
    error = (both.autoencoder(images) - images).square().mean()
    wanted = torch.autograd.grad(error, list(both.autoencoder.parameters()))
    torch.testing.assert_close(found, wanted)


def test_a_critic_learns_to_find_mixes():
    """On a fixed autoencoder that decodes to blends, better than the best constant answer."""
    torch.manual_seed(0)
    flat = nn.Sequential(nn.Flatten(), nn.Identity())
    fixed = Autoencoder(flat, nn.Unflatten(1, (8, 8)), (8, 8))
    critic = acai.Critic(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    )
    both = InterpolationObjective(fixed, critic)
    optimiser = torch.optim.Adam(critic.parameters(), lr=3e-3)
    seen = []
    for _ in range(400):
        # One white pixel in eight: mixes are grey.
        images = (torch.rand(64, 8, 8) < 0.125).float()
        losses, _ = both((images,), torch.zeros(()))
        optimiser.zero_grad()
        losses["critic"].backward(inputs=list(critic.parameters()))
        optimiser.step()
        seen.append(losses["critic"].item())
    # The constant c that is best has (1 / 4 - c)^2 + 1 / 48 + c^2 = 0.052.
    assert sum(seen[-20:]) / 20 < 0.03 < seen[0]


def test_every_image_has_a_partner():
    """In an odd batch too. The mutation: a batch turned round mixes its middle with itself."""
    flat = nn.Sequential(nn.Flatten(), nn.Identity())
    same = Autoencoder(flat, nn.Unflatten(1, (2, 2)), (2, 2))
    seen = []

    class Recorder(nn.Module):
        def forward(self, images):
            seen.append(images)
            return images.mean((1, 2))

    images = torch.rand(3, 2, 2)
    InterpolationObjective(same, Recorder(), reach=0.0)((images,), torch.zeros(()))
    mixes, unmixed = seen
    torch.testing.assert_close(mixes, images[[2, 0, 1]])
    torch.testing.assert_close(unmixed, images)
