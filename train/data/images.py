"""Converts images of any type to tensors of grey levels, and checks them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pyro_models.shapes import Shape
from train.data import pil
from train.errors import InputError, require, warn

ROUNDING = 1e-3
"""Floats up to this far outside of [0, 1] are taken for rounding errors, and clipped silently."""

CLIPPED = 0.25
"""Floats up to this far outside, such as means of Normal pixels, are clipped with a message."""


def as_images(
    given: Any,
    shape: Shape | None = None,
    *,
    name: str = "images",
    say: Callable[[str], None] = warn,
) -> Tensor:
    r"""Converts images to a tensor of grey levels.

    - Integers of any type are grey levels from 0 to 255; if only 0 and 1 occur, black and white,
      with a message. Booleans are black and white.
    - Floats are in [0, 1]. Up to :data:`ROUNDING` outside they are clipped silently, up to
      :data:`CLIPPED` outside with a message, and refused beyond.
    - PIL images are rotated as their EXIF data say, put on a background where they are transparent
      (see :func:`train.data.pil.put_on_background`) and converted to grey, with a message.

    Args:
        given: An array, a tensor, a PIL image, or a list of these, of shape :math:`(M, H, W)`,
            :math:`(M, 1, H, W)`, :math:`(M, H, W, 1)`, or, if ``shape`` is given,
            :math:`(H, W)` for a single image.
        shape: The required height and width; any if not given.
        name: What error messages call the images.
        say: Takes the messages; issues warnings if not given.

    Returns:
        Images of shape :math:`(M, H, W)`, on the device of what was given: uint8, or float32 in
        [0, 1] if floats were given.

    Raises:
        InputError: If the images are of another shape, type or range, or not finite.

    Example:
        >>> as_images(np.zeros((5, 1, 8, 8), dtype=bool)).shape
        torch.Size([5, 8, 8])
    """
    images = _without_channel(_as_tensor(given, name, say), shape, name)
    if images.is_floating_point():
        return _from_floats(images, name, say)
    return _from_integers(images, name, say)


def as_bytes(images: Tensor) -> Tensor:
    """Converts images from :func:`as_images` to uint8 grey levels from 0 to 255."""
    return images if images.dtype == torch.uint8 else images.mul(255).round_().to(torch.uint8)


def centred(images: Tensor, shape: Shape) -> Tensor:
    r"""Puts images into the centre of larger black ones.

    Args:
        images: Images, of shape :math:`(*, H, W)`.
        shape: The larger height and width :math:`(H', W')`.

    Returns:
        Images, of shape :math:`(*, H', W')`.
    """
    canvas = images.new_zeros(*images.shape[:-2], *shape)
    cropped(canvas, Shape(*images.shape[-2:])).copy_(images)
    return canvas


def cropped(images: Tensor, shape: Shape) -> Tensor:
    r"""Returns the centre of images, a view: the inverse of :func:`centred`.

    Args:
        images: Images, of shape :math:`(*, H', W')`.
        shape: Height and width :math:`(H, W)` of the centre.

    Returns:
        Images, of shape :math:`(*, H, W)`.
    """
    top, left = ((side - size) // 2 for side, size in zip(images.shape[-2:], shape, strict=True))
    return images[..., top : top + shape[0], left : left + shape[1]]


def _as_tensor(given: Any, name: str, say: Callable[[str], None]) -> Tensor:
    """Converts images of any kind to float32, uint8, or, for other integers, int64."""
    if isinstance(given, Image.Image):
        given = _from_pil([given], name, say)
    elif isinstance(given, list | tuple):
        given = _from_list(given, name, say)
    if not isinstance(given, Tensor):
        given = _from_array(np.asarray(given), name)
    given = given.detach()
    require(
        not given.is_complex(), f"{name} is of type {given.dtype}: give uint8, or floats in [0, 1]"
    )
    if given.dtype == torch.bool:
        return given.to(torch.uint8) * 255
    if given.is_floating_point():
        return given.float()
    return given if given.dtype == torch.uint8 else given.long()


def _from_list(given: Sequence[Any], name: str, say: Callable[[str], None]) -> Tensor | np.ndarray:
    if given and all(isinstance(image, Image.Image) for image in given):
        return _from_pil(given, name, say)
    try:
        if given and all(isinstance(image, Tensor) for image in given):
            return torch.stack(list(given))
        return np.asarray([np.asarray(image) for image in given])
    # NumPy's and PyTorch's exceptions for unequal lengths, and for what is not a number.
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{name} is a list of unlike things: give images of one size") from error


def _from_pil(given: Sequence[Image.Image], name: str, say: Callable[[str], None]) -> np.ndarray:
    try:
        pages = [pil.to_grey(image) for image in given]
    except pil.Unusable as error:
        raise InputError(f"{name}: a picture {error}") from error
    except pil.UNREADABLE as error:
        raise InputError(f"{name}: a picture cannot be read: open it anew") from error
    require(
        len({page.grey.shape for page in pages}) == 1,
        f"{name}: pictures are of several sizes: bring all to one size",
    )
    grey = np.stack([page.grey for page in pages])
    alphas = {i: page.alpha for i, page in enumerate(pages) if page.alpha is not None}
    names = [f"{name}: picture {i}" for i in range(len(pages))]
    background = pil.put_on_background(grey, alphas, names)
    pil.describe([page.conversions for page in pages], len(alphas), background, say)
    return grey


def _from_array(array: np.ndarray, name: str) -> Tensor:
    require(
        array.dtype.kind in "biuf",
        f"{name} is of type {array.dtype}: give uint8, or floats in [0, 1]",
    )
    if array.dtype.kind in "iu":
        # Checked here, as PyTorch has no arithmetic for unsigned integers of more than 8 bits.
        if array.size:
            _require_bytes(int(array.min()), int(array.max()), name)
        array = array.astype(np.uint8, copy=False)
    elif array.dtype.kind == "f":
        # A number that is too large for single precision becomes infinite, and is refused later.
        with np.errstate(over="ignore"):
            array = array.astype(np.float32, copy=False)
    # PyTorch refuses negative strides, and warns of read-only arrays.
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _require_bytes(lowest: int, highest: int, name: str) -> None:
    require(
        lowest >= 0 and highest <= 255,
        f"{name} has integers from {lowest} to {highest}: grey levels are uint8, from 0 to 255; "
        "or give floats in [0, 1], divided by the value of white",
    )


def _without_channel(images: Tensor, shape: Shape | None, name: str) -> Tensor:
    r"""Removes an axis of one channel; returns images :math:`(M, H, W)`."""
    original = tuple(images.shape)
    if shape is not None and original in (shape, (*shape, 1)):
        images = images.reshape(1, *shape)
    elif images.ndim == 4 and images.shape[1] == 1 and _fits(images.shape[2:], shape):
        images = images.squeeze(1)
    elif images.ndim == 4 and images.shape[3] == 1:
        images = images.squeeze(3)
    if shape is not None:
        require(
            images.ndim == 3 and tuple(images.shape[1:]) == shape,
            f"{name} has shape {original}: this model takes (M, {shape[0]}, {shape[1]})",
        )
        return images
    axis = 1 if images.ndim == 4 and images.shape[1] < images.shape[3] else 3
    require(
        images.ndim != 4,
        f"{name} has shape {original}, with channels: average them to get (N, H, W), "
        f"images.mean({axis}).astype(images.dtype)",
    )
    require(images.ndim == 3, f"{name} has shape {original}: give grey images of shape (N, H, W)")
    return images


def _fits(sides: Sequence[int], shape: Shape | None) -> bool:
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
        lowest >= -CLIPPED and highest <= 1 + CLIPPED,
        f"{name} runs from {lowest:g} to {highest:g}: floats must be in [0, 1]; divide by 255, or "
        "rescale them",
    )
    if lowest < -ROUNDING or highest > 1 + ROUNDING:
        say(f"{name} runs from {lowest:.4g} to {highest:.4g} and is clipped to [0, 1]")
    return images.clamp(0, 1)
