"""Processes that read batches ahead: what they read, and what is said if one is killed."""

from __future__ import annotations

import signal
import threading
import traceback
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data import DataLoader

from train.errors import InputError, first_line


class WorkerBatches(Iterator[Any]):
    """What the workers of a loader read, in order.

    Args:
        loader: The loader, with workers.
    """

    def __init__(self, loader: DataLoader) -> None:
        self._batches: Iterator[Any] = iter(loader)
        self._deaths = WorkerDeaths()
        weakref.finalize(self, self._deaths.close)

    def __next__(self) -> Any:
        """Returns the next batch; waits for it.

        Raises:
            RuntimeError: If a worker was killed.
        """
        with self._deaths:
            return next(self._batches)

    def close(self) -> None:
        """Ends the workers."""
        # The loader's iterator ends its workers when it is deleted.
        self._batches = iter(())
        self._deaths.close()


class WorkerDeaths:
    """Has PyTorch's report of a killed worker wait until a batch is asked for.

    PyTorch's handler of ``SIGCHLD`` raises an exception wherever the main thread is when a worker
    is killed: in the middle of writing a checkpoint, or of cleaning up after another exception,
    which then stops half-way. The handler of this object calls PyTorch's, and keeps its exception
    until the next ``with`` block, which raises it. Inside the block it is raised at once.

    Outside the main thread, and where there is no ``SIGCHLD``, PyTorch has no handler; the loader
    notices a killed worker within five seconds.
    """

    def __init__(self) -> None:
        self._error: RuntimeError | None = None
        self._asked = False
        self._before: Any = None
        if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGCHLD)
        if callable(self._before):
            signal.signal(signal.SIGCHLD, self._handle)

    def __enter__(self) -> None:
        self._asked = True
        self._raise()

    def __exit__(self, *exception: object) -> None:
        self._asked = False

    def close(self) -> None:
        """Restores PyTorch's handler."""
        main = threading.current_thread() is threading.main_thread()
        # Compared by value: each look-up of a method makes another object.
        if main and callable(self._before) and signal.getsignal(signal.SIGCHLD) == self._handle:
            signal.signal(signal.SIGCHLD, self._before)

    def _handle(self, number: int, frame: Any) -> None:
        try:
            self._before(number, frame)
        except RuntimeError as error:
            if not is_of_a_worker(error):
                raise
            self._error = error
        if self._asked:
            self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            self._asked = False
            raise error


@contextmanager
def reading(batches: Any = None) -> Iterator[None]:
    """Ends what reads batches ahead at the end of the block, and names a worker that was killed.

    PyTorch raises an exception for a worker that is killed, for example for want of memory: see
    :class:`WorkerDeaths`.

    Args:
        batches: Batches; those in memory have nothing to end.

    Raises:
        InputError: If a worker was killed.
    """
    try:
        yield
    # PyTorch's exception, and those of a connection that ends with the worker.
    except (RuntimeError, ConnectionError, EOFError) as error:
        if isinstance(error, RuntimeError) and not is_of_a_worker(error):
            raise
        # The frames of the loader hold its iterator, whose end ends the other workers, and has
        # PyTorch forget the killed one.
        traceback.clear_frames(error.__traceback__)
        raise InputError(
            f"a process that reads images has ended ({first_line(error)}): give fewer --workers, "
            "or 0"
        ) from error
    finally:
        if hasattr(batches, "close"):
            batches.close()


def is_of_a_worker(error: RuntimeError) -> bool:
    """Returns whether PyTorch raised an exception for a worker that has ended."""
    return "DataLoader worker" in str(error)


def unchanged(batch: Any) -> Any:
    """Returns a batch as it is, in place of PyTorch's collation."""
    return batch


def ignore_interrupts(worker: int) -> None:
    """Has a worker ignore Ctrl-C, which reaches all processes of a terminal.

    The training ends after its step, needs batches until then, and ends its workers itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
