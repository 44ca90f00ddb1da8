"""The embedder of ABC, and the augmentation of its images."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from pyro_models.networks import MLP, xavier
from pyro_models.shapes import Shape, require_shape

HALVED_FROM = 15
"""The shortest side that convolutions halve. With shorter sides they have stride 1."""


class Embedder(nn.Module):
    r"""Convolutions and two dense layers, from images to embeddings.

    ``"strided"`` has two 4x4 convolutions of stride 2, and a 3x3 one without padding. ``"deep"``
    has five 3x3 convolutions without padding, the third of stride 2, and eight times the
    multiplications. A side below :data:`HALVED_FROM` keeps its length, and is padded with zeros.
    Weights are initialised by :func:`~torch.nn.init.xavier_uniform_`, biases are
    zero. With PyTorch's default initialisation all embeddings are nearly equal at first, and ABC's
    loss has no gradient there.

    Args:
        shape: The images' shape :math:`(C, H, W)`, or :math:`(H, W)` of grey images.
        embed_dim: The size :math:`D` of an embedding.
        channels: The number of channels of each convolution.
        hidden: The width of the dense layer.
        network: ``"strided"`` or ``"deep"``.
        normalise: Whether embeddings are normalised to unit length.
        standardise: Whether pixels are shifted and scaled from [0, 1] to [-2, 2] before the first
            layer. The mean of bright images is otherwise the largest part of each layer's input.
        further_halvings: The number of further 4x4 convolutions of stride 2 before the others, for
            large images: see :func:`pyro_models.networks.further_halvings`.

    Shape:
        :math:`(*, C, H, W)` to :math:`(*, D)`.

    Example:
        >>> Embedder(embed_dim=4)(torch.rand(2, 5, 1, 28, 28)).shape
        torch.Size([2, 5, 4])
    """

    def __init__(
        self,
        shape: Shape = Shape(1, 28, 28),
        embed_dim: int = 8,
        *,
        channels: int = 32,
        hidden: int = 128,
        network: Literal["strided", "deep"] = "strided",
        normalise: bool = False,
        standardise: bool = False,
        further_halvings: int = 0,
    ) -> None:
        super().__init__()
        self.shape = shape = Shape.of(shape)
        self.normalise = normalise
        self.standardise = standardise
        # Kernel size, stride and padding of each convolution.
        convolutions = {
            "strided": [(4, 2, 1), (4, 2, 1), (3, 1, 0)],
            "deep": [(3, 1, 0), (3, 1, 0), (3, 2, 0), (3, 1, 0), (3, 1, 0)],
        }
        layers: list[nn.Module] = []
        before, (height, width) = shape.channels, shape.sides
        for index, (kernel, stride, padding) in enumerate(
            [(4, 2, 1)] * further_halvings + convolutions[network]
        ):
            if index <= further_halvings:
                # Further convolutions leave sides that the others can halve.
                least = HALVED_FROM * (2 if index < further_halvings else 1)
                is_long = (height >= least, width >= least)
            rows, columns = ((stride, padding) if long else (1, kernel // 2) for long in is_long)
            strides, paddings = zip(rows, columns, strict=True)
            layers += [nn.Conv2d(before, channels, kernel, strides, paddings), nn.ReLU()]
            height, width = (
                (side + 2 * padded - kernel) // step + 1
                for side, (step, padded) in ((height, rows), (width, columns))
            )
            before = channels
        features = channels * height * width
        self.network = nn.Sequential(*layers, nn.Flatten(), MLP(features, embed_dim, (hidden,)))
        # Convolutions of few channels are fastest with channels last in memory.
        xavier(self.network).to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        r"""Embeds images.

        Args:
            images: Of shape :math:`(*, C, H, W)`, in [0, 1].

        Returns:
            Embeddings, of shape :math:`(*, D)`.
        """
        require_shape(images, self.shape)
        batch = images.shape[:-3]
        flat = images.reshape(-1, *images.shape[-3:])
        if self.standardise:
            flat = 4 * flat - 2
        z = self.network(flat).to(images.dtype)
        z = z.reshape(*batch, z.shape[-1])
        return nn.functional.normalize(z, dim=-1) if self.normalise else z


def augment(images: Tensor, max_shift: int = 2, max_change: float = 0.2) -> Tensor:
    r"""Shifts each image by whole pixels, and scales its brightness, at random.

    Embeddings become invariant to what differs between two such views.

    Args:
        images: Of shape :math:`(*, C, H, W)`, in [0, 1].
        max_shift: The largest shift along either axis, in pixels; zeros are shifted in.
        max_change: The largest relative change of brightness.

    Returns:
        Images of the same shape, in [0, 1].
    """
    channels, height, width = images.shape[-3:]
    batch = images.shape[:-3]
    padded = nn.functional.pad(images, (max_shift,) * 4)
    options: dict[str, Any] = {"device": images.device}
    rows, columns = (
        torch.randint(0, 2 * max_shift + 1, (*batch, 1, 1), **options)
        + torch.arange(side, **options)
        for side in (height, width)
    )
    shifted = padded.gather(
        -2, rows.unsqueeze(-1).expand(*batch, channels, height, padded.shape[-1])
    )
    shifted = shifted.gather(-1, columns.unsqueeze(-2).expand(*batch, channels, height, width))
    brightness = 1 + max_change * (2 * torch.rand((*batch, 1, 1, 1), **options) - 1)
    return (shifted * brightness).clamp(max=1)
