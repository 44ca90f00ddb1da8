"""A cache for what guide and model both compute during one estimate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

# Maps a key to the inputs and the result. A key contains the inputs' identities, so the inputs must
# stay alive, lest another tensor get the identity of one of them.
_CACHE: ContextVar[dict[Any, tuple[tuple[Tensor, ...], Tensor]] | None] = ContextVar(
    "cache", default=None
)


@contextmanager
def one_estimate() -> Iterator[None]:
    """The context of one estimate, in which results of :func:`cached` are computed once.

    A guide that renders the objects it has inferred so far computes the very tensors that the model
    computes when it is replayed. The cache is emptied at the end of the context. A nested context
    has its own cache.

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
    token = _CACHE.set({})
    try:
        yield
    finally:
        _CACHE.reset(token)


def cached(method: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Calls a module's method, or returns its cached result within :func:`one_estimate`.

    A result is returned again only for the same method of the same module and the same tensors,
    unchanged, and only if its gradient reaches the same inputs and weights. So a result without
    gradients, or one that was computed with frozen weights, is not returned to a caller who needs
    these gradients. Outside of an estimate nothing is cached.

    Args:
        method: A method of an :class:`~torch.nn.Module`.
        inputs: Its arguments.
    """
    cache = _CACHE.get()
    if cache is None:
        return method(*inputs)
    tensors = (*inputs, *method.__self__.parameters())  # type: ignore[attr-defined]
    key = (method, *(_state(tensor) for tensor in tensors))
    if key not in cache:
        cache[key] = (inputs, method(*inputs))
    return cache[key][1]


def _state(tensor: Tensor) -> tuple[int, int, bool]:
    """Returns a tensor's identity, its version, and whether it gets a gradient."""
    version = 0 if tensor.is_inference() else tensor._version
    return id(tensor), version, torch.is_grad_enabled() and tensor.requires_grad
