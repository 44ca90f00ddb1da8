import os
import pickle

import numpy as np
import pytest
import torch

from tests.data.refusals import refused
from train import processes
from train.data.fingerprint import fingerprint
from train.data.images import as_bytes, as_images
from train.data.labelled import Images
from train.data.streaming.stored import ArrayImages, spare_workers

BYTES = np.random.default_rng(0).integers(0, 256, (30, 9, 8), dtype=np.uint8)
COLOURS = np.random.default_rng(2).integers(0, 256, (30, 3, 9, 8), dtype=np.uint8)
FLOATS = np.random.default_rng(1).random((30, 9, 8))
ARRAYS = {
    "bytes": BYTES,
    "integers": BYTES.astype(">i4"),
    "booleans": BYTES > 127,
    "zeros and ones": (BYTES > 127).astype(np.int64),
    "floats": FLOATS,
    "half floats": FLOATS.astype(np.float16),
    "nearly in range": FLOATS * 1.0005,
    "one channel in front": BYTES[:, None],
    "one channel at the end": BYTES[..., None],
    "colours in front": COLOURS,
    "colours at the end": np.moveaxis(COLOURS, 1, -1).copy(),
    "floats of colours": np.moveaxis(COLOURS, 1, -1) / np.float32(255),
}


def stored(folder, array) -> ArrayImages:
    np.save(folder / "images.npy", array)
    return ArrayImages(folder / "images.npy")


@pytest.mark.parametrize("name", ARRAYS)
def test_a_file_holds_what_its_array_converts_to(tmp_path, name):
    expected = as_bytes(as_images(ARRAYS[name], say=lambda _: None))
    images = stored(tmp_path, ARRAYS[name])
    assert images.shape == expected.shape
    assert images[:].dtype == torch.uint8
    assert torch.equal(images[:], expected)


def test_indices_are_those_of_a_tensor(tmp_path):
    images, tensor = stored(tmp_path, BYTES), as_images(BYTES)
    rows = torch.tensor([[3, 4, 5], [29, 0, 3]])
    mask = torch.arange(30) % 7 == 2
    for index in (0, 29, -1, slice(4, 20, 3), slice(0, 0), rows, rows.numpy(), mask):
        assert torch.equal(images[index], tensor[index]), index
    assert torch.equal(torch.cat(list(images.split(7))), tensor)
    assert [len(chunk) for chunk in images.split(7)] == [7, 7, 7, 7, 2]


def test_a_view_of_a_view(tmp_path):
    rows = torch.tensor([9, 2, 2, 28, 0])
    view = stored(tmp_path, BYTES).select(rows).select(torch.tensor([3, 1]))
    assert len(view) == 2
    assert torch.equal(view[:], as_images(BYTES[[28, 2]]))


def test_a_split_is_that_of_images_in_memory(tmp_path):
    labels = torch.arange(30) % 3
    expected = Images(as_images(BYTES), labels).hold_out()
    splits = Images(stored(tmp_path, BYTES), labels).hold_out()
    for split, wanted in zip(splits, expected, strict=True):
        assert torch.equal(split.images[:], wanted.images)
        assert torch.equal(split.labels, wanted.labels)
        assert split.shape == wanted.shape


def test_a_process_of_its_own_opens_the_file_again(tmp_path):
    images = stored(tmp_path, BYTES).select(torch.tensor([5, 1]))
    assert torch.equal(pickle.loads(pickle.dumps(images))[:], images[:])


def test_the_fingerprint_changes_with_any_pixel_row_and_label(tmp_path):
    labels = torch.arange(30)
    changed = BYTES.copy()
    changed[29, 8, 7] ^= 1
    (tmp_path / "other").mkdir()
    images = stored(tmp_path, BYTES)
    prints = [
        fingerprint(Images(images, labels)),
        fingerprint(Images(images, None)),
        fingerprint(Images(stored(tmp_path / "other", changed), labels)),
        fingerprint(Images(images, labels).select(torch.arange(29))),
        fingerprint(Images(images.select(torch.arange(30).flip(0)), labels)),
    ]
    assert len(set(prints)) == len(prints)
    (tmp_path / "copy").mkdir()
    assert fingerprint(Images(stored(tmp_path / "copy", BYTES), labels)) == prints[0]


def test_the_fingerprint_of_grey_images_in_memory_stays():
    images = torch.arange(48, dtype=torch.uint8).reshape(3, 1, 4, 4)
    assert fingerprint(Images(images, torch.arange(3))) == "fa48bf7a2e3ba8b2b7289b366f904131"


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((0, 8, 8), np.uint8), "is empty"),
        (BYTES.astype(np.int64) - 1, "integers from -1 to 25"),
        (FLOATS * 255, "floats must be in [0, 1]"),
        (np.where(FLOATS[7, 0, 0] == FLOATS, np.nan, FLOATS), "image 7 has values"),
        (np.asfortranarray(BYTES), "numpy.ascontiguousarray"),
        (np.array(["a"] * 9), "give uint8, or floats"),
        (np.array([None] * 9), "no .npy file of numbers"),
        (np.zeros(9), "shape"),
        (np.zeros((9, 8, 8, 2)), "shape"),
    ],
)
def test_arrays_that_are_no_images_are_refused(tmp_path, array, words):
    np.save(tmp_path / "images.npy", array, allow_pickle=True)
    with refused("images.npy", words):
        ArrayImages(tmp_path / "images.npy")


def test_a_file_that_is_cut_short_is_refused(tmp_path):
    images = stored(tmp_path, BYTES)
    content = (tmp_path / "images.npy").read_bytes()
    (tmp_path / "images.npy").write_bytes(content[:-100])
    with refused("images.npy", "has become shorter"):
        images[:]
    with refused("images.npy", "damaged"):
        ArrayImages(tmp_path / "images.npy")
    with refused("nothing.npy", "no file"):
        ArrayImages(tmp_path / "nothing.npy")


@pytest.mark.parametrize(
    ("machine", "bound", "ranks", "workers"),
    [(8, 8, 1, 4), (8, 3, 1, 2), (8, 8, 4, 1), (8, 2, 4, 1), (1, 1, 1, 1), (64, 64, 16, 3)],
)
def test_workers_are_as_many_as_processors_are_spare(monkeypatch, machine, bound, ranks, workers):
    """The mutation: those of the machine, where the process is bound to a few."""
    monkeypatch.setattr(os, "cpu_count", lambda: machine)
    monkeypatch.setattr(processes, "usable_processors", lambda: bound)
    monkeypatch.setattr(processes, "size", lambda: ranks)
    assert spare_workers() == workers
