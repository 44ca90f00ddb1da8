"""Compiles a traced step into one file, a package of AOTInductor's, and loads such a file.

A process of its own may do the former, see :data:`COMMAND`.

References:
    | https://docs.pytorch.org/docs/stable/torch.compiler_aot_inductor.html
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

TensorFunction = Callable[[list[Tensor]], list[Tensor]]
"""Maps weights, buffers, a batch and the number of steps done to all results of a step."""

LAYOUT = "extra/step.json"
"""The file of a package that holds the :class:`Layout` of its results."""
TRACED, PACKAGE = "traced.pickle", "step.pt2"
"""Files of the folder in which a step is compiled."""
COMMAND = "import sys; from train.engine import ahead; ahead.main(sys.argv[1])"
"""What a process of its own runs, given a folder in which :func:`save_traced` has left a step."""

OPTIONS = {"fallback_random": True}
"""Options of the compiler: PyTorch's own random numbers."""


class Layout(NamedTuple):
    """How the results of a step lie in one list of tensors.

    Attributes:
        losses: The names of the losses.
        metrics: The names of the metrics.
        gradients: For each loss, whether it has a gradient for each of its parameters.
    """

    losses: list[str]
    metrics: list[str]
    gradients: dict[str, list[bool]]

    @classmethod
    def of(cls, losses: dict, metrics: dict, gradients: dict) -> Layout:
        """The layout of losses, metrics and gradients by name."""
        there = {name: [each is not None for each in group] for name, group in gradients.items()}
        return cls(list(losses), list(metrics), there)

    def restore(self, results: Sequence[Tensor]) -> tuple[dict, dict, dict]:
        """Makes losses, metrics and gradients of a list of tensors."""
        values: Iterator[Tensor] = iter(results)
        losses, metrics = ({name: next(values) for name in names} for names in self[:2])
        gradients = {
            name: tuple(next(values) if there else None for there in group)
            for name, group in self.gradients.items()
        }
        return losses, metrics, gradients


class Traced(NamedTuple):
    """A traced step.

    Attributes:
        graph: Its operations, from a list of tensors to a list of tensors.
        inputs: Tensors of the layouts of the inputs.
        layout: How the results lie in the list.
    """

    graph: fx.GraphModule
    inputs: list[Tensor]
    layout: Layout


def is_available() -> bool:
    """Whether this version of PyTorch loads packages."""
    return hasattr(getattr(torch._C, "_aoti", None), "AOTIModelPackageLoader")


def build(traced: Traced, package: Path) -> None:
    """Compiles a traced step; its values are not looked at, only their layouts.

    Args:
        traced: The step.
        package: The file to write, which ends with ``.pt2``.

    Raises:
        Exception: Of any type, if a compiler is missing or fails.
    """
    from torch._inductor import aoti_compile_and_package

    with _without_warnings():
        program = torch.export.export(traced.graph, tuple(traced.inputs))
        aoti_compile_and_package(program, package_path=str(package), inductor_configs=OPTIONS)
    with zipfile.ZipFile(package, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{root}/{LAYOUT}", json.dumps(traced.layout._asdict()))


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Drops the compiler's warnings of names to be removed and of a CUDA that is not there."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def load(package: Path) -> tuple[TensorFunction, Layout]:
    """Loads a compiled step.

    Raises:
        Exception: Of any type, if the file is missing or damaged.
    """
    with zipfile.ZipFile(package) as archive:
        if archive.testzip() is not None:
            raise ValueError("a checksum is wrong")
        root = archive.namelist()[0].partition("/")[0]
        layout = Layout(**json.loads(archive.read(f"{root}/{LAYOUT}")))
    try:
        # The public function imports the compiler, which takes longer than all else.
        loader = torch._C._aoti.AOTIModelPackageLoader(str(package), "model", True, 1, -1)
    except TypeError:
        from torch._inductor import aoti_load_package

        loader = aoti_load_package(str(package)).loader
    return loader.run, layout


class Reference(NamedTuple):
    """Stands for a node of a graph: its number."""

    number: int


class Operation(NamedTuple):
    """Stands for an operation of PyTorch's."""

    namespace: str
    name: str
    overload: str


def save_traced(traced: Traced, folder: Path) -> None:
    """Writes what a process of its own needs in order to compile a step."""
    # A graph module cannot be pickled itself: loading one runs its operations without inputs, such
    # as random numbers, and makes constants of them.
    number = {node: Reference(i) for i, node in enumerate(traced.graph.graph.nodes)}
    nodes = [
        (node.op, _named(node.target), *fx.map_arg((node.args, node.kwargs), number.__getitem__))
        for node in number
    ]
    constants = {
        node.target: getattr(traced.graph, str(node.target))
        for node in number
        if node.op == "get_attr"
    }
    inputs = [(tensor.shape, tensor.stride(), tensor.dtype) for tensor in traced.inputs]
    layout = traced.layout._asdict()
    content = nodes, constants, inputs, layout, torch.get_num_threads()
    (folder / TRACED).write_bytes(pickle.dumps(content))


def load_traced(folder: Path) -> tuple[Traced, int]:
    """Reads a traced step, whose inputs have no values, and the number of threads of its process.

    The folder is to be this user's own, and written by :func:`save_traced`.
    """
    content: Any = pickle.loads((folder / TRACED).read_bytes())
    nodes, constants, inputs, layout, threads = content
    graph = fx.Graph()
    made: list[fx.Node] = []

    def restored(value: Any) -> Any:
        if isinstance(value, Reference):
            return made[value.number]
        if isinstance(value, list | tuple):
            return type(value)(map(restored, value))
        if isinstance(value, dict):
            return {name: restored(each) for name, each in value.items()}
        return value

    for kind, target, *given in nodes:
        made.append(graph.create_node(kind, _found(target), *map(restored, given)))
    tensors = [torch.empty_strided(size, stride, dtype=dtype) for size, stride, dtype in inputs]
    return Traced(fx.GraphModule(constants, graph), tensors, Layout(**layout)), threads


def _named(target: Any) -> Any:
    """What a node calls, as pickle can write it: the name of an operation of PyTorch's."""
    return Operation(*str(target).split(".")) if isinstance(target, OpOverload) else target


def _found(target: Any) -> Any:
    if not isinstance(target, Operation):
        return target
    packets = getattr(torch.ops, target.namespace)
    return getattr(getattr(packets, target.name), target.overload)


def main(name: str) -> None:
    """Compiles the step of a folder with what the training leaves of the processor."""
    folder = Path(name)
    if hasattr(os, "nice"):
        os.nice(10)
    traced, threads = load_traced(folder)
    # The number of threads becomes a constant of the compiled step.
    torch.set_num_threads(threads)
    part = folder / f"part-{PACKAGE}"
    build(traced, part)
    part.replace(folder / PACKAGE)
