"""TensorBoard's writer, which is optional."""

from __future__ import annotations

from typing import Any

from train.errors import InputError


def tensorboard_writer() -> Any:
    """Imports TensorBoard's ``SummaryWriter``.

    Raises:
        InputError: If TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            "--tensorboard needs TensorBoard: pip install 'structured-latents[tensorboard]'"
        ) from None
    return SummaryWriter
