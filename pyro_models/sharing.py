"""What a guide computes with its model, kept for the model until an estimate is complete."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

# For each key the inputs, whose identities are in it and must not be taken by others; the result.
_KEPT: ContextVar[dict[Any, tuple[tuple[Tensor, ...], Tensor]] | None] = ContextVar(
    "kept", default=None
)


@contextmanager
def one_estimate() -> Iterator[None]:
    """A context of one estimate, in which results of :func:`shared` are computed once.

    A guide that looks at what it found draws the very tensors that the model is then replayed
    with. All that is kept is dropped at the end of the context. A context inside another one
    shares nothing with it.

    Example:
        >>> from pyro_models.air import AIR
        >>> model = AIR((20, 20), window_size=8)
        >>> z_what, z_where = torch.randn(4, 20), torch.zeros(4, 3)
        >>> with one_estimate():
        ...     model.paste(z_what, z_where) is model.paste(z_what, z_where)
        True
        >>> model.paste(z_what, z_where) is model.paste(z_what, z_where)
        False
    """
    token = _KEPT.set({})
    try:
        yield
    finally:
        _KEPT.reset(token)


def shared(method: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """A module's method of tensors, computed once within :func:`one_estimate`.

    A result is used again for the same module and the same tensors, unchanged, and only if the
    gradient reaches the same inputs and weights: one that was computed without gradients, or while
    weights were frozen, serves no one who needs them. Outside of an estimate nothing is kept.

    Args:
        method: A method of an :class:`~torch.nn.Module`.
        inputs: Its arguments.
    """
    kept = _KEPT.get()
    if kept is None:
        return method(*inputs)
    tensors = (*inputs, *method.__self__.parameters())
    key = (method, *(_state(tensor) for tensor in tensors))
    if key not in kept:
        kept[key] = (inputs, method(*inputs))
    return kept[key][1]


def _state(tensor: Tensor) -> tuple[int, int, bool]:
    """Which tensor it is, how often it was changed in place, and whether it gets a gradient."""
    version = 0 if tensor.is_inference() else tensor._version
    return id(tensor), version, torch.is_grad_enabled() and tensor.requires_grad
