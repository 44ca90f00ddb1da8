"""A step traced once: compiled, and on CUDA recorded as one graph that is replayed.

Tracing runs the step's Python, Pyro's handlers with it, a single time, and keeps what it did to
tensors, forward and backward. So whatever changes with the steps has to be a tensor: the number of
steps done is given as one, and what a module remembers is a buffer that it writes in place.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from train import processes
from train.errors import InputError, first_line, require
from train.objective import Batch
from train.settings import Settings

Values = tuple[dict[str, Tensor], dict[str, Tensor]]
"""Losses and metrics by name, detached, of shape ()."""
Gradients = dict[str, tuple[Tensor | None, ...]]
"""For each loss those of its own parameters, ``None`` where it does not depend on one."""
Differentiate = Callable[[Batch, Tensor], tuple[dict[str, Tensor], dict[str, Tensor], Gradients]]
"""From a batch and the number of steps done to losses, metrics and gradients."""
Take = Callable[[Batch, Tensor], Values]
"""A step: from a batch and the number of steps done to losses and metrics."""

COMPILERS = (os.environ.get("CXX", ""), "g++", "clang++", "cl")


def has_compiler() -> bool:
    """Whether there is a C++ compiler."""
    return any(shutil.which(name) for name in COMPILERS if name)


def wanted(settings: Settings, device: torch.device) -> bool:
    """Whether steps are to be compiled: where asked for, and by default on CUDA."""
    return settings.compile == "on" or (settings.compile == "auto" and device.type == "cuda")


def replays(device: torch.device) -> bool:
    """Whether steps can be recorded: on CUDA, in a process that has none to talk to."""
    return device.type == "cuda" and processes.size() == 1


def compiled(
    differentiate: Differentiate, module: nn.Module, batch: Batch, step: Tensor
) -> Differentiate:
    """Traces and compiles the losses of a module and their gradients.

    Random numbers are those of the function itself, in the same order. A call at a batch of the
    same shapes gives what the function would give, but for rounding.

    Args:
        differentiate: What is to be compiled; it is called, and may change buffers in place.
        module: Its parameters and buffers.
        batch: A batch, whose shapes all others have.
        step: The number of steps done.

    Raises:
        InputError: If there is no C++ compiler, if something in it depends on numbers that the
            host would have to wait for, or if a buffer is replaced rather than changed.
    """
    require(
        has_compiler(),
        "--compile needs a C++ compiler: install one (g++, say), or give --compile off",
    )
    buffers = list(module.buffers())
    state = [*module.parameters(), *buffers]

    def traced(state: list[Tensor], batch: Batch, step: Tensor) -> Any:
        return differentiate(batch, step)

    try:
        graph = make_fx(traced)(state, batch, step)
        fast = torch.compile(graph, fullgraph=True, options={"fallback_random": True})
        with torch.no_grad():
            fast(state, batch, step)
    # Whatever another's module makes the tracer or the compiler raise.
    except Exception as error:
        raise InputError(
            f"--compile: this step cannot be compiled ({first_line(error)}): give --compile off"
        ) from error
    kept = all(a is b for a, b in zip(buffers, module.buffers(), strict=True))
    require(kept, "--compile: a step replaces a buffer: have it written in place")

    def run(batch: Batch, step: Tensor) -> Any:
        with torch.no_grad():
            return fast(state, batch, step)

    return run


class Replay:
    """A step whose kernels were recorded once, and are launched together.

    Args:
        take: The step. Nothing in it may wait for the device.
        batch: A batch, whose shapes all others have.
        step: The number of steps done.
        dry_run: A context that takes all back that steps in it did.
    """

    def __init__(
        self,
        take: Take,
        batch: Batch,
        step: Tensor,
        dry_run: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.batch = tuple(part.clone() for part in batch)
        self.step = step.clone()
        self.replay, self.values = record(lambda: take(self.batch, self.step), dry_run)

    def __call__(self, batch: Batch, step: Tensor) -> Values:
        """Takes a step; what it returns is written over by the next one."""
        for kept, part in zip(self.batch, batch, strict=True):
            kept.copy_(part)
        self.step.copy_(step)
        self.replay()
        return self.values


def record(
    function: Callable[[], Values], dry_run: Callable[[], AbstractContextManager[None]]
) -> tuple[Callable[[], None], Values]:
    """Records the kernels of a function as a CUDA graph, after it was warmed up.

    Returns:
        What launches them, and the tensors that they then write.

    Raises:
        RuntimeError: If something in it waits for the device, or CUDA refuses.

    References:
        | https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside), dry_run():
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    spare = generator.clone_state()
    try:
        with torch.cuda.graph(graph):
            values = function()
    except RuntimeError as error:
        # A generator stays in capture when one fails, and would refuse every draw thereafter.
        generator.graphsafe_set_state(spare)
        # What went wrong in the function; the end of the capture only says that something did.
        raise error.__context__ or error from None
    return graph.replay, values
