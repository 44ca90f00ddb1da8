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

from train.data import files, labelled
from train.data.splits import hold_out
from train.errors import require
from train.settings import SceneSettings

Overlap = Literal["apart", "dim", "any"]

INK = 1
"""The grey level, of 255, from which a pixel belongs to a digit."""

SMALLEST = 4
"""Pixels across the smallest digit, below which none can be read."""

PIXELS_AT_ONCE = 2**23
"""Bounds the memory of drawing scenes to about 200 MB beside the scenes themselves."""

TRIES = 2_000
LEAST_KEPT = 0.02
"""Once as many scenes were tried, this share of them must have kept to the rule of overlap."""


@dataclass(frozen=True, eq=False)
class Scenes:
    r"""Images of 0 to :math:`K` objects.

    Attributes:
        images: :math:`(M, H, W)`, uint8.
        counts: The number of objects in each, :math:`(M,)` int64; None if unknown.
        boxes: The tightest boxes :math:`(x_0, y_0, x_1, y_1)` around the ink of each object, in
            pixels and half open, so that :math:`x_1 - x_0` is a width; :math:`(M, K, 4)` float32.
            The first ``counts`` rows are boxes, the others zeros. None if unknown.
    """

    images: Tensor
    counts: Tensor | None
    boxes: Tensor | None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of an image in pixels."""
        return tuple(self.images.shape[1:])

    def select(self, index: Tensor | slice) -> Scenes:
        r"""The scenes at ``index``, of shape :math:`(L,)`, or in a slice."""
        return Scenes(
            self.images[index],
            None if self.counts is None else self.counts[index],
            None if self.boxes is None else self.boxes[index],
        )


class ScenesSplit(NamedTuple):
    """What to train on and what to evaluate on."""

    train: Scenes
    held_out: Scenes

    def require_room(self, max_objects: int) -> None:
        """Raises :class:`InputError` if a scene has more objects than a model can find."""
        most = max((int(part.counts.max()) for part in self if part.counts is not None), default=0)
        require(
            most <= max_objects,
            f"--max-objects {max_objects} is below the {most} objects of a scene: "
            f"give {most} or more",
        )


def load_scenes(settings: SceneSettings) -> ScenesSplit:
    """Makes scenes out of a data set of digits, or loads a person's own.

    Training scenes are made of training digits and held-out scenes of held-out digits, each from
    a seed of their own: one set does not change with the size of the other. If ``settings.data`` is
    a path (see :func:`train.data.files.read`), its images are the scenes, a fifth of them is the
    test split, and what the settings say of canvas and digits is not used.

    Args:
        settings: The data, and how scenes are made of it.

    Raises:
        InputError: If the data or the settings cannot be used.
    """
    if settings.data not in files.NAMES:
        return _own(settings.data, settings.evaluate_on)
    split = labelled.load(settings.data, settings.data_dir, settings.evaluate_on)

    def make(digits: labelled.Images, n: int, seed: int) -> Scenes:
        return make_scenes(
            digits.images,
            n,
            canvas_size=settings.canvas_size,
            max_digits=settings.max_digits,
            digit_size=settings.digit_size,
            digit_shrink=settings.digit_shrink,
            overlap=settings.overlap,
            seed=seed,
        )

    return ScenesSplit(
        make(split.train, settings.train_scenes, 2 * settings.seed),
        make(split.held_out, settings.held_out_scenes, 2 * settings.seed + 1),
    )


def _own(data: str, evaluate_on: Literal["test", "validation"]) -> ScenesSplit:
    contents = files.read(data)
    scenes = Scenes(
        torch.from_numpy(contents.images),
        None if contents.counts is None else torch.from_numpy(contents.counts),
        None if contents.boxes is None else torch.from_numpy(contents.boxes),
    )
    split = _hold_out(scenes)
    return _hold_out(split.train) if evaluate_on == "validation" else split


def _hold_out(scenes: Scenes) -> ScenesSplit:
    counts = None if scenes.counts is None else scenes.counts.numpy()
    kept, held_out = hold_out(len(scenes), counts)
    return ScenesSplit(
        scenes.select(torch.from_numpy(kept)), scenes.select(torch.from_numpy(held_out))
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

    The count is uniform on :math:`0, \dots, K`, each digit uniform among those given, its place
    uniform among all where it is inside the canvas with its margin. A scene that breaks the rule
    of overlap is drawn anew as a whole with the count kept, so counts stay uniform, while scenes
    of several digits favour those that leave each other room.

    Args:
        digits: The images to draw from, :math:`(D, S, S)` uint8.
        n: The number of scenes, :math:`M \ge 1`.
        canvas_size: Height and width :math:`C \ge 1` of a scene.
        max_digits: The most digits in a scene, :math:`K \ge 1`.
        digit_size: The smallest and largest size of a digit with its margin, in pixels; uniform
            in between, ends included, within :math:`[4, C]`.
        digit_shrink: If given, sizes are :math:`\lfloor S / (m + s \epsilon) \rfloor` for this
            :math:`(m, s)` and :math:`\epsilon \sim N(0, 1)` instead, those outside
            :math:`[4, C]` being brought to the nearest inside.
        overlap: ``apart``, no two boxes have a pixel in common; ``dim``, the sum of the digits is
            nowhere above 255; ``any``, the sum is cut at 255.
        seed: Seed of the scenes, :math:`\ge 0`; the same seed and settings give the same scenes,
            whatever else is drawn and on any number of threads.

    Returns:
        Scenes with counts and boxes, images of shape :math:`(M, C, C)`.

    Raises:
        InputError: If a setting is out of its range, or the digits fit so rarely that fewer
            than one scene in fifty tried keeps to the rule of overlap.

    Example:
        >>> digits = torch.full((10, 28, 28), 255, dtype=torch.uint8)
        >>> scenes = make_scenes(digits, 1000, seed=0)
        >>> scenes.images.shape, scenes.counts.shape, scenes.boxes.shape
        (torch.Size([1000, 50, 50]), torch.Size([1000]), torch.Size([1000, 2, 4]))
    """
    require(n >= 1, f"{n} scenes were asked for: give --train-scenes and --held-out-scenes above 0")
    require(canvas_size >= 1, f"--canvas-size is {canvas_size}: give 1 or more")
    require(max_digits >= 1, f"--max-digits is {max_digits}: give 1 or more")
    require(
        overlap in ("apart", "dim", "any"), f"--overlap {overlap}: give one of apart, dim and any"
    )
    if digit_shrink is None:
        _check_size(digit_size, canvas_size)
    else:
        _check_shrink(digit_shrink, digits.shape[-1], canvas_size)
    rng = np.random.default_rng(seed)

    def sizes(count: int) -> np.ndarray:
        if digit_shrink is None:
            return rng.integers(digit_size[0], digit_size[1] + 1, size=count)
        mean, deviation = digit_shrink
        shrink = np.maximum(mean + deviation * rng.standard_normal(count), 1e-3)
        return np.floor(digits.shape[-1] / shrink).astype(np.int64).clip(SMALLEST, canvas_size)

    counts = rng.integers(0, max_digits + 1, size=n)
    images = torch.empty(n, canvas_size, canvas_size, dtype=torch.uint8)
    boxes = torch.empty(n, max_digits, 4)
    at_once = max(1, PIXELS_AT_ONCE // (canvas_size**2 * (max_digits + 1)))
    tried = accepted = 0
    for start in range(0, n, at_once):
        pending = np.arange(start, min(start + at_once, n))
        while len(pending) > 0:
            objects = int(counts[pending].sum())
            size = sizes(objects)
            drawn = _draw(
                digits,
                rng.integers(len(digits), size=objects),
                size,
                rng.integers(0, canvas_size - size + 1, size=(2, objects)).T,
                counts[pending],
                (canvas_size, max_digits),
                overlap,
            )
            kept = drawn.kept.numpy()
            images[pending[kept]] = drawn.images[drawn.kept]
            boxes[pending[kept]] = drawn.boxes[drawn.kept].float()
            tried += len(kept)
            accepted += int(kept.sum())
            # Without this, digits that do not fit would be tried for ever.
            require(
                tried < TRIES or accepted >= LEAST_KEPT * tried,
                f"{max_digits} digits of {'--digit-shrink' if digit_shrink else '--digit-size'} "
                f"{' '.join(map(str, digit_shrink or digit_size))} hardly ever fit on a canvas of "
                f"{canvas_size} by the rule {overlap}: enlarge --canvas-size, lower --max-digits, "
                "make the digits smaller or give --overlap any",
            )
            pending = pending[~kept]
    return Scenes(images, torch.from_numpy(counts), boxes)


class _Drawn(NamedTuple):
    images: Tensor
    """(m, C, C) uint8; undefined where not kept."""
    boxes: Tensor
    """(m, K, 4) int64."""
    kept: Tensor
    """(m,) bool: which scenes keep to the rule of overlap, with every digit to be seen."""


def _draw(
    digits: Tensor,
    which: np.ndarray,
    size: np.ndarray,
    corner: np.ndarray,
    counts: np.ndarray,
    shape: tuple[int, int],
    overlap: Overlap,
) -> _Drawn:
    """Draws scenes of given objects: digit ``which`` at ``size`` with its ``corner`` at (x, y).

    The objects of a scene follow each other, as many as its count says. ``shape`` is the canvas
    size and the most digits.
    """
    canvas, slots = shape
    owner = np.repeat(np.arange(len(counts)), counts)
    slot = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    boxes = torch.zeros(len(counts), slots, 4, dtype=torch.int64)
    kept = torch.ones(len(counts), dtype=torch.bool)
    windows = []
    for pixels in np.unique(size):
        same = np.flatnonzero(size == pixels)
        window = _resize(digits[which[same]], int(pixels))
        found, visible = _ink_boxes(window)
        boxes[owner[same], slot[same]] = found + torch.from_numpy(corner[same]).repeat(1, 2)
        kept[owner[same[~visible.numpy()]]] = False
        windows.append((same, window))
    if overlap == "apart":
        kept &= ~_touching(boxes)
    # Several digits may be added up in a pixel, beyond what uint8 holds.
    sums = torch.zeros(len(counts) * canvas**2, dtype=torch.int32)
    for same, window in windows:
        wanted = kept.numpy()[owner[same]]
        same, window = same[wanted], window[torch.from_numpy(wanted)]
        x, y = corner[same].T
        first = torch.from_numpy((owner[same] * canvas + y) * canvas + x)
        line = torch.arange(window.shape[-1])
        place = first[:, None, None] + line[:, None] * canvas + line
        sums.index_add_(0, place.flatten(), window.flatten().int())
    images = sums.view(len(counts), canvas, canvas)
    if overlap == "dim":
        kept &= images.flatten(1).amax(1) <= 255
    return _Drawn(images.clamp_(max=255).to(torch.uint8), boxes, kept)


def _resize(images: Tensor, size: int) -> Tensor:
    r"""Images :math:`(T, S, S)` at another size, smoothed as PIL does, both uint8."""
    return F.interpolate(images[:, None], (size, size), mode="bilinear", antialias=True).squeeze(1)


def _ink_boxes(windows: Tensor) -> tuple[Tensor, Tensor]:
    r"""The boxes of the ink in windows :math:`(T, s, s)`, and whether there is any.

    Returns:
        Boxes :math:`(T, 4)` int64, and :math:`(T,)` bool.
    """
    ink = windows >= INK
    corners = []
    for axis in (1, 2):
        hit = ink.any(axis).to(torch.uint8)
        corners.append((hit.argmax(1), hit.shape[1] - hit.flip(1).argmax(1)))
    (x0, x1), (y0, y1) = corners
    return torch.stack([x0, y0, x1, y1], 1), ink.flatten(1).any(1)


def _touching(boxes: Tensor) -> Tensor:
    r"""Whether any two boxes of :math:`(m, K, 4)` have a pixel in common; empty ones never do."""
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
