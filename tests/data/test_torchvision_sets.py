"""Every data set of torchvision, read from small files in its official format."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import sys
import types
import urllib.request
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.datasets.utils

from tests.data.official import (
    ATTRIBUTES,
    CIFAR10,
    OFFICIAL,
    celebrity,
    idx,
    levels,
)
from tests.data.refusals import refused
from train import ae
from train.cli import command
from train.data import catalogue, datasets, memory, opening
from train.data.fingerprint import fingerprint
from train.data.images import to_grey
from train.data.labelled import Images, Split
from train.data.options import DataOptions
from train.data.reading import torchvision_sets

NAMES = sorted(OFFICIAL)


class Response(io.BytesIO):
    def __init__(self, url: str, content: bytes) -> None:
        super().__init__(content)
        self.url, self.length = url, len(content)


@pytest.fixture(autouse=True)
def _checksums(monkeypatch):
    """Files of the small data sets pass torchvision's check of their MD5, and no other files do."""
    known = {
        hashlib.md5(content).hexdigest()
        for official in OFFICIAL.values()
        for content in (*official.archives.values(), *official.files.values())
    }
    calculate = torchvision.datasets.utils.calculate_md5
    monkeypatch.setattr(
        torchvision.datasets.utils, "check_md5", lambda path, md5: calculate(path) in known
    )


@pytest.fixture(autouse=True)
def requests(monkeypatch) -> list[str]:
    """Lets requests fail, as they do where there is no network; lists their addresses."""
    addresses = []

    def urlopen(request):
        addresses.append(request.full_url)
        raise URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setitem(sys.modules, "gdown", None)
    monkeypatch.setattr(torchvision_sets, "DEBIAN", Path("/nonexistent"))
    return addresses


@pytest.fixture
def network(monkeypatch, requests):
    """Serves the archives of a data set, those of CelebA as gdown does."""

    def serve(name: str) -> None:
        archives = OFFICIAL[name].archives

        def urlopen(request):
            requests.append(request.full_url)
            return Response(request.full_url, archives[Path(request.full_url).name])

        def download(id, output, **options):
            requests.append(id)
            Path(output).write_bytes(archives[Path(output).name])

        monkeypatch.setattr(urllib.request, "urlopen", urlopen)
        monkeypatch.setitem(sys.modules, "gdown", types.SimpleNamespace(download=download))

    return serve


def put_archives(name: str, root: Path) -> Path:
    """Puts what is downloaded where torchvision would put it."""
    return put(OFFICIAL[name].archives, root / OFFICIAL[name].folder)


def put(files: dict[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def contents(images: Images) -> list[bytes]:
    return sorted(image.numpy().tobytes() for image in images.images)


def check(name: str, split: Split) -> None:
    official = OFFICIAL[name]
    assert tuple(map(len, split)) == official.counts
    for images in split:
        assert images.images.dtype == torch.uint8
        assert images.images.is_contiguous()
        assert tuple(images.images.shape[1:]) == official.shape
        assert tuple(images.columns) == official.columns
        for column in images.columns.values():
            assert column.shape == (len(images),)
            assert column.dtype == np.int64 or column.dtype.kind == "U"


class TestEverySet:
    @pytest.mark.parametrize("name", NAMES)
    def test_is_downloaded_once(self, tmp_path, network, requests, name, monkeypatch):
        network(name)
        first = datasets.load(name, tmp_path, "test")
        check(name, first)
        assert requests
        monkeypatch.setattr(urllib.request, "urlopen", lambda request: pytest.fail("downloaded"))
        again = datasets.load(name, tmp_path, "test")
        for images, others in zip(first, again, strict=True):
            assert torch.equal(images.images, others.images)
            for column, other in zip(images.columns.values(), others.columns.values(), strict=True):
                assert column.tolist() == other.tolist()

    @pytest.mark.parametrize("name", NAMES)
    def test_archives_put_there_by_hand_are_enough(self, tmp_path, requests, name):
        put_archives(name, tmp_path)
        check(name, datasets.load(name, tmp_path, "test"))
        assert not requests

    @pytest.mark.parametrize("name", NAMES)
    def test_validation_images_come_from_the_training_split(self, tmp_path, name):
        put_archives(name, tmp_path)
        train = datasets.load(name, tmp_path, "test").train
        split = datasets.load(name, tmp_path, "validation")
        if name == "celeba":
            assert contents(split.train) == contents(train)
            assert len(split.held_out) == 5
        else:
            assert contents(train) == sorted(contents(split.train) + contents(split.held_out))
        if train.labels is not None:
            assert set(split.train.values.tolist()) == set(train.values.tolist())

    @pytest.mark.parametrize("name", NAMES)
    def test_without_network_the_remedy_is_named(self, tmp_path, name):
        folder = str(tmp_path / OFFICIAL[name].folder)
        words = ("gdown",) if name == "celeba" else ("no network",)
        archive = "four IDX files" if name.endswith("mnist") else min(OFFICIAL[name].archives)
        archive = {"qmnist": "qmnist-*.gz", "emnist": "gzip.zip"}.get(name, archive)
        archive = "*.txt" if name == "celeba" else archive
        with refused(f"--data {name} could not", "mnist5k", "put", archive, folder, *words):
            datasets.load(name, tmp_path, "test")

    @pytest.mark.parametrize("name", NAMES)
    def test_every_damaged_file_is_refused(self, tmp_path, name, requests):
        put_archives(name, tmp_path)
        datasets.load(name, tmp_path, "test")
        for file in OFFICIAL[name].files:
            if "unlabeled" in file or "bbox" in file:
                continue
            path = tmp_path / OFFICIAL[name].folder / file
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2])
            with refused(f"--data {name}", path.name, "damaged", "delete", str(path.parent)):
                datasets.load(name, tmp_path, "test")
            path.write_bytes(content)
        assert not requests

    @pytest.mark.parametrize("name", NAMES)
    def test_an_index_means_one_class_in_both_splits(self, tmp_path, name):
        put_archives(name, tmp_path)
        split = datasets.load(name, tmp_path, "test")
        if split.train.labels is None:
            assert name == "celeba"
            return
        pairs = [set(zip(x.labels.tolist(), x.values.tolist(), strict=True)) for x in split]
        assert pairs[1] <= pairs[0]
        assert len(pairs[0]) == len({index for index, _ in pairs[0]})


class TestImages:
    def load(self, name, root):
        put_archives(name, root)
        return datasets.load(name, root, "test")

    @pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist", "qmnist"])
    def test_of_mnist_and_its_kind(self, tmp_path, name):
        split = self.load(name, tmp_path)
        for seed, images in enumerate(split):
            expected = levels(len(images), 1, 28, 28, seed=seed)
            assert images.images.numpy().tobytes() == expected.tobytes()
            assert images.labels.tolist() == [i % 10 for i in range(len(images))]

    @pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist"])
    def test_of_mnist_and_its_kind_have_the_hash_of_earlier_versions(self, tmp_path, name):
        """Their runs are resumed with the same data only."""
        for images in self.load(name, tmp_path):
            plain = Images(images.images[:, 0], images.labels)
            assert fingerprint(images) == fingerprint(plain)

    def test_of_emnist_are_upright_and_its_classes_are_characters(self, tmp_path):
        split = self.load("emnist", tmp_path)
        stored = levels(100, 28, 28)
        assert split.train.images[7, 0, 3, 20] == stored[7, 20, 3]
        assert "".join(split.train.values[:47]) == (
            "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"
        )
        letters = self.load("emnist-letters", tmp_path / "letters").train.values
        assert "".join(letters[:26]) == "abcdefghijklmnopqrstuvwxyz"

    def test_of_qmnist_know_their_writers(self, tmp_path):
        split = self.load("qmnist", tmp_path)
        assert split.train.columns["writer"].tolist() == [i // 10 for i in range(50)]
        assert split.held_out.columns["writer"].tolist() == [1_000 + i // 10 for i in range(20)]
        assert set(split.held_out.columns["series"]) == {4}

    def test_of_usps_are_white_on_black(self, tmp_path):
        split = self.load("usps", tmp_path)
        rows = np.random.default_rng(0).uniform(-1, 1, (40, 1, 16, 16))
        difference = split.train.images.numpy() - (rows + 1) / 2 * 255
        assert np.abs(difference).max() < 1.01
        assert split.train.labels[:12].tolist() == [*range(10), 0, 1]

    def test_of_omniglot_are_held_out_by_character(self, tmp_path):
        split = self.load("omniglot", tmp_path)
        characters = {f"{a}/character0{i}" for a in ("Greek", "Latin", "Tengwar") for i in (1, 2)}
        for images, each in zip(split, (4, 1), strict=True):
            names, counts = np.unique(images.columns["character"], return_counts=True)
            assert set(names) == characters
            assert counts.tolist() == [each] * 6
            for image, character, alphabet, drawer, group in zip(
                images.images, *images.columns.values(), strict=True
            ):
                ink = torch.zeros(105, 105, dtype=torch.uint8)
                row = 10 * int(character[-1])
                ink[row : row + 8, 20 : 20 + int(drawer)] = 255
                assert torch.equal(image[0], ink)
                assert character.startswith(alphabet)
                assert group == ("evaluation" if alphabet == "Tengwar" else "background")

    def test_of_omniglot_are_in_one_order_on_every_machine(self, tmp_path, monkeypatch):
        split = self.load("omniglot", tmp_path)
        listdir = os.listdir
        monkeypatch.setattr(os, "listdir", lambda path: listdir(path)[::-1])
        again = datasets.load("omniglot", tmp_path, "test")
        assert torch.equal(split.held_out.images, again.held_out.images)

    def test_of_svhn_have_their_rows_and_columns(self, tmp_path):
        split = self.load("svhn", tmp_path)
        stored = levels(32, 32, 3, 30)
        assert torch.equal(split.train.images[4], torch.from_numpy(stored[..., 4]).permute(2, 0, 1))
        # The files have 10 for a zero.
        assert split.train.labels[:11].tolist() == [*range(1, 10), 0, 1]

    def test_of_cifar(self, tmp_path):
        split = self.load("cifar10", tmp_path)
        assert split.train.images[12].flatten().tolist() == levels(10, 3072, seed=1)[2].tolist()
        assert split.train.values[:10].tolist() == CIFAR10
        assert split.train.labels[:10].tolist() == list(range(10))
        split = self.load("cifar100", tmp_path)
        assert split.held_out.columns["fine"][37] == "fine37"
        assert split.held_out.columns["coarse"][37] == "coarse17"
        assert split.held_out.values[37] == "fine37"

    def test_of_stl10_have_their_rows_and_columns(self, tmp_path):
        split = self.load("stl10", tmp_path)
        stored = levels(10, 3, 96, 96, seed=1)
        assert split.held_out.images[5, 2, 60, 9] == stored[5, 2, 9, 60]
        assert split.held_out.values[5] == "dog"

    @pytest.mark.parametrize("in_memory", ["always", "never"])
    def test_of_celeba_are_their_centres(self, tmp_path, in_memory):
        put_archives("celeba", tmp_path)
        split = datasets.load("celeba", tmp_path, "test", DataOptions(in_memory=in_memory))
        assert isinstance(split.train.images, torch.Tensor) == (in_memory == "always")
        for first, images in zip((0, 20), split, strict=True):
            for index in range(len(images)):
                colour = torch.from_numpy(celebrity(first + index)[100, 100])
                # JPEG's colours are rounded.
                difference = images.images[index].int() - colour[:, None, None].int()
                assert difference[:, 1:-1].abs().max() <= 4
        attributes = np.random.default_rng(0).integers(0, 2, (30, 40))[20:]
        columns = [split.held_out.columns[name] for name in ATTRIBUTES]
        assert np.array_equal(np.stack(columns, axis=1), attributes)
        assert split.held_out.columns["identity"].tolist() == [i % 7 for i in range(20, 30)]
        assert (
            split.held_out.with_labels("Attribute_3").labels.tolist() == attributes[:, 3].tolist()
        )


class TestFilesByHand:
    def test_a_folder_that_was_extracted_in_part_is_completed(self, tmp_path):
        folder = put_archives("omniglot", tmp_path)
        expected = datasets.load("omniglot", tmp_path, "test")
        (folder / "images_background" / "Greek" / "character01" / "0001_03.png").unlink()
        cut = folder / "images_evaluation" / "Tengwar" / "character02" / "0002_01.png"
        cut.write_bytes(cut.read_bytes()[:20])
        split = datasets.load("omniglot", tmp_path, "test")
        assert torch.equal(split.train.images, expected.train.images)
        assert torch.equal(split.held_out.images, expected.held_out.images)

    def test_a_face_that_is_missing_is_named(self, tmp_path):
        folder = put_archives("celeba", tmp_path)
        datasets.load("celeba", tmp_path, "test")
        (folder / "img_align_celeba.zip").unlink()
        (folder / "img_align_celeba" / "000003.jpg").unlink()
        with refused("--data celeba", "000003.jpg", "cannot be read"):
            datasets.load("celeba", tmp_path, "test")

    def test_held_out_classes_without_training_images_are_refused(self, tmp_path):
        folder = put_archives("mnist", tmp_path)
        datasets.load("mnist", tmp_path, "test")
        labels = np.arange(50, dtype=np.uint8) % 9
        (folder / "train-labels-idx1-ubyte").write_bytes(idx(labels))
        with refused("--data mnist", "no training image is of the class 9"):
            datasets.load("mnist", tmp_path, "test")

    def test_a_split_without_one_of_the_classes_keeps_their_indices(self, tmp_path):
        folder = put_archives("mnist", tmp_path)
        datasets.load("mnist", tmp_path, "test")
        labels = 1 + np.arange(20, dtype=np.uint8) % 9
        (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(labels))
        assert datasets.load("mnist", tmp_path, "test").held_out.labels.tolist() == labels.tolist()

    def test_faces_stay_on_disk_if_they_are_many(self, tmp_path, monkeypatch, capsys):
        put_archives("celeba", tmp_path)
        small = datasets.load("celeba", tmp_path, "test")
        monkeypatch.setattr(opening, "LARGE", 1)
        split = datasets.load("celeba", tmp_path, "test")
        assert "15 images stay on disk" in capsys.readouterr().err
        for images, others in zip(split, small, strict=True):
            assert torch.equal(images.images[:], others.images)
            assert fingerprint(images) == fingerprint(images.select(torch.arange(len(images))))
        (batch,) = split.train.batches(4, 1, "cpu")(3)
        (expected,) = small.train.batches(4, 1, "cpu")(3)
        assert torch.equal(batch, expected)
        file = tmp_path / "celeba" / "img_align_celeba" / split.train.images.data.filename[0]
        before = fingerprint(split.train)
        file.write_bytes(file.read_bytes()[:100])
        assert fingerprint(split.train) != before
        with refused("--data celeba", file.name, "cannot be read", "delete"):
            split.train.images[:]
        file.unlink()
        with refused("--data celeba", file.name, "cannot be read"):
            fingerprint(split.train)

    def test_faces_in_grey_are_those_in_colour_turned_grey(self, tmp_path):
        put_archives("celeba", tmp_path)
        colour = datasets.load("celeba", tmp_path, "test").train.images
        for in_memory in ("always", "never"):
            options = DataOptions(in_memory=in_memory, grey=True)
            grey = datasets.load("celeba", tmp_path, "test", options).train.images
            assert torch.equal(grey[:], to_grey(colour))

    def test_other_images_cannot_stay_on_disk(self, tmp_path):
        with refused("--in-memory never", "--data mnist5k", "leave it out"):
            datasets.load("mnist5k", tmp_path, "test", DataOptions(in_memory="never"))

    @pytest.mark.parametrize("name", ["omniglot", "celeba"])
    def test_images_that_memory_has_no_room_for_are_refused(self, tmp_path, monkeypatch, name):
        put_archives(name, tmp_path)
        monkeypatch.setattr(memory, "available", lambda: 1_000)
        with refused(f"--data {name}", "images", "of memory"):
            datasets.load(name, tmp_path, "test", DataOptions(in_memory="always"))


class TestDebian:
    @pytest.fixture
    def package(self, tmp_path, monkeypatch):
        folder = tmp_path / "debian"
        put(OFFICIAL["fashion-mnist"].archives, folder)
        monkeypatch.setattr(torchvision_sets, "DEBIAN", folder)
        return folder

    def test_is_the_folder_of_the_package(self, monkeypatch):
        monkeypatch.undo()
        assert str(torchvision_sets.DEBIAN) == "/usr/share/datasets/fashion-mnist"

    def test_is_read_and_nothing_is_downloaded_or_written(self, tmp_path, package, requests):
        check("fashion-mnist", datasets.load("fashion-mnist", tmp_path / "data", "test"))
        assert not requests
        assert not (tmp_path / "data").exists()

    def test_is_not_read_if_the_files_were_downloaded(self, tmp_path, package):
        put_archives("fashion-mnist", tmp_path)
        for file in package.iterdir():
            file.unlink()
        check("fashion-mnist", datasets.load("fashion-mnist", tmp_path, "test"))
        put({"train-images-idx3-ubyte.gz": b"damaged"}, package)
        check("fashion-mnist", datasets.load("fashion-mnist", tmp_path, "test"))

    def test_is_not_read_if_it_is_incomplete(self, tmp_path, package):
        (package / "t10k-labels-idx1-ubyte.gz").unlink()
        with refused("--data fashion-mnist", "no network"):
            datasets.load("fashion-mnist", tmp_path / "data", "test")

    @pytest.mark.parametrize("content", [b"damaged", gzip.compress(b"damaged", mtime=0)])
    def test_a_damaged_package_is_refused(self, tmp_path, package, content):
        (package / "train-images-idx3-ubyte.gz").write_bytes(content)
        with refused("--data fashion-mnist", "dataset-fashion-mnist", str(package), "install"):
            datasets.load("fashion-mnist", tmp_path / "data", "test")


def test_every_source_has_an_entry_and_every_download_a_source():
    downloaded = {
        name
        for name, entry in catalogue.CATALOGUE.items()
        if entry.group in (catalogue.GREY, catalogue.COLOUR)
    }
    assert downloaded == set(torchvision_sets.SOURCES) == set(OFFICIAL)


def test_a_command_without_network_ends_with_status_2(tmp_path, capsys):
    run = tmp_path / "run"
    flags = ["--data", "cifar10", "--data-dir", str(tmp_path), "--run-dir", str(run)]

    with pytest.raises(SystemExit) as end:
        command(ae.AESettings, ae.main, flags)
    assert end.value.code == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert "--data cifar10 could not be downloaded" in error
    assert not run.exists()
