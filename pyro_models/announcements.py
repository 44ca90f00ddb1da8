"""Whether modules announce their weights to Pyro at each look-up.

A :class:`~pyro.nn.PyroModule` announces the weights of a submodule to Pyro's handlers and parameter
store whenever the submodule is looked up. In a training loop that knows the weights and reads only
the sample sites of its traces nobody listens, and it takes a tenth of a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import pyro
from pyro.poutine.mask_messenger import MaskMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.replay_messenger import ReplayMessenger
from pyro.poutine.scale_messenger import ScaleMessenger
from pyro.poutine.trace_messenger import TraceMessenger

try:
    from pyro.poutine.runtime import _PYRO_STACK as HANDLERS
except ImportError:
    # It is private: another version of Pyro may have no such list. Weights are announced then.
    HANDLERS: list[Messenger] | None = None  # type: ignore[no-redef]

_UNANNOUNCED: ContextVar[bool] = ContextVar("unannounced", default=False)

# By exact type: a subclass, and a handler that a later version of Pyro adds, may change weights.
_LEAVE_WEIGHTS: set[type[Messenger]] = {MaskMessenger, ScaleMessenger, ReplayMessenger, pyro.plate}


class SampleTracer(TraceMessenger):
    """Records the sample sites of a program as :func:`pyro.poutine.trace` does, and no weights."""

    def _pyro_post_param(self, msg: object) -> None:
        pass


def leaves_weights(handler: type[Messenger]) -> type[Messenger]:
    """Decorates a handler that neither reads nor changes what modules announce."""
    _LEAVE_WEIGHTS.add(handler)
    return handler


leaves_weights(SampleTracer)


@contextmanager
def unannounced() -> Iterator[None]:
    """The context of an estimate whose parameter store is thrown away.

    Inside, a :class:`~pyro_models.store.GuardedModule` announces its weights only if a handler may
    listen: any but those of plates, masks, scales and replays, :class:`SampleTracer`, and those
    that are marked by :func:`leaves_weights`.
    """
    token = _UNANNOUNCED.set(True)
    try:
        yield
    finally:
        _UNANNOUNCED.reset(token)


def announces() -> bool:
    """Whether modules announce their weights: always but in :func:`unannounced`."""
    if not _UNANNOUNCED.get() or HANDLERS is None:
        return True
    return any(
        type(handler) not in _LEAVE_WEIGHTS or getattr(handler, "params", None) is not None
        for handler in HANDLERS
    )
