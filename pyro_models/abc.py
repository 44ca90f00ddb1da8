"""The embedder of ABC: one network for every image of every set."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from pyro_models.networks import MLP


class Embedder(nn.Module):
    r"""Convolutions and two dense layers, from images to embeddings.

    ``"strided"`` is two convolutions of 4 by 4 with a stride of 2, and one of 3 by 3 without
    padding; ``"deep"`` is five of 3 by 3 without padding, the third with a stride of 2, at eight
    times the arithmetic. Weights are drawn as :func:`~torch.nn.init.xavier_uniform_` does and
    biases are zero: with PyTorch's own initial weights all embeddings begin so close together that
    every similarity is the same, and from there ABC's loss has no gradient.

    Args:
        shape: The images' height and width :math:`(H, W)`, 15 or more each.
        embed_dim: The size :math:`D` of an embedding.
        channels: The channels of each convolution.
        hidden: The width of the dense layer.
        network: Which convolutions.
        normalise: Whether embeddings are on the unit sphere.

    Shape:
        :math:`(*, H, W)` to :math:`(*, D)`.

    Raises:
        ValueError: If images are too small.

    Example:
        >>> Embedder(embed_dim=4)(torch.rand(2, 5, 28, 28)).shape
        torch.Size([2, 5, 4])
    """

    def __init__(
        self,
        shape: tuple[int, int] = (28, 28),
        embed_dim: int = 8,
        *,
        channels: int = 32,
        hidden: int = 128,
        network: Literal["strided", "deep"] = "strided",
        normalise: bool = False,
    ) -> None:
        super().__init__()
        if min(shape) < 15:
            raise ValueError(f"images are {shape[0]}x{shape[1]}: the embedder needs 15x15 or more")
        self.normalise = normalise
        # Of each convolution the side of its kernel, its stride and its padding.
        kinds = {
            "strided": [(4, 2, 1), (4, 2, 1), (3, 1, 0)],
            "deep": [(3, 1, 0), (3, 1, 0), (3, 2, 0), (3, 1, 0), (3, 1, 0)],
        }
        layers: list[nn.Module] = []
        before, sides = 1, list(shape)
        for kernel, stride, padding in kinds[network]:
            layers += [nn.Conv2d(before, channels, kernel, stride, padding), nn.ReLU()]
            sides = [(side + 2 * padding - kernel) // stride + 1 for side in sides]
            before = channels
        features = channels * sides[0] * sides[1]
        self.network = nn.Sequential(*layers, nn.Flatten(), MLP(features, embed_dim, (hidden,)))
        for module in self.network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        # Channels last in memory, where convolutions of few channels are fastest.
        self.network.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        r"""Embeds images.

        Args:
            images: Of shape :math:`(*, H, W)`, in [0, 1].

        Returns:
            Embeddings, of shape :math:`(*, D)`.
        """
        batch = images.shape[:-2]
        flat = images.reshape(-1, 1, *images.shape[-2:])
        found = self.network(flat).to(images.dtype)
        found = found.reshape(*batch, found.shape[-1])
        return nn.functional.normalize(found, dim=-1) if self.normalise else found


def shifted(images: Tensor, reach: int = 2, contrast: float = 0.2) -> Tensor:
    r"""Another view of images: moved by whole pixels, and brighter or darker.

    What two views differ in is what embeddings are not to tell.

    Args:
        images: Of shape :math:`(*, H, W)`, in [0, 1].
        reach: The largest shift along either axis, in pixels; what comes in is empty.
        contrast: The largest relative change of brightness.
    """
    height, width = images.shape[-2:]
    batch = images.shape[:-2]
    padded = nn.functional.pad(images, (reach,) * 4)
    kind = {"device": images.device}
    rows, columns = (
        torch.randint(0, 2 * reach + 1, (*batch, 1), **kind) + torch.arange(side, **kind)
        for side in (height, width)
    )
    moved = padded.gather(-2, rows.unsqueeze(-1).expand(*batch, height, padded.shape[-1]))
    moved = moved.gather(-1, columns.unsqueeze(-2).expand(*batch, height, width))
    brightness = 1 + contrast * (2 * torch.rand((*batch, 1, 1), **kind) - 1)
    return (moved * brightness).clamp(max=1)
