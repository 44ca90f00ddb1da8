"""Builds modules on the meta device: names and shapes of weights, without memory for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def weightless() -> Iterator[None]:
    """Puts modules that are built inside the block on the meta device, uninitialised.

    Their weights have names and shapes but no memory, so building takes neither time nor memory,
    however large the modules are.
    """
    with torch.device("meta"), _SkipInit():
        yield


class _SkipInit(TorchFunctionMode):
    """Makes the functions of :mod:`torch.nn.init` return their tensor unchanged.

    On the meta device they draw nothing either, but the first call imports hundreds of PyTorch's
    modules, which takes a second.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if getattr(func, "__module__", None) == "torch.nn.init":
            return options["tensor"] if "tensor" in options else args[0]
        return func(*args, **options)
