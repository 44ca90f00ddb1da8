"""The shape of an image."""

from __future__ import annotations

from typing import NamedTuple


class Shape(NamedTuple):
    """Height and width of an image, in pixels.

    It equals the plain tuple ``(height, width)``, and is written ``28x28``.
    """

    height: int
    width: int

    @property
    def pixels(self) -> int:
        """The number of pixels."""
        return self.height * self.width

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"
