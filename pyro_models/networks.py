"""Networks that several models use: MLPs, convolutions, axis-aligned spatial transformers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_models.shapes import Shape

Network = TypeVar("Network", bound=nn.Module)


class MLP(nn.Sequential):
    r"""A multilayer perceptron.

    .. math:: f(x) = W_L \, \phi(\cdots \phi(W_1 x + b_1) \cdots) + b_L

    Args:
        inputs: The number of input features.
        outputs: The number of output features.
        hidden: The widths of the hidden layers.
        activation: The nonlinearity :math:`\phi`.
        dropout: The probability with which a training step drops a hidden unit.

    Shape:
        :math:`(*, \text{inputs})` to :math:`(*, \text{outputs})`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: Sequence[int] = (),
        activation: Callable[[], nn.Module] = nn.ReLU,
        dropout: float = 0.0,
    ) -> None:
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise([inputs, *hidden]):
            layers += [nn.Linear(before, after), activation()]
            layers += [nn.Dropout(dropout)] if dropout else []
        super().__init__(*layers, nn.Linear([inputs, *hidden][-1], outputs))

    @property
    def last(self) -> nn.Linear:
        """The last layer."""
        layer = self[-1]
        assert isinstance(layer, nn.Linear)
        return layer


def xavier(network: Network) -> Network:
    """Initialises the convolutions and dense layers of a network, which it returns.

    Weights are drawn by :func:`~torch.nn.init.xavier_uniform_`, and biases are zero.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


def interpolation(scale: Tensor, shift: Tensor, source: int, target: int) -> Tensor:
    r"""Returns the matrix of bilinear interpolation along one axis.

    Coordinates run from -1 at one edge to 1 at the other: pixel :math:`j` of :math:`n` has its
    centre at :math:`u_j = (2 j + 1) / n - 1`. Target pixel :math:`j` is read from the source at
    :math:`\text{scale} \cdot u_j + \text{shift}`. The source is zero outside of its edges.

    A box without rotation is separable, so that a spatial transformer is two small matrix products.
    They have the values and gradients of ``grid_sample(align_corners=False)``. Unlike its backward
    pass, a matrix product is deterministic on CUDA.

    Args:
        scale: Source units per target unit, of shape :math:`(*)`.
        shift: The source coordinate of the target's centre, of shape :math:`(*)`.
        source: The number of source pixels.
        target: The number of target pixels.

    Returns:
        A matrix :math:`A` of shape :math:`(*, \text{target}, \text{source})`.

    References:
        | Spatial Transformer Networks (Jaderberg et al., 2015)
        | https://arxiv.org/abs/1506.02025
    """
    options: dict[str, Any] = {"dtype": scale.dtype, "device": scale.device}
    centres = (2 * torch.arange(target, **options) + 1) / target - 1
    positions = (torch.addcmul(shift.unsqueeze(-1), scale.unsqueeze(-1), centres) + 1) * (
        source / 2
    ) - 0.5
    distances = positions.unsqueeze(-1) - torch.arange(source, **options)
    return (1 - distances.abs()).relu()


def crop(images: Tensor, z_where: Tensor, size: int, *, square: bool = False) -> Tensor:
    r"""Crops a window out of each image, the inverse of :func:`paste`.

    Args:
        images: Canvases, of shape :math:`(*, C, H, W)`.
        z_where: Places :math:`(\log s, x, y)`, of shape :math:`(*, 3)`, as in :func:`paste`.
        size: The window's side :math:`S` in pixels.
        square: As in :func:`paste`.

    Returns:
        Windows of shape :math:`(*, C, S, S)`.
    """
    y_scale, x_scale = (torch.exp(-s) for s in _log_scales(z_where, images.shape, square))
    rows = interpolation(y_scale, -z_where[..., 2] * y_scale, images.shape[-2], size)
    columns = interpolation(x_scale, -z_where[..., 1] * x_scale, images.shape[-1], size)
    return rows.unsqueeze(-3) @ images @ columns.mT.unsqueeze(-3)


def aspect(sides: Sequence[int]) -> tuple[float, float]:
    """Returns height and width in units of the shorter side.

    Example:
        >>> aspect((50, 75))
        (1.0, 1.5)
    """
    height, width = sides[-2:]
    return height / min(height, width), width / min(height, width)


def _log_scales(z_where: Tensor, sides: Sequence[int], square: bool) -> list[Tensor]:
    """Returns the logarithms of the inverse scales of rows and of columns."""
    log_scale = z_where[..., 0]
    if not square:
        return [log_scale, log_scale]
    return [log_scale if side == 1 else log_scale + math.log(side) for side in aspect(sides)]


def paste(
    windows: Tensor, z_where: Tensor, sides: tuple[int, int], *, square: bool = False
) -> Tensor:
    r"""Pastes each window onto a canvas of zeros.

    The canvas point :math:`u \in [-1, 1]^2` shows the window's point :math:`s u + (x, y)`. So
    :math:`s > 0` is the *inverse* scale: a window a third as wide as the canvas has :math:`s = 3`.
    A window whose centre is :math:`c` has :math:`(x, y) = -s c`.

    Args:
        windows: Windows of shape :math:`(*, C, S, S)`.
        z_where: Places :math:`(\log s, x, y)`, of shape :math:`(*, 3)`.
        sides: The canvas' height and width :math:`(H, W)` in pixels.
        square: Whether windows are square on any canvas. Then :math:`s` is the number of windows
            that fit along the shorter side, and more of them fit along the other. Otherwise windows
            have the canvas' aspect.

    Returns:
        Canvases of shape :math:`(*, C, H, W)`.

    Example:
        >>> import math
        >>> window = torch.ones(1, 2, 2)
        >>> half_as_wide = torch.tensor([math.log(2), 0.0, 0.0])
        >>> paste(window, half_as_wide, (4, 4))[0]
        tensor([[0., 0., 0., 0.],
                [0., 1., 1., 0.],
                [0., 1., 1., 0.],
                [0., 0., 0., 0.]])
    """
    y_scale, x_scale = (torch.exp(s) for s in _log_scales(z_where, sides, square))
    rows = interpolation(y_scale, z_where[..., 2], windows.shape[-2], sides[0])
    columns = interpolation(x_scale, z_where[..., 1], windows.shape[-1], sides[1])
    return rows.unsqueeze(-3) @ windows @ columns.mT.unsqueeze(-3)


def boxes(z_where: Tensor, sides: tuple[int, int], *, square: bool = False) -> Tensor:
    r"""Returns the boxes that windows cover on the canvas.

    Args:
        z_where: Places :math:`(\log s, x, y)`, of shape :math:`(*, 3)`, as in :func:`paste`.
        sides: The canvas' height and width :math:`(H, W)` in pixels.
        square: As in :func:`paste`.

    Returns:
        Boxes :math:`(x_0, y_0, x_1, y_1)` in pixels from the top left corner, of shape
        :math:`(*, 4)`; they may extend beyond the canvas.
    """
    y_scale, x_scale = _log_scales(z_where, sides, square)
    inverse = torch.exp(-torch.stack([x_scale, y_scale], dim=-1))
    centres = -z_where[..., 1:] * inverse
    corners = torch.cat([centres - inverse, centres + inverse], dim=-1)
    height, width = sides
    return (corners + 1) / 2 * corners.new_tensor([width, height, width, height])


def clipped_boxes(
    z_where: Tensor, sides: tuple[int, int], counts: Tensor, *, square: bool = False
) -> Tensor:
    r"""Returns the boxes of the objects that are present, clipped to the canvas.

    Known boxes of scenes have the same convention. A window outside of the canvas has a box of zero
    area, on the edge.

    Args:
        z_where: Places :math:`(\log s, x, y)`, of shape :math:`(*, N, 3)`, as in :func:`paste`.
        sides: The canvas' height and width :math:`(H, W)` in pixels.
        counts: The numbers of objects, of shape :math:`(*)`.
        square: As in :func:`paste`.

    Returns:
        Boxes :math:`(x_0, y_0, x_1, y_1)` in pixels, :math:`0 \le x_0 \le x_1 \le W` and
        :math:`0 \le y_0 \le y_1 \le H`, of shape :math:`(*, N, 4)`; zeros beyond the first
        ``counts``.
    """
    height, width = sides
    corners = boxes(z_where, sides, square=square).clamp(min=0)
    corners = corners.minimum(corners.new_tensor([width, height, width, height]))
    present = torch.arange(z_where.shape[-2], device=counts.device) < counts.unsqueeze(-1)
    return torch.where(present.unsqueeze(-1), corners, 0.0)


class Convolutions(nn.Sequential):
    r"""Strided convolutions and dense layers, from images to features.

    Args:
        shape: The images' channels, height and width :math:`(C, H, W)`.
        outputs: The number of output features.
        hidden: The widths of the dense layers after the convolutions.
        channels: The number of channels of each convolution, two or more. Each halves both sides.

    Shape:
        :math:`(*, C, H, W)` to :math:`(*, \text{outputs})`.
    """

    def __init__(
        self,
        shape: Shape,
        outputs: int,
        hidden: Sequence[int] = (),
        channels: Sequence[int] = (32, 64),
    ) -> None:
        _, height, width = halved(shape, len(channels))
        further: list[nn.Module] = []
        for before, after in itertools.pairwise(channels[1:]):
            further += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
        super().__init__(
            nn.Conv2d(shape.channels, channels[0], 4, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(channels[0], channels[1], 4, stride=2, padding=1),
            nn.ReLU(),
            *further,
            nn.AdaptiveAvgPool2d((height, width)),
            nn.Flatten(),
            MLP(channels[-1] * height * width, outputs, hidden),
        )

    def forward(self, images: Tensor) -> Tensor:
        batch = images.shape[:-3]
        # A row or column of pixels is smaller than the second convolution's kernel.
        missing = [max(0, 2 - side) for side in images.shape[-2:]]
        if any(missing):
            images = F.pad(images, (0, missing[1], 0, missing[0]))
        return super().forward(images.flatten(0, -4)).unflatten(0, batch)


class Deconvolutions(nn.Sequential):
    r"""Dense layers and transposed convolutions, from features to images.

    Args:
        inputs: The number of input features.
        shape: The images' channels, height and width :math:`(C, H, W)`.
        hidden: The widths of the dense layers before the convolutions.
        channels: The number of input channels of each transposed convolution, which doubles both
            sides.

    Shape:
        :math:`(*, \text{inputs})` to :math:`(*, C H W)`.
    """

    def __init__(
        self,
        inputs: int,
        shape: Shape,
        hidden: Sequence[int] = (),
        channels: Sequence[int] = (64, 32),
    ) -> None:
        _, height, width = halved(shape, len(channels))
        # Weights are drawn in the order of the layers.
        dense = MLP(inputs, channels[0] * height * width, hidden)
        doublings: list[nn.Module] = []
        for before, after in itertools.pairwise(channels):
            doublings += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
        super().__init__(
            dense,
            nn.ReLU(),
            nn.Unflatten(-1, (channels[0], height, width)),
            *doublings,
            nn.ConvTranspose2d(channels[-1], shape.channels, 4, stride=2, padding=1),
            # The transposed convolutions draw sides that are multiples of a power of two.
            CropCorner(shape),
        )

    def forward(self, features: Tensor) -> Tensor:
        images = super().forward(features.flatten(0, -2))
        return images.flatten(1).unflatten(0, features.shape[:-1])


def halved(shape: Shape, times: int) -> Shape:
    """Halves both sides a number of times, rounded up.

    Example:
        >>> halved(Shape(1, 28, 30), 2)
        Shape(channels=1, height=7, width=8)
    """
    return shape.with_sides(*(-(-side >> times) for side in shape.sides))


def further_halvings(shape: Shape) -> int:
    """Counts how often the longer side is halved until it is at most 64.

    Convolutional networks of large images have as many more strided convolutions, so that their
    feature maps, and the dense layers next to these, are no larger than with images of 64x64.

    Example:
        >>> [further_halvings(Shape(3, 28, width)) for width in (64, 65, 256)]
        [0, 1, 2]
    """
    return ((max(shape.sides) - 1) // 64).bit_length()


class CropCorner(nn.Module):
    r"""Keeps the top left corner of images.

    It ends a network whose strides draw more rows and columns than the image has.

    Args:
        shape: The shape whose height and width :math:`(H, W)` remain.

    Shape:
        :math:`(*, H', W')` with :math:`H' \ge H, W' \ge W` to :math:`(*, H, W)`.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, images: Tensor) -> Tensor:
        return images[..., : self.shape.height, : self.shape.width]


def centre_pad(images: Tensor, sides: tuple[int, int]) -> Tensor:
    r"""Pads images with zeros on all sides, so that they stay in the centre.

    Where the number of added rows (columns) is odd, one more is added below (on the right).
    :func:`centre_crop` is the inverse.

    Args:
        images: Of shape :math:`(*, H, W)`.
        sides: The padded height and width, no less than :math:`H` and :math:`W`.

    Returns:
        Images of that height and width; ``images`` itself if it has them already.
    """
    top, left = _margin(sides, images.shape[-2:])
    bottom = sides[0] - images.shape[-2] - top
    right = sides[1] - images.shape[-1] - left
    if not any((top, left, bottom, right)):
        return images
    return F.pad(images, (left, right, top, bottom))


def centre_crop(images: Tensor, sides: tuple[int, int]) -> Tensor:
    r"""Cuts off rows and columns on all sides: the inverse of :func:`centre_pad`.

    Args:
        images: Of shape :math:`(*, H, W)`.
        sides: The height and width to keep, no more than :math:`H` and :math:`W`.

    Returns:
        A view of the images, of that height and width.

    Example:
        >>> images = torch.rand(5, 28, 31)
        >>> torch.equal(centre_crop(centre_pad(images, (32, 32)), (28, 31)), images)
        True
    """
    top, left = _margin(images.shape[-2:], sides)
    return images[..., top : top + sides[0], left : left + sides[1]]


def _margin(outer: Sequence[int], inner: Sequence[int]) -> tuple[int, int]:
    """Rows above, and columns to the left of, an image in the centre of a larger one."""
    return (outer[0] - inner[0]) // 2, (outer[1] - inner[1]) // 2
