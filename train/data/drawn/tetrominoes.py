"""Scenes of three tetrominoes, pieces of four blocks, drawn from code.

They are in the manner of the data set Tetrominoes; the images are drawn here, and are not the
images of that data set.

References:
    | Multi-Object Representation Learning with Iterative Variational Inference (Greff et al., 2019)
    | https://github.com/google-deepmind/multi_object_datasets
"""

from __future__ import annotations

import numpy as np
import torch

from train.data.annotated import Scenes
from train.data.drawn import hues
from train.errors import require

SIZE = 35
"""Height and width of a scene, in pixels."""
BLOCK = 5
"""Height and width of a block, in pixels."""
COUNT = 3
"""The number of pieces in a scene."""
COLOURS = tuple(sorted(hues.COLOURS))
"""The names of the six colours, of full saturation and value."""
CHUNK = 4096
"""Scenes that are drawn at once, to bound memory."""

KINDS = {
    "I": (("####",), (0, 90)),
    "J": (("#..", "###"), (0, 90, 180, 270)),
    "L": (("..#", "###"), (0, 90, 180, 270)),
    "O": (("##", "##"), (0,)),
    "S": ((".##", "##."), (0,)),
    "T": ((".#.", "###"), (0, 90, 180, 270)),
    "Z": (("##.", ".##"), (0,)),
}
"""The blocks of each kind of piece, and its orientations, counter-clockwise, in degrees.

The seven kinds have 19 different orientations. The original data have 17 shapes, and do not say
which two they leave out; here it is the upright S and the upright Z.
"""


def _pieces() -> tuple[list[tuple[str, int]], np.ndarray]:
    """Returns the kind and orientation of all pieces, and their pixels, (17, 20, 20), bool.

    A piece is in the upper left corner of its image.
    """
    names: list[tuple[str, int]] = []
    pixels = np.zeros((17, 4 * BLOCK, 4 * BLOCK), dtype=bool)
    for kind, (rows, orientations) in KINDS.items():
        blocks = np.array([[block == "#" for block in row] for row in rows])
        for orientation in orientations:
            turned = np.kron(np.rot90(blocks, orientation // 90), np.ones((BLOCK, BLOCK), bool))
            pixels[len(names), : turned.shape[0], : turned.shape[1]] = turned
            names.append((kind, orientation))
    return names, pixels


PIECES, PIXELS = _pieces()
"""The kind and orientation of each of the 17 pieces, and its pixels."""
SIDES = np.stack([PIXELS.any(1).sum(1), PIXELS.any(2).sum(1)], axis=1)
"""The width and height of each piece, in pixels."""


def sample(n: int, seed: int) -> Scenes:
    r"""Draws scenes of three pieces that do not overlap, on black.

    Each piece is uniform among the 17 of :data:`PIECES`, its colour is uniform among
    :data:`COLOURS`, and its place is uniform among those inside the scene, pixel by pixel. Scenes
    in which pieces overlap are drawn again. Pieces may touch, and may have one colour.

    Args:
        n: The number of scenes, :math:`M \ge 1`.
        seed: Seed of the scenes, :math:`\ge 0`.

    Returns:
        Scenes of shape :math:`(M, 3, 35, 35)` with counts, boxes and masks. The factors, of shape
        :math:`(M, 3)`, are ``shape`` (a letter), ``orientation`` (in degrees), ``x`` and ``y`` (the
        upper left corner of the box, in pixels) and ``colour`` (a word).

    Raises:
        InputError: If ``n`` is below 1.

    Example:
        >>> scenes = sample(10, seed=0)
        >>> scenes.images.shape, int(scenes.masks.max())
        (torch.Size([10, 3, 35, 35]), 3)
    """
    require(n >= 1, f"{n} scenes were asked for: give 1 or more")
    rng = np.random.default_rng(seed)
    piece = np.empty((n, COUNT), dtype=np.int64)
    corner = np.empty((n, COUNT, 2), dtype=np.int64)
    masks = np.empty((n, SIZE, SIZE), dtype=np.uint8)
    for start in range(0, n, CHUNK):
        pending = np.arange(start, min(start + CHUNK, n))
        while len(pending):
            size = (len(pending), COUNT)
            pieces = rng.integers(0, len(PIECES), size)
            corners = rng.integers(0, SIZE - SIDES[pieces] + 1)
            drawn, is_accepted = _masks(pieces, corners)
            rows = pending[is_accepted]
            piece[rows], corner[rows] = pieces[is_accepted], corners[is_accepted]
            masks[rows] = drawn[is_accepted]
            pending = pending[~is_accepted]
    colour = rng.integers(0, len(COLOURS), size=(n, COUNT))
    names, orientations = zip(*PIECES, strict=True)
    return Scenes(
        torch.from_numpy(_images(masks, colour)),
        torch.full((n,), COUNT),
        torch.from_numpy(np.concatenate([corner, corner + SIDES[piece]], -1)).float(),
        masks=torch.from_numpy(masks),
        factors={
            "shape": np.array(names)[piece],
            "orientation": np.array(orientations)[piece],
            "x": corner[..., 0],
            "y": corner[..., 1],
            "colour": np.array(COLOURS)[colour],
        },
    )


def _masks(pieces: np.ndarray, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns masks of placed pieces, (m, 35, 35), and whether they do not overlap, (m,)."""
    n, side = len(pieces), PIXELS.shape[-1]
    # Images of pieces may reach beyond the scene, their blocks do not.
    shape = (n, SIZE + side, SIZE + side)
    masks, is_accepted = np.zeros(shape, dtype=np.uint8), np.ones(n, dtype=bool)
    offsets = np.arange(side)
    scenes = np.arange(n)[:, None, None]
    for slot in range(COUNT):
        x, y = corners[:, slot].T[..., None, None]
        index = (scenes, y + offsets[:, None], x + offsets)
        pixels, before = PIXELS[pieces[:, slot]], masks[index]
        is_accepted &= ~(pixels & (before > 0)).any((1, 2))
        masks[index] = np.where(pixels, slot + 1, before)
    return masks[:, :SIZE, :SIZE], is_accepted


def _images(masks: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Colours masks, (m, 35, 35), of objects of colours (m, 3) by index, as (m, 3, 35, 35)."""
    palette = hues.rgb(np.array([0.0, *(hues.COLOURS[name] for name in COLOURS)]))
    palette[0] = 0
    palette = (255 * palette).round().astype(np.uint8)
    # The colour of the background comes first.
    indices = np.pad(colours + 1, ((0, 0), (1, 0)))
    pixels = np.take_along_axis(indices, masks.reshape(len(masks), -1).astype(np.int64), axis=1)
    images = palette[pixels].reshape(*masks.shape, 3)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
