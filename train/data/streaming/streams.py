"""Images of an iterable data set: a stream, which is read in its order."""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from train import processes
from train.data.batches import as_input
from train.data.labelled import Images, Split
from train.data.labels import as_labels
from train.data.streaming.items import Conversion, Item, conversion
from train.data.streaming.loading import Drawing
from train.data.streaming.randomness import RandomNumbers
from train.data.streaming.workers import WorkerBatches, ignore_interrupts, unchanged
from train.errors import InputError, first_line, note, require

HELD_OUT = 1_000
"""Items at the beginning of a stream that are held out, where no others are given."""

SAMPLE = 4_000
"""Items after them that stand for all training images where the model is measured."""

LOOKING = 9_973
"""Seed of the random numbers that a stream draws while its first items are looked at. No pass of
the training has it, so that a stream in random order is found out."""

ENDLESS = 2**31
"""More examples than any setting may ask for."""


class Source:
    """A stream whose items are read by their position, again from the beginning if need be.

    Args:
        stream: The data set.
        workers: 1: a process of its own reads the batches; 0: the training's process.

    Attributes:
        name: What error messages call it.
        stateful: Whether it has ``state_dict`` and ``load_state_dict``.
        conversion: How its images are converted, found from the first ones.
    """

    def __init__(self, stream: IterableDataset, workers: int | None = None) -> None:
        require(
            workers in (None, 0, 1),
            f"--workers {workers}: a stream has one order, so one process reads it: give 1 or 0",
        )
        self.stream = stream
        self.workers = 1 if workers is None else workers
        self.name = f"data ({type(stream).__name__})"
        self.stateful = hasattr(stream, "state_dict") and hasattr(stream, "load_state_dict")
        first = self.first(0, 32)
        require(bool(first), f"{self.name} is empty: give a stream with images")
        self.conversion: Conversion = conversion(first, self.name)

    def first(self, skip: int, number: int) -> list[Item]:
        """Returns some of the first items, after those that are skipped."""
        with RandomNumbers(LOOKING):
            items = list(itertools.islice(self.items(), skip, skip + number))
        return [Item.of(item, self.called(skip + i)) for i, item in enumerate(items)]

    def items(self) -> Iterator[Any]:
        """Yields the items from the beginning.

        Raises:
            InputError: If the stream raises an exception; the message names the item.
        """
        items = iter(self.stream)
        for position in itertools.count():
            try:
                item = next(items)
            except StopIteration:
                return
            # A data set of the user's may raise anything.
            except Exception as error:
                reason = f"{type(error).__name__}: {first_line(error)}"
                raise InputError(f"{self.called(position)} cannot be read ({reason})") from error
            yield item

    def images(self, items: list[Item], start: int) -> np.ndarray:
        """Converts items from a position on to images, of shape (L, C, H, W)."""
        images = [item.image for item in items]
        return self.conversion(images, lambda i: self.called(start + i))

    def called(self, position: int) -> str:
        """Returns what error messages call an item."""
        return f"{self.name}: item {position}"

    def part(self, skip: int, number: int) -> Images:
        """Reads the items after those that are skipped, with their labels, into memory."""
        items = self.first(skip, number)
        require(
            bool(items) or skip > 0,
            f"{self.name} has no items when it is read again: its __iter__ must begin anew",
        )
        require(
            bool(items),
            f"{self.name} has no more than {skip} items, which are held out: give held-out data "
            "of their own, data=(stream, held_out)",
        )
        images = torch.from_numpy(self.images(items, skip))
        names = [name for name, value in items[0].values.items() if np.ndim(value) == 0]
        columns = {
            name: as_labels(np.asarray([item.values.get(name) for item in items]), self.name)
            for name in names
        }
        return Images.of_columns(images, columns, "label" if "label" in columns else None)


@dataclass(frozen=True, eq=False)
class StreamImages(Images):
    """Training images of a stream, read in its order.

    ``images`` and ``labels`` are a sample, for what needs many images at once, such as probes.

    Attributes:
        source: The stream.
        skip: Items at its beginning that are not trained on.
    """

    source: Source = field(kw_only=True, compare=False)
    skip: int = 0

    @property
    def max_batch_size(self) -> int:
        """More than any setting may be, as a stream's length is unknown."""
        return ENDLESS

    def hold_out(self, one_in: int = 5) -> Split:
        """Holds out the next :data:`HELD_OUT` items of the stream.

        Args:
            one_in: Has no effect, as a stream's length is unknown.
        """
        held_out = self.source.part(self.skip, HELD_OUT)
        return Split(training(self.source, self.skip + len(held_out)), held_out)

    def drawn(self, batches: Drawing, device: torch.device | str, seed: int) -> Any:
        """Raises :class:`InputError`, as the items of a stream have no index."""
        raise InputError(self._no_rows)

    @property
    def _no_rows(self) -> str:
        return (
            f"{self.source.name}: the labels of a stream are not known before it is read, and this "
            "method needs them: give a map-style data set, with __len__ and __getitem__"
        )

    def batches(
        self, batch_size: int, seed: int, device: torch.device | str, *others: Tensor
    ) -> StreamBatches:
        """Returns a function from a step to its batch: the next items of the stream.

        Args:
            batch_size: Images in a batch.
            seed: Seed of the random numbers that the stream draws.
            device: Device of the batches.
            others: Tensors without columns, as of a condition on nothing.

        Raises:
            InputError: If there are other tensors: they have no rows for the stream's items.
        """
        require(not any(tensor.numel() for tensor in others), self._no_rows)
        return StreamBatches(self.source, self.skip, batch_size, seed, device, others)


def stream_split(
    stream: IterableDataset, held_out: Images | None = None, workers: int | None = None
) -> Split:
    """Makes a split of a stream.

    Args:
        stream: The data set. It is read in its order, and again from the beginning when it ends.
        held_out: Images to evaluate on; the first :data:`HELD_OUT` items if not given.
        workers: See :class:`Source`.

    Raises:
        InputError: If the stream is empty, has too few items, or they cannot be used.
    """
    source = Source(stream, workers)
    if held_out is not None:
        return Split(training(source, 0), held_out)
    split = training(source, 0).hold_out()
    note(f"{source.name}: the first {len(split.held_out):,} items are held out")
    return split


def training(source: Source, skip: int) -> StreamImages:
    """Returns the training images of a stream, without the items that are skipped."""
    sample = source.part(skip, SAMPLE)
    return StreamImages(
        *(sample.images, sample.labels, sample.given, sample.columns), source=source, skip=skip
    )


class Read(NamedTuple):
    """A batch that a process has read.

    Attributes:
        images: Of shape (B, C, H, W), uint8; None if it cannot be read.
        problem: Why it cannot be read.
        epoch: The number of times that the stream ended before.
        state: The stream's state after it, if it has ``state_dict`` and ``load_state_dict``.
    """

    images: Tensor | None
    problem: str = ""
    epoch: int = 0
    state: Any = None


class StreamReader(IterableDataset):
    """Reads the batches of a stream, in a worker or in the process of the training.

    Args:
        source: The stream.
        skip: Items at its beginning that are not trained on.
        batch_size: Images in a batch over all processes.
        seed: Seed of the random numbers that the stream draws.

    Attributes:
        step: The step of the first batch.
        resumed: The last batch that a resumed run had read, without its images, if it is the one
            before :attr:`step`.
    """

    def __init__(self, source: Source, skip: int, batch_size: int, seed: int) -> None:
        self.source = source
        self.skip = skip
        self.batch_size = batch_size
        self.seed = seed
        self.digest = self._digest(source.first(0, skip))
        self.step = 0
        self.resumed: Read | None = None

    def __iter__(self) -> Iterator[Read]:
        return self.batches(self.step)

    def batches(self, step: int, whole: bool = False) -> Iterator[Read]:
        """Yields batches from a step on, without end.

        Args:
            step: The first step.
            whole: Whether a batch has the rows of all ranks, and not those of this one.
        """
        try:
            yield from self._batches(step, whole)
        except InputError as error:
            yield Read(None, str(error))

    def _batches(self, step: int, whole: bool) -> Iterator[Read]:
        epoch = before = 0
        resumed = self.resumed
        if resumed is not None and resumed.state is not None:
            stream: Any = self.source.stream
            stream.load_state_dict(resumed.state)
            epoch, before = resumed.epoch, step
        while True:
            random = RandomNumbers(self.seed, epoch)
            items = self.source.items()
            if resumed is None:
                self._leave_out(items, random)
            number = 0
            for number, batch in enumerate(self._cut(items, random), start=1):
                if before + number > step:
                    yield self._read(batch, number - 1, epoch, whole)
            require(
                number > 0 or resumed is not None,
                f"--batch-size {self.batch_size} is larger than a pass through {self.source.name}"
                + (f", without the first {self.skip:,} items" if self.skip else "")
                + ": give less",
            )
            before, epoch, resumed = before + number, epoch + 1, None
            # The stream has as many items each time, so whole passes need not be read.
            passes = max(step - before, 0) // max(number, 1)
            before, epoch = before + passes * number, epoch + passes

    def _cut(self, items: Iterator[Any], random: RandomNumbers) -> Iterator[list[Any]]:
        """Yields whole batches of items."""
        while True:
            with random:
                batch = list(itertools.islice(items, self.batch_size))
            if len(batch) < self.batch_size:
                return
            yield batch

    def _read(self, batch: list[Any], number: int, epoch: int, whole: bool) -> Read:
        start = self.skip + number * self.batch_size
        size = self.batch_size // processes.size()
        rows = (
            range(self.batch_size)
            if whole
            else range(size * processes.rank(), size * (1 + processes.rank()))
        )
        items = [Item.of(batch[row], self.source.called(start + row)) for row in rows]
        images = torch.from_numpy(self.source.images(items, start + rows[0]))
        stream: Any = self.source.stream
        state = stream.state_dict() if self.source.stateful else None
        return Read(images, "", epoch, state)

    def _leave_out(self, items: Iterator[Any], random: RandomNumbers) -> None:
        """Reads the items that are held out, and checks that they are the same ones as before."""
        with random:
            batch = list(itertools.islice(items, self.skip))
        first = [Item.of(item, self.source.called(i)) for i, item in enumerate(batch)]
        require(
            self._digest(first) == self.digest,
            f"{self.source.name}: the first {self.skip:,} items are held out, and another pass "
            "begins with other ones: give held-out data of their own, data=(stream, held_out)",
        )

    def _digest(self, items: list[Item]) -> bytes:
        images = self.source.images(items, 0) if items else np.empty(0, np.uint8)
        return hashlib.blake2b(np.ascontiguousarray(images).data, digest_size=16).digest()


def is_plain(state: Any) -> bool:
    """Whether a checkpoint can save a state: it may have tensors and plain values alone."""
    file = io.BytesIO()
    try:
        torch.save(state, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    # Objects of the user's may raise anything.
    except Exception:
        return False
    return True


class StreamBatches:
    r"""Mini-batches of a stream: batch by batch in its order, and again from the beginning.

    The items at the end of the stream, fewer than a batch, are left out. A step that does not
    follow the last one is found by reading the stream from its beginning, so that a resumed run
    reads the batches that it would have read without a break, if the stream has the same items in
    the same order each time. In each pass the random numbers that it draws have a seed of their
    own.

    Every process reads the whole stream, and converts its rows of each batch alone.

    Args:
        source: The stream.
        skip: Items at its beginning that are not trained on.
        batch_size: Images in a batch over all processes, :math:`B`.
        seed: Seed of the random numbers that the stream draws.
        device: Device of the batches.
        others: Tensors without columns, :math:`(M, 0)`.
    """

    def __init__(
        self,
        source: Source,
        skip: int,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        others: tuple[Tensor, ...] = (),
    ) -> None:
        require(batch_size >= 1, f"--batch-size is {batch_size}: give 1 or more")
        self.reader = StreamReader(source, skip, batch_size, seed)
        self.device = torch.device(device)
        self.others = others
        self._batches: Iterator[Read] | None = None
        self._step = -1
        self._read = Read(None)
        self._last: tuple[Tensor, ...] = ()
        self._resumed: tuple[int, Read] | None = None
        self._whole: tuple[int, Iterator[Read]] | None = None

    def __call__(self, step: int) -> tuple[Tensor, ...]:
        """Reads the whole batch of a step, counted from 0."""
        if self._whole is None or self._whole[0] != step:
            self._whole = step, self.reader.batches(step, whole=True)
        self._whole = step + 1, self._whole[1]
        return self._on_device(next(self._whole[1]))

    def local(self, step: int) -> tuple[Tensor, ...]:
        """Returns this rank's rows of the batch of a step, and has the following ones read ahead.

        Raises:
            InputError: If an item cannot be read, or a pass through the stream has no batch.
        """
        if step == self._step:
            return self._last
        if self._batches is None or step != self._step + 1:
            self.close()
            self._whole = None
            self._batches = self._begin(step)
        self._read = next(self._batches)
        self._last = self._on_device(self._read)
        self._step = step
        return self._last

    def close(self) -> None:
        """Ends the process that reads ahead."""
        if isinstance(self._batches, WorkerBatches):
            self._batches.close()
        self._batches = None
        self._step = -1

    def state_dict(self) -> dict[str, Any]:
        """Returns where the stream is after the last batch, if it has a state of its own.

        A state of other things than tensors and plain values is not saved. A resumed run then reads
        the stream anew.
        """
        if self._read.state is None or not is_plain(self._read.state):
            return {}
        return {"step": self._step + 1, "epoch": self._read.epoch, "stream": self._read.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned: the stream need not be read anew."""
        if state:
            self._resumed = state["step"], Read(None, "", state["epoch"], state["stream"])

    def _begin(self, step: int) -> Iterator[Read]:
        self.reader.step, self.reader.resumed = step, None
        if self._resumed is not None and self._resumed[0] == step:
            self.reader.resumed = self._resumed[1]
        workers = self.reader.source.workers
        if not workers:
            return iter(self.reader)
        loader = DataLoader(
            self.reader,
            batch_size=None,
            num_workers=workers,
            pin_memory=self.device.type == "cuda",
            collate_fn=unchanged,
            worker_init_fn=ignore_interrupts,
            generator=torch.Generator(),
        )
        return WorkerBatches(loader)

    def _on_device(self, read: Read) -> tuple[Tensor, ...]:
        if read.images is None:
            raise InputError(read.problem)
        images = as_input(read.images.to(self.device, non_blocking=True))
        return (images, *(images.new_zeros(len(images), 0) for _ in self.others))
