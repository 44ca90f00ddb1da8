"""Scenes of several coloured shapes, some in front of others, drawn from code.

They are in the manner of the data set Multi-dSprites; the images are drawn here, and are not
the images of that data set. The shapes are those of :mod:`train.data.drawn.sprites`.

References:
    | MONet: Unsupervised Scene Decomposition and Representation (Burgess et al., 2019)
    | https://github.com/google-deepmind/multi_object_datasets
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from train.data.annotated import Scenes
from train.data.composition import MIN_ACCEPTANCE, MOST_MASKED, TRIES, ink_boxes
from train.data.counts import checked
from train.data.drawn import sprites
from train.data.streaming.stored import in_memory
from train.errors import require
from train.progress import progress

COUNTS = (2, 3, 4, 5)
"""The numbers of sprites in a scene."""
SCALES = (0.5, 1.0)
"""The smallest and the largest scale: see :func:`train.data.drawn.sprites.draw`."""
CONTRAST = 0.25
"""A sprite's red, green or blue differs by this much from the background's, at least."""
LEAST_VISIBLE = 20
"""The fewest pixels of a sprite that are visible."""
CHUNK = 256
"""Scenes that are drawn at once, to bound memory."""

FACTORS = {
    "shape": ((), f"<U{max(map(len, sprites.SHAPES))}"),
    "scale": ((), np.float32),
    "orientation": ((), np.float32),
    "x": ((), np.float32),
    "y": ((), np.float32),
    "colour": ((3,), np.float32),
}
"""The shape and type of the factors of a sprite."""


class Drawing(NamedTuple):
    """Drawn scenes.

    Attributes:
        images: Of shape (m, 3, 64, 64), uint8.
        masks: Of shape (m, 64, 64), uint8: see :class:`train.data.annotated.Scenes`.
        boxes: Around the visible pixels of each sprite, of shape (m, K, 4), float32; zeros where
            none are visible.
        visible: The number of visible pixels of each sprite, of shape (m, K).
    """

    images: np.ndarray
    masks: np.ndarray
    boxes: np.ndarray
    visible: np.ndarray


def sample(n: int, seed: int, *, coloured: bool = False, counts: Sequence[int] = COUNTS) -> Scenes:
    r"""Draws scenes of random sprites on a background of one random colour.

    The count is uniform on ``counts``. Shape, scale and orientation are uniform, and so is the
    position among those where the shape is inside the scene. A sprite is in front of those before
    it. Its colour is uniform among those that differ from the background by :data:`CONTRAST` in
    red, green or blue. A scene in which fewer than :data:`LEAST_VISIBLE` pixels of a sprite are
    visible is drawn again with the same count. With :math:`a_k` the fraction of a pixel's area that
    sprite :math:`k` of colour :math:`c_k` covers, the image is composed back to front from
    the background :math:`c_0`:

    .. math:: x_0 = c_0, \quad x_k = (1 - a_k) \, x_{k - 1} + a_k c_k.

    Args:
        n: The number of scenes, :math:`M \ge 1`.
        seed: Seed of the scenes, :math:`\ge 0`.
        coloured: Whether backgrounds have colours, uniform in RGB, or else are grey, of uniform
            level.
        counts: The numbers of sprites in a scene, different ones, each equally likely.

    Returns:
        Scenes of shape :math:`(M, 3, 64, 64)` with counts, masks, and boxes around the visible
        pixels of each sprite. The object at a pixel is the foremost one that covers at least half
        of it. The factors of sprites, from the rearmost to the foremost, are ``shape``, ``scale``
        and ``orientation`` as in :func:`train.data.drawn.sprites.draw`, ``x`` and ``y`` (of
        the centroid, in pixels from the upper left corner), all of shape :math:`(M, K)`, and
        ``colour``, of shape :math:`(M, K, 3)`, in [0, 1]. The factor of a scene is ``background``,
        of shape :math:`(M, 3)`.

    Raises:
        InputError: If ``n`` or ``counts`` are out of range, or fewer than one scene in fifty shows
            all its sprites.

    Example:
        >>> scenes = sample(10, seed=0)
        >>> scenes.images.shape, scenes.factors["colour"].shape
        (torch.Size([10, 3, 64, 64]), (10, 5, 3))
    """
    require(n >= 1, f"{n} scenes were asked for: give 1 or more")
    choices = checked(counts, "counts")
    rng = np.random.default_rng(seed)
    numbers = np.asarray(choices)[rng.integers(0, len(choices), size=n)]
    most = max(*choices, 1)
    require(most <= MOST_MASKED, f"{most} sprites: give counts up to {MOST_MASKED}")
    scenes = _empty(numbers, most)
    tried = accepted = 0
    starts = range(0, n, CHUNK)
    for start in progress(starts, "drawing scenes", len(starts), f"{CHUNK:,} scenes"):
        pending = np.arange(start, min(start + CHUNK, n))
        while len(pending):
            factors = _draw_factors(rng, numbers[pending], most, coloured)
            drawing = draw(factors, numbers[pending])
            is_present = np.arange(most) < numbers[pending, None]
            is_accepted = np.all((drawing.visible >= LEAST_VISIBLE) | ~is_present, axis=1)
            _write(scenes, pending[is_accepted], drawing, factors, is_accepted)
            tried += len(pending)
            accepted += int(is_accepted.sum())
            require(
                tried < TRIES or accepted >= MIN_ACCEPTANCE * tried,
                f"{most} sprites hardly ever are all visible in a scene: give lower counts",
            )
            pending = pending[~is_accepted]
    return scenes


def draw(factors: dict[str, np.ndarray], counts: np.ndarray) -> Drawing:
    """Draws scenes of given factors, such as those of other scenes with one of them changed.

    Args:
        factors: See :func:`sample`.
        counts: The number of sprites in each scene, of shape (m,).
    """
    n, most = factors["shape"].shape
    size = sprites.SIZE
    images = np.broadcast_to(factors["background"][..., None, None], (n, 3, size, size)).copy()
    masks = np.zeros((n, size, size), dtype=np.uint8)
    for slot in range(most):
        for shape in sprites.SHAPES:
            scenes = np.flatnonzero((counts > slot) & (factors["shape"][:, slot] == shape))
            if len(scenes):
                scale, degrees, x, y = (
                    factors[name][scenes, slot] for name in ("scale", "orientation", "x", "y")
                )
                covered = sprites.cover(shape, scale, np.radians(degrees), x, y)
                colour = factors["colour"][scenes, slot, :, None, None]
                images[scenes] += covered[:, None] * (colour - images[scenes])
                masks[scenes] = np.where(covered >= 0.5, slot + 1, masks[scenes])
    is_visible = masks[:, None] == np.arange(1, most + 1)[:, None, None]
    ink, _ = ink_boxes(torch.from_numpy(is_visible.reshape(-1, size, size)).byte())
    visible = is_visible.sum((2, 3))
    boxes = np.where(visible[..., None] > 0, ink.numpy().reshape(n, most, 4), 0)
    images = (255 * images).round().astype(np.uint8)
    return Drawing(images, masks, boxes.astype(np.float32), visible)


def _draw_factors(
    rng: np.random.Generator, counts: np.ndarray, most: int, coloured: bool
) -> dict[str, np.ndarray]:
    """Draws the factors of scenes; those of absent sprites are zeros, or empty text."""
    size = (len(counts), most)
    background = rng.random((len(counts), 3 if coloured else 1), dtype=np.float32)
    background = np.broadcast_to(background, (len(counts), 3))
    scale = rng.uniform(*SCALES, size).astype(np.float32)
    # A shape of scale 1 reaches to MARGIN from its centroid.
    reach = sprites.MARGIN * scale
    places = reach + (sprites.SIZE - 2 * reach) * rng.random((2, *size), dtype=np.float32)
    factors = {
        "shape": np.array(sprites.SHAPES)[rng.integers(0, len(sprites.SHAPES), size)],
        "scale": scale,
        "orientation": rng.uniform(0, 360, size).astype(np.float32),
        "x": places[0],
        "y": places[1],
        "colour": _contrasting(rng, np.repeat(background[:, None], most, axis=1)),
    }
    is_absent = np.arange(most) >= counts[:, None]
    for values in factors.values():
        values[is_absent] = np.zeros((), values.dtype)
    return factors | {"background": background}


def _contrasting(rng: np.random.Generator, backgrounds: np.ndarray) -> np.ndarray:
    """Draws colours (*, 3) that differ enough from those of backgrounds (*, 3)."""
    colours = rng.random(backgrounds.shape, dtype=np.float32)
    while True:
        is_alike = (np.abs(colours - backgrounds) < CONTRAST).all(-1)
        if not is_alike.any():
            return colours
        colours[is_alike] = rng.random((int(is_alike.sum()), 3), dtype=np.float32)


def _empty(counts: np.ndarray, most: int) -> Scenes:
    """Returns scenes of the given counts that are not drawn yet."""
    n, size = len(counts), sprites.SIZE
    factors = {
        name: np.zeros((n, most, *shape), dtype=kind) for name, (shape, kind) in FACTORS.items()
    }
    return Scenes(
        torch.empty(n, 3, size, size, dtype=torch.uint8),
        torch.from_numpy(counts),
        torch.empty(n, most, 4),
        masks=torch.empty(n, size, size, dtype=torch.uint8),
        factors=factors | {"background": np.zeros((n, 3), dtype=np.float32)},
    )


def _write(
    scenes: Scenes,
    rows: np.ndarray,
    drawing: Drawing,
    factors: dict[str, np.ndarray],
    is_accepted: np.ndarray,
) -> None:
    """Writes the accepted scenes of a drawing into the given rows."""
    assert scenes.masks is not None
    assert scenes.boxes is not None
    assert scenes.factors is not None
    for target, values in (
        (in_memory(scenes.images), drawing.images),
        (scenes.masks, drawing.masks),
        (scenes.boxes, drawing.boxes),
    ):
        target[rows] = torch.from_numpy(values[is_accepted])
    for name, values in factors.items():
        scenes.factors[name][rows] = values[is_accepted]
