"""Posteriors of the background of a scene, which objects cover in part."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_models.backgrounds import POOLED, Background, ConstantBackground, ImageBackground

NEAR = 5
"""Cells along a square whose pixels, and medians, tell of the background in its centre."""
OWN = 6.0
"""At first, the logit of a cell's own median; those of the others are 0."""


class ColourBackdrop(nn.Module):
    r"""The posterior of a background of one colour: around the median of the pixels.

    Objects cover less than half of a scene.

    Args:
        channels: The number of channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.correction = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.full((channels,), -4.0))

    def forward(self, images: Tensor) -> TorchDistribution:
        r"""Returns the distribution of the colour, with values of shape :math:`(B, C)`.

        Args:
            images: Scenes, of shape :math:`(B, C, H, W)`, in [0, 1].
        """
        loc = median(images.flatten(-2)) + self.correction
        return dist.Normal(loc, self.log_scale.exp()).to_event(1)


class ImageBackdrop(nn.Module):
    r"""The posterior of a background that is a grid of colours.

    With :math:`m_c` the median of the pixels in a square around cell :math:`c`, a cell's colour is
    a mean of those near it:

    .. math:: \mu_c = \sum_{|d| \le 2} w_{cd} \, m_{c + d}, \quad w_c = \text{softmax}(\omega_c)

    Convolutions infer :math:`\omega` from what differs from the medians, so that they can tell an
    object and look beside it. At first :math:`w_{c0}` is near one. The square has 5 cells a side,
    of which an object that fills its window covers about a third. A mean of medians cannot draw
    an object, whatever is learnt. A free correction of the medians can, and does so
    before the decoder draws anything: then nothing is left that objects would be inferred from.

    Args:
        background: The background.
        channels: The number of channels of each convolution.
    """

    background: ImageBackground

    def __init__(self, background: ImageBackground, channels: int = 16) -> None:
        super().__init__()
        # Not a submodule: the state dict has no weights of the model.
        self.__dict__["background"] = background
        colours = background.latent_shape[0]
        self.choice = nn.Sequential(
            nn.Conv2d(2 * colours, channels, POOLED, stride=POOLED),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            last := nn.Conv2d(channels, NEAR**2, 1),
        )
        self.log_scale = nn.Parameter(torch.full((colours, 1, 1), -4.0))
        assert last.bias is not None
        with torch.no_grad():
            last.weight.zero_()
            last.bias.zero_()
            last.bias[NEAR**2 // 2] = OWN

    def forward(self, images: Tensor) -> TorchDistribution:
        r"""Returns the distribution of the grid, with values of shape :math:`(B, C, h, w)`.

        Args:
            images: Scenes, of shape :math:`(B, C, H, W)`, in [0, 1].
        """
        medians = self.medians(images)
        left = images - self.background.image(medians)
        choice = self.choice(self.pooled(torch.cat([left, left.abs()], dim=1)))
        weights = choice.to(images.dtype).softmax(dim=1).movedim(1, -1).unsqueeze(1)
        loc = (weights * squares(medians, NEAR, 1).flatten(-2)).sum(-1)
        return dist.Normal(loc, self.log_scale.exp()).to_event(3)

    def medians(self, images: Tensor, cells: int = NEAR) -> Tensor:
        r"""Returns the median colours in a square around each cell, of shape :math:`(B, C, h, w)`.

        Args:
            images: Scenes, of shape :math:`(B, C, H, W)`.
            cells: How many cells a side the square has, an odd number.
        """
        around = squares(self.pooled(images), cells * POOLED, POOLED)
        # Every other row and column: a quarter of the values has about the same median.
        return median(around[..., ::2, ::2].flatten(-2))

    def pooled(self, images: Tensor) -> Tensor:
        r"""Averages images :math:`(B, C, H, W)` over squares of pixels.

        Returns:
            Of shape :math:`(B, C, 3 h, 3 w)`.
        """
        _, height, width = self.background.latent_shape
        cell = self.background.cell
        beyond = (0, width * cell - images.shape[-1], 0, height * cell - images.shape[-2])
        return F.avg_pool2d(F.pad(images, beyond, mode="replicate"), self.background.pool)


def backdrop_of(background: Background) -> ColourBackdrop | ImageBackdrop | None:
    """Makes the posterior of a background; ``None`` if it has no latent."""
    if isinstance(background, ConstantBackground):
        return ColourBackdrop(*background.latent_shape)
    if isinstance(background, ImageBackground):
        return ImageBackdrop(background)
    return None


def squares(images: Tensor, side: int, stride: int) -> Tensor:
    r"""Returns the values in a square around each cell of images, which are continued beyond edges.

    Args:
        images: Of shape :math:`(B, C, h s, w s)`.
        side: The side of a square, :math:`k`, which differs from the stride by an even number.
        stride: The side of a cell, :math:`s`.

    Returns:
        Of shape :math:`(B, C, h, w, k, k)`.
    """
    padded = F.pad(images, ((side - stride) // 2,) * 4, mode="replicate")
    return padded.unfold(2, side, stride).unfold(3, side, stride)


def median(values: Tensor) -> Tensor:
    r"""Returns the median of the last dimension, the lower one of an even number.

    On a CPU PyTorch's own takes a quarter of the time. On CUDA it is not deterministic, and ONNX
    has none.
    """
    if values.device.type == "cpu" and not torch.compiler.is_exporting():
        return values.median(dim=-1).values
    return values.sort(dim=-1).values[..., (values.shape[-1] - 1) // 2]
