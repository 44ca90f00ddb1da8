"""Large files and folders stay on disk, and small ones are read into memory."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.refusals import refused
from tests.data.test_adapters import GREY, LABELS, Table, table
from train.data import datasets, opening
from train.data.fingerprint import fingerprint
from train.data.images import as_images, to_grey
from train.data.labelled import Split
from train.data.options import DataOptions
from train.data.streaming.stored import ArrayImages, JoinedImages, PictureImages

COLOURS = np.random.default_rng(3).integers(0, 256, (30, 9, 8, 3), dtype=np.uint8)
NEVER = DataOptions(in_memory="never")


def load(data, options=DataOptions(), evaluate_on="test") -> Split:
    return datasets.load(str(data), Path("data"), evaluate_on, options)


def assert_equal(split: Split, expected: Split) -> None:
    for part, wanted in zip(split, expected, strict=True):
        assert part.shape == wanted.shape
        assert torch.equal(part.images[:], wanted.images)
        assert (part.labels is None) == (wanted.labels is None)
        if part.labels is not None:
            assert torch.equal(part.labels, wanted.labels)


@pytest.fixture
def own(tmp_path) -> Path:
    np.save(tmp_path / "own.npy", GREY)
    np.save(tmp_path / "own-labels.npy", LABELS)
    return tmp_path / "own.npy"


def pictures(folder: Path, images: np.ndarray) -> Path:
    for i, image in enumerate(images):
        path = folder / "pictures" / f"class{i % 2}" / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder / "pictures"


def test_size_decides_where_an_array_stays(own, monkeypatch, capsys):
    expected = load(own)
    assert isinstance(expected.train.images, torch.Tensor)
    monkeypatch.setattr(opening, "LARGE", GREY.size)
    split = load(own)
    assert isinstance(split.train.images, ArrayImages)
    assert "60 images stay on disk" in capsys.readouterr().err
    assert_equal(split, expected)
    assert isinstance(load(own, DataOptions(in_memory="always")).train.images, torch.Tensor)
    monkeypatch.setattr(opening, "LARGE", GREY.size + 1)
    assert isinstance(load(own).train.images, torch.Tensor)
    assert_equal(load(own, NEVER, "validation"), load(own, evaluate_on="validation"))


def test_size_decides_where_a_folder_stays(tmp_path, monkeypatch):
    folder = pictures(tmp_path, GREY)
    expected = load(folder)
    assert isinstance(expected.train.images, torch.Tensor)
    monkeypatch.setattr(opening, "LARGE", GREY.size)
    split = load(folder)
    assert isinstance(split.train.images, PictureImages)
    assert set(split.train.values.tolist()) == {"class0", "class1"}
    assert_equal(split, expected)


@pytest.mark.parametrize("grey", [False, True])
def test_colour_and_grey(tmp_path, grey):
    np.save(tmp_path / "own.npy", COLOURS)
    for data in (tmp_path / "own.npy", pictures(tmp_path, COLOURS)):
        expected = load(data, DataOptions(grey=grey))
        assert expected.train.shape.channels == (1 if grey else 3)
        stored = load(data, DataOptions(grey=grey, in_memory="never", workers=3))
        assert_equal(stored, expected)
        assert stored.train.images.workers == 3


def test_a_given_split_of_arrays(tmp_path):
    for name, rows in (("train", range(40)), ("test", range(40, 60))):
        np.save(tmp_path / f"{name}.npy", GREY[rows])
        np.save(tmp_path / f"{name}-labels.npy", LABELS[rows])
    split = load(tmp_path, NEVER)
    assert isinstance(split.train.images, JoinedImages)
    assert_equal(split, load(tmp_path))
    assert torch.equal(split.held_out.images[:], as_images(GREY[40:]))
    rows = torch.tensor([3, 39, 0])
    assert torch.equal(split.train.images[rows], as_images(GREY[rows]))
    np.save(tmp_path / "test.npy", COLOURS[:20])
    with refused("test.npy", "3x9x8", "train.npy", "9x8", "one shape"):
        load(tmp_path, NEVER)


def test_masks_are_black_and_white(tmp_path, capsys):
    folder = pictures(tmp_path, (GREY > 127).astype(np.uint8))
    split = load(folder, NEVER)
    assert "taken for black and white" in capsys.readouterr().err
    assert_equal(split, load(folder))
    assert split.train.images[:].unique().tolist() == [0, 255]


def test_a_folder_is_known_by_names_sizes_and_times(tmp_path):
    folder = pictures(tmp_path, GREY)
    before = fingerprint(*load(folder, NEVER))
    assert fingerprint(*load(folder, NEVER)) == before
    file = folder / "class1" / "07.png"
    status = file.stat()
    os.utime(file, (status.st_atime, status.st_mtime + 2))
    changed = fingerprint(*load(folder, NEVER))
    assert changed != before
    file.rename(file.with_name("70.png"))
    assert fingerprint(*load(folder, NEVER)) not in (before, changed)


def test_grey_is_in_the_fingerprint(tmp_path):
    np.save(tmp_path / "own.npy", COLOURS)
    options = DataOptions(in_memory="never", grey=True)
    prints = {fingerprint(*load(tmp_path / "own.npy", o)) for o in (NEVER, options)}
    assert len(prints) == 2


def test_scenes_stay_on_disk(tmp_path, own):
    from train.data.scenes import load_scenes

    settings = SimpleNamespace(data=str(own), evaluate_on="test", data_options=NEVER)
    stored = load_scenes(settings)
    settings.data_options = DataOptions()
    expected = load_scenes(settings)
    assert isinstance(stored.train.images, ArrayImages)
    assert torch.equal(stored.train.images[:], expected.train.images)
    batches = (part.train.batches(8, 0, "cpu") for part in (stored, expected))
    assert torch.equal(next(batches)(3)[0], next(batches)(3)[0])


@pytest.fixture
def saved(tmp_path, monkeypatch) -> Path:
    """A folder of Hugging Face's datasets, and a package with its function."""
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    splits = {"train": table(range(40)), "test": table(range(40, 60))}
    package = SimpleNamespace(load_from_disk=lambda path: splits)
    monkeypatch.setitem(sys.modules, "datasets", package)
    return tmp_path / "saved"


def test_a_saved_data_set_has_its_splits_and_columns(saved, monkeypatch):
    split = load(saved)
    assert isinstance(split.train.images, torch.Tensor)
    assert torch.equal(split.train.images, as_images(GREY[:40]))
    assert split.held_out.labels.tolist() == LABELS[40:].tolist()
    assert set(split.train.columns) == {"label", "name"}
    assert_equal(load(saved, DataOptions(in_memory="never", workers=0)), split)
    monkeypatch.setattr(opening, "LARGE", GREY.size)
    assert not isinstance(load(saved).train.images, torch.Tensor)
    named = load(saved, DataOptions(label_column=("name",)))
    assert named.train.values[:2].tolist() == ["n0", "n1"]
    with refused("--split-column"):
        load(saved, DataOptions(split_column="name"))


def test_a_single_saved_split_is_divided(saved, monkeypatch):
    colours = [Image.fromarray(image) for image in COLOURS]
    single = Table({"image": colours, "label": [i % 2 for i in range(30)]})
    package = SimpleNamespace(load_from_disk=lambda path: single)
    monkeypatch.setitem(sys.modules, "datasets", package)
    (saved / "dataset_dict.json").unlink()
    for name in ("dataset_info.json", "state.json"):
        (saved / name).write_text("{}")
    split = load(saved)
    assert [len(part) for part in split] == [24, 6]
    assert split.train.shape == (3, 9, 8)
    grey = load(saved, DataOptions(grey=True))
    assert torch.equal(grey.train.images, to_grey(split.train.images))


def test_a_saved_data_set_without_the_package_is_refused(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with refused(f"--data {saved}", "pip install datasets"):
        load(saved)


def test_a_damaged_saved_data_set_is_refused(saved, monkeypatch):
    def load_from_disk(path):
        raise FileNotFoundError(f"{path}/train has no state.json\nTraceback")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_from_disk=load_from_disk))
    with refused(f"--data {saved} cannot be read", "no state.json", "save_to_disk"):
        load(saved)
