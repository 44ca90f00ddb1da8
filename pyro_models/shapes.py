"""The shape of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Shape(NamedTuple):
    """Channels, height and width of an image, the last three axes of a tensor of images.

    It equals the plain tuple ``(channels, height, width)``. A grey image has one channel, and its
    shape is written without it: ``28x28``; that of a colour image is written ``3x64x64``.
    """

    channels: int
    height: int
    width: int

    @classmethod
    def of(cls, sides: Sequence[int]) -> Shape:
        """Returns the shape of ``(height, width)``, which is grey, or of all three.

        Raises:
            ValueError: If there are neither two nor three numbers.

        Example:
            >>> Shape.of((28, 28)), str(Shape.of((3, 64, 64)))
            (Shape(channels=1, height=28, width=28), '3x64x64')
        """
        if len(sides) not in (2, 3):
            raise ValueError(f"a shape is (height, width) or (channels, height, width): {sides}")
        return cls(*sides) if len(sides) == 3 else cls(1, *sides)

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    @property
    def pixels(self) -> int:
        """The number of pixels."""
        return self.height * self.width

    @property
    def values(self) -> int:
        """The number of values: of each pixel as many as there are channels."""
        return self.channels * self.pixels

    @property
    def outside(self) -> tuple[int, ...]:
        """The shape that people see: grey images have no channel axis."""
        return self.sides if self.channels == 1 else tuple(self)

    def with_sides(self, height: int, width: int) -> Shape:
        """Returns the shape with other sides and as many channels."""
        return Shape(self.channels, height, width)

    def __str__(self) -> str:
        return "x".join(map(str, self.outside))


def require_shape(images: Tensor, shape: Sequence[int]) -> None:
    """Checks the last three axes of images, which are to be channels, height and width.

    Without the check, grey images without a channel axis would be broadcast to something else.

    Raises:
        ValueError: If they are not those of ``shape``.
    """
    if images.shape[-3:] != shape:
        raise ValueError(
            f"images have shape {tuple(images.shape)}, whose last three axes are not the channels, "
            f"height and width {tuple(shape)} of the model: give (*, C, H, W), with C = 1 for grey"
        )


def require_batch(images: Tensor, shape: Shape) -> None:
    """Checks that images are a batch: a single colour image would be taken for a batch of three.

    Raises:
        ValueError: If there is no batch axis, or the last three axes are not those of ``shape``.
    """
    require_shape(images, shape)
    if images.ndim < 4:
        raise ValueError(
            f"images have shape {tuple(images.shape)}, that of a single image: give (B, C, H, W)"
        )
