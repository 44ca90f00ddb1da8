"""The key of a compiled step: a hash of everything that its traced operations depend on.

Tracing a step takes seconds, so a compiled one is looked up without: by its objective, the layout
of weights, buffers and batch, the source of every module that takes part, and the versions of
Python, its packages and the processor. Weights and buffers are inputs of a compiled step, and only
their layout counts; every other value is a constant in it, and counts with its content.
"""

from __future__ import annotations

import copyreg
import hashlib
import os
import pickle
import platform
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from train.objective import Batch

FORMAT = 1
"""Changes with what is kept of a compiled step."""
PROJECT = Path(__file__).parents[2]
INSTALLED = {"site-packages", "dist-packages"}
"""The names of folders of installed packages."""
PACKAGES = ("train", "pyro_models", "guides")
"""The packages of this project, of which every module counts, imported or not."""


def step_key(
    module: nn.Module, groups: Mapping[str, Sequence[Tensor]], batch: Batch, *options: str
) -> str | None:
    """Computes the key of a step.

    Args:
        module: The objective, before its first call in this process: an estimator may keep what it
            found there.
        groups: The parameters of each loss, in order.
        batch: A batch; all have its layout.
        options: Whatever else decides what is traced.

    Returns:
        A hexadecimal number; ``None`` if the objective holds something that cannot be compared
        between processes, such as an open file or a class that no source file defines.
    """
    state = [*module.parameters(), *module.buffers()]
    number = {id(tensor): i for i, tensor in enumerate(state)}
    order = [(name, [number[id(weight)] for weight in group]) for name, group in groups.items()]
    digest = hashlib.sha256()
    try:
        contents = _Contents(digest, number)
        contents.dump((module, order, [_layout(part) for part in batch], options))
        contents.dump_reached()
        for part in (*_environment(), *_sources()):
            digest.update(repr(part).encode())
    # A user's object can raise exceptions of any type when it is looked into.
    except Exception:
        return None
    return digest.hexdigest()


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    layout = tuple(tensor.shape), tensor.stride(), str(tensor.dtype), str(tensor.device)
    return *layout, tensor.requires_grad


class _Contents(pickle.Pickler):
    """Hashes an object as pickle writes it, but for what pickle would write by name only.

    Functions and classes count with the values that they hold: defaults, closures, and the
    variables of their module that they name.

    Args:
        digest: The hash, to which everything is added.
        state: The number of each tensor that is an input of the step, by its identity.
    """

    def __init__(self, digest: Any, state: Mapping[int, int]) -> None:
        super().__init__(types.SimpleNamespace(write=digest.update), protocol=5)
        self.state = state
        self.seen: dict[int, tuple[int, Any]] = {}
        self.reached: list[str] = []

    def persistent_id(self, value: Any) -> Any:
        """Returns what is written in place of a value; ``None`` for the value itself."""
        if isinstance(value, Tensor):
            if id(value) in self.state:
                return "state", self.state[id(value)], _layout(value)
            return "constant", _layout(value), _content(value)
        if isinstance(value, types.ModuleType):
            self._reach(value.__name__)
            return "module", value.__name__
        if isinstance(value, set | frozenset):
            # Its order depends on the process.
            return "set", type(value).__name__, sorted(value, key=repr)
        if isinstance(value, types.FunctionType | type):
            return self._definition(value)
        return None

    def reducer_override(self, value: Any) -> Any:
        """Writes all attributes of a module, whatever it would leave out when it is pickled."""
        if isinstance(value, nn.Module):
            # The stubs of the standard library lack it.
            return copyreg.__newobj__, (type(value),), vars(value)  # type: ignore[attr-defined]
        return NotImplemented

    def dump_reached(self) -> None:
        """Hashes the variables of a user's modules that their functions name."""
        done: set[str] = set()
        while self.reached:
            name = self.reached.pop()
            if name not in done:
                done.add(name)
                module = sys.modules[name]
                used = sorted(_names(Path(module.__file__ or "")) & vars(module).keys())
                self.dump((name, [(key, getattr(module, key)) for key in used]))

    def _definition(self, value: Any) -> Any:
        """What is written of a function or a class: its name, and the values that it holds."""
        if id(value) in self.seen:
            return "seen", self.seen[id(value)][0]
        # The value is kept, so that no other one can get its identity.
        self.seen[id(value)] = len(self.seen), value
        users = self._reach(value.__module__)
        name = value.__module__, value.__qualname__
        if isinstance(value, types.FunctionType):
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
            line = value.__code__.co_firstlineno
            return "function", name, line, value.__defaults__, value.__kwdefaults__, cells
        return "class", name, value.__bases__ if users else (), _attributes(value) if users else ()

    def _reach(self, name: str) -> bool:
        """Notes that a module takes part; returns whether it is the user's."""
        users = _is_users(sys.modules[name])
        if users:
            self.reached.append(name)
        return users


def _content(tensor: Tensor) -> str:
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(values.numpy().data).hexdigest()


def _attributes(kind: type) -> dict[str, Any]:
    """The attributes of a class; of its methods the functions, which hold closures."""
    found: dict[str, Any] = {}
    for name, value in vars(kind).items():
        if isinstance(value, property):
            found[name] = value.fget, value.fset, value.fdel
        elif isinstance(value, staticmethod | classmethod):
            found[name] = value.__func__
        elif not isinstance(value, types.GetSetDescriptorType | types.MemberDescriptorType):
            found[name] = value
    # The first are of every class, and the last is abc's own.
    none = {"__dict__", "__weakref__", "__doc__", "__module__", "_abc_impl"}
    return {name: value for name, value in found.items() if name not in none}


def _names(file: Path) -> set[str]:
    """The names that the functions and classes of a source file use, but for local variables."""
    names: set[str] = set()
    codes = [compile(file.read_bytes(), str(file), "exec")]
    for code in codes:
        inner = [each for each in code.co_consts if isinstance(each, types.CodeType)]
        codes += inner
        names.update(*(each.co_names for each in inner))
    return names


def _is_users(module: types.ModuleType) -> bool:
    """Whether a module is neither Python's, nor an installed package's, nor this project's.

    Raises:
        ValueError: If no file has its source, as in a notebook.
    """
    if module.__name__ in sys.builtin_module_names or module.__name__.startswith("torch."):
        return False
    if module.__spec__ is not None and module.__spec__.origin == "frozen":
        return False
    file = getattr(module, "__file__", None) or ""
    if not Path(file).is_file():
        raise ValueError(f"{module.__name__} has no file")
    return _is_users_file(file)


@cache
def _is_users_file(file: str) -> bool:
    path = Path(file).resolve()
    if not path.is_file() or INSTALLED & set(path.parts):
        return False
    own = (PROJECT / package for package in PACKAGES)
    python = (Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))
    return not any(path.is_relative_to(folder) for folder in (*own, *python))


def _environment() -> Iterator[Any]:
    """Versions of Python, its packages and the processor, and what the compiler is told."""
    yield FORMAT, sys.version, torch.__version__, torch.version.git_version, platform.platform()
    yield _processor()
    yield torch.get_num_threads(), torch.get_default_dtype(), torch.get_deterministic_debug_mode()
    told = ("TORCHINDUCTOR_", "TORCH_COMPILE_")
    yield sorted(
        (name, value)
        for name, value in os.environ.items()
        if name.startswith(told) and name != "TORCHINDUCTOR_CACHE_DIR"
    )
    # A package may add a folder of its own to the path when it is imported, as setuptools does.
    folders = [
        folder
        for folder in map(Path, sys.path)
        if folder.is_dir() and not INSTALLED & set(folder.parts[:-1])
    ]
    yield sorted(path.name for folder in folders for path in folder.glob("*.dist-info"))


def _processor() -> str:
    """Model and instruction set of the processor."""
    lines: Iterable[str] = ()
    if Path("/proc/cpuinfo").exists():
        with open("/proc/cpuinfo") as file:
            lines = sorted({line for line in file if line.startswith(("model", "flags", "Feat"))})
    return "".join((platform.machine(), platform.processor(), *lines))


def _sources() -> Iterator[tuple[str, str]]:
    """Name and content hash of every module of this project, and of the user's loaded ones."""
    for package in PACKAGES:
        for path in sorted((PROJECT / package).rglob("*.py")):
            yield str(path.relative_to(PROJECT)), _sha256(path)
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is not None and _is_users_file(file):
            yield name, _sha256(Path(file))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
