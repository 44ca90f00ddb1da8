"""Batches of stored images are those of images in memory, whoever reads them, and wherever from."""

import multiprocessing
import multiprocessing.connection
import os
import random
import signal
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pyro_models.shapes import Shape
from tests.data.refusals import refused
from train.data.images import as_images
from train.data.labelled import Images
from train.data.streaming.loading import LoadedBatches
from train.data.streaming.stored import ArrayImages, StoredImages
from train.data.streaming.workers import WorkerDeaths, reading
from train.engine.state import local_batch
from train.errors import InputError

ARRAY = np.random.default_rng(0).integers(0, 256, (22, 9, 8), dtype=np.uint8)
C = torch.arange(22.0).unsqueeze(1)


@pytest.fixture
def stored(tmp_path) -> Images:
    np.save(tmp_path / "images.npy", ARRAY)
    return Images(ArrayImages(tmp_path / "images.npy"), None)


@pytest.fixture
def in_memory() -> Images:
    return Images(as_images(ARRAY), None)


class Drawn(StoredImages):
    """Images of random numbers, as a data set with random augmentation has them."""

    RUNS_CODE = True

    def read(self, rows: np.ndarray) -> np.ndarray:
        images = np.empty((len(rows), *self.image_shape), np.uint8)
        images[:] = int(torch.randint(256, ()))
        images[..., 0] = np.random.randint(256)  # noqa: NPY002
        images[..., 1] = random.randrange(256)
        return images

    def digest(self) -> bytes:
        return b""


class Broken(StoredImages):
    """Images of which one cannot be read."""

    def read(self, rows: np.ndarray) -> np.ndarray:
        if 7 in rows:
            raise InputError("folder/7.png is not a readable image")
        return np.zeros((len(rows), *self.image_shape), np.uint8)

    def digest(self) -> bytes:
        return b""


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "batches"]


def assert_equal(batch, expected) -> None:
    assert len(batch) == len(expected)
    for tensor, wanted in zip(batch, expected, strict=True):
        assert tensor.dtype == wanted.dtype
        assert torch.equal(tensor, wanted)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_images_in_memory(stored, in_memory, workers):
    """In order, from the middle of an epoch, again, and one alone."""
    stored.images.workers = workers
    batches = stored.batches(4, 3, "cpu", C)
    expected = in_memory.batches(4, 3, "cpu", C)
    assert isinstance(batches, LoadedBatches)
    for step in (0, 1, 2, 3, 4, 5, 6, 3, 4, 4, 0, 13):
        assert_equal(batches.local(step), expected(step))
    assert_equal(batches(8), expected(8))
    batches.close()


def test_a_rank_reads_its_rows_alone(stored, in_memory, monkeypatch):
    expected = in_memory.batches(4, 3, "cpu", C)
    read = []

    class Watched(ArrayImages):
        def read(self, rows: np.ndarray) -> np.ndarray:
            read.append(rows)
            return super().read(rows)

    images = Images(Watched(stored.images.path), None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        read.clear()
        batches = images.batches(4, 3, "cpu", C)
        rows = slice(2 * rank, 2 * rank + 2)
        for step in (5, 6, 7):
            wanted = tuple(tensor[rows] for tensor in expected(step))
            assert_equal(local_batch(batches, step), wanted)
        batches.close()
        assert len(read) >= 3
        for step, index in enumerate(read, start=5):
            assert index.tolist() == expected.indices(step)[rows].tolist()


def test_reading_leaves_the_random_numbers_of_training(stored):
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    for images in (stored, Images(Drawn(22, stored.images.image_shape), None)):
        batches = images.batches(4, 0, "cpu")
        batches.local(0)
        batches(1)
        batches.close()
        assert torch.equal(torch.get_rng_state(), states[0])
        assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
        assert random.getstate() == states[2]


def test_random_images_are_the_same_ones_in_any_process():
    """After a break too; and other ones at another step and for another seed."""

    def batches(workers: int, seed: int = 1) -> LoadedBatches:
        images = Drawn(22, Shape(1, 9, 8))
        images.workers = workers
        return Images(images, None).batches(4, seed, "cpu")

    here, there = batches(0), batches(2)
    straight = [here.local(step)[0].clone() for step in range(4)]
    for step in (2, 3, 0):
        assert torch.equal(there.local(step)[0], straight[step])
    drawn = torch.stack([*straight, batches(0, seed=2).local(0)[0]])
    assert len(drawn[:, 0, :2, 0:3].reshape(5, -1).unique(dim=0)) == 5
    there.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_refused_at_its_step(workers):
    images = Broken(22, Shape(1, 9, 8))
    images.workers = workers
    batches = Images(images, None).batches(4, 3, "cpu")
    order = Images(torch.zeros(22, 1, 9, 8), None).batches(4, 3, "cpu")
    bad = next(step for step in range(5) if 7 in order.indices(step))
    assert bad > 0
    for step in range(bad):
        batches.local(step)
    with refused("folder/7.png is not a readable image"):
        batches.local(bad)
    batches.close()


def test_threads_end_with_the_batches(stored):
    batches = stored.batches(4, 3, "cpu")
    batches.local(0)
    assert len(threads()) == 1
    batches.local(17)
    assert len(threads()) == 1
    batches.close()
    assert not threads()
    other = stored.batches(4, 3, "cpu")
    other.local(0)
    del other
    assert not threads()


def test_batches_are_read_ahead(stored):
    read = []

    class Watched(ArrayImages):
        def read(self, rows: np.ndarray) -> np.ndarray:
            read.append(rows)
            return super().read(rows)

    batches = Images(Watched(stored.images.path), None).batches(4, 3, "cpu")
    batches.local(0)
    end = time.monotonic() + 10
    while len(read) < 3 and time.monotonic() < end:
        time.sleep(0.01)
    assert len(read) >= 3
    batches.close()


@pytest.fixture
def killed(stored) -> Iterator[LoadedBatches]:
    """Batches whose worker is killed after the first one."""
    others = set(multiprocessing.active_children())
    stored.images.workers = 1
    batches = stored.batches(5, 0, "cpu")
    batches.local(0)
    (worker,) = set(multiprocessing.active_children()) - others
    os.kill(worker.pid, signal.SIGKILL)
    # Not `join`, which would keep its death from PyTorch.
    multiprocessing.connection.wait([worker.sentinel])
    yield batches
    handler = signal.getsignal(signal.SIGCHLD)
    assert not isinstance(getattr(handler, "__self__", None), WorkerDeaths)
    signal.raise_signal(signal.SIGCHLD)
    assert worker not in multiprocessing.active_children()


def test_a_killed_worker_is_told_of_when_a_batch_is_asked_for(killed):
    """Whatever the training does until then is whole.

    The mutation: PyTorch's own handler of SIGCHLD stays.
    """
    done = []

    def train() -> None:
        signal.raise_signal(signal.SIGCHLD)
        done.append("a checkpoint is written")
        for step in range(1, 100):
            killed.local(step)

    with refused("a process that reads images has ended"), reading(killed):
        train()
    assert done


def test_a_killed_worker_is_told_of_once(killed, monkeypatch):
    """The connection to it ends first, and PyTorch is told of its death while that is cleaned up.

    The mutations: the error's frames keep the loader's iterator; the handler is restored before
    the workers have ended.
    """

    def ends(self):
        raise ConnectionResetError("Connection reset by peer")

    monkeypatch.setattr(type(killed._running.batches._batches), "_next_data", ends)
    with refused("a process that reads images has ended"), reading(killed):
        killed.local(1)


def test_a_batch_larger_than_the_images_is_refused(stored):
    with refused("--batch-size 64 is larger than the 22 training examples"):
        stored.batches(64, 0, "cpu")
