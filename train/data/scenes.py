"""Scenes of several digits, for AIR."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_models.shapes import Shape
from train.data import datasets, files
from train.data.catalogue import CATALOGUE, STORED
from train.data.labelled import Images
from train.data.splits import hold_out
from train.errors import require
from train.settings import SceneSettings

Overlap = Literal["apart", "dim", "any"]

INK = 1
"""The lowest grey level, of 255, of a digit's pixels."""

SMALLEST = 4
"""The smallest size of a digit in pixels; smaller ones cannot be read."""

PIXELS_AT_ONCE = 2**23
"""Bounds the memory for drawing scenes to about 200 MB, without the scenes themselves."""

TRIES = 2_000
MIN_ACCEPTANCE = 0.02
"""After :data:`TRIES` scenes, this fraction of them must have been accepted."""


@dataclass(frozen=True, eq=False)
class Scenes:
    r"""Images of 0 to :math:`K` objects.

    Attributes:
        images: Grey levels, of shape :math:`(M, H, W)`, uint8.
        counts: The number of objects in each image, of shape :math:`(M)`, int64; None if unknown.
        boxes: The tightest boxes :math:`(x_0, y_0, x_1, y_1)` around the ink of each object, of
            shape :math:`(M, K, 4)`, float32; None if unknown. They are in pixels and half open, so
            that :math:`x_1 - x_0` is a width. The first ``counts`` rows of an image are boxes, the
            others zeros.
    """

    images: Tensor
    counts: Tensor | None
    boxes: Tensor | None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> Shape:
        """Height and width of an image."""
        return Shape(*self.images.shape[1:])

    def select(self, index: Tensor | slice) -> Scenes:
        r"""Returns the scenes at ``index``, of shape :math:`(L)`, or in a slice."""
        return Scenes(
            self.images[index],
            None if self.counts is None else self.counts[index],
            None if self.boxes is None else self.boxes[index],
        )

    def hold_out(self) -> ScenesSplit:
        """Holds out a fixed random fifth, stratified by the counts if they are known."""
        counts = None if self.counts is None else self.counts.numpy()
        indices = hold_out(len(self), counts)
        return ScenesSplit(*(self.select(torch.from_numpy(rows)) for rows in indices))


class ScenesSplit(NamedTuple):
    """Scenes to train on and scenes to evaluate on."""

    train: Scenes
    held_out: Scenes

    def require_room(self, max_objects: int) -> None:
        """Raises :class:`InputError` if a scene has more than ``max_objects`` objects."""
        counts = [scenes.counts for scenes in self if scenes.counts is not None]
        most = max((int(count.max()) for count in counts), default=0)
        require(
            most <= max_objects,
            f"--max-objects {max_objects} is below the {most} objects of a scene: "
            f"give {most} or more",
        )


def load_scenes(settings: SceneSettings) -> ScenesSplit:
    """Makes scenes of the images of a data set, or reads scenes from a file.

    Training scenes have training images only, and held-out scenes held-out ones. Each split has its
    own seed, so that it does not depend on the size of the other. If ``settings.data`` is a
    path (see :func:`train.data.files.read`), its images are the scenes, a fifth of them is the
    test split, and the settings of canvas and digits have no effect.

    Args:
        settings: The data set, and how scenes are made of it.

    Raises:
        InputError: If the data or the settings cannot be used.
    """
    if settings.data not in CATALOGUE:
        return _read_scenes(settings.data, settings.evaluate_on)
    require(
        not CATALOGUE[settings.data].endless,
        f"--data {settings.data}: scenes are made of stored images: give one of {STORED}, or the "
        "path of your own scenes",
    )
    split = datasets.load(settings.data, settings.data_dir, settings.evaluate_on)
    seeds = (2 * settings.seed, 2 * settings.seed + 1)
    return ScenesSplit(
        _scenes_of(split.train, settings.train_scenes, seeds[0], settings),
        _scenes_of(split.held_out, settings.held_out_scenes, seeds[1], settings),
    )


def _read_scenes(data: str, evaluate_on: Literal["test", "validation"]) -> ScenesSplit:
    contents = files.read(data)
    scenes = Scenes(
        torch.from_numpy(contents.images),
        None if contents.counts is None else torch.from_numpy(contents.counts),
        None if contents.boxes is None else torch.from_numpy(contents.boxes),
    )
    split = scenes.hold_out()
    return split.train.hold_out() if evaluate_on == "validation" else split


def _scenes_of(images: Images, n: int, seed: int, settings: SceneSettings) -> Scenes:
    return make_scenes(
        images.images,
        n,
        canvas_size=settings.canvas_size,
        max_digits=settings.max_digits,
        digit_size=settings.digit_size,
        digit_shrink=settings.digit_shrink,
        overlap=settings.overlap,
        seed=seed,
    )


def make_scenes(
    digits: Tensor,
    n: int,
    *,
    canvas_size: int = 50,
    max_digits: int = 2,
    digit_size: tuple[int, int] = (24, 24),
    digit_shrink: tuple[float, float] | None = None,
    overlap: Overlap = "apart",
    seed: int,
) -> Scenes:
    r"""Draws scenes: digits of random size at random places on a black canvas.

    The count is uniform on :math:`0, \dots, K`, each digit is uniform among ``digits``, and its
    place is uniform among those where its image is inside the canvas. A scene that breaks the rule
    of ``overlap`` is rejected and drawn again with the same count: counts stay uniform, while
    scenes of several digits favour places and sizes that leave room.

    Args:
        digits: Images to draw from, of shape :math:`(D, S, S)`, uint8.
        n: The number of scenes, :math:`M \ge 1`.
        canvas_size: Height and width :math:`C \ge 1` of a scene.
        max_digits: The most digits in a scene, :math:`K \ge 1`.
        digit_size: The smallest and the largest size of a digit's image in pixels; sizes are
            uniform between them, both included, within :math:`[4, C]`.
        digit_shrink: If given, sizes are :math:`\lfloor S / (m + s \epsilon) \rfloor` for this
            :math:`(m, s)` and :math:`\epsilon \sim N(0, 1)` instead, clipped to :math:`[4, C]`.
        overlap: ``apart``: no two boxes have a pixel in common. ``dim``: the sum of the digits is
            at most 255 everywhere. ``any``: the sum is clipped to 255.
        seed: Seed of the scenes, :math:`\ge 0`. The same seed and settings give the same scenes,
            whatever the global random state and the number of threads.

    Returns:
        Scenes with counts and boxes; the images are of shape :math:`(M, C, C)`.

    Raises:
        InputError: If a setting is out of its range, or fewer than one scene in fifty is accepted.

    Example:
        >>> digits = torch.full((10, 28, 28), 255, dtype=torch.uint8)
        >>> scenes = make_scenes(digits, 1000, seed=0)
        >>> scenes.images.shape, scenes.counts.shape, scenes.boxes.shape
        (torch.Size([1000, 50, 50]), torch.Size([1000]), torch.Size([1000, 2, 4]))
    """
    rules = _Rules(canvas_size, max_digits, digit_size, digit_shrink, overlap)
    require(n >= 1, f"{n} scenes were asked for: give --train-scenes and --held-out-scenes above 0")
    rules.check(digits.shape[-1])
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, max_digits + 1, size=n)
    images = torch.empty(n, canvas_size, canvas_size, dtype=torch.uint8)
    boxes = torch.empty(n, max_digits, 4)
    chunk = max(1, PIXELS_AT_ONCE // (canvas_size**2 * (max_digits + 1)))
    tried = accepted = 0
    for start in range(0, n, chunk):
        pending = np.arange(start, min(start + chunk, n))
        while len(pending) > 0:
            placement = rules.place(rng, counts[pending], len(digits), digits.shape[-1])
            drawing = _draw(digits, placement, len(pending), rules)
            is_accepted = drawing.accepted.numpy()
            images[pending[is_accepted]] = drawing.images[drawing.accepted]
            boxes[pending[is_accepted]] = drawing.boxes[drawing.accepted].float()
            tried += len(pending)
            accepted += int(is_accepted.sum())
            rules.require_acceptance(accepted, tried)
            pending = pending[~is_accepted]
    return Scenes(images, torch.from_numpy(counts), boxes)


class _Placement(NamedTuple):
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


class _Rules(NamedTuple):
    """How scenes are made: see :func:`make_scenes`."""

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
    ) -> _Placement:
        """Draws the digits of scenes, and their sizes and places.

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
        return _Placement(scene, slot, digit, sizes, corner)

    def _draw_sizes(self, rng: np.random.Generator, n: int, size: int) -> np.ndarray:
        if self.digit_shrink is None:
            return rng.integers(self.digit_size[0], self.digit_size[1] + 1, size=n)
        mean, deviation = self.digit_shrink
        shrink = np.maximum(mean + deviation * rng.standard_normal(n), 1e-3)
        return np.floor(size / shrink).astype(np.int64).clip(SMALLEST, self.canvas_size)

    def require_acceptance(self, accepted: int, tried: int) -> None:
        """Raises :class:`InputError` if nearly all scenes are rejected, which would never end."""
        flag = "--digit-shrink" if self.digit_shrink else "--digit-size"
        require(
            tried < TRIES or accepted >= MIN_ACCEPTANCE * tried,
            f"{self.max_digits} digits of {flag} "
            f"{' '.join(map(str, self.digit_shrink or self.digit_size))} hardly ever fit on a "
            f"canvas of {self.canvas_size} by the rule {self.overlap}: enlarge --canvas-size, "
            "lower --max-digits, make the digits smaller or give --overlap any",
        )


class _Drawing(NamedTuple):
    """Drawn scenes.

    Attributes:
        images: Of shape (m, C, C), uint8; undefined where the scene is rejected.
        boxes: Of shape (m, K, 4), int64.
        accepted: Whether a scene follows the rule of overlap, and all its digits have ink; of
            shape (m,), bool.
    """

    images: Tensor
    boxes: Tensor
    accepted: Tensor


class _Windows(NamedTuple):
    """The digits of one size.

    Attributes:
        rows: Their indices in the placement.
        pixels: Their resized images, of shape (t, s, s), uint8.
    """

    rows: np.ndarray
    pixels: Tensor


def _draw(digits: Tensor, placement: _Placement, n: int, rules: _Rules) -> _Drawing:
    """Draws ``n`` scenes of placed digits."""
    boxes = torch.zeros(n, rules.max_digits, 4, dtype=torch.int64)
    accepted = torch.ones(n, dtype=torch.bool)
    windows = _resized(digits, placement)
    for rows, pixels in windows:
        scene, slot, corner = placement.scene[rows], placement.slot[rows], placement.corner[rows]
        box, has_ink = _ink_boxes(pixels)
        boxes[scene, slot] = box + torch.from_numpy(corner).repeat(1, 2)
        accepted[scene[~has_ink.numpy()]] = False
    if rules.overlap == "apart":
        accepted &= ~_touching(boxes)
    sums = _sums(windows, placement, accepted.numpy(), rules.canvas_size)
    if rules.overlap == "dim":
        accepted &= sums.flatten(1).amax(1) <= 255
    return _Drawing(sums.clamp_(max=255).to(torch.uint8), boxes, accepted)


def _resized(digits: Tensor, placement: _Placement) -> list[_Windows]:
    """Resizes the placed digits, those of one size together."""
    windows = []
    for size in np.unique(placement.size):
        rows = np.flatnonzero(placement.size == size)
        windows.append(_Windows(rows, _resize(digits[placement.digit[rows]], int(size))))
    return windows


def _sums(
    windows: list[_Windows], placement: _Placement, wanted: np.ndarray, canvas_size: int
) -> Tensor:
    """Adds up the digits of the wanted scenes, of shape (m, C, C), int32; the others stay black."""
    # In int32, as a sum of digits may exceed 255.
    sums = torch.zeros(len(wanted) * canvas_size**2, dtype=torch.int32)
    for rows, pixels in windows:
        is_wanted = wanted[placement.scene[rows]]
        rows, pixels = rows[is_wanted], pixels[torch.from_numpy(is_wanted)]
        x, y = placement.corner[rows].T
        first = torch.from_numpy((placement.scene[rows] * canvas_size + y) * canvas_size + x)
        offset = torch.arange(pixels.shape[-1])
        index = first[:, None, None] + offset[:, None] * canvas_size + offset
        sums.index_add_(0, index.flatten(), pixels.flatten().int())
    return sums.view(len(wanted), canvas_size, canvas_size)


def _resize(images: Tensor, size: int) -> Tensor:
    r"""Resizes images :math:`(T, S, S)`, uint8, with anti-aliasing as PIL's."""
    return F.interpolate(images[:, None], (size, size), mode="bilinear", antialias=True).squeeze(1)


def _ink_boxes(windows: Tensor) -> tuple[Tensor, Tensor]:
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
    touching = torch.zeros(len(boxes), dtype=torch.bool)
    for i, j in combinations(range(boxes.shape[1]), 2):
        lowest = torch.maximum(boxes[:, i, :2], boxes[:, j, :2])
        highest = torch.minimum(boxes[:, i, 2:], boxes[:, j, 2:])
        touching |= (lowest < highest).all(1)
    return touching


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
