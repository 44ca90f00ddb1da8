"""Converts PIL images to arrays, including rotated, transparent and 16-bit images."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from train.errors import InputError

UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, RuntimeError),
    *(TypeError, LookupError, AttributeError, ArithmeticError, struct.error, zlib.error),
)
"""The exceptions of PIL for damaged files, some of them by accident."""


class Unusable(Exception):
    """An image is of a kind that is not supported. The message is to follow the image's name."""


ORIENTATION = 0x0112
"""EXIF's tag of the camera's orientation."""

WHITE_OF_16_BITS = 65535

Background = Literal["black", "white"]

LOST = 8
"""An image is lost on a background on which it has less than 1 / :data:`LOST` of the contrast that
it has on the other background."""


class Page(NamedTuple):
    r"""An image, on black where it is transparent.

    Attributes:
        pixels: Grey levels, of shape :math:`(1, H, W)`; or colours, of shape :math:`(3, H, W)`, if
            a visible pixel is not grey; uint8.
        alpha: Opacity of each pixel, of shape :math:`(H, W)`, uint8; None if all pixels are opaque.
        conversions: The conversions that were necessary, keys of :data:`CONVERSIONS`.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None
    conversions: frozenset[str]


CONVERSIONS = {
    "turned": "were turned upright as their EXIF data say",
    "colour": "were colour and were turned to grey",
    "first": "are the first of several in a file of one shot (MPO), and the others are left out",
    "16 bits": "have 16 bits a pixel and were brought to 8 (65,535 is white)",
}
"""The conversions, and how a message describes them."""


def count_pages(image: Image.Image) -> int:
    """Returns the number of pages of a file; of an MPO, which has several views of one shot, 1."""
    return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)


def pages(image: Image.Image, grey: bool = False) -> Iterator[Page]:
    """Converts every page of an open file: see :func:`convert`. TIFF and GIF may have several."""
    for number in range(count_pages(image)):
        image.seek(number)
        yield convert(image, grey)


def may_have_colour(image: Image.Image) -> bool:
    """Returns whether an open file may have colour, by its header; its pixels may all be grey."""
    if image.mode == "P" and image.palette is not None:
        order, levels = image.palette.getdata()
        if order == "RGB":
            entries = np.frombuffer(levels, np.uint8)[: len(levels) // 3 * 3].reshape(-1, 3)
            return bool((entries != entries[:, :1]).any())
    return image.mode not in ("1", "L", "LA", "La", "I", "F") and not image.mode.startswith("I;")


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Returns the height and width of an open file once it is turned as its EXIF data say."""
    # PIL decodes a PNG to look for EXIF data behind the pixels.
    has_exif = image.format != "PNG" or "exif" in image.info
    is_on_its_side = has_exif and image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
    if is_on_its_side and image.format == "TIFF":
        # PIL turns these itself when it decodes them, and some versions give their size before.
        image.load()
        is_on_its_side = False
    return (image.width, image.height) if is_on_its_side else (image.height, image.width)


def convert(image: Image.Image, grey: bool = False) -> Page:
    """Converts an image to colour, or to grey if it has none; of a file, its current page.

    Args:
        image: The image.
        grey: Whether colour is turned to grey, by PIL's luma (ITU-R 601).

    Raises:
        Unusable: If it has 32 bits a pixel.
    """
    conversions = set()
    if image.getexif().get(ORIENTATION, 1) not in (0, 1):
        conversions.add("turned")
    if image.format == "MPO":
        conversions.add("first")
    is_16_bits = _is_16_bits(image)
    image = ImageOps.exif_transpose(image)
    if is_16_bits:
        conversions.add("16 bits")
        return Page(_to_8_bits(image)[None], None, frozenset(conversions))
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise Unusable("has 32 bits a pixel: save it with 8 or 16")
    image, alpha = _split_alpha(image)
    pixels, is_colour = _pixels(image, alpha, grey)
    if is_colour and grey:
        conversions.add("colour")
    return Page(_on_black(pixels, alpha), alpha, frozenset(conversions))


def on_background(page: Page, background: Background) -> np.ndarray:
    r"""Returns the pixels of an image, of shape :math:`(C, H, W)`, on a background."""
    if page.alpha is None or background == "black":
        return page.pixels
    return _on_white(page.pixels, page.alpha)


def _pixels(image: Image.Image, alpha: np.ndarray | None, grey: bool) -> tuple[np.ndarray, bool]:
    """Returns an image's pixels, without a background, and whether a visible one is not grey."""
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))[None], False
    image = image.convert("RGB")
    colours = np.moveaxis(np.asarray(image), -1, 0)
    is_colour = _has_colour(colours, alpha)
    if not is_colour:
        # The channels of visible pixels are equal.
        return colours[:1], False
    return (np.asarray(image.convert("L"))[None] if grey else colours), True


def _is_16_bits(image: Image.Image) -> bool:
    # Of PNG and PPM files PIL stores 16 bits in 32.
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _to_8_bits(image: Image.Image) -> np.ndarray:
    levels = np.rint(np.asarray(image).astype(np.float64) * (255 / WHITE_OF_16_BITS))
    return levels.clip(0, 255).astype(np.uint8)


def _split_alpha(image: Image.Image) -> tuple[Image.Image, np.ndarray | None]:
    """Returns the image, as RGBA if it has transparency, and its alpha unless it is opaque."""
    has_alpha = image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info
    if not has_alpha:
        return image, None
    image = image.convert("RGBA")
    alpha = np.asarray(image.getchannel("A"))
    return image, None if alpha.min() == 255 else alpha


def _has_colour(colours: np.ndarray, alpha: np.ndarray | None) -> bool:
    """Returns whether any visible pixel of :math:`(3, H, W)` is not grey."""
    red, green, blue = colours
    visible = True if alpha is None else alpha > 0
    return bool((((red != green) | (green != blue)) & visible).any())


def _on_black(pixels: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    if alpha is None:
        return pixels
    return ((pixels.astype(np.uint16) * alpha + 127) // 255).astype(np.uint8)


def _on_white(on_black: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return on_black + (np.uint8(255) - alpha)


def put_on_background(
    images: np.ndarray, alphas: dict[int, np.ndarray], names: Sequence[str]
) -> Background | None:
    r"""Puts transparent images on white, all of them, if one of them is lost on black.

    The models treat black as empty, so transparent pixels are black. But black ink on a transparent
    background is visible on white only.

    Args:
        images: Images on black, of shape :math:`(M, C, H, W)`, uint8; changed in place.
        alphas: The opacity :math:`(H, W)` of the images that are not opaque, by their index.
        names: The images' names in an error message.

    Returns:
        The background, ``"black"`` or ``"white"``; None if all images are opaque.

    Raises:
        InputError: If one image is lost on black, and another one on white.
    """
    if not alphas:
        return None
    lost = _lost(images, alphas)
    if len(lost) > 1:
        raise InputError(
            f"{names[lost['white']]} is transparent and can be seen on black only, "
            f"{names[lost['black']]} on white only: put each on a background of its own"
        )
    if "black" not in lost:
        return "black"
    for index, alpha in alphas.items():
        images[index] = _on_white(images[index], alpha)
    return "white"


def _lost(images: np.ndarray, alphas: dict[int, np.ndarray]) -> dict[str, int]:
    """Returns, for each background on which an image is lost, the index of the first such image."""
    lost: dict[str, int] = {}
    for index, alpha in alphas.items():
        contrast_on_black = _contrast(images[index])
        contrast_on_white = _contrast(_on_white(images[index], alpha))
        if LOST * contrast_on_black < contrast_on_white:
            lost.setdefault("black", index)
        if LOST * contrast_on_white < contrast_on_black:
            lost.setdefault("white", index)
    return lost


def _contrast(image: np.ndarray) -> int:
    """Returns the range of the levels of the channel of :math:`(C, H, W)` that has most."""
    return int(np.ptp(image, axis=(1, 2)).max())


def describe(
    conversions: Sequence[frozenset[str]],
    transparent: int,
    background: Background | None,
    say: Callable[[str], None],
    coloured: int = 0,
) -> None:
    """Describes the conversions of images, in a line for each kind.

    Args:
        conversions: The conversions of each image: see :class:`Page`.
        transparent: The number of transparent images.
        background: The background of the transparent images.
        say: Takes a line.
        coloured: The number of images of three channels.
    """
    total = len(conversions)
    if 0 < coloured < total:
        say(
            f"{coloured:,} of {total:,} images have colour and the others are grey: all get three "
            "channels"
        )
    for conversion, description in CONVERSIONS.items():
        count = sum(conversion in done for done in conversions)
        if count:
            say(f"{count:,} of {total:,} images {description}")
    if transparent:
        reason = "" if background == "black" else ", as some would be lost on black"
        line = f"images were transparent and were put on {background}{reason}"
        say(f"{transparent:,} of {total:,} {line}")
