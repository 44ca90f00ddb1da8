r"""Which background AIR assumes by default, how its objects compose, and the guide for both.

``auto`` compares how well each kind of background explains the pixels that objects do not cover.
With a scene's pixels :math:`x_{sp}`, the residual errors of a background :math:`b_{sp}` are

.. math::
    e = \text{mean}_s \, \text{median}_p \, |x_{sp} - b_{sp}|, \quad
    e' = \text{mean}_p \, \text{median}_s \, |x_{sp} - b_{sp}|

where the background is 0 (black), the median of the scene (constant), an image of medians in
windows of the scene (image), or the median of each pixel in all scenes (learned). Objects hardly
change these, as long as they cover less than half of a scene, and each pixel in less than half of
the scenes. The simplest kind is black if most pixels are, and otherwise constant. Another one has
to reduce the simplest one's error by a quarter: learned in :math:`e'`, to which an image of all
scenes is known but for noise, or image in :math:`e`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from guides.backdrops import ImageBackdrop, median
from pyro_models.backgrounds import BACKGROUNDS, POOLED, ImageBackground, Kind
from pyro_models.shapes import Shape
from train.errors import note, require
from train.settings.air import AIRSettings
from train.windows import DIGIT, SCALE, with_windows

BLACK = 0.02
"""The median level of a black background is at most so high, in [0, 1]."""
LIKELIHOOD_SCALES = {"sum": 0.4, "over": 0.2, "mixture": 0.2}
"""An object is worth its latents' divergence only if it changes the likelihood by more."""
TEXTURED = 0.3
"""The likelihood's deviation on backgrounds with texture, whose edges are fainter than objects."""
FEW, LARGE = 3, 3.0
"""A residual guide learns to count at most so many objects, if at most so many of their windows fit
across the canvas. Of more it uses all, and of smaller ones none."""
EXAMINED = 1_000
"""Scenes whose background is examined, at most."""
VALUES = 2**21
"""Values of these scenes, at most: nobody waits for more."""
LEAST = 20
"""Of fewer scenes the median of a pixel says little about the next scene."""
BETTER = 3 / 4
"""Another background than the simplest has at most this proportion of its error,"""
VISIBLE = 0.005
"""less this, which is about one level of 255."""
SAID = {
    "constant": "one colour a scene, the simplest that is not black",
    "image": "an image of each scene, which explains its pixels better than one colour",
    "learned": "one image of all scenes, which explains their pixels better than one colour each",
}
"""What a note says of a background that was found."""


class Errors(NamedTuple):
    """The residual errors of a background, in [0, 1].

    Attributes:
        scenes: :math:`e`, of the median pixel of a scene.
        pixels: :math:`e'`, of a pixel in the median scene.
    """

    scenes: float
    pixels: float


def with_background(
    settings: AIRSettings, images: Any = None, size: tuple[float, float] | None = None
) -> AIRSettings:
    r"""Returns settings with a background, a composition, a guide and a likelihood's deviation.

    They take the place of ``"auto"`` and of None. A note says which background is found, unless it
    is black.

    Args:
        settings: The settings.
        images: Training scenes, of shape :math:`(M, C, H, W)`, uint8. Without them the background
            is black, as it was in versions without this setting.
        size: The smallest and the largest side of an object's image, in pixels, if they are known:
            see :func:`likelihood_scale`.

    Raises:
        InputError: If background, composition, texture and guide cannot be combined.
    """
    background = settings.background
    if background == "auto":
        background = "black" if images is None else find(settings, images)
    composition = settings.composition
    if composition == "auto":
        composition = "sum" if background == "black" else "over"
    require(
        background == "black" or composition != "sum",
        f"--composition sum cannot draw objects on --background {background}, which they may be "
        "darker than: give --composition over",
    )
    require(
        settings.texture or composition != "sum" or images is None or images.shape[1] > 1,
        "--no-texture: grey objects that add light have no colour: give --composition over",
    )
    guide = settings.guide
    if guide == "auto":
        residual = composition == "sum" and are_few_and_large(settings)
        guide = "residual" if residual else "convolutional"
    is_found = settings.background == "auto" and background != "black"
    given = ("composition", composition) if background == "black" else ("background", background)
    reason = "the scenes are not black" if is_found else "--{} {}".format(*given)
    require(
        composition == "sum" or guide == "convolutional",
        f"--guide {guide} supports black backgrounds and sums of objects alone, and {reason}: "
        "give --guide convolutional",
    )
    if is_found:
        note(f"--background auto: {background}, {SAID[background]}")
    elif background == "learned" and images is not None and not have_one_image(images):
        note(
            "--background learned: the median of all scenes explains their pixels worse than one "
            "colour a scene: give --background image, unless objects are everywhere"
        )
    channels = 1 if images is None else images.shape[1]
    has_texture = BACKGROUNDS[background].has_texture
    scale = TEXTURED if has_texture else likelihood_scale(composition, size, channels)
    return replace(
        settings,
        background=background,
        composition=composition,
        guide=guide,
        likelihood_scale=settings.likelihood_scale or scale,
    )


def are_few_and_large(settings: AIRSettings) -> bool:
    """Returns whether a residual guide learns to count objects: see :data:`FEW`.

    Args:
        settings: The settings. Without a window scale objects have their part of the canvas in
            default scenes.
    """
    across = SCALE if settings.window_scale is None else settings.window_scale[0]
    return settings.max_objects <= FEW and across <= LARGE


def likelihood_scale(
    composition: str, size: tuple[float, float] | None = None, channels: int = 1
) -> float:
    r"""Returns the default deviation of a pixel.

    An object changes the log-likelihood by about :math:`\sum x^2 / 2 \tau^2`, which is
    proportional to the number of its values, but costs the same divergence whatever its size. With
    :math:`\tau = 0.4` faint digits of 16 pixels are not worth it. So where objects add light,
    :math:`\tau = 0.4 \, \sqrt{C a b} / 24` for objects of :math:`a` to :math:`b` pixels in
    :math:`C` channels, and at most 0.4.

    Args:
        composition: How objects make a scene.
        size: The smallest and the largest side of an object's image, in pixels, if they are known.
        channels: :math:`C`.

    Example:
        >>> likelihood_scale("sum"), likelihood_scale("sum", (24, 24)), likelihood_scale("over")
        (0.4, 0.4, 0.2)
        >>> likelihood_scale("sum", (16, 16)), likelihood_scale("sum", (8, 28))
        (0.27, 0.25)
    """
    scale = LIKELIHOOD_SCALES[composition]
    if composition != "sum" or size is None:
        return scale
    return round(scale * min(math.sqrt(channels * size[0] * size[1]) / DIGIT, 1.0), 2)


def find(settings: AIRSettings, images: Any) -> Kind:
    r"""Returns the simplest background that explains scenes.

    Args:
        settings: The settings, whose windows are the size of objects.
        images: Scenes, of shape :math:`(M, C, H, W)`, uint8; see :data:`EXAMINED`.
    """
    x = sample(images)
    simplest: Kind = "black" if is_black(images) else "constant"
    constant = torch.zeros(()) if simplest == "black" else median(x.flatten(2))[..., None, None]
    simple = errors(x, constant)
    if BETTER * max(simple) <= VISIBLE:
        return simplest
    shape = Shape(*images.shape[1:])
    windows = with_windows(settings, shape).window_scale
    assert windows is not None
    grid = ImageBackground(shape, min(shape.sides) / windows[0])
    with torch.no_grad():
        # In a window, as the median pixel of a scene is no object's.
        image = errors(x, grid.image(ImageBackdrop(grid).medians(x, POOLED)))
    learned = errors(x, x.median(dim=0).values)
    most = min(BETTER * simple.pixels - VISIBLE, image.pixels + VISIBLE)
    if len(x) >= LEAST and learned.pixels < most:
        return "learned"
    return "image" if image.scenes < BETTER * simple.scenes - VISIBLE else simplest


def have_one_image(images: Any) -> bool:
    r"""Returns whether the median of all scenes explains them better than one colour a scene.

    Args:
        images: Scenes, of shape :math:`(M, C, H, W)`, uint8; see :data:`EXAMINED`.
    """
    x = sample(images)
    colours = errors(x, median(x.flatten(2))[..., None, None])
    return errors(x, x.median(dim=0).values).pixels <= colours.pixels


def sample(images: Any) -> Tensor:
    """Returns the scenes that are examined, in [0, 1]: see :data:`EXAMINED`, :data:`VALUES`."""
    most = max(VALUES // Shape(*images.shape[1:]).values, LEAST)
    return images[: min(EXAMINED, most)].float() / 255


def errors(images: Tensor, background: Tensor) -> Errors:
    r"""Returns the residual errors of a background.

    Args:
        images: Scenes, of shape :math:`(M, C, H, W)`, in [0, 1].
        background: What is under their objects, of a shape that broadcasts to that.
    """
    left = (images - background).abs()
    by_scene, by_pixel = median(left.flatten(1)), left.median(dim=0).values
    return Errors(by_scene.mean().item(), by_pixel.mean().item())


def is_black(images: Any) -> bool:
    r"""Returns whether most pixels of scenes are black: objects cover less than half.

    Args:
        images: Of shape :math:`(M, C, H, W)`, uint8; the first :data:`EXAMINED` are examined.
    """
    return images[:EXAMINED].flatten().median().item() <= 255 * BLACK
