"""Pictures as files have them: turned, transparent, in colour, of 16 bits, of several pages."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from train.errors import InputError

UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, RuntimeError),
    *(TypeError, LookupError, AttributeError, ArithmeticError, struct.error, zlib.error),
)
"""What PIL raises of damaged files, some of it by accident."""


class Unusable(Exception):
    """A picture of a kind that is not taken; the message goes on after the picture's name."""


ORIENTATION = 0x0112
"""EXIF's tag of how a camera was held."""

WHITE_OF_16_BITS = 65535

LOST = 8
"""A picture is lost on a background that leaves it less than a part in this many of the contrast
that it has on the other one."""


class Page(NamedTuple):
    r"""A picture in grey, on black where it is transparent.

    Attributes:
        grey: Grey levels, of shape :math:`(H, W)`, uint8.
        alpha: How opaque each pixel is, of the same shape; ``None`` if all of them are.
        done: What was done, of the keys of :data:`DONE`.
    """

    grey: np.ndarray
    alpha: np.ndarray | None
    done: frozenset[str]


DONE = {
    "turned": "were turned upright as their EXIF data say",
    "colour": "were colour and were turned to grey",
    "first": "are the first of several in a file of one shot (MPO), and the others are left out",
    "16 bits": "have 16 bits a pixel and were brought to 8 (65,535 is white)",
}
"""What a line says of pictures, by what was done with them."""


def number_of_pages(image: Image.Image) -> int:
    """How many pictures a file has; others of the same shot, which an MPO has, do not count."""
    return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)


def pages(image: Image.Image) -> Iterator[Page]:
    """Each page of an open file, such as a TIFF or GIF may have."""
    for number in range(number_of_pages(image)):
        image.seek(number)
        yield page(image)


def page(image: Image.Image) -> Page:
    """A picture in grey: of a file of several pages the present one.

    Grey is ITU-R 601's luma, as PIL has it.

    Raises:
        Unusable: If it has 32 bits a pixel.
    """
    done = set()
    if image.getexif().get(ORIENTATION, 1) not in (0, 1):
        done.add("turned")
    if image.format == "MPO":
        done.add("first")
    # Of these files PIL has 16 bits in 32.
    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    image = ImageOps.exif_transpose(image)
    if deep:
        done.add("16 bits")
        levels = np.rint(np.asarray(image).astype(np.float64) * (255 / WHITE_OF_16_BITS))
        return Page(levels.clip(0, 255).astype(np.uint8), None, frozenset(done))
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise Unusable("has 32 bits a pixel: save it with 8 or 16")
    alpha = None
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"))
        alpha = None if alpha.min() == 255 else alpha
    if image.mode not in ("1", "L"):
        image = image.convert("RGB")
        red, green, blue = np.moveaxis(np.asarray(image), -1, 0)
        seen = True if alpha is None else alpha > 0
        if (((red != green) | (green != blue)) & seen).any():
            done.add("colour")
    grey = np.asarray(image.convert("L"))
    if alpha is not None:
        grey = ((grey.astype(np.uint16) * alpha + 127) // 255).astype(np.uint8)
    return Page(grey, alpha, frozenset(done))


def put_on_background(
    pictures: np.ndarray, alphas: dict[int, np.ndarray], names: Sequence[str]
) -> str | None:
    r"""Puts transparent pictures on white, all of them, if black would swallow one.

    Models here take black for nothing, so transparent is black; but ink that is black itself, drawn
    on nothing, can only be seen on white.

    Args:
        pictures: Pictures on black, of shape :math:`(M, H, W)`, uint8; changed in place.
        alphas: By the number of a picture that is not opaque, how opaque its pixels are.
        names: What pictures are called in an error.

    Returns:
        The background, ``"black"`` or ``"white"``; None if all pictures are opaque.

    Raises:
        InputError: If one is lost on black, and another one on white.
    """
    if not alphas:
        return None
    lost: dict[str, int] = {}
    for number, alpha in alphas.items():
        black = int(np.ptp(pictures[number]))
        white = int(np.ptp(_on_white(pictures[number], alpha)))
        if LOST * black < white:
            lost.setdefault("black", number)
        if LOST * white < black:
            lost.setdefault("white", number)
    if len(lost) > 1:
        raise InputError(
            f"{names[lost['white']]} is transparent and can be seen on black only, "
            f"{names[lost['black']]} on white only: put each on a background of its own"
        )
    if "black" not in lost:
        return "black"
    for number, alpha in alphas.items():
        pictures[number] = _on_white(pictures[number], alpha)
    return "white"


def _on_white(on_black: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return on_black + (np.uint8(255) - alpha)


def describe(
    done: Sequence[frozenset[str]],
    transparent: int,
    background: str | None,
    say: Callable[[str], None],
) -> None:
    """Says in a line each what was done with pictures.

    Args:
        done: Of each picture; see :class:`Page`.
        transparent: How many are transparent.
        background: What they were put on.
        say: Takes a line.
    """
    total = len(done)
    for key, words in DONE.items():
        number = sum(key in each for each in done)
        if number:
            say(f"{number:,} of {total:,} images {words}")
    if transparent:
        why = "" if background == "black" else ", as some would be lost on black"
        line = f"images were transparent and were put on {background}{why}"
        say(f"{transparent:,} of {total:,} {line}")
