"""The plain autoencoder and its objective."""

from __future__ import annotations

import pytest
import torch

from pyro_models.ae import convolutional, dense
from train.objective import ReconstructionObjective


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
