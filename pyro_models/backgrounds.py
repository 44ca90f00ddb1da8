"""What is under the objects of a scene: nothing, one colour, an image of the scene, or of all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_models.shapes import Shape

Kind = Literal["black", "constant", "image", "learned"]
"""The backgrounds of :func:`make_background`."""
POOLED = 3
"""Pooled pixels along a cell of :class:`ImageBackground`, and cells along a window."""
STEEPNESS = 4.0
"""At middle grey a weight of :class:`LearnedBackground` changes its pixel by as much."""


class Background(nn.Module):
    r"""What is under the objects of a scene. Subclasses define :meth:`image`.

    Args:
        shape: The canvas' shape.

    Attributes:
        kind: Its name.
        latent_shape: The shape of the latent of a scene, the site ``z_background``; ``None`` if
            there is none. Its prior is Normal, with mean 1/2 and deviation 1/2 for each number.
        on_any_canvas: Whether the weights work on a canvas of another size.
        has_texture: Whether what is under the objects has more detail than it draws.
    """

    kind: ClassVar[Kind]
    on_any_canvas: ClassVar[bool] = True
    has_texture: ClassVar[bool] = False
    latent_shape: tuple[int, ...] | None = None
    middle: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        # A constant, which moves with the module: it is not in the state dict.
        self.register_buffer("middle", torch.tensor(0.5), persistent=False)

    @property
    def size(self) -> int:
        """How many numbers the latent of a scene has."""
        return 0 if self.latent_shape is None else torch.Size(self.latent_shape).numel()

    def prior(self) -> TorchDistribution | None:
        """Returns the prior of the latent of a scene; ``None`` if there is none."""
        if self.latent_shape is None:
            return None
        normal = dist.Normal(self.middle, self.middle)
        return normal.expand(self.latent_shape).to_event(len(self.latent_shape))

    def image(self, latent: Tensor | None = None) -> Tensor:
        r"""Returns what is under the objects.

        Args:
            latent: Of shape :math:`(*, \ldots)`, ending in :attr:`latent_shape`; ``None`` if there
                is none.

        Returns:
            Of shape :math:`(*, C, H, W)`, or one that broadcasts to it.
        """
        raise NotImplementedError

    def start(self, batches: Iterable[Tensor]) -> None:
        r"""Initialises weights from scenes, before the first step; by default there are none.

        Args:
            batches: Some training scenes, each of shape :math:`(B, C, H, W)`, in [0, 1].
        """


class BlackBackground(Background):
    """Nothing: a level of 0.

    Args:
        shape: The canvas' shape.
    """

    kind = "black"
    black: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.register_buffer("black", torch.zeros(shape.channels, 1, 1), persistent=False)

    def image(self, latent: Tensor | None = None) -> Tensor:
        return self.black


class ConstantBackground(Background):
    r"""One colour a scene, of shape :math:`(C)`.

    Args:
        shape: The canvas' shape.
    """

    kind = "constant"
    latent_shape: tuple[int]

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.latent_shape = (shape.channels,)

    def image(self, latent: Tensor | None = None) -> Tensor:
        assert latent is not None
        return latent[..., None, None]


class ImageBackground(Background):
    r"""An image of each scene: a coarse grid of colours, of shape :math:`(C, h, w)`.

    Bilinear interpolation brings it to the canvas' size:
    :math:`b_{yx} = \sum_{ij} r_{yi} \, c_{xj} \, z_{ij}`. A cell is about a third of a window, so
    that the grid can draw what is larger than an object, and no stroke of one. There is nothing to
    learn, and a cell has so many pixels on any canvas.

    Args:
        shape: The canvas' shape.
        window: The side of an object's window in pixels.

    Attributes:
        pool: A third of a cell's side, in pixels.
        cell: The side of a cell in pixels.
        rows: :math:`r`, of shape :math:`(H, h)`.
        columns: :math:`c`, of shape :math:`(W, w)`.
    """

    kind = "image"
    has_texture = True
    latent_shape: tuple[int, int, int]
    rows: Tensor
    columns: Tensor

    def __init__(self, shape: Shape, window: float) -> None:
        super().__init__(shape)
        self.pool = max(1, round(window / POOLED**2))
        self.cell = POOLED * self.pool
        rows, columns = (_between(side, self.cell) for side in shape.sides)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        self.latent_shape = (shape.channels, rows.shape[1], columns.shape[1])

    def image(self, latent: Tensor | None = None) -> Tensor:
        assert latent is not None
        return self.rows @ latent @ self.columns.mT


class LearnedBackground(Background):
    r"""One image of all scenes, of a camera that does not move: :math:`\text{sigmoid}(4 w)`.

    It has the size of the canvas.

    Args:
        shape: The canvas' shape.

    Attributes:
        weights: :math:`w`, of shape :math:`(C, H, W)`. At first the image is grey.
    """

    kind = "learned"
    has_texture = True
    on_any_canvas = False

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.weights = nn.Parameter(torch.zeros(tuple(shape)))

    def image(self, latent: Tensor | None = None) -> Tensor:
        return (STEEPNESS * self.weights).sigmoid()

    @torch.no_grad()
    def start(self, batches: Iterable[Tensor]) -> None:
        """Initialises the image as the median of scenes, of which objects cover less than half."""
        # The logits of black and white are infinite.
        medians = torch.cat(list(batches)).median(dim=0).values.clamp(1 / 512, 1 - 1 / 512)
        self.weights.copy_(medians.logit() / STEEPNESS)


BACKGROUNDS: dict[Kind, type[Background]] = {
    background.kind: background
    for background in (BlackBackground, ConstantBackground, ImageBackground, LearnedBackground)
}
"""The classes of backgrounds by their kind."""


def make_background(kind: Kind, shape: Shape, window: float) -> Background:
    r"""Makes a background.

    Args:
        kind: See :data:`BACKGROUNDS`.
        shape: The canvas' shape.
        window: The side of an object's window in pixels.

    Example:
        >>> background = make_background("image", Shape(1, 50, 50), 19.2)
        >>> background.cell, background.latent_shape
        (6, (1, 9, 9))
    """
    background = BACKGROUNDS[kind]
    if issubclass(background, ImageBackground):
        return background(shape, window)
    return background(shape)


def _between(side: int, cell: int) -> Tensor:
    """Returns the weight of each cell in each pixel along a side; those of a pixel sum to one."""
    centres = (torch.arange(-(-side // cell)) + 0.5) * cell
    distance = (torch.arange(side) + 0.5).unsqueeze(-1) - centres
    weights = (1 - distance.abs() / cell).clamp(min=0)
    # Beyond the outermost centres there is one neighbour, whose colour continues.
    return weights / weights.sum(-1, keepdim=True)
