"""Data-parallel training: collective operations between the processes that torchrun starts.

In a single process every function works without :func:`start` and communicates with nobody.
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

TIMEOUT = timedelta(hours=6)
"""The longest time that ranks wait for rank 0 to evaluate. A rank that died is noticed at once."""


def require_alone(what: str) -> None:
    """Raises :class:`~train.errors.InputError` if torchrun started several processes.

    Args:
        what: The command or flag that needs a single process, for the message.
    """
    require(processes.size() == 1, f"{what} makes one run after another: start it without torchrun")


def start(device: torch.device) -> bool:
    """Joins the process group, if there are several processes.

    Args:
        device: The device of the training: NCCL communicates for CUDA, Gloo for the CPU.

    Returns:
        Whether this call joined it, so that the caller has to call :func:`stop`.

    Raises:
        InputError: If another rank cannot be reached.
    """
    from torch import distributed

    joins = processes.size() > 1 and not distributed.is_initialized()
    if joins:
        with _communication():
            distributed.init_process_group(
                "nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT
            )
    return joins


def stop() -> None:
    """Leaves the process group."""
    from torch import distributed

    if processes.size() > 1:
        distributed.destroy_process_group()


def shard(tensor: torch.Tensor) -> torch.Tensor:
    r"""Returns this rank's rows of a tensor.

    Args:
        tensor: A tensor of shape :math:`(B, *)`, where the number of ranks :math:`R` divides
            :math:`B`.

    Returns:
        A view of :math:`B / R` consecutive rows, the first ones for rank 0.
    """
    if processes.size() == 1:
        return tensor
    rows = len(tensor) // processes.size()
    return tensor[processes.rank() * rows : (processes.rank() + 1) * rows]


def all_reduce_mean(tensors: Sequence[torch.Tensor]) -> None:
    """Replaces each tensor by its mean over all ranks, in place and in a single all-reduce.

    Args:
        tensors: Tensors of one type and device, with identical shapes in all ranks.

    Raises:
        InputError: If another rank cannot be reached.
    """
    import torch

    if processes.size() == 1 or not tensors:
        return
    buffer = torch.cat([tensor.flatten() for tensor in tensors])
    with _communication():
        torch.distributed.all_reduce(buffer)
    buffer /= processes.size()
    means = buffer.split([tensor.numel() for tensor in tensors])
    for tensor, mean in zip(tensors, means, strict=True):
        tensor.copy_(mean.view_as(tensor))


def broadcast_module(module: torch.nn.Module) -> None:
    """Copies the parameters and buffers of a module from rank 0 to all ranks, in place.

    Raises:
        InputError: If another rank cannot be reached.
    """
    import torch

    if processes.size() > 1:
        with _communication(), torch.no_grad():
            for tensor in (*module.parameters(), *module.buffers()):
                torch.distributed.broadcast(tensor, 0)


def broadcast(value: T) -> T:
    """Returns rank 0's ``value`` in all ranks.

    Args:
        value: An object that can be pickled; it waits for the device if it holds CUDA tensors.

    Raises:
        InputError: If another rank cannot be reached.
    """
    from torch import distributed

    if processes.size() == 1:
        return value
    values = [value]
    with _communication():
        distributed.broadcast_object_list(values, 0)
    return values[0]


def all_gather(value: T) -> list[T]:
    """Gathers ``value`` from all ranks, in rank order.

    Args:
        value: An object that can be pickled.

    Raises:
        InputError: If another rank cannot be reached.
    """
    from torch import distributed

    values: list[Any] = [value] * processes.size()
    if processes.size() > 1:
        with _communication():
            distributed.all_gather_object(values, value)
    return values


@contextmanager
def _communication() -> Iterator[None]:
    """Turns an error of a collective operation into one line that names the remedy."""
    try:
        yield
    except RuntimeError as error:
        raise InputError(
            f"another process of this run cannot be reached ({first_line(error)}): see what it "
            "said; --resume goes on from the last checkpoint, with any number of processes"
        ) from error
