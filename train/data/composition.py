"""Composes scenes: places digits on a canvas, draws them, and rejects those that overlap."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from pyro_models.boxes import share_more
from train.errors import InputError, require

Overlap = Literal["apart", "half", "dim", "any"]


class Share(NamedTuple):
    """What two digits of a scene may have in common.

    Attributes:
        most: The largest part of the smaller outline.
        of_ink: Whether outlines are the boxes of the digits' ink, or else of their images.
    """

    most: float
    of_ink: bool


SHARES = {"apart": Share(0.0, of_ink=True), "half": Share(0.5, of_ink=False)}
"""The rules of overlap that compare outlines."""

INK = 1
"""The lowest grey level, of 255, of a digit's pixels."""

SMALLEST = 4
"""The smallest size of a digit in pixels; smaller ones cannot be read."""

MOST_MASKED = 255
"""The most digits of scenes with masks, whose pixels are uint8."""

MOST_KEPT = 2**27
"""The most bytes of resized digits that are kept while scenes are made."""

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
            self.overlap in get_args(Overlap),
            f"--overlap {self.overlap}: give one of apart, half, dim and any",
        )
        if self.digit_shrink is None:
            _check_size(self.digit_size, self.canvas_size)
        else:
            _check_shrink(self.digit_shrink, size, self.canvas_size)

    def place(self, rng: np.random.Generator, counts: np.ndarray, digits: Digits) -> Placement:
        """Draws which digits are in scenes, and their sizes and places.

        Args:
            rng: Random numbers.
            counts: The number of digits in each scene.
            digits: The digits to choose from.
        """
        total = int(counts.sum())
        scene = np.repeat(np.arange(len(counts)), counts)
        slot = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
        # In this order, on which the scenes of a seed depend.
        sizes = self._draw_sizes(rng, total, digits.images.shape[-1])
        digit = rng.integers(len(digits.images), size=total)
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
        accepted: Whether a scene follows the rule of overlap, and all its digits have ink; of
            shape (m,), bool.
        images: The accepted scenes, of shape (a, C, L, L), uint8.
        boxes: Their boxes, of shape (a, K, 4), int64.
        masks: The index from 1 of the digit with the most ink at each of their pixels, of shape
            (a, L, L), uint8; None if they were not asked for.
    """

    accepted: np.ndarray
    images: Tensor
    boxes: Tensor
    masks: Tensor | None


class Sized(NamedTuple):
    """Digits of one size.

    Attributes:
        pixels: Their images, of shape (D, C, s, s), uint8.
        boxes: The boxes of their ink, of shape (D, 4), int64; see :func:`ink_boxes`.
        has_ink: Whether they have ink, of shape (D,), bool.
    """

    pixels: Tensor
    boxes: Tensor
    has_ink: Tensor

    @classmethod
    def of(cls, images: Tensor, size: int) -> Sized:
        """Resizes images (D, C, S, S), uint8."""
        pixels = _resize(images, size)
        return cls(pixels, *ink_boxes(pixels.amax(1)))


class Windows(NamedTuple):
    """The placed digits of one size.

    Attributes:
        rows: Their indices in the placement, of shape (t,).
        digits: Digits of that size.
        which: Which of them each one is, of shape (t,).
    """

    rows: np.ndarray
    digits: Sized
    which: np.ndarray


class Digits:
    """The digits that scenes are made of.

    Each is resized once for each of its sizes, as long as :data:`MOST_KEPT` bytes have room for all
    digits of that size.

    Args:
        images: Of shape (D, C, S, S), uint8.
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self._kept: dict[int, tuple[Sized, np.ndarray]] = {}
        self._free = MOST_KEPT

    def windows(self, placement: Placement) -> list[Windows]:
        """Returns the placed digits, those of one size together."""
        windows = []
        for size in np.unique(placement.size).tolist():
            rows = np.flatnonzero(placement.size == size)
            windows.append(Windows(rows, *self._of(placement.digit[rows], size)))
        return windows

    def _of(self, digits: np.ndarray, size: int) -> tuple[Sized, np.ndarray]:
        """Resizes some digits; returns digits of that size, and which of them these are."""
        if size not in self._kept:
            n, channels = self.images.shape[:2]
            needed = n * channels * size**2
            if needed > self._free:
                return Sized.of(self.images[digits], size), np.arange(len(digits))
            self._free -= needed
            empty = Sized(
                torch.empty(n, channels, size, size, dtype=torch.uint8),
                torch.empty(n, 4, dtype=torch.int64),
                torch.empty(n, dtype=torch.bool),
            )
            self._kept[size] = empty, np.zeros(n, dtype=bool)
        kept, is_known = self._kept[size]
        new = np.unique(digits[~is_known[digits]])
        if len(new):
            for values, those in zip(kept, Sized.of(self.images[new], size), strict=True):
                values[new] = those
            is_known[new] = True
        return kept, digits


def draw(
    digits: Digits, placement: Placement, n: int, rules: Rules, masks: bool = False
) -> Drawing:
    """Draws scenes of placed digits.

    Args:
        digits: The digits.
        placement: Their scenes, sizes and places.
        n: The number of scenes, m.
        rules: The rules of the scenes.
        masks: Whether masks are drawn too.
    """
    boxes = torch.zeros(n, rules.max_digits, 4, dtype=torch.int64)
    accepted = torch.ones(n, dtype=torch.bool)
    windows = digits.windows(placement)
    for rows, sized, which in windows:
        scene, slot, corner = placement.scene[rows], placement.slot[rows], placement.corner[rows]
        boxes[scene, slot] = sized.boxes[which] + torch.from_numpy(corner).repeat(1, 2)
        accepted[scene[~sized.has_ink[which].numpy()]] = False
    if share := SHARES.get(rules.overlap):
        outlines = boxes if share.of_ink else _frames(placement, boxes)
        accepted &= ~_share(outlines, share.most)
    wanted = accepted.numpy()
    sums = _sums(windows, placement, wanted, digits.images.shape[1], rules)
    if rules.overlap == "dim":
        is_dim = sums.reshape(len(sums), -1).max(1, initial=0) <= 255
        wanted[wanted] = is_dim
        sums = sums[is_dim]
    images = torch.from_numpy(sums).clamp_(max=255).to(torch.uint8)
    visible = _visible(windows, placement, n, rules.canvas_size)[accepted] if masks else None
    return Drawing(wanted, images, boxes[accepted], visible)


def _sums(
    windows: list[Windows], placement: Placement, wanted: np.ndarray, channels: int, rules: Rules
) -> np.ndarray:
    """Adds up the digits of the wanted scenes, of shape (a, C, L, L), uint8 or int32."""
    # Digits that are apart add up to 255 at most; a sum of others may exceed that.
    kind = np.uint8 if rules.overlap == "apart" else np.int32
    side = rules.canvas_size
    sums = np.zeros((int(wanted.sum()), channels, side, side), dtype=kind)
    number = np.cumsum(wanted) - 1
    for rows, sized, which in windows:
        size = sized.pixels.shape[-1]
        places = sliding_window_view(sums, (size, size), axis=(2, 3), writeable=True)
        # Of one slot, so that no scene has two digits among them: NumPy would add only one.
        for slot in range(rules.max_digits):
            here = (placement.slot[rows] == slot) & wanted[placement.scene[rows]]
            scene, (x, y) = number[placement.scene[rows[here]]], placement.corner[rows[here]].T
            places[scene, :, y, x] += sized.pixels[which[here]].numpy()
    return sums


def _visible(windows: list[Windows], placement: Placement, n: int, canvas_size: int) -> Tensor:
    """Returns the digit with the most ink at each pixel, the first of equal ones; see Drawing."""
    # Ink, and in the lowest 8 bits how far the digit is from the last one: the largest number is
    # the first one of the digits with the most ink.
    ranks = torch.zeros(n * canvas_size**2, dtype=torch.int32)
    for rows, sized, which in windows:
        ink = sized.pixels[which].amax(1, keepdim=True).int()
        order = torch.from_numpy(MOST_MASKED - placement.slot[rows]).int().view(-1, 1, 1, 1)
        rank = torch.where(ink >= INK, ink * (MOST_MASKED + 1) + order, 0)
        target = _pixels_of(placement, rows, ink.shape, canvas_size)
        ranks.scatter_reduce_(0, target, rank.flatten(), "amax")
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


def _frames(placement: Placement, boxes: Tensor) -> Tensor:
    """Returns the boxes of whole images, as the boxes of their ink are in scenes."""
    frames = torch.zeros_like(boxes)
    corner = torch.from_numpy(placement.corner)
    size = torch.from_numpy(placement.size)[:, None]
    frames[placement.scene, placement.slot] = torch.cat([corner, corner + size], 1)
    return frames


def _share(boxes: Tensor, share: float) -> Tensor:
    r"""Returns whether any two of a scene's boxes have more in common than they may.

    Args:
        boxes: Of shape :math:`(m, K, 4)`; empty boxes have nothing in common with others.
        share: The most that they may have in common, as a part of the smaller one.

    Returns:
        Of shape :math:`(m)`, bool.
    """
    first, second = torch.triu_indices(boxes.shape[1], boxes.shape[1], 1)
    return share_more(boxes[:, first], boxes[:, second], share).any(1)


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
