r"""Images of an object in a room, with six known factors, drawn from code.

The factors are those of the data set 3D Shapes: the hues of floor, wall and object, the object's
scale and shape, and the orientation of the room. The images are drawn here by ray casting; they
are not the images of that data set.

Only shape, scale and orientation change what is where. A ray for each part of a pixel determines
which surface it hits and how bright that is. For each pixel :math:`p`, the means of the brightness
of floor, wall and object are three grey images :math:`F, W, O`. An image is linear in them, with
:math:`c(h)` the colour of a hue and :math:`S` the object's highlight:

.. math:: I_p = F_p \, c(h_\text{floor}) + W_p \, c(h_\text{wall}) + O_p \, c(h_\text{object}) + S_p

So 10,000 images need 480 ray casts, one for each combination of shape, scale and orientation.

References:
    | Disentangling by Factorising (Kim and Mnih, 2018)
    | https://arxiv.org/abs/1802.05983
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from train.data.drawn import factors, hues
from train.data.labelled import Images, Split
from train.progress import progress

SIZE = 64
"""Height and width of an image, in pixels."""
RAYS = 3
"""Rays along each side of a pixel: nine in a pixel, for smooth edges."""
SHAPES = ("cube", "cylinder", "pill", "sphere")
"""The shapes of the object."""
HUES = np.arange(10) / 10
"""The hues of floor, wall and object."""
LEVELS = {
    "shape": np.array(SHAPES),
    "floor_hue": HUES,
    "wall_hue": HUES,
    "object_hue": HUES,
    "scale": np.linspace(0.75, 1.25, 8),
    "orientation": np.linspace(-30, 30, 15),
}
"""The values of each factor in :func:`sample`; 480,000 combinations."""
TRAIN, HELD_OUT = 10_000, 2_000
"""The numbers of training images and of held-out ones in :func:`split`."""
SATURATION = 0.9

WALL = 3.2
"""Distance of the walls from the centre of the room. An object of scale 1 is 1.5 high or so."""
CAMERA = (5.2, 2.7)
"""Distance of the camera from the object's axis, and its height."""
TARGET = 0.75
"""Height of the point on the object's axis that is in the centre of the image."""
VIEW = 0.38
"""Half the width of the view at distance 1: the tangent of half the angle of view."""
LIGHT = np.array([-0.3, -0.75, 1.1]) / np.linalg.norm([-0.3, -0.75, 1.1])
"""Direction to the light. It turns with the room."""
AMBIENT, SHADOW = 0.3, 0.62
"""Brightness of a surface that faces away from the light, and the factor in an object's shadow."""
CHUNK = 16
"""Scenes that are cast at once, to bound memory."""


class Hit(NamedTuple):
    """Where rays hit a surface.

    Attributes:
        distance: Along the ray, in lengths of its direction; infinity for a miss. Of shape (N,).
        normal: The outward normal of the surface, of shape (3, N); undefined for a miss.
    """

    distance: np.ndarray
    normal: np.ndarray


def draw(
    floor_hue: Any, wall_hue: Any, object_hue: Any, scale: Any, shape: Any, orientation: Any
) -> Tensor:
    """Draws images of an object on the floor of a room, in front of its walls.

    Each factor is a single value, or an array of shape :math:`(M)`.

    Args:
        floor_hue: The hue of the floor, in [0, 1]. 0 and 1 are red.
        wall_hue: The hue of the walls, in [0, 1].
        object_hue: The hue of the object, in [0, 1].
        scale: The size of the object, in [0.5, 1.5].
        shape: Words of :data:`SHAPES`. Cylinder and pill stand upright.
        orientation: The angle, in degrees in [-45, 45], by which the camera turns to the right
            around the axis of the object.

    Returns:
        Images of shape :math:`(M, 3, 64, 64)`, uint8.

    Raises:
        InputError: If a value is out of its range, or the factors have several lengths.

    Example:
        >>> draw(0.0, 0.3, 0.6, 1.0, ["cube", "sphere"], 15.0).shape
        torch.Size([2, 3, 64, 64])
    """
    given = factors.aligned(
        **{"floor_hue": floor_hue, "wall_hue": wall_hue, "object_hue": object_hue},
        **{"scale": scale, "shape": shape, "orientation": orientation},
    )
    surfaces = [
        factors.quantities(name, given[name], 0, 1)
        for name in ("floor_hue", "wall_hue", "object_hue")
    ]
    kinds = factors.words("shape", given["shape"], SHAPES)
    geometry = np.stack(
        [
            np.searchsorted(SHAPES, kinds),
            factors.quantities("scale", given["scale"], 0.5, 1.5),
            factors.quantities("orientation", given["orientation"], -45, 45),
        ],
        axis=1,
    )
    distinct, scene = np.unique(geometry, axis=0, return_inverse=True)
    layers = torch.from_numpy(_layers(distinct))
    # A row for each surface, and a white one for the highlight.
    colours = np.stack([hues.rgb(hue, SATURATION) for hue in surfaces], axis=1)
    colours = np.concatenate([colours, np.ones_like(colours[:, :1])], axis=1)
    rows = (torch.from_numpy(scene.reshape(-1)), torch.from_numpy(255 * colours).float())
    images = [
        torch.einsum("mkc,mkp->mcp", colour, layers[index]).round_().clamp_(0, 255).byte()
        for index, colour in zip(*(row.split(256) for row in rows), strict=True)
    ]
    return torch.cat(images).reshape(-1, 3, SIZE, SIZE)


def sample(n: int, seed: int, apart_from: Images | None = None) -> Images:
    """Draws images of random combinations of :data:`LEVELS`; no two are of one combination.

    The label is the shape. The columns are ``shape`` (a class) and ``floor_hue``, ``wall_hue``,
    ``object_hue`` (in [0, 1)), ``scale`` and ``orientation`` (in degrees). Values of a factor are
    equally frequent, and factors are independent of one another.

    Args:
        n: The number of images, at most 60,000.
        seed: Seed of the combinations.
        apart_from: Images whose combinations are left out.

    Raises:
        InputError: If ``n`` is out of its range.
    """
    columns = None if apart_from is None else apart_from.columns
    rows = factors.sample(LEVELS, n, seed, apart_from=columns)
    return Images.of_columns(draw(**rows), rows)


def split() -> Split:
    """Returns 10,000 training images and 2,000 held-out ones, of other combinations of factors."""
    train = factors.sample(LEVELS, TRAIN, seed=0)
    held_out = factors.sample(LEVELS, HELD_OUT, seed=1, apart_from=train)
    # Drawn together, so that each scene is cast once.
    images = draw(**{name: np.concatenate([train[name], held_out[name]]) for name in LEVELS})
    return Split(
        Images.of_columns(images[:TRAIN], train), Images.of_columns(images[TRAIN:], held_out)
    )


def _layers(geometry: np.ndarray) -> np.ndarray:
    """Casts the rays of scenes.

    Args:
        geometry: Index of the shape, scale and orientation of each scene, of shape (G, 3).

    Returns:
        The mean brightness in each pixel of floor, wall, object and highlight, of shape
        (G, 4, 64 * 64), float32.
    """
    layers = np.empty((len(geometry), 4, SIZE * SIZE), dtype=np.float32)
    for kind, name in enumerate(SHAPES):
        (rows,) = np.nonzero(geometry[:, 0] == kind)
        chunks = np.split(rows, range(CHUNK, len(rows), CHUNK))
        for chunk in progress(chunks, "drawing rooms", len(chunks), f"{CHUNK} rooms"):
            if len(chunk):
                layers[chunk] = _cast(name, *geometry[chunk, 1:].T)
    return layers


def _cast(shape: str, scale: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    """Casts the rays of scenes of one shape: see :func:`_layers`."""
    eye, rays = _camera(np.radians(orientation))
    n = rays.shape[-1]
    sizes = np.repeat(scale, n).astype(np.float32)
    eyes = np.repeat(eye, n, axis=1).astype(np.float32)
    rays = rays.reshape(3, -1).astype(np.float32)
    solid = _hit(shape, eyes / sizes, rays / sizes)
    walls, on_floor = _room(eyes, rays)
    is_solid = solid.distance < walls.distance
    is_floor = on_floor & ~is_solid

    brightness = np.where(is_solid, _brightness(solid.normal), _brightness(walls.normal))
    points = eyes[:, is_floor] + walls.distance[is_floor] * rays[:, is_floor]
    to_light = np.broadcast_to(LIGHT[:, None], points.shape).astype(np.float32)
    shadowed = _hit(shape, points / sizes[is_floor], to_light / sizes[is_floor])
    brightness[is_floor] *= np.where(np.isfinite(shadowed.distance), SHADOW, 1)

    highlight = np.zeros_like(brightness)
    highlight[is_solid] = _highlight(solid.normal[:, is_solid], rays[:, is_solid])
    layers = [
        np.where(is_floor, brightness, 0),
        np.where(is_floor | is_solid, 0, brightness),
        # The highlight takes the place of some of the colour, so that no sum exceeds 1.
        np.where(is_solid, brightness * (1 - highlight), 0),
        highlight,
    ]
    pixels = np.stack(layers).reshape(4, len(scale), SIZE, RAYS, SIZE, RAYS)
    return pixels.mean((3, 5)).transpose(1, 0, 2, 3).reshape(len(scale), 4, -1)


def _camera(angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the position of cameras (3, G), and the directions of their rays (3, G, N)."""
    distance, height = CAMERA
    zero, one = np.zeros_like(angle), np.ones_like(angle)
    eye = np.stack([distance * np.sin(angle), -distance * np.cos(angle), height * one])
    forward = np.stack([zero, zero, TARGET * one]) - eye
    forward /= np.linalg.norm(forward, axis=0)
    right = np.stack([np.cos(angle), np.sin(angle), zero])
    up = np.cross(right, forward, axis=0)
    offsets = VIEW * (2 * (np.arange(SIZE * RAYS) + 0.5) / (SIZE * RAYS) - 1)
    rows, columns = (grid.reshape(-1) for grid in np.meshgrid(-offsets, offsets, indexing="ij"))
    return eye, forward[..., None] + columns * right[..., None] + rows * up[..., None]


def _room(eyes: np.ndarray, rays: np.ndarray) -> tuple[Hit, np.ndarray]:
    """Returns where rays leave the room, with inward normals; and whether through the floor."""
    with np.errstate(divide="ignore"):
        planes = np.stack(
            [
                (np.copysign(WALL, rays[0]) - eyes[0]) / rays[0],
                (np.copysign(WALL, rays[1]) - eyes[1]) / rays[1],
                np.where(rays[2] < 0, -eyes[2] / rays[2], np.inf),
            ]
        )
    surface = planes.argmin(0)
    normal = np.where(surface == np.arange(3)[:, None], -np.sign(rays), 0)
    return Hit(planes.min(0), normal), surface == 2


def _brightness(normal: np.ndarray) -> np.ndarray:
    """Returns the brightness of surfaces in [:data:`AMBIENT`, 1], from their normals (3, N).

    It falls to the minimum on the side that faces away from the light, and not at a right angle to
    it as in Lambert's law, so that form is visible in the dark as well.
    """
    cosine = np.tensordot(LIGHT.astype(np.float32), normal, 1)
    return AMBIENT + (1 - AMBIENT) * (0.5 + 0.5 * cosine)


def _highlight(normal: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Returns the light that surfaces mirror, in [0, 1] (Blinn and Phong's model)."""
    halfway = LIGHT[:, None].astype(np.float32) - rays / np.linalg.norm(rays, axis=0)
    halfway /= np.linalg.norm(halfway, axis=0)
    return 0.45 * np.clip((normal * halfway).sum(0), 0, 1) ** 40


def _hit(shape: str, eyes: np.ndarray, rays: np.ndarray) -> Hit:
    """Intersects rays with an object of scale 1 that stands on the floor.

    Args:
        shape: One of :data:`SHAPES`.
        eyes: The origins of the rays, of shape (3, N).
        rays: Their directions, of any length, of shape (3, N).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        if shape == "cube":
            slabs = ((-0.65, 0.65), (-0.65, 0.65), (0, 1.3))
            return _convex(rays, *(_slab(axis, eyes, rays, *slabs[axis]) for axis in range(3)))
        if shape == "cylinder":
            return _convex(rays, _tube(eyes, rays, 0.7), _slab(2, eyes, rays, 0, 1.45))
        return _pill(eyes, rays, *((0.78, 1.56) if shape == "sphere" else (0.5, 1.75)))


class Interval(NamedTuple):
    """Where rays are inside a solid that has no end in some direction.

    Attributes:
        enter: Where they enter, in lengths of their direction, of shape (N,).
        leave: Where they leave; below ``enter``, or nan, for rays that miss.
        normal: The outward normal where they enter, of shape (3, N).
    """

    enter: np.ndarray
    leave: np.ndarray
    normal: np.ndarray


def _slab(axis: int, eyes: np.ndarray, rays: np.ndarray, low: float, high: float) -> Interval:
    """Intersects rays with the space between two planes across an axis."""
    first, second = ((side - eyes[axis]) / rays[axis] for side in (low, high))
    normal = np.zeros_like(rays)
    normal[axis] = -np.sign(rays[axis])
    return Interval(np.minimum(first, second), np.maximum(first, second), normal)


def _tube(eyes: np.ndarray, rays: np.ndarray, radius: float) -> Interval:
    """Intersects rays with a vertical cylinder around the z axis, without ends."""
    enter, leave = _roots(eyes[:2], rays[:2], radius)
    normal = np.zeros_like(rays)
    normal[:2] = (eyes[:2] + enter * rays[:2]) / radius
    return Interval(enter, leave, normal)


def _convex(rays: np.ndarray, *intervals: Interval) -> Hit:
    """Returns where rays enter the intersection of solids."""
    enter = np.stack([interval.enter for interval in intervals])
    last, leave = enter.max(0), np.minimum.reduce([interval.leave for interval in intervals])
    normal = np.zeros_like(rays)
    for interval in intervals:
        np.copyto(normal, interval.normal, where=interval.enter == last)
    return Hit(np.where((last < leave) & (last > 0), last, np.inf), normal)


def _pill(eyes: np.ndarray, rays: np.ndarray, radius: float, height: float) -> Hit:
    """Intersects rays with an upright cylinder whose ends are half spheres, or with a sphere."""
    low, high = radius, height - radius
    side, _ = _roots(eyes[:2], rays[:2], radius)
    z = eyes[2] + side * rays[2]
    distance = np.where((z >= low) & (z <= high), side, np.inf)
    for centre in (low, high):
        end, _ = _roots(eyes - np.array([[0], [0], [centre]], eyes.dtype), rays, radius)
        z = eyes[2] + end * rays[2]
        distance = np.fmin(distance, np.where((z <= low) | (z >= high), end, np.inf))
    distance = np.where(distance > 0, distance, np.inf)
    normal = eyes + np.where(np.isfinite(distance), distance, 0) * rays
    normal[2] -= normal[2].clip(low, high)
    return Hit(distance, normal / radius)


def _roots(eyes: np.ndarray, rays: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns where rays cross a circle or sphere around the origin; nan for those that miss."""
    a, b = (rays * rays).sum(0), (eyes * rays).sum(0)
    root = np.sqrt(b * b - a * ((eyes * eyes).sum(0) - radius**2))
    return (-b - root) / a, (-b + root) / a
