"""Arrays as they travel between the server and the page: a shape, a type and bytes in base64.

The page has the same in ``static/arrays.js``. An image of 28x28 is 1 kB this way.
"""

from __future__ import annotations

import base64
import binascii
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_models.shapes import Shape
from train.errors import InputError, brief, require

MOST_ROWS = 512
"""Most codes or images in a request."""


def packed(array: np.ndarray | Tensor) -> dict[str, Any]:
    """Packs an array for JSON.

    Args:
        array: Of any shape; numbers that are not bytes travel as float32, little-endian.

    Returns:
        ``shape``, ``type`` (``uint8`` or ``float32``), and ``bytes`` in base64.

    Example:
        >>> packed(np.array([[1, 2]], dtype=np.uint8))
        {'shape': [1, 2], 'type': 'uint8', 'bytes': 'AQI='}
    """
    values = array.detach().cpu().numpy() if isinstance(array, Tensor) else np.asarray(array)
    kind = "uint8" if values.dtype == np.uint8 else "float32"
    content = np.ascontiguousarray(values, dtype=np.dtype(kind).newbyteorder("<"))
    text = base64.b64encode(content.tobytes()).decode()
    return {"shape": list(values.shape), "type": kind, "bytes": text}


def packed_images(images: Tensor, shape: Shape) -> dict[str, Any]:
    r"""Packs images as bytes.

    Args:
        images: Floats in [0, 1], or uint8, whose last axes are those of ``shape``; grey ones may
            lack the channel axis.
        shape: Channels, height and width.

    Returns:
        See :func:`packed`; of shape :math:`(M, C, H, W)` and type ``uint8``.
    """
    if images.is_floating_point():
        images = images.mul(255).round().to(torch.uint8)
    return packed(images.reshape(-1, *shape))


def images_of(value: Any, shape: Shape) -> Tensor:
    r"""Unpacks the images of a request.

    Args:
        value: A shape :math:`(M, C, H, W)` and bytes, as :func:`packed` makes them.
        shape: The channels, height and width that they must have.

    Returns:
        Of shape :math:`(M, C, H, W)`, uint8.

    Raises:
        InputError: If it is not that, or there are more than :data:`MOST_ROWS`.
    """
    require(isinstance(value, dict), f"images are {brief(value)}: give shape, type and bytes")
    given, text = value.get("shape"), value.get("bytes")
    require(
        isinstance(given, list)
        and len(given) == 4
        and all(type(side) is int for side in given)
        and given[1:] == list(shape)
        and 1 <= given[0] <= MOST_ROWS,
        f"images are of shape {brief(given)}: give 1 to {MOST_ROWS} images of {tuple(shape)}",
    )
    require(value.get("type") == "uint8" and isinstance(text, str), "images are no bytes: uint8")
    try:
        content = base64.b64decode(text, validate=True)
    # A ValueError is raised for text that is not ASCII.
    except (binascii.Error, ValueError) as error:
        raise InputError("the bytes of images are not in base64") from error
    require(
        len(content) == math.prod(given),
        f"images of shape {given} have {math.prod(given)} bytes, and there are {len(content)}",
    )
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8).reshape(given).copy())


def rows_of(value: Any, size: int, name: str = "codes") -> np.ndarray:
    """Reads rows of finite numbers out of a request.

    Args:
        value: Lists of numbers.
        size: The length of each.
        name: What messages call them.

    Returns:
        Of shape (M, size), float32.

    Raises:
        InputError: If it is not that, or there are more than :data:`MOST_ROWS` rows.
    """
    require(
        isinstance(value, list) and 1 <= len(value) <= MOST_ROWS,
        f"{name} are {brief(value)}: give 1 to {MOST_ROWS} lists of {size} numbers",
    )
    for row in value:
        require(
            isinstance(row, list) and len(row) == size and all(map(is_number, row)),
            f"{name} have {brief(row)}: give lists of {size} finite numbers",
        )
    return np.array(value, dtype=np.float32)


def is_number(value: Any) -> bool:
    """Returns whether a value of JSON is a number that float32 can hold."""
    return type(value) in (int, float) and abs(value) <= float(np.finfo(np.float32).max)
