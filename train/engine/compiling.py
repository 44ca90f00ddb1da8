"""Compiles the gradients of a step on the CPU: once for all runs, and beside the training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from train.engine import ahead, kept_steps
from train.engine.ahead import Layout, TensorFunction, Traced
from train.engine.compiled import GradientFunction, compiling, require_compiler
from train.engine.step_key import PROJECT
from train.errors import require
from train.objective import Batch
from train.processes import spare_processors

aten = torch.ops.aten
ERRORS = "errors.txt"
"""What the compiler's process prints, in the folder in which it works."""


class GradientCompiler:
    """Finds, or makes, the compiled gradients of a step; a CPU's, as no graph is captured there.

    Args:
        compute_gradients: The function to compile. It is called, and may change buffers in place.
        module: The module that holds the parameters and buffers.
        key: The key of the step, see :func:`train.engine.step_key.step_key`; ``None`` if no other
            process can know that it has the same step.
    """

    def __init__(
        self, compute_gradients: GradientFunction, module: nn.Module, key: str | None
    ) -> None:
        self.compute_gradients = compute_gradients
        self.module = module
        self.key = key
        self.process: subprocess.Popen[bytes] | None = None
        self.place = ExitStack()

    def is_kept(self) -> bool:
        """Whether an earlier run has left the compiled gradients."""
        return self.key is not None and kept_steps.is_kept(self.key)

    def find(self, batch: Batch) -> GradientFunction | None:
        """Returns the compiled gradients if an earlier run has left them.

        Args:
            batch: A batch; all must have its shapes.
        """
        step = kept_steps.find(self.key) if self.key is not None else None
        return None if step is None else self._runner(batch, *step)

    def discard(self) -> None:
        """Removes what :meth:`find` finds."""
        if self.key is not None:
            kept_steps.discard(self.key)

    def compile(self, batch: Batch, step: Tensor) -> GradientFunction:
        """Compiles the gradients now, and keeps them.

        Args:
            batch: An example of a batch; all batches must have its shapes.
            step: The number of steps done, of shape ().

        Raises:
            InputError: If there is no C++ compiler, or the step cannot be compiled.
        """
        traced = trace(self.compute_gradients, self.module, batch, step)
        with kept_steps.workplace(self.key is not None) as (folder, keeps), compiling():
            package = folder / ahead.PACKAGE
            ahead.build(traced, package)
            return self._load(batch, package, keeps)

    def start(self, batch: Batch, step: Tensor) -> None:
        """Begins to compile the gradients in a process of its own.

        Args:
            batch: See :meth:`compile`.
            step: See :meth:`compile`.

        Raises:
            InputError: See :meth:`compile`.
        """
        traced = trace(self.compute_gradients, self.module, batch, step)
        folder, self.keeps = self.place.enter_context(kept_steps.workplace(self.key is not None))
        self.folder, self.batch = folder, batch
        with compiling():
            ahead.save_traced(traced, folder)
        paths = [str(PROJECT), os.environ.get("PYTHONPATH", "")]
        found = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        # At least one: 0 would be all.
        threads = {"TORCHINDUCTOR_COMPILE_THREADS": str(max(1, spare_processors()))}
        with (folder / ERRORS).open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", ahead.COMMAND, str(folder)],
                env={**os.environ, **found, **threads},
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                # Ctrl-C reaches the training alone, which then stops this process.
                start_new_session=True,
            )

    @property
    def is_started(self) -> bool:
        """Whether there is a process whose gradients were not asked for yet."""
        return self.process is not None

    def is_running(self) -> bool:
        """Whether that process is still compiling."""
        return self.process is not None and self.process.poll() is None

    def finish(self) -> GradientFunction:
        """Waits for the process that :meth:`start` began, and returns the compiled gradients.

        Raises:
            InputError: If it failed.
        """
        assert self.process is not None
        with self.place, compiling():
            status, self.process = self.process.wait(), None
            if status:
                lines = (self.folder / ERRORS).read_text(errors="replace").split("\n")
                raise RuntimeError(next(filter(None, reversed(lines)), f"status {status}"))
            return self._load(self.batch, self.folder / ahead.PACKAGE, self.keeps)

    def close(self) -> None:
        """Stops the process, if there is one."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                if hasattr(os, "killpg"):
                    # Its C++ compilers too.
                    os.killpg(self.process.pid, signal.SIGKILL)
                else:
                    self.process.kill()
            self.process.wait()
            self.process = None
        self.place.close()

    def _load(self, batch: Batch, package: Path, keeps: bool) -> GradientFunction:
        found = self._runner(batch, *ahead.load(package))
        if keeps:
            kept_steps.keep(self.key or "", package)
        return found

    def _runner(self, batch: Batch, function: TensorFunction, layout: Layout) -> GradientFunction:
        state = _state(self.module)
        examples = [torch.empty_like(part, device="meta") for part in batch]

        def run(batch: Batch, step: Tensor) -> Any:
            with torch.no_grad():
                parts = map(like, batch, examples)
                return layout.restore(function([*state, *parts, step]))

        return run


def trace(
    compute_gradients: GradientFunction, module: nn.Module, batch: Batch, step: Tensor
) -> Traced:
    """Records the operations of a step, forward and backward; see :meth:`GradientCompiler.compile`.

    Raises:
        InputError: If there is no C++ compiler, if the function reads a tensor's value on the
            host, or if it replaces a buffer.
    """
    require_compiler()
    inputs = [*_state(module), *batch, step]
    layouts: list[Layout] = []

    def flat(*inputs: Tensor) -> list[Tensor]:
        losses, metrics, gradients = compute_gradients(batch_of(inputs), inputs[-1])
        layouts.append(Layout.of(losses, metrics, gradients))
        there = [each for group in gradients.values() for each in group if each is not None]
        return [*losses.values(), *metrics.values(), *there]

    def batch_of(inputs: tuple[Tensor, ...]) -> Batch:
        return inputs[-1 - len(batch) : -1]

    buffers = list(module.buffers())
    with compiling():
        graph = make_fx(flat)(*inputs)
        inline_numbers(graph)
    in_place = all(a is b for a, b in zip(buffers, module.buffers(), strict=True))
    require(in_place, "--compile: a step replaces a buffer: change it in place (copy_, add_)")
    return Traced(graph, inputs, layouts[-1])


def inline_numbers(graph: fx.GraphModule) -> None:
    """Makes constants of shape () in place, of their numbers; AOTInductor cannot expand others."""
    for node in graph.graph.find_nodes(op="get_attr"):
        constant = getattr(graph, node.target)
        if constant.ndim == 0:
            with graph.graph.inserting_before(node):
                options = {"dtype": constant.dtype, "device": constant.device}
                arguments: tuple[Any, ...] = [], constant.item()
                number = graph.graph.call_function(aten.full.default, arguments, options)
            node.replace_all_uses_with(number)
            graph.graph.erase_node(node)
    graph.recompile()


def like(tensor: Tensor, example: Tensor) -> Tensor:
    """Returns a tensor that lies in memory as an example does: a compiled step does not look.

    Raises:
        RuntimeError: If its shape or type is another one.
    """
    if tensor.shape != example.shape or tensor.dtype != example.dtype:
        raise RuntimeError(
            f"a batch has the shape {tuple(tensor.shape)} and the type {tensor.dtype}, and the "
            f"first one had {tuple(example.shape)} and {example.dtype}"
        )
    if tensor.stride() == example.stride():
        return tensor
    return torch.empty_like(example, device=tensor.device).copy_(tensor)


def _state(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
