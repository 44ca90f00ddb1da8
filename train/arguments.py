"""What a person gives to the verbs of trained models, beside images and labels: read or refused."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from train.errors import InputError, first_line, require


def whole(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """A whole number in a range, of whatever type it is.

    Args:
        name: The argument's name.
        value: What was given.
        least: The least it may be.
        most: The most it may be, if there is such a number.

    Raises:
        InputError: If it is not whole, or out of the range.

    Example:
        >>> whole("n", np.int64(3))
        3
    """
    span = f"{least} or more" if most is None else f"from {least} to {most}"
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name} is {value!r:.60}: give a whole number, {span}") from None
    require(
        least <= number and (most is None or number <= most), f"{name} is {number}: give {span}"
    )
    return number


def as_codes(z: Tensor | ArrayLike, size: int, device: torch.device) -> Tensor:
    r"""Codes as networks take them.

    Args:
        z: Numbers of any type, of shape :math:`(M, D)`, on any device: a tensor, an array, lists.
        size: The size :math:`D` of a code.
        device: Where they are wanted.

    Returns:
        Of the same shape, float32, without gradients.

    Raises:
        InputError: If they are of another shape, or no finite numbers.
    """
    try:
        # Tensors as they are, as NumPy has neither bfloat16 nor the device.
        given = z.detach() if isinstance(z, Tensor) else np.asarray(z)
    # What NumPy says of lists of unequal lengths, and of what is no array at all.
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"codes are no array ({first_line(error)}): give (M, {size})") from error
    if isinstance(given, np.ndarray):
        require(
            given.dtype.kind in "biuf",
            f"codes are of type {given.dtype}: give numbers, of shape (M, {size})",
        )
        given = torch.from_numpy(np.ascontiguousarray(given, dtype=np.float32))
    require(not given.is_complex(), "codes are complex: give real numbers")
    shape = tuple(given.shape)
    one = f"; a single code is z[None], of shape (1, {size})" if shape == (size,) else ""
    require(
        given.ndim == 2 and shape[1] == size,
        f"codes are of shape {shape}: this model takes (M, {size}){one}",
    )
    codes = given.float().to(device)
    require(bool(codes.isfinite().all()), "codes have values that are not finite: replace them")
    return codes


def require_pairs(one: Tensor, other: Tensor) -> None:
    """Raises :class:`InputError` unless there are as many images on one side as on the other."""
    require(
        len(one) == len(other),
        f"there are {len(one)} images to begin at and {len(other)} to end at: give as many",
    )
