"""Several processes that train one model together, as torchrun starts them.

Every function does the right thing in a process that is alone, and needs no start there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from train import processes
from train.errors import InputError, first_line, require

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

PATIENCE = timedelta(hours=6)
"""How long processes wait for one that evaluates; one that is gone is noticed at once."""


def require_alone(what: str) -> None:
    """Raises :class:`InputError` if torchrun started several processes."""
    require(processes.size() == 1, f"{what} makes one run after another: start it without torchrun")


def start(device: torch.device) -> bool:
    """Joins the other processes; returns whether they had not been joined before.

    Args:
        device: Where tensors are that are averaged: NCCL for CUDA, Gloo for the CPU.

    Raises:
        InputError: If they cannot be reached.
    """
    from torch import distributed

    joins = processes.size() > 1 and not distributed.is_initialized()
    if joins:
        with _together():
            distributed.init_process_group(
                "nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE
            )
    return joins


def stop() -> None:
    """Leaves the other processes."""
    from torch import distributed

    if processes.size() > 1:
        distributed.destroy_process_group()


def shard(tensor: torch.Tensor) -> torch.Tensor:
    r"""This process' rows of a tensor with one row for each datum: :math:`(B, *)`, of which it has
    :math:`B / R` of :math:`R` processes."""
    if processes.size() == 1:
        return tensor
    share = len(tensor) // processes.size()
    return tensor[processes.rank() * share : (processes.rank() + 1) * share]


def all_reduce_mean(tensors: Sequence[torch.Tensor]) -> None:
    """Puts the mean over all processes into each tensor, in one message."""
    import torch

    if processes.size() == 1 or not tensors:
        return
    together = torch.cat([tensor.flatten() for tensor in tensors])
    with _together():
        torch.distributed.all_reduce(together)
    together /= processes.size()
    parts = together.split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def broadcast_module(module: torch.nn.Module) -> None:
    """Gives every process the weights and buffers of the first one."""
    import torch

    if processes.size() > 1:
        with _together(), torch.no_grad():
            for tensor in (*module.parameters(), *module.buffers()):
                torch.distributed.broadcast(tensor, 0)


def broadcast(value: T) -> T:
    """What the first process has for a value."""
    from torch import distributed

    if processes.size() == 1:
        return value
    values = [value]
    with _together():
        distributed.broadcast_object_list(values, 0)
    return values[0]


def all_gather(value: T) -> list[T]:
    """What each process has for a value."""
    from torch import distributed

    values: list[Any] = [value] * processes.size()
    if processes.size() > 1:
        with _together():
            distributed.all_gather_object(values, value)
    return values


@contextmanager
def _together() -> Iterator[None]:
    """Says in a line that another process is gone."""
    try:
        yield
    except RuntimeError as error:
        raise InputError(
            f"another process of this run cannot be reached ({first_line(error)}): see what it "
            "said; --resume goes on from the last checkpoint, with any number of processes"
        ) from error
