"""Modules that notice when Pyro's parameter store would train another's weights in their place."""

from __future__ import annotations

from typing import Any

import pyro
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor, nn


class ParameterStoreError(Exception):
    """Pyro's parameter store holds another tensor under the name of a module's weight.

    The store knows weights by their names alone, and the first tensor of a name stays. It is that
    tensor which :class:`~pyro.infer.SVI` moves, while the second module computes with its own,
    which never changes.

    It is no ``RuntimeError``: to the message of one Pyro adds the shapes of all sites.
    """


class GuardedModule(PyroModule):
    """A PyroModule that raises where Pyro's parameter store would mistake its weights.

    A weight's name in the store is made of attributes' names, so two models of one class share all
    of them, as do a model and its deep copy, a new model and what ``get_param_store().load()``
    read, or a model and a guide with an attribute of one name. The module looks:

    - where weights are being collected to be trained, as :class:`~pyro.infer.SVI` does by a
      ``poutine.trace(param_only=True)``. Elsewhere it computes with its own weights, whatever the
      store holds, and two of a name may be used side by side;
    - at each call for a :class:`~pyro.nn.PyroParam`, which Pyro replaces by the store's.

    Raises:
        ParameterStoreError: If the store holds another tensor under the name of a weight.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the module, as :class:`~pyro.nn.PyroModule` does."""
        self._require_own_params()
        captures = [
            handler
            for handler in _PYRO_STACK
            if isinstance(handler, TraceMessenger) and handler.param_only
        ]
        if not captures:
            return super().__call__(*args, **kwargs)
        with _RequireOwn(self, captures):
            return super().__call__(*args, **kwargs)

    def _require_own_params(self) -> None:
        """Raises if a ``PyroParam`` is about to be replaced by another's."""
        if pyro.settings.get("module_local_params"):
            return
        store = pyro.get_param_store()
        for module in self.modules():
            if not isinstance(module, PyroModule):
                continue
            for key in module._pyro_params:
                name = f"{module._pyro_name}.{key}" if module._pyro_name else key
                own = getattr(module, f"{key}_unconstrained")
                if name in store and store[name].unconstrained() is not own:
                    raise refusal(self, name, own)


class _RequireOwn(Messenger):
    """A Pyro handler that raises if what is collected under a weight's name is not the weight."""

    def __init__(self, module: nn.Module, captures: list[TraceMessenger]) -> None:
        super().__init__()
        self.module = module
        self.captures = captures

    def _pyro_post_param(self, message: dict[str, Any]) -> None:
        # A module announces a weight as the value that its name is to have at first.
        name, weight = (*message["args"], None)[:2]
        value = message["value"]
        if not isinstance(weight, nn.Parameter) or value is weight:
            return
        # As the innermost handler this one comes last. Blocked weights reach no capture.
        nodes = [capture.trace.nodes.get(name) for capture in self.captures]
        if any(node is not None and node["value"] is value for node in nodes):
            raise refusal(self.module, name, weight)


def refusal(module: nn.Module, name: str, weight: Tensor) -> ParameterStoreError:
    """The error of a module whose weight is not what the store has under its name."""
    kind = type(module).__name__
    if not weight.is_contiguous():
        return ParameterStoreError(
            f"Pyro's parameter store holds a copy of the weight {name!r} of this {kind}, as it is "
            "not contiguous in memory, and would train that copy: make it contiguous"
        )
    return ParameterStoreError(
        f"Pyro's parameter store holds another tensor as {name!r} than this {kind}, and would "
        "train that one: call pyro.clear_param_store() before a second model, or run each pair "
        "inside pyro.get_param_store().scope(); after get_param_store().load(), clear it and load "
        "a state_dict instead"
    )
