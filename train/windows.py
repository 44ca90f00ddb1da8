"""Default sizes of AIR's windows, prior of places and codes, from the sizes of scene and objects.

They are those of the default scenes, digits of 24 pixels on a canvas of 50, brought to scale.
"""

from __future__ import annotations

import math
from dataclasses import replace

from pyro_models.shapes import Shape
from train.settings.air import MOST_SIZES, AIRSettings

SIDE, DIGIT = 50, 24
"""The side of a default scene, and the size of a digit in it, in pixels."""
VALUES = 4 * SIDE**2
"""The values of the canvases of a default scene, of none to three objects."""
SCALE, DEVIATION = 2.6, 0.1
"""The prior median and standard deviation of the inverse scale in default scenes."""
ANCHORS = 9
"""The anchors per side in default scenes."""
MOST_ANCHORS = 32
"""The most anchors per side. The guide keeps the distances of all pairs of anchors."""
WHAT = 20
"""The size of an appearance code for grey windows of up to 32 pixels."""
OCTAVE = 2.0
"""Windows of one size are for objects of which the largest is at most so much larger than the
smallest; those of several sizes are at most so far apart."""
WINDOW, LARGEST_WINDOW = 32, 64
"""Windows of up to so many pixels have codes of :data:`WHAT` numbers; no default window is larger
than the second number. Larger objects are drawn by windows of that size, brought to scale."""


def with_windows(
    settings: AIRSettings, shape: Shape, objects: tuple[float, float] | None = None
) -> AIRSettings:
    r"""Returns settings with sizes in place of None.

    With the canvas' shorter side :math:`L` and digits of :math:`a` to :math:`b` pixels, the
    inverse scale has the median :math:`1.248 L / \sqrt{a b}`, as ink covers most of a digit's
    image; its standard deviation is that of a log-uniform distribution between both sizes, and at
    least 4% of the median. Windows have :math:`b` pixels a side. Anchors are as many windows apart
    as in default scenes. If :math:`b > 2 a`, the convolutional guide has windows of
    :math:`1 + \lceil \log_2 (b / a) \rceil` sizes.

    Args:
        settings: The settings.
        shape: The scenes' shape.
        objects: The smallest and the largest side of an object's image, in pixels. If they are not
            known, objects have the same proportion of the canvas as in default scenes.

    Example:
        >>> settings = with_windows(AIRSettings(), Shape(1, 84, 84), (24, 24))
        >>> settings.window_size, settings.window_scale, settings.what_dim, settings.anchors
        (24, (4.37, 0.17), 20, 16)
        >>> [
        ...     with_windows(AIRSettings(), Shape(1, 84, 84), sizes).guide_sizes
        ...     for sizes in [(24, 24), (12, 24), (8, 28), (1, 84)]
        ... ]
        [1, 1, 3, 8]
    """
    side = min(shape.sides)
    known = (side * DIGIT / SIDE,) * 2 if objects is None else objects
    low, high = (min(max(size, 1.0), side) for size in known)
    scale, deviation = settings.window_scale or _scale(side, low, high)
    size = settings.window_size or min(max(round(high), 4), LARGEST_WINDOW)
    anchors = settings.anchors
    if anchors is None:
        anchors = min(max(ANCHORS, math.ceil(ANCHORS * scale / SCALE)), MOST_ANCHORS)
    return replace(
        settings,
        window_size=size,
        window_scale=(scale, deviation),
        place_scale=settings.place_scale or _place_scale(settings, scale),
        what_dim=settings.what_dim or _what_dim(size, shape.channels),
        anchors=anchors,
        guide_sizes=settings.guide_sizes or _sizes(low, high),
    )


def scenes_at_once(shape: Shape, max_objects: int, most: int) -> int:
    """Returns how many scenes to process at once, to bound memory.

    Args:
        shape: The scenes' shape.
        max_objects: The most objects that are inferred in a scene.
        most: The number of default scenes; fewer of scenes that are larger or have more objects.

    Example:
        >>> [scenes_at_once(Shape(1, side, side), 3, 1_000) for side in (28, 50, 100)]
        [1000, 1000, 250]
    """
    return max(1, min(most, most * VALUES // (shape.values * (max_objects + 1))))


def on_canvas(settings: AIRSettings, shape: Shape, canvas: Shape) -> AIRSettings:
    """Returns settings for objects of the same size in pixels on another canvas.

    Args:
        settings: The settings, without None for sizes.
        shape: The scenes' shape.
        canvas: The other canvas' shape.

    Example:
        >>> settings = with_windows(AIRSettings(), Shape(1, 50, 50))
        >>> on_canvas(settings, Shape(1, 50, 50), Shape(1, 100, 120)).window_scale
        (5.2, 0.2)
    """
    ratio = min(canvas.sides) / min(shape.sides)
    assert settings.window_scale is not None
    assert settings.place_scale is not None
    scale, deviation = settings.window_scale
    return replace(
        settings,
        window_scale=(scale * ratio, deviation * ratio),
        place_scale=settings.place_scale * ratio,
    )


def _scale(side: int, low: float, high: float) -> tuple[float, float]:
    """Returns the median and the standard deviation of the inverse scale."""
    scale = SCALE * (side / math.sqrt(low * high)) * (DIGIT / SIDE)
    spread = max(DEVIATION / SCALE, math.log(high / low) / math.sqrt(12))
    return round(scale, 2), round(scale * spread, 2)


def _sizes(low: float, high: float) -> int:
    """Returns how many sizes of windows there are, for objects from one size to another."""
    ratio = high / low
    return 1 if ratio <= OCTAVE else min(1 + math.ceil(math.log(ratio, OCTAVE)), MOST_SIZES)


def _place_scale(settings: AIRSettings, scale: float) -> float:
    """Returns the prior deviation of x and y: that of default scenes, in units of the canvas."""
    # Runs of versions without this setting had 1, and their window_scale is in config.json.
    return 1.0 if settings.window_scale else round(max(scale / SCALE, 1.0), 2)


def _what_dim(window_size: int, channels: int) -> int:
    """Returns the size of an appearance code: larger for larger windows, and for colours."""
    detail = math.sqrt(max(window_size / WINDOW, 1.0))
    return round(WHAT * detail) + (0 if channels == 1 else WHAT // 2)
