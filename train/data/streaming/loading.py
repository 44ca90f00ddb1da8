"""Mini-batches of stored images, read ahead while the training computes."""

from __future__ import annotations

import itertools
import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from train import processes
from train.data.batches import Batches, as_input
from train.data.streaming.randomness import RandomNumbers, seed_generators
from train.data.streaming.stored import StoredImages
from train.data.streaming.workers import WorkerBatches, ignore_interrupts, unchanged
from train.errors import InputError

AHEAD = 4
"""Batches that a thread reads ahead."""

Rows = tuple[Tensor, ...]
"""Indices of a batch's images: tensors with a row for each example, int64."""


def batches_of(
    images: Tensor | StoredImages,
    others: Sequence[Tensor],
    batch_size: int,
    seed: int,
    device: torch.device | str,
) -> Batches | LoadedBatches:
    r"""Returns mini-batches of data, which are the same ones in memory and on disk.

    Args:
        images: Of shape :math:`(M, *)`, in memory or stored.
        others: Further tensors with a row for each image, of shape :math:`(M, *)`.
        batch_size: Examples in a batch, :math:`1 \le B \le M`.
        seed: Seed of the order of the examples.
        device: Device of the batches.

    Raises:
        InputError: If a batch is empty or larger than the data.
    """
    if isinstance(images, Tensor):
        return Batches((images, *others), batch_size, seed, device)
    # The order of the same number of examples in memory, of no size.
    order = Batches((torch.empty(len(images), 0),), batch_size, seed, "cpu")
    plan = Plan(lambda step: (order.indices(step),))
    return LoadedBatches(images, plan, device, others=others, seed=seed)


class Drawing(Protocol):
    """Batches that say which images they draw."""

    def indices(self, step: int) -> Rows:
        """Returns the indices of a step's images, for each tensor of its batch."""


class Plan:
    """The rows of each step's batch, safe to call from several threads.

    Args:
        rows: Returns the rows of the batch of a step; it may remember an epoch's permutation.
    """

    def __init__(self, rows: Callable[[int], Rows]) -> None:
        self.rows = rows
        self._lock = threading.Lock()

    def __call__(self, step: int) -> Rows:
        """Returns the rows of all ranks."""
        with self._lock:
            return self.rows(step)

    def local(self, step: int) -> Rows:
        """Returns the rows of this rank: as many for each, the first ones for rank 0."""
        rank, size = processes.rank(), processes.size()
        return tuple(
            rows[rank * (len(rows) // size) : (rank + 1) * (len(rows) // size)]
            for rows in self(step)
        )


class LoadedBatches:
    r"""Mini-batches of stored images, each determined by the seed and the step alone.

    Batches are read ahead by PyTorch's :class:`~torch.utils.data.DataLoader`: in a thread, or in
    ``images.workers`` processes. A step that does not follow the last one begins anew there, so
    that a resumed run reads the batches that it would have read without a break.

    A data set of the user's (see :attr:`StoredImages.RUNS_CODE`) may draw random numbers: it gets a
    seed of each batch, and draws the same ones in every run, without a break and with any number of
    workers.

    Args:
        images: The images, :math:`(M, C, H, W)`.
        plan: The rows of each step's batch.
        device: Device of the batches.
        others: Further tensors in memory, with a row for each image, of shape :math:`(M, *)`.
        seed: Seed of the random numbers that a data set draws.
    """

    def __init__(
        self,
        images: StoredImages,
        plan: Plan,
        device: torch.device | str,
        *,
        others: Sequence[Tensor] = (),
        seed: int = 0,
    ) -> None:
        self.plan = plan
        self.device = torch.device(device)
        self.reader = Reader(images, tuple(others), seed)
        self.workers = images.default_workers if images.workers is None else images.workers
        self._running: _Running | None = None
        self._last: tuple[int, tuple[Tensor, ...]] | None = None

    def __call__(self, step: int) -> tuple[Tensor, ...]:
        r"""Reads the whole batch of a step, counted from 0, at once.

        It has a tensor of shape :math:`(B, *)` for each index of the plan, and each of the others:
        see :func:`~train.data.batches.as_input`.

        Raises:
            InputError: If an image cannot be read.
        """
        return self._on_device(self.reader[step, self.plan(step)])

    def local(self, step: int) -> tuple[Tensor, ...]:
        """Returns this rank's rows of the batch of a step, and has the following ones read ahead.

        Raises:
            InputError: If an image cannot be read.
        """
        if self._last is not None and self._last[0] == step:
            return self._last[1]
        if self._running is None or self._running.step != step:
            self.close()
            self._running = _Running(self, step)
        batch = self._on_device(self._running.next())
        self._last = (step, batch)
        return batch

    def close(self) -> None:
        """Ends the thread or the processes that read ahead."""
        if self._running is not None:
            self._running.close()
        self._running = self._last = None

    def _on_device(self, tensors: Sequence[Tensor] | Failure) -> tuple[Tensor, ...]:
        if isinstance(tensors, Failure):
            raise InputError(tensors.message)
        return tuple(as_input(tensor.to(self.device, non_blocking=True)) for tensor in tensors)


class Failure(NamedTuple):
    """The message of an :class:`InputError`, in place of a batch.

    An exception that a worker raises would arrive with a traceback of many lines as its message.
    """

    message: str


class Reader(Dataset):
    """What reads a batch, in this process or a worker: items are batches, by their step and rows.

    Args:
        images: The images.
        others: Further tensors with a row for each image.
        seed: Seed of the random numbers that the images draw.
    """

    def __init__(self, images: StoredImages, others: tuple[Tensor, ...], seed: int) -> None:
        self.images = images
        self.others = others
        self.seed = seed

    def __getitem__(self, key: tuple[int, Rows]) -> tuple[Tensor, ...] | Failure:
        step, rows = key
        try:
            if not self.images.RUNS_CODE:
                return self.read(rows)
            seeds = (self.seed, step, processes.rank())
            if get_worker_info() is not None:
                # A worker has no random numbers to keep.
                seed_generators(*seeds)
                return self.read(rows)
            with RandomNumbers(*seeds):
                return self.read(rows)
        except InputError as error:
            return Failure(str(error))

    def read(self, rows: Rows) -> tuple[Tensor, ...]:
        """Reads the images at each of the rows, and the rows of the other tensors."""
        images = (self.images[index] for index in rows)
        others = (tensor[index] for tensor in self.others for index in rows)
        return (*images, *others)


class _Running:
    """A loader that has begun: batches from a step on, in order.

    Args:
        batches: The batches.
        step: The first step.
    """

    def __init__(self, batches: LoadedBatches, step: int) -> None:
        self.step = step
        plan = batches.plan
        loader = DataLoader(
            batches.reader,
            # A batch is one item, as its rows belong together.
            batch_size=None,
            sampler=_Steps(plan, step),
            num_workers=batches.workers,
            pin_memory=batches.device.type == "cuda",
            collate_fn=unchanged,
            worker_init_fn=ignore_interrupts,
            # The loader draws a seed for its workers; the training's random numbers must stay.
            generator=torch.Generator(),
        )
        self.batches: Iterator[Any]
        self._end: Callable[[], Any] = lambda: None
        if batches.workers:
            self.batches = workers = WorkerBatches(loader)
            self._end = workers.close
        elif batches.reader.images.RUNS_CODE:
            self.batches = iter(loader)
        else:
            self.batches = ahead = _Ahead(partial(iter, loader), AHEAD)
            self._end = weakref.finalize(self, ahead.close)

    def next(self) -> Any:
        """Returns the next batch; waits for it.

        Raises:
            RuntimeError: If a worker was killed.
        """
        batch = next(self.batches)
        self.step += 1
        return batch

    def close(self) -> None:
        """Ends the thread or the processes."""
        self._end()
        self.batches = iter(())


class _Steps:
    """The keys of a :class:`Reader` from a step on, without end."""

    def __init__(self, plan: Plan, step: int) -> None:
        self.plan = plan
        self.step = step

    def __iter__(self) -> Iterator[tuple[int, Rows]]:
        return ((step, self.plan.local(step)) for step in itertools.count(self.step))


class _Ahead(Iterator[Any]):
    """Takes items in a thread, ahead of who asks for them.

    Args:
        source: Returns the items; called in the thread.
        size: The most items that are waiting.
    """

    def __init__(self, source: Callable[[], Iterable[Any]], size: int) -> None:
        self.source = source
        self.items: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(size)
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, name="batches", daemon=True)
        self.thread.start()

    def __next__(self) -> Any:
        item, error = self.items.get()
        if error is not None:
            raise error
        return item

    def close(self) -> None:
        """Ends the thread."""
        self.stopping.set()
        self.thread.join()

    def _run(self) -> None:
        try:
            for item in self.source():
                if not self._put((item, None)):
                    return
        except BaseException as error:
            self._put((None, error))

    def _put(self, item: tuple[Any, BaseException | None]) -> bool:
        """Waits for room in the queue; returns whether there was any before the end."""
        while not self.stopping.is_set():
            try:
                self.items.put(item, timeout=0.05)
                return True
            except queue.Full:
                continue
        return False
