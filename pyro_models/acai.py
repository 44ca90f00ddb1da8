"""The networks of ACAI: convolutional and dense autoencoders, and their critics."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_models.ae import Autoencoder
from pyro_models.networks import MLP, centre_pad
from pyro_models.shapes import Shape

SLOPE = 0.2
"""The negative slope of the leaky ReLUs."""


class PointwiseConv2d(nn.Module):
    r"""A 1x1 convolution of a few channels and a 3x3 convolution, computed as one.

    .. math:: y = W_3 * (W_1 x + b_1) + b_3 = (W_3 W_1) * x + (W_3 * b_1 + b_3)

    The product :math:`W_3 W_1` has the image's :math:`A` channels in place of :math:`C`. The second
    term does not depend on :math:`x`, but it is an image and not a constant: the 3x3 convolution
    pads with zeros, so that :math:`b_1` is missing beyond the edge.

    Args:
        inputs: The number of input channels :math:`A`.
        channels: The number of output channels :math:`C` of both convolutions.

    Shape:
        :math:`(B, A, H, W)` to :math:`(B, C, H, W)`.
    """

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.lift = nn.Conv2d(inputs, channels, 1)
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        weight, bias = self.convolution.weight, self.convolution.bias
        product = torch.einsum("ocij,cd->odij", weight, self.lift.weight.flatten(1))
        assert self.lift.bias is not None
        offset = self.lift.bias.view(1, -1, 1, 1).expand(-1, -1, *images.shape[-2:])
        return F.conv2d(images, product, padding=1) + F.conv2d(offset, weight, bias, padding=1)


class UpsampleConv2d(nn.Conv2d):
    r"""Nearest-neighbour upsampling by two and a 3x3 convolution, computed as one.

    Most of the nine pixels that the convolution reads are copies of each other. Along an axis,
    output pixel :math:`2 i - 1 + t` reads input pixel :math:`i` with the weights :math:`M w`,

    .. math:: M = \begin{pmatrix} 0 & 0 & 1 \\ 0 & 1 & 1 \\ 1 & 1 & 0 \\ 1 & 0 & 0 \end{pmatrix},

    which is a transposed 4x4 convolution of stride 2, with 4/9 of the multiplications.

    Args:
        inputs: The number of input channels :math:`C`.
        outputs: The number of output channels :math:`C'`.

    Shape:
        :math:`(B, C, H, W)` to :math:`(B, C', 2 H, 2 W)`.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        spread = torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
        self.register_buffer("spread", spread, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        weight = torch.einsum("ia,jb,ocab->coij", self.spread, self.spread, self.weight)
        return F.conv_transpose2d(features, weight, self.bias, stride=2, padding=1)


class FromUnitRange(nn.Module):
    """Maps pixels from [0, 1] to [-1, 1]."""

    def forward(self, images: Tensor) -> Tensor:
        return 2 * images - 1


class ToUnitRange(nn.Module):
    """Maps pixels from [-1, 1] to [0, 1]."""

    def forward(self, images: Tensor) -> Tensor:
        return (images + 1) / 2


def convolutional_encoder(channels: int, depth: int, scales: int, latent: int) -> nn.Sequential:
    r"""Makes the paper's encoder: at each scale two convolutions and an average pooling.

    Args:
        channels: The number of channels :math:`C` of an image.
        depth: The number of channels at the first scale; it doubles from scale to scale.
        scales: The number of poolings :math:`S`, each of which halves both sides.
        latent: The number of channels :math:`L` of the code.

    Shape:
        :math:`(B, C, H, W)`, in [0, 1], to :math:`(B, L, H / 2^S, W / 2^S)`.
    """
    layers: list[nn.Module] = [FromUnitRange()]
    before = depth
    for scale in range(scales):
        after = depth << scale
        first = scale == 0
        layers += [
            PointwiseConv2d(channels, depth) if first else nn.Conv2d(before, after, 3, padding=1)
        ]
        layers += [nn.LeakyReLU(SLOPE), nn.Conv2d(after, after, 3, padding=1)]
        layers += [nn.LeakyReLU(SLOPE), nn.AvgPool2d(2)]
        before = after
    layers += [nn.Conv2d(before, depth << scales, 3, padding=1), nn.LeakyReLU(SLOPE)]
    layers += [nn.Conv2d(depth << scales, latent, 3, padding=1)]
    return init_weights(nn.Sequential(*layers))


def convolutional_decoder(depth: int, scales: int, latent: int, shape: Shape) -> nn.Sequential:
    r"""Makes the paper's decoder: at each scale two convolutions and an upsampling.

    Args:
        depth: The number of channels at the last scale; it halves from scale to scale.
        scales: The number of nearest-neighbour upsamplings :math:`S`, each of which doubles both
            sides.
        latent: The number of channels :math:`L` of the code.
        shape: The shape :math:`(C, H, W)` of the output; height and width are multiples of
            :math:`2^S`.

    Shape:
        :math:`(B, L H W / 4^S)` to :math:`(B, C, H, W)`.
    """
    layers: list[nn.Module] = [nn.Unflatten(1, (latent, *(side >> scales for side in shape.sides)))]
    before = latent
    for scale in reversed(range(scales)):
        after = depth << scale
        first = scale == scales - 1
        layers += [
            (nn.Conv2d(before, after, 3, padding=1) if first else UpsampleConv2d(before, after))
        ]
        layers += [nn.LeakyReLU(SLOPE), nn.Conv2d(after, after, 3, padding=1), nn.LeakyReLU(SLOPE)]
        before = after
    layers += [UpsampleConv2d(before, depth), nn.LeakyReLU(SLOPE)]
    layers += [nn.Conv2d(depth, shape.channels, 3, padding=1), ToUnitRange()]
    return init_weights(nn.Sequential(*layers))


def init_weights(network: nn.Sequential) -> nn.Sequential:
    r"""Draws weights from :math:`\mathcal{N}(0, 1 / ((1 + a^2) n))`, and sets biases to zero.

    With the fan-in :math:`n` and the leaky ReLU's slope :math:`a` it is half the variance of
    :func:`~torch.nn.init.kaiming_normal_`. Features keep their scale from layer to layer.

    Args:
        network: Its convolutions and dense layers are initialised in place, and it is moved to
            ``channels_last`` memory.

    Returns:
        The network.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, std=1 / math.sqrt((1 + SLOPE**2) * fan_in))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    # Convolutions of few channels are fastest with channels last in memory.
    return network.to(memory_format=torch.channels_last)


class Critic(nn.Module):
    r"""Estimates the mixing coefficient :math:`\alpha` of the codes that an image was decoded from.

    Args:
        features: A network from :math:`(B, C, H', W')` to :math:`(B, *)`; the mean of its outputs
            is the estimate.
        padded_shape: The shape :math:`(C, H', W')` to which images are padded with zeros, as
            :class:`~pyro_models.ae.Autoencoder` does; that of the images if not given.

    Shape:
        :math:`(B, C, H, W)`, in [0, 1], to :math:`(B)`.
    """

    def __init__(self, features: nn.Module, padded_shape: Shape | None = None) -> None:
        super().__init__()
        self.features = features
        self.padded_shape = None if padded_shape is None else Shape.of(padded_shape)

    def forward(self, images: Tensor) -> Tensor:
        padded = (
            images if self.padded_shape is None else centre_pad(images, self.padded_shape.sides)
        )
        return self.features(padded).to(images.dtype).flatten(1).mean(1)


def halvings(shape: Shape) -> int:
    """Counts how often the shorter side is halved until it is at most 4, and at least once.

    Args:
        shape: The images' shape, or their :func:`padded_shape`, which has as many.
    """
    return max(1, math.ceil(math.log2(min(shape.sides) / 4)))


def padded_shape(shape: Shape) -> Shape:
    """Rounds both sides up to multiples of two to the power of :func:`halvings`.

    Args:
        shape: The images' shape :math:`(C, H, W)`.

    Returns:
        The shape that :func:`convolutional` pads images to.

    Example:
        >>> padded_shape(Shape(1, 28, 28))
        Shape(channels=1, height=32, width=32)
    """
    multiple = 1 << halvings(shape)
    return shape.with_sides(*(side + -side % multiple for side in shape.sides))


def places(shape: Shape) -> int:
    """Counts the spatial positions of the encoder's last feature map.

    Args:
        shape: The images' shape; it need not be padded.

    Example:
        >>> places(Shape(1, 28, 28))  # padded to 32x32, and halved three times to 4x4
        16
    """
    scales = halvings(shape)
    return math.prod(side >> scales for side in padded_shape(shape).sides)


def convolutional(shape: Shape, z_dim: int, depth: int = 16) -> tuple[Autoencoder, Critic]:
    r"""Makes the paper's autoencoder, and a critic with the encoder's architecture.

    Images of any height and width are padded to :func:`padded_shape` inside of both. If ``z_dim``
    is a multiple of the :func:`places` of the encoder's last feature map, the code is that map, as
    in the paper. Otherwise a dense layer ends the encoder and the critic, and begins the decoder.

    Args:
        shape: The images' shape :math:`(C, H, W)`, or :math:`(H, W)` of grey images.
        z_dim: The size of a code.
        depth: The number of channels at the first scale.

    Example:
        >>> import torch
        >>> autoencoder, critic = convolutional(Shape(3, 28, 28), z_dim=32)
        >>> images = torch.rand(5, 3, 28, 28)
        >>> autoencoder.encode(images).shape, critic(images).shape
        (torch.Size([5, 32]), torch.Size([5]))

    References:
        | Understanding and Improving Interpolation in Autoencoders via an Adversarial Regularizer
          (Berthelot et al., 2018)
        | https://arxiv.org/abs/1807.07543
    """
    shape = Shape.of(shape)
    scales, padded = halvings(shape), padded_shape(shape)
    latent, rest = divmod(z_dim, places(shape))
    if rest:
        # The feature map next to a dense layer has no fewer values than the code.
        latent = max(depth, latent + 1)
    encoder = convolutional_encoder(shape.channels, depth, scales, latent)
    decoder = convolutional_decoder(depth, scales, latent, padded)
    critic = convolutional_encoder(shape.channels, depth, scales, latent)
    if rest:
        features = latent * places(shape)
        for network in (encoder, critic):
            network.extend(init_weights(nn.Sequential(nn.Flatten(), nn.Linear(features, z_dim))))
        decoder = init_weights(nn.Sequential(nn.Linear(z_dim, features))).extend(decoder)
    return Autoencoder(encoder, decoder, shape, padded), Critic(critic, padded)


def dense(
    shape: Shape,
    z_dim: int,
    hidden: tuple[int, ...] = (1000, 1000),
    dropout: float = 0.5,
) -> tuple[Autoencoder, Critic]:
    r"""Makes a dense autoencoder, and a critic with the encoder's architecture.

    Weights are drawn from a Normal that is truncated at two standard deviations and has the
    variance 0.2 / fan-in; biases are zero.

    Args:
        shape: The images' shape :math:`(C, H, W)`, or :math:`(H, W)` of grey images.
        z_dim: The size of a code.
        hidden: The widths of the hidden layers.
        dropout: The probability with which a training step drops a hidden unit.
    """
    shape = Shape.of(shape)
    options: dict[str, Any] = {"activation": lambda: nn.LeakyReLU(SLOPE), "dropout": dropout}
    encoder, features = (
        nn.Sequential(nn.Flatten(), MLP(shape.values, z_dim, hidden, **options)) for _ in range(2)
    )
    decoder = nn.Sequential(
        MLP(z_dim, shape.values, hidden[::-1], **options), nn.Sigmoid(), nn.Unflatten(1, shape)
    )
    for module in (*encoder.modules(), *decoder.modules(), *features.modules()):
        if isinstance(module, nn.Linear):
            # A standard Normal truncated at two has the standard deviation 0.8796.
            std = math.sqrt(0.2 / module.in_features) / 0.87962566
            nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
            nn.init.zeros_(module.bias)
    return Autoencoder(encoder, decoder, shape), Critic(features)
