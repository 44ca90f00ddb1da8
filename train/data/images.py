"""Images as people have them, brought to what networks take: one function for files and verbs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from train.data import pil
from train.errors import InputError, require, warn

ROUNDING = 1e-3
"""Floats this far outside of [0, 1] are there by rounding, and are clipped without a word."""

NEAR = 0.25
"""Floats up to this far outside are clipped, and a line says so: means of Normal pixels may be."""


def as_images(
    given: Any,
    shape: tuple[int, int] | None = None,
    *,
    name: str = "images",
    say: Callable[[str], None] = warn,
) -> Tensor:
    r"""Images as a tensor of grey levels.

    - Integers of any type are grey levels from 0 to 255; if none but 0 and 1 occur, black and
      white, which is said. Booleans are black and white.
    - Floats are in [0, 1]. By rounding they may be :data:`ROUNDING` outside; from there to
      :data:`NEAR` they are clipped too, which is said; further outside they are of another range,
      and refused.
    - PIL images are turned as their EXIF data say, put on a background where they are transparent
      (see :func:`train.data.pil.put_on_background`) and turned to grey, which is said.

    Args:
        given: An array, a tensor, a PIL image, or a list of these, of shape :math:`(M, H, W)`,
            :math:`(M, 1, H, W)`, :math:`(M, H, W, 1)`, or, if ``shape`` is given,
            :math:`(H, W)` for a single image.
        shape: The height and width that they must have, if they must.
        name: What an error calls them.
        say: Takes the lines that say what was done; warnings if not given.

    Returns:
        Of shape :math:`(M, H, W)`: uint8, or float32 in [0, 1] if floats were given; on the
        device of what was given.

    Raises:
        InputError: If they are of another shape, type or range, or not finite.

    Example:
        >>> as_images(np.zeros((5, 1, 8, 8), dtype=bool)).shape
        torch.Size([5, 8, 8])
    """
    images = _without_channel(_tensor(given, name, say), shape, name)
    if images.is_floating_point():
        return _from_floats(images, name, say)
    return _from_integers(images, name, say)


def as_bytes(images: Tensor) -> Tensor:
    """What :func:`as_images` returns as grey levels from 0 to 255, uint8."""
    return images if images.dtype == torch.uint8 else images.mul(255).round_().to(torch.uint8)


def _tensor(given: Any, name: str, say: Callable[[str], None]) -> Tensor:
    """What was given as a tensor of floats, of bytes, or of integers of 64 bits."""
    if isinstance(given, Image.Image):
        given = _of_pictures([given], name, say)
    elif isinstance(given, list | tuple):
        given = _of_list(given, name, say)
    if not isinstance(given, Tensor):
        given = _of_array(np.asarray(given), name)
    given = given.detach()
    require(
        not given.is_complex(), f"{name} is of type {given.dtype}: give uint8, or floats in [0, 1]"
    )
    if given.dtype == torch.bool:
        return given.to(torch.uint8) * 255
    if given.is_floating_point():
        return given.float()
    return given if given.dtype == torch.uint8 else given.long()


def _of_list(given: Sequence[Any], name: str, say: Callable[[str], None]) -> Tensor | np.ndarray:
    if given and all(isinstance(each, Image.Image) for each in given):
        return _of_pictures(given, name, say)
    try:
        if given and all(isinstance(each, Tensor) for each in given):
            return torch.stack(list(given))
        return np.asarray([np.asarray(each) for each in given])
    # What NumPy and PyTorch say of lists of unequal lengths, and of what is no number.
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{name} is a list of unlike things: give images of one size") from error


def _of_pictures(given: Sequence[Image.Image], name: str, say: Callable[[str], None]) -> np.ndarray:
    try:
        pages = [pil.page(each) for each in given]
    except pil.Unusable as error:
        raise InputError(f"{name}: a picture {error}") from error
    except pil.UNREADABLE as error:
        raise InputError(f"{name}: a picture cannot be read: open it anew") from error
    require(
        len({each.grey.shape for each in pages}) == 1,
        f"{name}: pictures are of several sizes: bring all to one size",
    )
    grey = np.stack([each.grey for each in pages])
    alphas = {i: each.alpha for i, each in enumerate(pages) if each.alpha is not None}
    names = [f"{name}: picture {i}" for i in range(len(pages))]
    background = pil.put_on_background(grey, alphas, names)
    pil.describe([each.done for each in pages], len(alphas), background, say)
    return grey


def _of_array(array: np.ndarray, name: str) -> Tensor:
    require(
        array.dtype.kind in "biuf",
        f"{name} is of type {array.dtype}: give uint8, or floats in [0, 1]",
    )
    if array.dtype.kind in "iu":
        # Of unsigned integers of more bits PyTorch has no arithmetic, so the range comes first.
        if array.size:
            _require_bytes(int(array.min()), int(array.max()), name)
        array = array.astype(np.uint8, copy=False)
    elif array.dtype.kind == "f":
        # What single precision has no number for is infinite, and refused as that.
        with np.errstate(over="ignore"):
            array = array.astype(np.float32, copy=False)
    # PyTorch takes no rows that run backwards, and warns of arrays that may not be written to.
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _require_bytes(lowest: int, highest: int, name: str) -> None:
    require(
        lowest >= 0 and highest <= 255,
        f"{name} has integers from {lowest} to {highest}: grey levels are uint8, from 0 to 255; "
        "or give floats in [0, 1], divided by the value of white",
    )


def _without_channel(images: Tensor, shape: tuple[int, int] | None, name: str) -> Tensor:
    r"""Images :math:`(M, H, W)`, of one channel or without."""
    given = tuple(images.shape)
    if shape is not None and given in (shape, (*shape, 1)):
        images = images.reshape(1, *shape)
    elif images.ndim == 4 and images.shape[1] == 1 and _is(images.shape[2:], shape):
        images = images.squeeze(1)
    elif images.ndim == 4 and images.shape[3] == 1:
        images = images.squeeze(3)
    if shape is not None:
        require(
            images.ndim == 3 and tuple(images.shape[1:]) == shape,
            f"{name} has shape {given}: this model takes (M, {shape[0]}, {shape[1]})",
        )
        return images
    axis = 1 if images.ndim == 4 and images.shape[1] < images.shape[3] else 3
    require(
        images.ndim != 4,
        f"{name} has shape {given}, with channels: average them to get (N, H, W), "
        f"images.mean({axis}).astype(images.dtype)",
    )
    require(images.ndim == 3, f"{name} has shape {given}: give grey images of shape (N, H, W)")
    return images


def _is(sides: Sequence[int], shape: tuple[int, int] | None) -> bool:
    return shape is None or tuple(sides) == shape


def _from_integers(images: Tensor, name: str, say: Callable[[str], None]) -> Tensor:
    if not images.numel():
        return images.to(torch.uint8)
    lowest, highest = int(images.min()), int(images.max())
    _require_bytes(lowest, highest, name)
    images = images.to(torch.uint8)
    if highest == 1:
        say(
            f"{name}: the integers are 0 and 1 only, and are taken for black and white; give "
            "floats in [0, 1] if that is not what they are"
        )
        return images * 255
    return images


def _from_floats(images: Tensor, name: str, say: Callable[[str], None]) -> Tensor:
    if not images.numel():
        return images
    require(
        bool(images.isfinite().all()),
        f"{name} has values that are not finite: replace them or leave those images out",
    )
    lowest, highest = float(images.min()), float(images.max())
    require(
        lowest >= -NEAR and highest <= 1 + NEAR,
        f"{name} runs from {lowest:g} to {highest:g}: floats must be in [0, 1]; divide by 255, or "
        "rescale them",
    )
    if lowest < -ROUNDING or highest > 1 + ROUNDING:
        say(f"{name} runs from {lowest:.4g} to {highest:.4g} and is clipped to [0, 1]")
    return images.clamp(0, 1)
