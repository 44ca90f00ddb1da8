"""Which background AIR assumes by default, how its objects compose, and the guide for both."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from train.errors import require
from train.settings.air import AIRSettings

BLACK = 0.02
"""The median level of a black background is at most so high, in [0, 1]."""
LIKELIHOOD_SCALES = {"sum": 0.4, "over": 0.2}
"""An object is worth its latents' divergence only if it changes the likelihood by more."""
EXAMINED = 1_000
"""Scenes whose background is examined."""


def with_background(settings: AIRSettings, images: Any = None) -> AIRSettings:
    r"""Returns settings with a background, a composition, a guide and a likelihood's deviation.

    They take the place of ``"auto"`` and of None.

    Args:
        settings: The settings.
        images: Training scenes, of shape :math:`(M, C, H, W)`, uint8. Without them the background
            is black, as it was in versions without this setting.

    Raises:
        InputError: If background, composition and guide cannot be combined.
    """
    background = settings.background
    if background == "auto":
        background = "black" if images is None or is_black(images) else "constant"
    composition = settings.composition
    if composition == "auto":
        composition = "sum" if background == "black" else "over"
    require(
        background == "black" or composition == "over",
        f"--composition sum cannot draw objects on --background {background}, which they may be "
        "darker than: give --composition over",
    )
    guide = settings.guide
    if guide == "auto":
        guide = "residual" if composition == "sum" else "convolutional"
    is_found = settings.background == "auto" and background != "black"
    reason = "the scenes are not black" if is_found else f"--composition {composition}"
    require(
        composition == "sum" or guide == "convolutional",
        f"--guide {guide} supports black backgrounds and sums of objects alone, and {reason}: "
        "give --guide convolutional",
    )
    return replace(
        settings,
        background=background,
        composition=composition,
        guide=guide,
        likelihood_scale=settings.likelihood_scale or LIKELIHOOD_SCALES[composition],
    )


def is_black(images: Any) -> bool:
    r"""Returns whether most pixels of scenes are black: objects cover less than half.

    Args:
        images: Of shape :math:`(M, C, H, W)`, uint8; the first :data:`EXAMINED` are examined.
    """
    return images[:EXAMINED].flatten().median().item() <= 255 * BLACK
