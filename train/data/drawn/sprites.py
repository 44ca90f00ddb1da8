"""Images of a flat shape on black, with five known factors or six, drawn from code.

The factors are those of the data set dSprites: shape, scale, orientation and position; and
a colour, if asked for. The images are drawn here; they are not the images of that data set.

References:
    | beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework (Higgins et
      al., 2017)
    | https://github.com/google-deepmind/dsprites-dataset
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from train.data.drawn import factors, hues
from train.data.labelled import Images, Split

SIZE = 64
"""Height and width of an image, in pixels."""
MARGIN = 16
"""Distance of a shape's centre from the edges, in pixels: no shape reaches further."""
COLOURS = tuple(sorted(hues.COLOURS))
"""The names of the colours: those of :data:`train.data.drawn.hues.COLOURS`, of saturation 0.8."""
SATURATION = 0.8
TRAIN, HELD_OUT = 10_000, 2_000
"""The numbers of training images and of held-out ones in :func:`split`."""
CHUNK = 256
"""Images that are drawn at once, to bound memory."""

SIDE = 20.0
"""Side of the square of scale 1, in pixels."""
AXES = (14.0, 9.0)
"""Half the axes of the ellipse of scale 1, in pixels."""
HEART = 15.0
"""Side of the square in the heart of scale 1, in pixels. All three shapes have 400 pixels or so."""


def draw(
    shape: Any, scale: Any, orientation: Any, x: Any, y: Any, colour: Any | None = None
) -> Tensor:
    r"""Draws shapes on black.

    Each factor is a single value, or an array of shape :math:`(M)`. A pixel's brightness
    approximates the fraction of its area that the shape covers, as :math:`[1 / 2 - d]_0^1`, with
    :math:`d` the distance from the pixel's centre to the outline, negative inside.

    Args:
        shape: Words of :data:`SHAPES`.
        scale: The size of the shape, in [0.25, 1]. Its area is about :math:`400 \, s^2` pixels.
        orientation: The angle of the shape, counter-clockwise, in degrees, in [0, 360]. A square
            looks the same after 90 degrees, and an ellipse after 180.
        x: The position of the shape's centroid from left (0) to right (1).
        y: Its position from top (0) to bottom (1).
        colour: Words of :data:`COLOURS`; white if not given.

    Returns:
        Images of shape :math:`(M, 1, 64, 64)`, or :math:`(M, 3, 64, 64)` with ``colour``, uint8.

    Raises:
        InputError: If a value is out of its range, or the factors have several lengths.

    Example:
        >>> draw(["square", "heart"], 0.8, 45.0, 0.5, 0.5).shape
        torch.Size([2, 1, 64, 64])
        >>> draw("heart", [0.5, 1.0], 0.0, 0.5, 0.5, colour="red").shape
        torch.Size([2, 3, 64, 64])
    """
    given = {"shape": shape, "scale": scale, "orientation": orientation, "x": x, "y": y}
    given = factors.aligned(**given, colour="white" if colour is None else colour)
    kinds = factors.words("shape", given["shape"], SHAPES)
    ranges = {"scale": (0.25, 1), "orientation": (0, 360), "x": (0, 1), "y": (0, 1)}
    sizes, angles, *places = (
        factors.quantities(name, given[name], *limits) for name, limits in ranges.items()
    )
    if colour is None:
        colours = np.ones((len(kinds), 1))
    else:
        names = factors.words("colour", given["colour"], COLOURS)
        colours = hues.rgb(np.array([hues.COLOURS[name] for name in names]), SATURATION)
    centres = [MARGIN + (SIZE - 2 * MARGIN) * place for place in places]
    rows = np.stack([sizes, np.radians(angles), *centres]).astype(np.float32)
    images = torch.empty(len(kinds), colours.shape[1], SIZE, SIZE, dtype=torch.uint8)
    for kind in SHAPES:
        members = np.flatnonzero(kinds == kind)
        for chunk in np.split(members, range(CHUNK, len(members), CHUNK)):
            covered = cover(kind, *rows[:, chunk])[:, None] * (255 * colours)[chunk, :, None, None]
            images[chunk] = torch.from_numpy(covered.round().astype(np.uint8))
    return images


def sample(
    n: int, seed: int, *, coloured: bool = False, apart_from: Images | None = None
) -> Images:
    """Draws images of random combinations of factors; no two images are of one combination.

    The label is the shape. The columns are ``shape`` (a class) and ``scale``, ``orientation`` (in
    degrees), ``x`` and ``y`` (quantities), and ``colour`` (a class) if coloured; see
    :func:`levels`. Values of a factor are equally frequent, and factors are independent of one
    another. Orientations at which a shape looks the same count as one combination.

    Args:
        n: The number of images, at most 92,160 without colour.
        seed: Seed of the combinations.
        coloured: Whether shapes have colours.
        apart_from: Images whose combinations are left out.

    Raises:
        InputError: If ``n`` is out of its range.
    """
    columns = None if apart_from is None else apart_from.columns
    rows = factors.sample(
        levels(coloured), n, seed, apart_from=columns, equivalent=_without_symmetry
    )
    return Images.of_columns(draw(**rows), rows)


def split(coloured: bool = False) -> Split:
    """Returns 10,000 training images and 2,000 held-out ones, of other combinations of factors.

    Args:
        coloured: Whether shapes have colours.
    """
    train = sample(TRAIN, seed=0, coloured=coloured)
    return Split(train, sample(HELD_OUT, seed=1, coloured=coloured, apart_from=train))


def levels(coloured: bool = False) -> dict[str, np.ndarray]:
    """Returns the values of each factor in :func:`sample`: 737,280 combinations, without colour.

    Args:
        coloured: Whether shapes have colours.
    """
    values = {
        "shape": np.array(SHAPES),
        "scale": np.linspace(0.5, 1, 6),
        "orientation": 9.0 * np.arange(40),
        "x": np.linspace(0, 1, 32),
        "y": np.linspace(0, 1, 32),
    }
    return values | ({"colour": np.array(COLOURS)} if coloured else {})


def _without_symmetry(indices: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Replaces orientations by the first ones at which shapes look the same."""
    periods = np.array([{"ellipse": 20, "heart": 40, "square": 10}[shape] for shape in SHAPES])
    return indices | {"orientation": indices["orientation"] % periods[indices["shape"]]}


def cover(
    shape: str, scale: np.ndarray, angle: np.ndarray, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """Returns the fractions of pixels that shapes cover, of shape (m, 64, 64).

    Args:
        shape: One of :data:`SHAPES`.
        scale: The sizes, of shape (m,), float32.
        angle: Counter-clockwise, in radians, of shape (m,).
        x: Of the centroids, in pixels from the left, of shape (m,).
        y: In pixels from the top, of shape (m,).
    """
    scale, angle, x, y = (values[:, None, None] for values in (scale, angle, x, y))
    centres = np.arange(SIZE, dtype=np.float32) + np.float32(0.5)
    right, up = (centres - x) / scale, (y - centres[:, None]) / scale
    cosine, sine = np.cos(angle), np.sin(angle)
    distance = OUTLINES[shape](right * cosine + up * sine, up * cosine - right * sine)
    return (0.5 - scale * distance).clip(0, 1)


def _square(u: np.ndarray, v: np.ndarray, side: float = SIDE) -> np.ndarray:
    """Returns the distances of points to the outline of a square, negative inside."""
    u, v = np.abs(u) - side / 2, np.abs(v) - side / 2
    return np.hypot(u.clip(0), v.clip(0)) + np.maximum(u, v).clip(None, 0)


def _ellipse(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Approximates the distances of points to the outline of an ellipse, to first order.

    With f = |(u / a, v / b)| - 1, which is 0 on the outline, the distance is f over the length of
    its gradient.
    """
    radius = np.hypot(u / AXES[0], v / AXES[1])
    slope = np.hypot(u / AXES[0] ** 2, v / AXES[1] ** 2) / np.maximum(radius, 1e-6)
    return (radius - 1) / np.maximum(slope, 1e-6)


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Returns the distances of points to the outline of a heart, negative inside.

    A heart is a square that stands on a corner, and a circle around the middle of each of its two
    upper sides, with the side as its diameter. The centroid of the whole is at 0.
    """
    half = HEART / 2
    # In the axes of the square, in which the centroid is at (shift, shift) from its centre.
    shift = HEART * (np.pi / 16 + 1 / 12) / (1 + np.pi / 4)
    p, q = (v + u) / np.sqrt(np.float32(2)) + shift, (v - u) / np.sqrt(np.float32(2)) + shift
    circles = np.minimum(np.hypot(p - half, q), np.hypot(p, q - half)) - half
    return np.minimum(_square(p, q, HEART), circles)


OUTLINES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "ellipse": _ellipse,
    "heart": _heart,
    "square": _square,
}
"""The distance to each shape's outline as a function of coordinates to the right and up, from its
centroid."""
SHAPES = tuple(OUTLINES)
"""The shapes, in alphabetical order."""
