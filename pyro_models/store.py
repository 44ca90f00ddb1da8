"""Modules that detect when Pyro's parameter store has other weights under their names."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakValueDictionary

import pyro
from pyro.nn import PyroModule
from pyro.params.param_store import param_with_module_name
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor, nn

from pyro_models.announcements import HANDLERS, announces

M = TypeVar("M", bound="GuardedModule")
P = ParamSpec("P")
R = TypeVar("R")

# Weights of modules that have run, by identity. Tensors that were loaded into the store are not
# among them.
_USED: WeakValueDictionary[int, Tensor] = WeakValueDictionary()


class ParameterStoreError(Exception):
    """Pyro's parameter store holds another tensor under the name of a module's weight.

    The store identifies weights by their names alone and keeps the first tensor of a name.
    :class:`~pyro.infer.SVI` trains that tensor, while the module computes with its own weight,
    which never changes.

    It is no ``RuntimeError``, because Pyro appends the shapes of all sites to the message of one.
    """


class GuardedModule(PyroModule):
    """A PyroModule that raises if Pyro's parameter store would train another module's weights.

    A weight's name in the store consists of attribute names. These weights have equal names: those
    of two models of one class, of a model and its deep copy, of a new model and of what
    ``get_param_store().load()`` has read, and of a model and a guide with attributes of one name.
    At each call the module compares its weights with the tensors that the store holds under their
    names, and raises if one of them differs and

    - weights are collected for training, as :class:`~pyro.infer.SVI` does with
      ``poutine.trace(param_only=True)``. Otherwise a module computes with its own weights, whatever
      the store holds, so models with equal names can be used together;
    - or the tensor was never a module's weight, so it was loaded into the store;
    - or the weight is a :class:`~pyro.nn.PyroParam`, which Pyro replaces by the store's tensor.

    Raises:
        ParameterStoreError: As above.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the module, as :class:`~pyro.nn.PyroModule` does."""
        if announces():
            self.require_matching_store()
        return super().__call__(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if not announces():
            try:
                value = nn.Module.__getattr__(self, name)
            # A PyroParam or a PyroSample: PyroModule makes its value.
            except AttributeError:
                return super().__getattr__(name)
            if not isinstance(value, PyroModule):
                return value
        return super().__getattr__(name)

    def require_matching_store(self) -> None:
        """Raises :class:`ParameterStoreError` if the store would train another module's weights."""
        if pyro.settings.get("module_local_params"):
            return
        tensors = dict(pyro.get_param_store().named_parameters())
        collected = any(
            isinstance(handler, TraceMessenger) and handler.param_only for handler in HANDLERS or ()
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
            # Pyro sets the attribute `unconstrained` on the tensors that it returns from the store.
            loaded = _USED.get(id(other)) is not other and not hasattr(other, "unconstrained")
            if collected or loaded or is_pyro_param:
                raise ParameterStoreError(
                    f"Pyro's parameter store holds another tensor as {name!r} than this "
                    f"{type(self).__name__}: call pyro.clear_param_store() before a second model, "
                    "or run each pair inside pyro.get_param_store().scope(); after "
                    "get_param_store().load(), clear it and load a state_dict instead"
                )


def named_weights(module: PyroModule) -> Iterator[tuple[str, Tensor, bool]]:
    """Yields the weights that a module registers in Pyro's parameter store.

    Yields:
        The name in the store, the unconstrained tensor, and whether it is a
        :class:`~pyro.nn.PyroParam`.
    """
    for submodule in module.modules():
        if not isinstance(submodule, PyroModule):
            continue
        prefix = f"{submodule._pyro_name}." if submodule._pyro_name else ""
        for key, weight in submodule.named_parameters(recurse=False):
            attribute = key.removesuffix("_unconstrained")
            yield prefix + attribute, weight, attribute in submodule._pyro_params
        for key, child in submodule.named_children():
            if not isinstance(child, PyroModule):
                for name, weight in child.named_parameters():
                    if weight.requires_grad:
                        yield param_with_module_name(prefix + key, name), weight, False


def scoped_store(
    method: Callable[Concatenate[M, P], R],
) -> Callable[Concatenate[M, P], R]:
    """Decorates a method of a :class:`GuardedModule` to leave Pyro's parameter store as it is.

    The method runs with an empty store, after a check of the store around it.
    """

    @functools.wraps(method)
    def run(self: M, *args: P.args, **kwargs: P.kwargs) -> R:
        self.require_matching_store()
        with pyro.get_param_store().scope():
            return method(self, *args, **kwargs)

    return run
