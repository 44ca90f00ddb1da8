"""Composes scenes: places digits on a canvas, draws them, and rejects those that overlap."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from train.errors import InputError, require

Overlap = Literal["apart", "dim", "any"]

INK = 1
"""The lowest grey level, of 255, of a digit's pixels."""

SMALLEST = 4
"""The smallest size of a digit in pixels; smaller ones cannot be read."""

MOST_MASKED = 255
"""The most digits of scenes with masks, whose pixels are uint8."""

TRIES = 2_000
MIN_ACCEPTANCE = 0.02
"""After :data:`TRIES` scenes, this fraction of them must have been accepted."""


class HardlyFitsError(InputError):
    """Digits hardly ever fit on a canvas by a rule of overlap."""


class Placement(NamedTuple):
    """The digits of several scenes, in the order of the scenes; all of shape (T,) but ``corner``.

    Attributes:
        scene: Index of the digit's scene.
        slot: Index of the digit within its scene.
        digit: Index of the digit's image.
        size: Height and width of the image on the canvas, in pixels.
        corner: (x, y) of the image's upper left corner, of shape (T, 2).
    """

    scene: np.ndarray
    slot: np.ndarray
    digit: np.ndarray
    size: np.ndarray
    corner: np.ndarray


class Rules(NamedTuple):
    """How scenes are composed: see :func:`train.data.scenes.make_scenes`.

    Attributes:
        canvas_size: Height and width of a scene, in pixels.
        max_digits: The most digits in a scene.
        digit_size: The smallest and the largest size of a digit, in pixels.
        digit_shrink: Mean and standard deviation of the factor by which digits shrink; overrides
            ``digit_size``.
        overlap: How digits may overlap.
    """

    canvas_size: int
    max_digits: int
    digit_size: tuple[int, int]
    digit_shrink: tuple[float, float] | None
    overlap: Overlap

    def check(self, size: int) -> None:
        """Raises :class:`InputError` if a setting is out of range, for digits of a size."""
        require(self.canvas_size >= 1, f"--canvas-size is {self.canvas_size}: give 1 or more")
        require(self.max_digits >= 1, f"--max-digits is {self.max_digits}: give 1 or more")
        require(
            self.overlap in ("apart", "dim", "any"),
            f"--overlap {self.overlap}: give one of apart, dim and any",
        )
        if self.digit_shrink is None:
            _check_size(self.digit_size, self.canvas_size)
        else:
            _check_shrink(self.digit_shrink, size, self.canvas_size)

    def place(
        self, rng: np.random.Generator, counts: np.ndarray, digits: int, size: int
    ) -> Placement:
        """Draws which digits are in scenes, and their sizes and places.

        Args:
            rng: Random numbers.
            counts: The number of digits in each scene.
            digits: The number of digits to choose from.
            size: Their height and width.
        """
        total = int(counts.sum())
        scene = np.repeat(np.arange(len(counts)), counts)
        slot = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
        # In this order, on which the scenes of a seed depend.
        sizes = self._draw_sizes(rng, total, size)
        digit = rng.integers(digits, size=total)
        corner = rng.integers(0, self.canvas_size - sizes + 1, size=(2, total)).T
        return Placement(scene, slot, digit, sizes, corner)

    def _draw_sizes(self, rng: np.random.Generator, n: int, size: int) -> np.ndarray:
        if self.digit_shrink is None:
            return rng.integers(self.digit_size[0], self.digit_size[1] + 1, size=n)
        mean, deviation = self.digit_shrink
        shrink = np.maximum(mean + deviation * rng.standard_normal(n), 1e-3)
        return np.floor(size / shrink).astype(np.int64).clip(SMALLEST, self.canvas_size)

    def usual_sizes(self, size: int) -> tuple[float, float]:
        """Returns the smallest and the largest size of most digits, for images of a size."""
        if self.digit_shrink is None:
            return self.digit_size
        mean, deviation = self.digit_shrink
        # With a deviation as large as the mean some digits are as large as the canvas.
        largest = size / (mean - deviation) if deviation < mean else math.inf
        return max(size / (mean + deviation), SMALLEST), min(largest, self.canvas_size)

    def require_acceptance(self, accepted: int, tried: int) -> None:
        """Raises :class:`HardlyFitsError` if nearly all scenes are rejected."""
        if tried >= TRIES and accepted < MIN_ACCEPTANCE * tried:
            raise self.hardly_fits()

    def hardly_fits(self) -> HardlyFitsError:
        """Returns the error of digits that hardly ever fit."""
        flag = "--digit-shrink" if self.digit_shrink else "--digit-size"
        return HardlyFitsError(
            f"{self.max_digits} digits of {flag} "
            f"{' '.join(map(str, self.digit_shrink or self.digit_size))} hardly ever fit on a "
            f"canvas of {self.canvas_size} by the rule {self.overlap}: enlarge --canvas-size, "
            "lower --max-digits or --digit-counts, make the digits smaller or give --overlap any"
        )


class Drawing(NamedTuple):
    """Drawn scenes.

    Attributes:
        images: Of shape (m, C, L, L), uint8; undefined where the scene is rejected.
        boxes: Of shape (m, K, 4), int64.
        accepted: Whether a scene follows the rule of overlap, and all its digits have ink; of
            shape (m,), bool.
        masks: The index from 1 of the digit with the most ink at each pixel, of shape (m, L, L),
            uint8; None if they were not asked for.
    """

    images: Tensor
    boxes: Tensor
    accepted: Tensor
    masks: Tensor | None


class Windows(NamedTuple):
    """The digits of one size.

    Attributes:
        rows: Their indices in the placement.
        pixels: Their resized images, of shape (t, C, s, s), uint8.
    """

    rows: np.ndarray
    pixels: Tensor


def draw(
    digits: Tensor, placement: Placement, n: int, rules: Rules, masks: bool = False
) -> Drawing:
    """Draws scenes of placed digits.

    Args:
        digits: Images of digits, of shape (D, C, S, S), uint8.
        placement: Their scenes, sizes and places.
        n: The number of scenes, m.
        rules: The rules of the scenes.
        masks: Whether masks are drawn too.
    """
    boxes = torch.zeros(n, rules.max_digits, 4, dtype=torch.int64)
    accepted = torch.ones(n, dtype=torch.bool)
    windows = resized(digits, placement)
    for rows, pixels in windows:
        scene, slot, corner = placement.scene[rows], placement.slot[rows], placement.corner[rows]
        box, has_ink = ink_boxes(pixels.amax(1))
        boxes[scene, slot] = box + torch.from_numpy(corner).repeat(1, 2)
        accepted[scene[~has_ink.numpy()]] = False
    if rules.overlap == "apart":
        accepted &= ~_touching(boxes)
    sums = _sums(windows, placement, accepted.numpy(), rules.canvas_size)
    if rules.overlap == "dim":
        accepted &= sums.flatten(1).amax(1) <= 255
    visible = _visible(windows, placement, n, rules.canvas_size) if masks else None
    return Drawing(sums.clamp_(max=255).to(torch.uint8), boxes, accepted, visible)


def resized(digits: Tensor, placement: Placement) -> list[Windows]:
    """Resizes the placed digits, those of one size together."""
    windows = []
    for size in np.unique(placement.size):
        rows = np.flatnonzero(placement.size == size)
        windows.append(Windows(rows, _resize(digits[placement.digit[rows]], int(size))))
    return windows


def _sums(
    windows: list[Windows], placement: Placement, wanted: np.ndarray, canvas_size: int
) -> Tensor:
    """Adds up the digits of the wanted scenes, of shape (m, C, L, L), int32; others stay black."""
    channels = windows[0].pixels.shape[1] if windows else 1
    # In int32, as a sum of digits may exceed 255.
    sums = torch.zeros(len(wanted) * channels * canvas_size**2, dtype=torch.int32)
    for rows, pixels in windows:
        is_wanted = wanted[placement.scene[rows]]
        rows, pixels = rows[is_wanted], pixels[torch.from_numpy(is_wanted)]
        index = _pixels_of(placement, rows, pixels.shape, canvas_size)
        sums.index_add_(0, index, pixels.flatten().int())
    return sums.view(len(wanted), channels, canvas_size, canvas_size)


def _visible(windows: list[Windows], placement: Placement, n: int, canvas_size: int) -> Tensor:
    """Returns the digit with the most ink at each pixel, the first of equal ones; see Drawing."""
    # Ink, and in the lowest 8 bits how far the digit is from the last one: the largest number is
    # the first one of the digits with the most ink.
    ranks = torch.zeros(n * canvas_size**2, dtype=torch.int32)
    for rows, pixels in windows:
        ink = pixels.amax(1, keepdim=True).int()
        order = torch.from_numpy(MOST_MASKED - placement.slot[rows]).int().view(-1, 1, 1, 1)
        rank = torch.where(ink >= INK, ink * (MOST_MASKED + 1) + order, 0)
        index = _pixels_of(placement, rows, ink.shape, canvas_size)
        ranks.scatter_reduce_(0, index, rank.flatten(), "amax")
    visible = torch.where(ranks > 0, MOST_MASKED + 1 - ranks % (MOST_MASKED + 1), 0)
    return visible.to(torch.uint8).view(n, canvas_size, canvas_size)


def _pixels_of(
    placement: Placement, rows: np.ndarray, shape: torch.Size, canvas_size: int
) -> Tensor:
    """Returns the indices, in canvases laid end to end, of the pixels of windows (t, C, s, s)."""
    channels, side = shape[1], shape[-1]
    x, y = placement.corner[rows].T
    first = (placement.scene[rows] * channels * canvas_size + y) * canvas_size + x
    planes = torch.arange(channels)[:, None, None] * canvas_size**2
    offset = torch.arange(side)
    index = planes + offset[:, None] * canvas_size + offset
    return (torch.from_numpy(first)[:, None, None, None] + index).flatten()


def _resize(images: Tensor, size: int) -> Tensor:
    r"""Resizes images :math:`(T, C, S, S)`, uint8, with anti-aliasing as PIL's."""
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)


def ink_boxes(windows: Tensor) -> tuple[Tensor, Tensor]:
    r"""Returns the tightest boxes around the ink of images :math:`(T, s, s)`.

    Returns:
        Boxes, of shape :math:`(T, 4)`, int64; and whether an image has ink, of shape :math:`(T)`.
    """
    ink = windows >= INK
    corners = []
    for axis in (1, 2):
        has_ink = ink.any(axis).to(torch.uint8)
        corners.append((has_ink.argmax(1), has_ink.shape[1] - has_ink.flip(1).argmax(1)))
    (x0, x1), (y0, y1) = corners
    return torch.stack([x0, y0, x1, y1], 1), ink.flatten(1).any(1)


def _touching(boxes: Tensor) -> Tensor:
    r"""Returns whether any two of a scene's boxes have a pixel in common; empty boxes have none.

    Args:
        boxes: Of shape :math:`(m, K, 4)`.

    Returns:
        Of shape :math:`(m)`, bool.
    """
    first, second = torch.triu_indices(boxes.shape[1], boxes.shape[1], 1)
    lowest = torch.maximum(boxes[:, first, :2], boxes[:, second, :2])
    highest = torch.minimum(boxes[:, first, 2:], boxes[:, second, 2:])
    return (lowest < highest).all(2).any(1)


def _check_size(digit_size: tuple[int, int], canvas_size: int) -> None:
    low, high = digit_size
    require(low >= SMALLEST, f"--digit-size starts at {low}: digits need {SMALLEST} pixels or more")
    require(low <= high, f"--digit-size {low} {high}: give the smaller size first")
    require(
        high <= canvas_size,
        f"--digit-size goes up to {high}, beyond --canvas-size {canvas_size}: make the digits "
        "smaller or the canvas larger",
    )


def _check_shrink(digit_shrink: tuple[float, float], size: int, canvas_size: int) -> None:
    mean, deviation = digit_shrink
    require(
        math.isfinite(mean) and mean > 0,
        f"--digit-shrink has the mean {mean}: give a number above 0, such as 1.3",
    )
    require(
        math.isfinite(deviation) and deviation >= 0,
        f"--digit-shrink has the deviation {deviation}: give 0 or more, such as 0.1",
    )
    usual = int(size / mean)
    require(
        SMALLEST <= usual <= canvas_size,
        f"--digit-shrink {mean:g} makes digits of {usual} pixels: choose it so that they have "
        f"from {SMALLEST} to --canvas-size, {canvas_size}",
    )
