"""The networks of ACAI: convolutional and dense autoencoders, and their critics."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_models.ae import Autoencoder
from pyro_models.networks import MLP

SLOPE = 0.2
"""The slope of leaky ReLUs below zero."""


class Lift(nn.Module):
    r"""A pixel's grey to channels, then a convolution of 3 by 3: done as one.

    .. math:: y = W_3 * (W_1 x + b_1) + b_3 = (W_3 W_1) * x + (W_3 * b_1 + b_3)

    Both are linear, so the second has one channel to read and not :math:`C`. As the frame of zeros
    is around the channels, the constant is an image: :math:`b_1` is missing at the edge.

    Args:
        channels: :math:`C`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lift = nn.Conv2d(1, channels, 1)
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        r""":math:`(B, 1, H, W)` to :math:`(B, C, H, W)`."""
        weight, bias = self.convolution.weight, self.convolution.bias
        joint = torch.einsum("ocij,cd->odij", weight, self.lift.weight.flatten(1))
        level = self.lift.bias.view(1, -1, 1, 1).expand(-1, -1, *images.shape[-2:])
        return F.conv2d(images, joint, padding=1) + F.conv2d(level, weight, bias, padding=1)


class Doubled(nn.Conv2d):
    r"""Each pixel four times, then a convolution of 3 by 3: done as one transposed convolution.

    Of the nine pixels that the convolution reads most are the same one. Along an axis, target pixel
    :math:`2 i - 1 + t` reads source pixel :math:`i` with the weights :math:`M w`,

    .. math:: M = \begin{pmatrix} 0 & 0 & 1 \\ 0 & 1 & 1 \\ 1 & 1 & 0 \\ 1 & 0 & 0 \end{pmatrix},

    which is 4/9 of the products.

    Args:
        inputs: Channels before.
        outputs: Channels after.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        spread = torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
        self.register_buffer("spread", spread, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        r""":math:`(B, C, H, W)` to :math:`(B, C', 2 H, 2 W)`."""
        weight = torch.einsum("ia,jb,ocab->coij", self.spread, self.spread, self.weight)
        return F.conv_transpose2d(features, weight, self.bias, stride=2, padding=1)


class Signed(nn.Module):
    """Grey levels from [0, 1] to [-1, 1]."""

    def forward(self, images: Tensor) -> Tensor:
        return 2 * images - 1


class Unsigned(nn.Module):
    """Grey levels from [-1, 1] to [0, 1], without the axis of a single channel."""

    def forward(self, images: Tensor) -> Tensor:
        return (images.squeeze(1) + 1) / 2


def convolutional_encoder(depth: int, scales: int, latent: int) -> nn.Sequential:
    r"""The paper's encoder: two convolutions and a halving at each scale.

    Args:
        depth: Channels at the first scale; twice as many at each next one.
        scales: How often sides are halved, :math:`S`.
        latent: Channels of the code.

    Shape:
        :math:`(B, 1, H, W)`, in [0, 1], to :math:`(B, L, H / 2^S, W / 2^S)`.
    """
    layers: list[nn.Module] = [Signed()]
    before = depth
    for scale in range(scales):
        after = depth << scale
        layers += [Lift(depth) if scale == 0 else nn.Conv2d(before, after, 3, padding=1)]
        layers += [nn.LeakyReLU(SLOPE), nn.Conv2d(after, after, 3, padding=1)]
        layers += [nn.LeakyReLU(SLOPE), nn.AvgPool2d(2)]
        before = after
    layers += [nn.Conv2d(before, depth << scales, 3, padding=1), nn.LeakyReLU(SLOPE)]
    layers += [nn.Conv2d(depth << scales, latent, 3, padding=1)]
    return init_weights(nn.Sequential(*layers))


def convolutional_decoder(
    depth: int, scales: int, latent: int, shape: tuple[int, int]
) -> nn.Sequential:
    r"""The paper's decoder, the encoder's mirror image; doubles by nearest neighbours.

    Args:
        depth: Channels at the last scale.
        scales: How often sides are doubled, :math:`S`.
        latent: Channels of the code, :math:`L`.
        shape: The images' height and width.

    Shape:
        :math:`(B, L H W / 4^S)` to :math:`(B, H, W)`.
    """
    layers: list[nn.Module] = [nn.Unflatten(1, (latent, *(side >> scales for side in shape)))]
    before = latent
    for scale in reversed(range(scales)):
        after = depth << scale
        first = scale == scales - 1
        layers += [nn.Conv2d(before, after, 3, padding=1) if first else Doubled(before, after)]
        layers += [nn.LeakyReLU(SLOPE), nn.Conv2d(after, after, 3, padding=1), nn.LeakyReLU(SLOPE)]
        before = after
    layers += [Doubled(before, depth), nn.LeakyReLU(SLOPE), nn.Conv2d(depth, 1, 3, padding=1)]
    return init_weights(nn.Sequential(*layers, Unsigned()))


def init_weights(network: nn.Sequential) -> nn.Sequential:
    r"""Draws weights from :math:`\mathcal{N}(0, 1 / ((1 + a^2) n))`, and sets biases to zero.

    With :math:`n` the fan-in and :math:`a` the slope below zero that keeps the size of features
    from layer to layer.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, std=1 / math.sqrt((1 + SLOPE**2) * fan_in))
            nn.init.zeros_(module.bias)
    # Channels last in memory, where convolutions of few channels are fastest.
    return network.to(memory_format=torch.channels_last)


class Critic(nn.Module):
    r"""Tells from an image how much of another one was mixed into its code.

    Args:
        features: A network from :math:`(B, 1, H, W)` to :math:`(B, *)`; its outputs' mean is
            the answer.

    Shape:
        :math:`(B, H, W)` to :math:`(B)`.
    """

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images.unsqueeze(1)).to(images.dtype).flatten(1).mean(1)


def halvings(shape: tuple[int, int]) -> int:
    """How often images of a height and width are halved until a side is of 4 or less."""
    return max(1, math.ceil(math.log2(min(shape) / 4)))


def convolutional(
    shape: tuple[int, int], z_dim: int, depth: int = 16
) -> tuple[Autoencoder, Critic]:
    r"""The paper's autoencoder, and a critic of the encoder's shape.

    Args:
        shape: The images' height and width, which can be halved as :func:`halvings` says.
        z_dim: The size of a code, a multiple of its number of places.
        depth: Channels at the first scale.

    Raises:
        ValueError: If the sides cannot be halved, or ``z_dim`` is no such multiple.

    Example:
        >>> import torch
        >>> autoencoder, critic = convolutional((32, 32), z_dim=32)
        >>> images = torch.rand(5, 32, 32)
        >>> autoencoder.encode(images).shape, critic(images).shape
        (torch.Size([5, 32]), torch.Size([5]))

    References:
        | Understanding and Improving Interpolation in Autoencoders via an Adversarial Regularizer
          (Berthelot et al., 2018)
        | https://arxiv.org/abs/1807.07543
    """
    scales = halvings(shape)
    if any(side % (1 << scales) for side in shape):
        raise ValueError(f"images are {shape[0]}x{shape[1]}: they cannot be halved {scales} times")
    places = math.prod(side >> scales for side in shape)
    if z_dim % places:
        raise ValueError(f"z_dim is {z_dim}: it must be a multiple of the code's {places} places")
    latent = z_dim // places
    encoder = convolutional_encoder(depth, scales, latent)
    decoder = convolutional_decoder(depth, scales, latent, shape)
    critic = Critic(convolutional_encoder(depth, scales, latent))
    return Autoencoder(encoder, decoder, shape), critic


def dense(
    shape: tuple[int, int],
    z_dim: int,
    hidden: tuple[int, ...] = (1000, 1000),
    dropout: float = 0.5,
) -> tuple[Autoencoder, Critic]:
    r"""Dense networks, and a critic of the encoder's shape.

    Weights are from a Normal cut off at two standard deviations, of a variance of 0.2 over the
    fan-in; biases are zero.

    Args:
        shape: The images' height and width.
        z_dim: The size of a code.
        hidden: Widths of the hidden layers.
        dropout: The share of hidden units that a training step leaves out.
    """
    pixels = shape[0] * shape[1]
    kind = {"activation": lambda: nn.LeakyReLU(SLOPE), "dropout": dropout}
    encoder, features = (
        nn.Sequential(nn.Flatten(), MLP(pixels, z_dim, hidden, **kind)) for _ in range(2)
    )
    decoder = nn.Sequential(
        MLP(z_dim, pixels, hidden[::-1], **kind), nn.Sigmoid(), nn.Unflatten(1, shape)
    )
    for module in (*encoder.modules(), *decoder.modules(), *features.modules()):
        if isinstance(module, nn.Linear):
            # The standard deviation of a standard Normal cut off at two is 0.8796.
            std = math.sqrt(0.2 / module.in_features) / 0.87962566
            nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
            nn.init.zeros_(module.bias)
    return Autoencoder(encoder, decoder, shape), Critic(features)
