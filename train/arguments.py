"""Checks and converts the arguments of a trained model's methods, other than images and labels."""

from __future__ import annotations

import operator
from collections.abc import Sized
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from train.errors import InputError, first_line, require


def whole(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """Converts an integer of any type to ``int``, and checks its range.

    Args:
        name: The argument's name, for the error message.
        value: A Python, NumPy or PyTorch integer.
        least: Lower bound.
        most: Upper bound; None: no bound.

    Raises:
        InputError: If ``value`` is not an integer, or not from ``least`` to ``most``.

    Example:
        >>> whole("n", np.int64(3))
        3
    """
    limits = f"{least} or more" if most is None else f"from {least} to {most}"
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name} is {value!r:.60}: give a whole number, {limits}") from None
    in_range = least <= number and (most is None or number <= most)
    require(in_range, f"{name} is {number}: give {limits}")
    return number


def as_codes(z: Tensor | ArrayLike, size: int, device: torch.device) -> Tensor:
    r"""Converts codes to a tensor that a decoder accepts.

    Args:
        z: Codes of shape :math:`(M, D)`: a tensor on any device, an array or nested lists, of any
            real type.
        size: The size :math:`D` of a code.
        device: The device of the result.

    Returns:
        The codes as a float32 tensor of shape :math:`(M, D)` on ``device``, without gradients.

    Raises:
        InputError: If the shape is not :math:`(M, D)`, or a value is not a finite real number.
    """
    try:
        # Not np.asarray of a tensor: NumPy has no bfloat16, and reads no GPU memory.
        values = z.detach() if isinstance(z, Tensor) else np.asarray(z)
    # NumPy's errors for lists of unequal lengths, and for objects that are no arrays.
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"codes are no array ({first_line(error)}): give (M, {size})") from error
    if isinstance(values, np.ndarray):
        require(
            values.dtype.kind in "biuf",
            f"codes are of type {values.dtype}: give numbers, of shape (M, {size})",
        )
        values = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    require(not values.is_complex(), "codes are complex: give real numbers")
    shape = tuple(values.shape)
    hint = f"; a single code is z[None], of shape (1, {size})" if shape == (size,) else ""
    require(
        values.ndim == 2 and shape[1] == size,
        f"codes are of shape {shape}: this model takes (M, {size}){hint}",
    )
    codes = values.float().to(device)
    require(bool(codes.isfinite().all()), "codes have values that are not finite: replace them")
    return codes


def require_pairs(starts: Sized, ends: Sized) -> None:
    """Raises :class:`InputError` unless there are as many start images as end images."""
    require(
        len(starts) == len(ends),
        f"there are {len(starts)} images to begin at and {len(ends)} to end at: give as many",
    )
