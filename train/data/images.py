"""Converts images of any type to tensors of grey levels or colours, and checks them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pyro_models.shapes import Shape
from train.data.reading import pil
from train.errors import InputError, require, warn

ROUNDING = 1e-3
"""Floats up to this far outside of [0, 1] are taken for rounding errors, and clipped silently."""

CHANNELS = (1, 3)
"""Images are grey or have three colours."""

CLIPPED = 0.25
"""Floats up to this far outside, such as means of Normal pixels, are clipped with a message."""


CHUNK = 1_000
"""The images of a data set that are converted at once."""


def as_images(
    given: Any,
    shape: Shape | None = None,
    *,
    name: str = "images",
    say: Callable[[str], None] = warn,
) -> Tensor:
    r"""Converts images to a tensor of grey levels or colours.

    - Integers of any type are levels from 0 to 255; if only 0 and 1 occur, black and white,
      with a message. Booleans are black and white.
    - Floats are in [0, 1]. Up to :data:`ROUNDING` outside they are clipped silently, up to
      :data:`CLIPPED` outside with a message, and refused beyond.
    - PIL images are rotated as their EXIF data say, put on a background where they are transparent
      (see :func:`train.data.reading.pil.put_on_background`), and converted to grey if ``shape`` has
      one channel, with a message.

    Args:
        given: An array, a tensor, a PIL image, or a list of these, of shape :math:`(M, H, W)`,
            :math:`(M, C, H, W)` or :math:`(M, H, W, C)` with 1 or 3 channels, or, if ``shape`` is
            given, a single image without the first axis. If both the second and the last axis have
            1 or 3 entries, the second one has the channels, and a message says so.
        shape: The required channels, height and width; any if not given.
        name: What error messages call the images.
        say: Takes the messages; issues warnings if not given.

    Returns:
        Images of shape :math:`(M, C, H, W)`, on the device of what was given: uint8, or float32 in
        [0, 1] if floats were given.

    Raises:
        InputError: If the images are of another shape, type or range, or not finite.

    Example:
        >>> as_images(np.zeros((5, 8, 8, 3), dtype=bool)).shape
        torch.Size([5, 3, 8, 8])
    """
    images = _with_channels(_as_tensor(given, shape, name, say), shape, name, say)
    if images.is_floating_point():
        return _from_floats(images, name, say)
    return _from_integers(images, name, say)


def as_bytes(images: Tensor) -> Tensor:
    """Converts images from :func:`as_images` to uint8, from 0 to 255."""
    return images if images.dtype == torch.uint8 else images.mul(255).round_().to(torch.uint8)


def luminance(images: Tensor) -> Tensor:
    r"""Converts images to grey by their luma of ITU-R BT.601, as PIL does.

    .. math:: 0.299 R + 0.587 G + 0.114 B

    Args:
        images: Grey images, which stay as they are, or colour images, of shape
            :math:`(*, C, H, W)`, uint8 or floats.

    Returns:
        Of shape :math:`(*, 1, H, W)` and the same type.

    Raises:
        InputError: If there are neither 1 nor 3 channels.
    """
    require(
        images.shape[-3] in CHANNELS,
        f"images have {images.shape[-3]} channels: luminance is of 1 or 3",
    )
    if images.shape[-3] == 1:
        return images
    red, green, blue = images.split(1, dim=-3)
    if images.dtype == torch.uint8:
        # PIL's integers, of which 65536 is one.
        levels = red.int() * 19595 + green.int() * 38470 + blue.int() * 7471 + 0x8000
        return (levels >> 16).to(torch.uint8)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def to_grey(images: Tensor) -> Tensor:
    r"""Converts stored images to grey (see :func:`luminance`), some at a time.

    Args:
        images: Images, of shape :math:`(M, C, H, W)`, uint8.

    Returns:
        Grey levels, of shape :math:`(M, 1, H, W)`, uint8.
    """
    if images.shape[1] == 1:
        return images
    grey = images.new_empty(len(images), 1, *images.shape[2:])
    for chunk, target in zip(images.split(CHUNK), grey.split(CHUNK), strict=True):
        target.copy_(luminance(chunk))
    return grey


def without_grey_axis(images: Tensor) -> Tensor:
    r"""Returns images as people see them: grey ones :math:`(*, H, W)`, colour :math:`(*, C, H, W)`.

    Args:
        images: Images, of shape :math:`(*, C, H, W)`.
    """
    return images.squeeze(-3)


def centred(images: Tensor, sides: tuple[int, int]) -> Tensor:
    r"""Puts images into the centre of larger black ones.

    Args:
        images: Images, of shape :math:`(*, H, W)`.
        sides: The larger height and width :math:`(H', W')`.

    Returns:
        Images, of shape :math:`(*, H', W')`.
    """
    canvas = images.new_zeros(*images.shape[:-2], *sides)
    cropped(canvas, images.shape[-2:]).copy_(images)
    return canvas


def cropped(images: Tensor, sides: Sequence[int]) -> Tensor:
    r"""Returns the centre of images, a view: the inverse of :func:`centred`.

    Args:
        images: Images, of shape :math:`(*, H', W')`.
        sides: Height and width :math:`(H, W)` of the centre.

    Returns:
        Images, of shape :math:`(*, H, W)`.
    """
    top, left = ((side - size) // 2 for side, size in zip(images.shape[-2:], sides, strict=True))
    return images[..., top : top + sides[0], left : left + sides[1]]


def _as_tensor(given: Any, shape: Shape | None, name: str, say: Callable[[str], None]) -> Tensor:
    """Converts images of any kind to float32, uint8, or, for other integers, int64."""
    channels = None if shape is None else shape.channels
    if isinstance(given, Image.Image):
        given = _from_pil([given], channels, name, say)
    elif isinstance(given, list | tuple):
        given = _from_list(given, channels, name, say)
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


def _from_list(
    given: Sequence[Any], channels: int | None, name: str, say: Callable[[str], None]
) -> Tensor | np.ndarray:
    if given and all(isinstance(image, Image.Image) for image in given):
        return _from_pil(given, channels, name, say)
    try:
        if given and all(isinstance(image, Tensor) for image in given):
            return torch.stack(list(given))
        return np.asarray([np.asarray(image) for image in given])
    # NumPy's and PyTorch's exceptions for unequal lengths, and for what is not a number.
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{name} is a list of unlike things: give images of one size") from error


def _from_pil(
    given: Sequence[Image.Image], channels: int | None, name: str, say: Callable[[str], None]
) -> np.ndarray:
    r"""Converts pictures to an array of shape :math:`(M, C, H, W)`, uint8.

    Colour becomes grey if one channel is required. If none is, there are three channels if any
    picture has colour.
    """
    try:
        pages = [pil.convert(image, grey=channels == 1) for image in given]
    except pil.Unusable as error:
        raise InputError(f"{name}: a picture {error}") from error
    except pil.UNREADABLE as error:
        raise InputError(f"{name}: a picture cannot be read: open it anew") from error
    require(
        len({page.pixels.shape[1:] for page in pages}) == 1,
        f"{name}: pictures are of several sizes: bring all to one size",
    )
    coloured = sum(len(page.pixels) == 3 for page in pages)
    least = 3 if coloured or channels == 3 else 1
    images = np.stack([np.repeat(page.pixels, least // len(page.pixels), 0) for page in pages])
    alphas = {i: page.alpha for i, page in enumerate(pages) if page.alpha is not None}
    names = [f"{name}: picture {i}" for i in range(len(pages))]
    background = pil.put_on_background(images, alphas, names)
    pil.describe(
        [page.conversions for page in pages], len(alphas), background, say, coloured=coloured
    )
    return images


def _from_array(array: np.ndarray, name: str) -> Tensor:
    require(
        array.dtype.kind in "biuf",
        f"{name} is of type {array.dtype}: give uint8, or floats in [0, 1]",
    )
    if array.dtype.kind in "iu" and array.dtype != np.uint8:
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


def _with_channels(
    images: Tensor, shape: Shape | None, name: str, say: Callable[[str], None]
) -> Tensor:
    r"""Returns images of any layout as :math:`(M, C, H, W)`, with one or three channels."""
    if shape is not None:
        return _of_shape(images, shape, name)
    original = tuple(images.shape)
    if images.ndim == 3:
        return images.unsqueeze(1)
    layouts = "give (N, H, W), or (N, C, H, W) or (N, H, W, C) with 1 or 3 channels"
    require(images.ndim == 4, f"{name} has shape {original}: {layouts}")
    first, last = (original[axis] in CHANNELS for axis in (1, 3))
    require(
        first or last,
        f"{name} has shape {original}, with neither 1 nor 3 channels: {layouts}"
        + (", without the transparency" if 4 in (original[1], original[3]) else ""),
    )
    if first and last:
        say(f"{name} has shape {original}, and is taken for (N, C, H, W)")
    return images if first else channels_first(images)


def channels_first(images: Tensor) -> Tensor:
    """Returns images :math:`(M, H, W, C)` as :math:`(M, C, H, W)`, in this order of memory too.

    In another order of memory PyTorch's convolutions round otherwise, on some processors.
    """
    return images.movedim(3, 1).contiguous()


def _of_shape(images: Tensor, shape: Shape, name: str) -> Tensor:
    """Returns images, or a single one, of a required shape, with channels moved to the front."""
    layouts = [tuple(shape), (*shape.sides, shape.channels)]
    if shape.channels == 1:
        layouts.append(shape.sides)
    original = tuple(images.shape)
    if original in layouts:
        images = images.unsqueeze(0)
    if tuple(images.shape[1:]) not in layouts:
        raise unlike(shape, original, name)
    channels_last = tuple(images.shape[1:]) != tuple(shape) and images.ndim == 4
    images = channels_first(images) if channels_last else images
    return images.reshape(len(images), *shape)


def unlike(shape: Shape, given: Sequence[int], name: str) -> InputError:
    """Returns the error of images that are not of a required shape.

    Args:
        shape: The required channels, height and width.
        given: The shape of the images, the number of images included.
        name: What the message calls the images.
    """
    batch, image = ", ".join(map(str, shape.outside)), "x".join(map(str, shape.outside))
    return InputError(
        f"{name} has shape {tuple(given)}: this model takes (M, {batch}), images of {image}"
    )


def _from_integers(images: Tensor, name: str, say: Callable[[str], None]) -> Tensor:
    if not images.numel():
        return images.to(torch.uint8)
    if images.dtype == torch.uint8:
        highest = int(images.max())
    else:
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
    # Of values of which one is NaN, both are NaN.
    lowest, highest = (float(value) for value in images.aminmax())
    require(
        math.isfinite(lowest) and math.isfinite(highest),
        f"{name} has values that are not finite: replace them or leave those images out",
    )
    if lowest < -CLIPPED or highest > 1 + CLIPPED:
        raise InputError(
            f"{name} runs from {lowest:g} to {highest:g}: floats must be in [0, 1]; divide by "
            "255, or rescale them"
        )
    if lowest < -ROUNDING or highest > 1 + ROUNDING:
        say(f"{name} runs from {lowest:.4g} to {highest:.4g} and is clipped to [0, 1]")
    return images if lowest >= 0 and highest <= 1 else images.clamp(0, 1)
