"""Modules that notice when Pyro's parameter store would mistake another's weights for theirs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import pyro
from pyro.nn import PyroModule
from pyro.params.param_store import param_with_module_name
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor

Method = TypeVar("Method", bound=Callable[..., Any])

# Weights of modules that have run, by identity. What was loaded into the store is none of them.
_USED: WeakValueDictionary[int, Tensor] = WeakValueDictionary()


class ParameterStoreError(Exception):
    """Pyro's parameter store holds another tensor under the name of a module's weight.

    The store knows weights by their names alone, and the first tensor of a name stays. It is that
    tensor which :class:`~pyro.infer.SVI` moves, while the module computes with its own, which never
    changes.

    It is no ``RuntimeError``: to the message of one Pyro adds the shapes of all sites.
    """


class GuardedModule(PyroModule):
    """A PyroModule that raises where Pyro's parameter store would mistake its weights.

    A weight's name in the store is made of attributes' names. Two models of one class share all of
    them, as do a model and its deep copy, a new model and what ``get_param_store().load()`` read,
    and a model and a guide that have an attribute of one name. Whenever it is called the module
    looks whether the store holds another tensor under a name of its own, and raises

    - where weights are collected to be trained, as :class:`~pyro.infer.SVI` does with
      ``poutine.trace(param_only=True)``. Elsewhere a module computes with its own weights whatever
      the store holds, so that models of one name are used side by side;
    - if the tensor is no weight that was ever used, so that it was loaded into the store;
    - if the weight is a :class:`~pyro.nn.PyroParam`, which Pyro replaces by the store's.

    Raises:
        ParameterStoreError: As above.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the module, as :class:`~pyro.nn.PyroModule` does."""
        self.require_own_weights()
        return super().__call__(*args, **kwargs)

    def require_own_weights(self) -> None:
        """Raises :class:`ParameterStoreError` if the store would mistake the module's weights."""
        if pyro.settings.get("module_local_params"):
            return
        tensors = dict(pyro.get_param_store().named_parameters())
        collected = any(
            isinstance(handler, TraceMessenger) and handler.param_only for handler in _PYRO_STACK
        )
        for name, weight, is_pyro_param in named_weights(self):
            _USED[id(weight)] = weight
            if collected and not weight.is_contiguous():
                raise ParameterStoreError(
                    f"the weight {name!r} of {type(self).__name__} is not contiguous in memory: "
                    "Pyro's parameter store would train a copy of it: make it contiguous"
                )
            other = tensors.get(name)
            if other is None or other is weight:
                continue
            # Of other modules' weights Pyro's mark tells that they were handed out of the store.
            loaded = _USED.get(id(other)) is not other and not hasattr(other, "unconstrained")
            if collected or loaded or is_pyro_param:
                raise ParameterStoreError(
                    f"Pyro's parameter store holds another tensor as {name!r} than this "
                    f"{type(self).__name__}: call pyro.clear_param_store() before a second model, "
                    "or run each pair inside pyro.get_param_store().scope(); after "
                    "get_param_store().load(), clear it and load a state_dict instead"
                )


def named_weights(module: PyroModule) -> Iterator[tuple[str, Tensor, bool]]:
    """The weights that a module announces to Pyro's store.

    Yields:
        The name there, the unconstrained tensor, and whether it is a
        :class:`~pyro.nn.PyroParam`.
    """
    for part in module.modules():
        if not isinstance(part, PyroModule):
            continue
        prefix = f"{part._pyro_name}." if part._pyro_name else ""
        for key, weight in part.named_parameters(recurse=False):
            attribute = key.removesuffix("_unconstrained")
            yield prefix + attribute, weight, attribute in part._pyro_params
        for key, child in part.named_children():
            if not isinstance(child, PyroModule):
                for name, weight in child.named_parameters():
                    if weight.requires_grad:
                        yield param_with_module_name(prefix + key, name), weight, False


def in_own_store(method: Method) -> Method:
    """A :class:`GuardedModule`'s method that leaves Pyro's parameter store as it is.

    It runs with an empty store, after a look at the one around it.
    """

    @functools.wraps(method)
    def run(self: GuardedModule, *args: Any, **kwargs: Any) -> Any:
        self.require_own_weights()
        with pyro.get_param_store().scope():
            return method(self, *args, **kwargs)

    return run
