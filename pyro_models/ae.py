"""Autoencoders: an encoder and a decoder, from images to codes and back."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_models.networks import MLP, quarter

LAYERS = (nn.Linear, nn.Conv2d)
"""What a decoder's last layer may be."""


class Autoencoder(nn.Module):
    r"""An encoder :math:`z = f(x)` and a decoder :math:`\hat{x} = g(z)`.

    Args:
        encoder: From :math:`(B, 1, H, W)` to :math:`(B, *)`.
        decoder: From :math:`(B, D)` to :math:`(B, H', W')` with :math:`H' \ge H, W' \ge W`.
        shape: The images' height and width :math:`(H, W)`; what a decoder draws beyond is cut off.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, shape: tuple[int, int]) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.shape = shape

    def encode(self, images: Tensor) -> Tensor:
        r"""Codes of images.

        Args:
            images: Of shape :math:`(*, H, W)`, in [0, 1].

        Returns:
            :math:`z`, of shape :math:`(*, D)`.
        """
        batch = images.shape[:-2]
        z = self.encoder(images.reshape(-1, 1, *self.shape)).to(images.dtype).flatten(1)
        return z.reshape(*batch, z.shape[1])

    def decode(self, z: Tensor) -> Tensor:
        r"""Images of codes: :math:`(*, D)` to :math:`(*, H, W)`."""
        height, width = self.shape
        drawn = self.decoder(z.reshape(-1, z.shape[-1])).to(z.dtype)
        return drawn[..., :height, :width].reshape(*z.shape[:-1], height, width)

    @torch.no_grad()
    def start_at(self, mean: Tensor) -> None:
        r"""Sets the biases of the decoder's last layer so that it draws the mean image at first.

        This is for a decoder that ends in a sigmoid; another one stays as it is. Without it the
        first steps of all weights agree on one thing, that images are darker than a sigmoid's
        :math:`1/2`. On images that are mostly black their sum goes so far that the sigmoid is flat
        everywhere, where no gradient is left to come back. Around the mean image the errors of a
        batch cancel but for what tells its images apart.

        Args:
            mean: The mean training image, of shape :math:`(H, W)`, in [0, 1]; it is brought into
                [0.01, 0.99], where a logit is finite. Of a layer with a single bias for all pixels,
                such as a convolution, that is the logit of the mean pixel.
        """
        layers = [each for each in self.decoder.modules() if isinstance(each, LAYERS)]
        if not any(isinstance(each, nn.Sigmoid) for each in self.decoder.modules()) or not layers:
            return
        bias = layers[-1].bias
        level = mean if bias.numel() == mean.numel() else mean.mean()
        bias.copy_(level.clamp(0.01, 0.99).logit().flatten().expand_as(bias))

    def forward(self, images: Tensor) -> Tensor:
        """What is left of images after the way through the code; of their shape."""
        return self.decode(self.encode(images))


def convolutional(shape: tuple[int, int], z_dim: int) -> Autoencoder:
    """A small convolutional encoder, and a larger decoder that doubles by nearest neighbours.

    Weights are drawn as :func:`~torch.nn.init.xavier_uniform_` does, and biases are zero. A side
    that cannot be halved twice is rounded up.

    Args:
        shape: The images' height and width.
        z_dim: The size of a code.
    """
    height, width = quarter(shape)
    encoder = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(8 * height * width, z_dim),
    )
    decoder = nn.Sequential(
        *(nn.Linear(z_dim, 64 * height * width), nn.ReLU()),
        nn.Unflatten(1, (64, height, width)),
        *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()),
        nn.Upsample(scale_factor=2),
        *(nn.Conv2d(64, 32, 3, padding=1), nn.ReLU()),
        nn.Upsample(scale_factor=2),
        *(nn.Conv2d(32, 1, 3, padding=1), nn.Sigmoid()),
        nn.Flatten(1, 2),
    )
    autoencoder = Autoencoder(encoder, decoder, shape)
    for module in autoencoder.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    return autoencoder


def dense(shape: tuple[int, int], z_dim: int, hidden: tuple[int, ...] = (1000, 500)) -> Autoencoder:
    """Dense layers, the decoder's in the encoder's order turned round.

    Args:
        shape: The images' height and width.
        z_dim: The size of a code.
        hidden: The widths of the encoder's hidden layers.

    Example:
        >>> import torch
        >>> autoencoder = dense((28, 28), z_dim=10)
        >>> z = autoencoder.encode(torch.rand(5, 28, 28))
        >>> z.shape, autoencoder.decode(z).shape
        (torch.Size([5, 10]), torch.Size([5, 28, 28]))
    """
    height, width = shape
    encoder = nn.Sequential(nn.Flatten(), MLP(height * width, z_dim, hidden))
    decoder = nn.Sequential(
        MLP(z_dim, height * width, hidden[::-1]),
        nn.Sigmoid(),
        nn.Unflatten(1, shape),
    )
    return Autoencoder(encoder, decoder, shape)
