"""Autoencoders: an encoder from images to codes, and a decoder from codes to images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_models.networks import MLP, CropCorner, centre_crop, centre_pad, halved, xavier
from pyro_models.shapes import Shape, require_shape

LAYERS = (nn.Linear, nn.Conv2d)
"""The layer types whose bias :meth:`Autoencoder.start_at` sets."""


class Autoencoder(nn.Module):
    r"""An encoder :math:`z = f(x)` and a decoder :math:`\hat{x} = g(z)`.

    Networks that halve an image's sides need sides that are multiples of a power of two. They are
    given a ``padded_shape``: the encoder then reads images that are centred on zeros of that shape
    (:func:`~pyro_models.networks.centre_pad`), and what the decoder draws is cropped at the centre.
    Images of :meth:`encode`, :meth:`decode` and :meth:`forward` are never padded.

    Args:
        encoder: From :math:`(B, C, H', W')` to :math:`(B, *)`.
        decoder: From :math:`(B, D)` to :math:`(B, C, H', W')`.
        shape: The images' channels, height and width :math:`(C, H, W)`; of grey images
            :math:`(H, W)` too.
        padded_shape: The shape :math:`(C, H', W')` of the images that the networks read and draw;
            ``shape`` if not given.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        shape: Shape,
        padded_shape: Shape | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.shape = Shape.of(shape)
        self.padded_shape = self.shape if padded_shape is None else Shape.of(padded_shape)

    def encode(self, images: Tensor) -> Tensor:
        r"""Encodes images.

        Args:
            images: Of shape :math:`(*, C, H, W)`, in [0, 1].

        Returns:
            Codes :math:`z`, of shape :math:`(*, D)`.
        """
        require_shape(images, self.shape)
        batch = images.shape[:-3]
        padded = centre_pad(images.reshape(-1, *self.shape), self.padded_shape.sides)
        z = self.encoder(padded).to(images.dtype).flatten(1)
        return z.reshape(*batch, z.shape[1])

    def decode(self, z: Tensor) -> Tensor:
        r"""Decodes codes of shape :math:`(*, D)` to images of shape :math:`(*, C, H, W)`."""
        padded = self.decoder(z.reshape(-1, z.shape[-1])).to(z.dtype)
        return centre_crop(padded, self.shape.sides).reshape(*z.shape[:-1], *self.shape)

    @torch.no_grad()
    def start_at(self, mean: Tensor) -> None:
        r"""Sets the bias of the decoder's last layer so that the decoder draws the mean image.

        It applies to decoders that end in a sigmoid, after a layer with a bias; others stay as they
        are. A sigmoid starts at
        :math:`1/2`, and images are darker: in the first steps all gradients agree on lowering the
        output. On images that are mostly black they push the sigmoid into saturation at every
        pixel, where gradients vanish. Around the mean image the gradients of a batch cancel, except
        for what distinguishes its images.

        Args:
            mean: The mean training image, of shape :math:`(C, H, W)`, in [0, 1]. It is clamped to
                [0.01, 0.99], where logits are finite. A layer with one bias for all pixels of a
                channel, such as a convolution, is set to the logit of the channel's mean pixel.
        """
        layers = [layer for layer in self.decoder.modules() if isinstance(layer, LAYERS)]
        if not any(isinstance(layer, nn.Sigmoid) for layer in self.decoder.modules()) or not layers:
            return
        bias = layers[-1].bias
        if bias is None:
            return
        padded = centre_pad(mean, self.padded_shape.sides)
        level = padded if bias.numel() == padded.numel() else mean.mean((1, 2))
        bias.copy_(level.clamp(0.01, 0.99).logit().flatten().expand_as(bias))

    def forward(self, images: Tensor) -> Tensor:
        r"""Encodes and decodes images; both are of shape :math:`(*, C, H, W)`."""
        return self.decode(self.encode(images))


def convolutional(shape: Shape, z_dim: int, further_halvings: int = 0) -> Autoencoder:
    """Makes a small convolutional encoder, and a larger decoder with nearest-neighbour upsampling.

    Weights are drawn by :func:`~torch.nn.init.xavier_uniform_`, and biases are zero. The decoder
    draws sides that are multiples of a power of two, and crops them at the bottom and at the right.

    Args:
        shape: The images' shape :math:`(C, H, W)`, or :math:`(H, W)` of grey images.
        z_dim: The size of a code.
        further_halvings: How often the sides are halved beyond twice, for large images: see
            :func:`pyro_models.networks.further_halvings`.
    """
    shape = Shape.of(shape)
    _, height, width = halved(shape, 2 + further_halvings)
    channels = 8
    halvings: list[nn.Module] = []
    doublings: list[nn.Module] = []
    for _ in range(further_halvings):
        halvings += [nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1), nn.ReLU()]
        channels *= 2
        halvings += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
        doublings += [nn.Upsample(scale_factor=2), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()]
    encoder = nn.Sequential(
        *(nn.Conv2d(shape.channels, 8, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
        *halvings,
        nn.Flatten(),
        nn.Linear(channels * height * width, z_dim),
    )
    decoder = nn.Sequential(
        *(nn.Linear(z_dim, 64 * height * width), nn.ReLU()),
        nn.Unflatten(1, (64, height, width)),
        *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()),
        *doublings,
        nn.Upsample(scale_factor=2),
        *(nn.Conv2d(64, 32, 3, padding=1), nn.ReLU()),
        nn.Upsample(scale_factor=2),
        *(nn.Conv2d(32, shape.channels, 3, padding=1), nn.Sigmoid()),
        # The corner, not the centre: the encoder's strides start at the top left pixel.
        CropCorner(shape),
    )
    autoencoder = Autoencoder(encoder, decoder, shape)
    return xavier(autoencoder)


def dense(shape: Shape, z_dim: int, hidden: tuple[int, ...] = (1000, 500)) -> Autoencoder:
    """Makes an encoder of dense layers, and a decoder with the same widths in reverse order.

    Args:
        shape: The images' shape :math:`(C, H, W)`, or :math:`(H, W)` of grey images.
        z_dim: The size of a code.
        hidden: The widths of the encoder's hidden layers.

    Example:
        >>> import torch
        >>> autoencoder = dense(Shape(3, 28, 28), z_dim=10)
        >>> z = autoencoder.encode(torch.rand(5, 3, 28, 28))
        >>> z.shape, autoencoder.decode(z).shape
        (torch.Size([5, 10]), torch.Size([5, 3, 28, 28]))
    """
    shape = Shape.of(shape)
    encoder = nn.Sequential(nn.Flatten(), MLP(shape.values, z_dim, hidden))
    decoder = nn.Sequential(
        MLP(z_dim, shape.values, hidden[::-1]),
        nn.Sigmoid(),
        nn.Unflatten(1, shape),
    )
    return Autoencoder(encoder, decoder, shape)
