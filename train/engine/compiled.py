"""Compiles a training step, and on CUDA captures it as a graph that is replayed.

Tracing runs the Python code of a step once, including Pyro's handlers, and records its tensor
operations, forward and backward. So everything that changes between steps has to be a tensor: the
number of steps done is passed as one, and a module keeps its state in buffers that it changes in
place.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
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
"""For each loss the gradients of its own parameters; ``None`` where it does not depend on one."""
GradientFunction = Callable[[Batch, Tensor], tuple[dict[str, Tensor], dict[str, Tensor], Gradients]]
"""Maps a batch and the number of steps done to losses, metrics and gradients."""
StepFunction = Callable[[Batch, Tensor], Values]
"""Takes a step, given a batch and the number of steps done; returns losses and metrics."""

COMPILERS = (os.environ.get("CXX", ""), "g++", "clang++", "cl")


def has_compiler() -> bool:
    """Whether a C++ compiler is installed."""
    return any(shutil.which(name) for name in COMPILERS if name)


def require_compiler() -> None:
    """Checks that a C++ compiler is installed.

    Raises:
        InputError: If there is none.
    """
    require(
        has_compiler(),
        "--compile needs a C++ compiler: install one (g++, say), or give --compile off",
    )


@contextmanager
def compiling() -> Iterator[None]:
    """Makes one line of what goes wrong inside the block.

    Raises:
        InputError: In place of any other exception.
    """
    try:
        yield
    except InputError:
        raise
    # A user's module can make the tracer and the compiler raise exceptions of any type.
    except Exception as error:
        raise InputError(
            f"--compile: this step cannot be compiled ({first_line(error)}): give --compile off"
        ) from error


def should_compile(settings: Settings, device: torch.device) -> bool:
    """Whether to compile steps: not if ``settings.compile`` is "off", or "auto" but on CUDA."""
    if settings.compile == "auto":
        return device.type == "cuda"
    return settings.compile != "off"


def can_replay(device: torch.device) -> bool:
    """Whether steps can be captured as a graph: on CUDA, without other ranks to talk to."""
    return device.type == "cuda" and processes.size() == 1


def compile_gradients(
    compute_gradients: GradientFunction, module: nn.Module, batch: Batch, step: Tensor
) -> GradientFunction:
    """Traces and compiles the losses of a module and their gradients.

    The compiled function draws the same random numbers in the same order, and differs from the
    given one by rounding only.

    Args:
        compute_gradients: The function to compile. It is called, and may change buffers in place.
        module: The module that holds the parameters and buffers.
        batch: An example of a batch; all batches must have its shapes.
        step: The number of steps done, of shape ().

    Raises:
        InputError: If there is no C++ compiler, if the function reads a tensor's value on the
            host, or if it replaces a buffer.
    """
    require_compiler()
    buffers = list(module.buffers())
    state = [*module.parameters(), *buffers]

    def traced(state: list[Tensor], batch: Batch, step: Tensor) -> Any:
        return compute_gradients(batch, step)

    with compiling():
        graph = make_fx(traced)(state, batch, step)
        compiled = torch.compile(graph, fullgraph=True, options={"fallback_random": True})
        with torch.no_grad():
            compiled(state, batch, step)
    in_place = all(a is b for a, b in zip(buffers, module.buffers(), strict=True))
    require(in_place, "--compile: a step replaces a buffer: change it in place (copy_, add_)")

    def run(batch: Batch, step: Tensor) -> Any:
        with torch.no_grad():
            return compiled(state, batch, step)

    return run


class Replay:
    """A step captured once as a CUDA graph; calling it launches all its kernels together.

    Args:
        step_function: The step to capture. Nothing in it may wait for the device.
        batch: An example of a batch; all batches must have its shapes.
        step: The number of steps done, of shape ().
        dry_run: Returns a context that undoes the steps inside it.
    """

    def __init__(
        self,
        step_function: StepFunction,
        batch: Batch,
        step: Tensor,
        dry_run: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.batch = tuple(tensor.clone() for tensor in batch)
        self.step = step.clone()
        self.replay, self.values = capture_graph(
            lambda: step_function(self.batch, self.step), dry_run
        )

    def __call__(self, batch: Batch, step: Tensor) -> Values:
        """Takes a step; the next call overwrites the tensors that it returns."""
        for static_input, tensor in zip(self.batch, batch, strict=True):
            static_input.copy_(tensor)
        self.step.copy_(step)
        self.replay()
        return self.values


def capture_graph(
    function: Callable[[], Values], dry_run: Callable[[], AbstractContextManager[None]]
) -> tuple[Callable[[], None], Values]:
    """Captures the kernels of a function as a CUDA graph, after three warm-up calls.

    Args:
        function: The function to capture. It reads its inputs from tensors at fixed addresses.
        dry_run: Returns a context that undoes the warm-up calls.

    Returns:
        A function that launches the kernels, and the tensors to which they write.

    Raises:
        RuntimeError: If the function waits for the device, or CUDA fails otherwise.

    References:
        | https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """
    side_stream = torch.cuda.Stream()
    side_stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side_stream), dry_run():
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(side_stream)
    graph = torch.cuda.CUDAGraph()
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    spare_state = generator.clone_state()
    try:
        with torch.cuda.graph(graph):
            values = function()
    except RuntimeError as error:
        # A failed capture leaves the generator in capture mode, in which it refuses every draw.
        generator.graphsafe_set_state(spare_state)
        # The context is the function's own error; ending the capture raises an unspecific one.
        raise error.__context__ or error from None
    return graph.replay, values
