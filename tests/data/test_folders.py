"""Folders of images: colour, classes, splits and damaged files."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.refusals import refused
from train.data import datasets, images
from train.data.options import DataOptions
from train.data.reading import files, folders

M = 12
RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (M, 6, 5, 3), dtype=np.uint8)
GREY = RANDOM.integers(0, 256, (M, 6, 5), dtype=np.uint8)


def save(folder: Path, arrays: np.ndarray, first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, array in enumerate(arrays, start=first):
        Image.fromarray(array).save(folder / f"{number:02d}.png")


def channels_first(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, -1, 1)


def pil_luma(array: np.ndarray) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in array])[:, None]


class TestColour:
    def test_colour_is_kept(self, tmp_path, capsys):
        save(tmp_path, COLOUR)
        np.testing.assert_array_equal(files.read(str(tmp_path)).images, channels_first(COLOUR))
        assert not capsys.readouterr().err

    def test_grey_turns_it_off(self, tmp_path, capsys):
        save(tmp_path, COLOUR)
        read = files.read(str(tmp_path), DataOptions(grey=True)).images
        np.testing.assert_array_equal(read, pil_luma(COLOUR))
        assert "12 of 12 images were colour and were turned to grey" in capsys.readouterr().err

    @pytest.mark.parametrize("first", ["grey", "colour"])
    def test_some_grey_and_some_in_colour(self, tmp_path, capsys, first):
        colour, grey = (3, 0) if first == "grey" else (0, 9)
        save(tmp_path, COLOUR[:9], colour)
        save(tmp_path, GREY[:3], grey)
        read = files.read(str(tmp_path)).images
        np.testing.assert_array_equal(read[colour : colour + 9], channels_first(COLOUR[:9]))
        for channel in range(3):
            np.testing.assert_array_equal(read[grey : grey + 3, channel], GREY[:3])
        printed = capsys.readouterr().err
        assert printed == (
            f"note: {tmp_path}: 9 of 12 images have colour and the others are grey: all get three "
            "channels\n"
        )

    def test_equal_channels_are_grey(self, tmp_path):
        save(tmp_path, np.repeat(GREY[..., None], 3, -1))
        np.testing.assert_array_equal(files.read(str(tmp_path)).images, GREY[:, None])

    @pytest.mark.parametrize("mode", ["P", "CMYK", "RGBA", "1"])
    def test_modes(self, tmp_path, mode):
        save(tmp_path, COLOUR)
        stored = Image.fromarray(COLOUR[4]).convert(mode)
        (tmp_path / "04.png").unlink()
        stored.save(tmp_path / "04.tif")
        expected = np.moveaxis(np.asarray(stored.convert("RGB")), -1, 0)
        np.testing.assert_array_equal(files.read(str(tmp_path)).images[4], expected)

    def test_sixteen_bits_beside_colour(self, tmp_path):
        save(tmp_path, COLOUR)
        Image.fromarray(GREY[2].astype(np.uint16) * 257).save(tmp_path / "02.png")
        read = files.read(str(tmp_path)).images
        np.testing.assert_array_equal(read[2], np.stack([GREY[2]] * 3))

    def test_rotated(self, tmp_path):
        save(tmp_path, COLOUR)
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(np.ascontiguousarray(np.rot90(COLOUR[5]))).save(
            tmp_path / "05.png", exif=exif
        )
        np.testing.assert_array_equal(files.read(str(tmp_path)).images, channels_first(COLOUR))

    @pytest.mark.parametrize(
        ("ink", "background"), [((200, 40, 0), 0), ((0, 0, 20), 255)], ids=["red", "dark blue"]
    )
    def test_transparent(self, tmp_path, capsys, ink, background):
        """The background is black, or white if the ink is lost on black."""
        save(tmp_path, COLOUR)
        drawn = np.zeros((6, 5, 4), np.uint8)
        drawn[1:4, 1:4] = (*ink, 255)
        drawn[4, 1] = (*ink, 102)
        Image.fromarray(drawn).save(tmp_path / "02.png")
        expected = np.full((6, 5, 3), background, np.float64)
        expected[1:4, 1:4] = ink
        expected[4, 1] = 0.4 * np.array(ink) + 0.6 * background
        read = files.read(str(tmp_path)).images
        np.testing.assert_allclose(read[2], np.moveaxis(expected, -1, 0), atol=0.51)
        np.testing.assert_array_equal(read[3], channels_first(COLOUR)[3])
        name = "black" if background == 0 else "white"
        assert f"1 of 12 images were transparent and were put on {name}" in capsys.readouterr().err

    def test_invisible_colour_is_no_colour(self, tmp_path):
        save(tmp_path, GREY)
        drawn = np.zeros((6, 5, 4), np.uint8)
        drawn[..., 0] = 255
        drawn[2, 2] = 255
        Image.fromarray(drawn).save(tmp_path / "02.png")
        read = files.read(str(tmp_path)).images
        assert read.shape == (M, 1, 6, 5)
        assert read[2].sum() == 255

    def test_images_of_another_size(self, tmp_path):
        save(tmp_path, COLOUR)
        Image.fromarray(GREY[0].T.copy()).save(tmp_path / "04.png")
        with refused("04.png is 6 x 5 but 00.png is 5 x 6", "one size"):
            files.read(str(tmp_path))

    def test_memory_counts_channels(self, tmp_path, monkeypatch):
        save(tmp_path, COLOUR)
        monkeypatch.setattr(folders.memory, "available", lambda: 2 * COLOUR.nbytes - 1)
        with refused("12 images need 1.08 kB", "or --grey"):
            files.read(str(tmp_path))
        assert files.read(str(tmp_path), DataOptions(grey=True)).images.shape[1] == 1


class TestPictures:
    """PIL images from Python."""

    def test_channels_follow_the_pictures(self):
        pictures = [Image.fromarray(array) for array in COLOUR]
        read = images.as_images(pictures)
        np.testing.assert_array_equal(read.numpy(), channels_first(COLOUR))
        lines: list[str] = []
        read = images.as_images([*pictures, Image.fromarray(GREY[0])], say=lines.append)
        np.testing.assert_array_equal(read[-1].numpy(), np.stack([GREY[0]] * 3))
        assert "12 of 13 images have colour" in lines[0]

    def test_channels_of_a_model(self):
        shape = images.Shape(1, 6, 5)
        lines: list[str] = []
        read = images.as_images(Image.fromarray(COLOUR[0]), shape, say=lines.append)
        np.testing.assert_array_equal(read.numpy(), pil_luma(COLOUR[:1]))
        assert "turned to grey" in lines[0]
        read = images.as_images(Image.fromarray(GREY[0]), images.Shape(3, 6, 5))
        np.testing.assert_array_equal(read[0].numpy(), np.stack([GREY[0]] * 3))


class TestLayout:
    def test_a_folder_for_each_class(self, tmp_path):
        save(tmp_path / "cat", GREY[:5])
        save(tmp_path / "ant" / "red", GREY[5:8])
        save(tmp_path / "ant", GREY[8:], first=50)
        save(tmp_path / ".thumbnails", GREY)
        (tmp_path / "notes").mkdir()
        (tmp_path / "notes" / "read me.txt").write_text("of nothing")
        contents = files.read(str(tmp_path))
        assert contents.label == ("class",)
        assert contents.labels.tolist() == ["ant"] * 7 + ["cat"] * 5
        np.testing.assert_array_equal(
            contents.images[:, 0], GREY[[8, 9, 10, 11, 5, 6, 7, *range(5)]]
        )
        assert contents.splits is None

    def test_classes_are_those_of_torchvision(self, tmp_path):
        from torchvision.datasets import ImageFolder

        for name in ("b", "a", "10", "2"):
            save(tmp_path / name, GREY[:3])
        theirs = ImageFolder(str(tmp_path))
        labels = files.read(str(tmp_path)).labels
        assert [theirs.classes[label] for label in theirs.targets] == labels.tolist()

    @pytest.mark.parametrize("words", [("train", "test"), ("Training", "VAL")])
    def test_given_splits(self, tmp_path, words):
        save(tmp_path / words[0], GREY[:9])
        save(tmp_path / words[1], GREY[9:], first=9)
        contents = files.read(str(tmp_path))
        assert contents.label == ()
        split = datasets.load(str(tmp_path), tmp_path, "test")
        np.testing.assert_array_equal(split.train.images[:, 0], GREY[:9])
        np.testing.assert_array_equal(split.held_out.images[:, 0], GREY[9:])

    def test_given_splits_with_classes(self, tmp_path):
        for name, rows in {"b": [0, 1, 2, 3], "a": [4, 5, 6, 7]}.items():
            save(tmp_path / "train" / name, GREY[rows])
        save(tmp_path / "test" / "b", GREY[8:10])
        split = datasets.load(str(tmp_path), tmp_path, "test")
        assert split.train.labels.tolist() == [0] * 4 + [1] * 4
        # Classes have one index in both splits.
        assert split.held_out.labels.tolist() == [1, 1]
        assert split.held_out.values.tolist() == ["b", "b"]

    def test_three_splits(self, tmp_path, capsys):
        for name, rows in {
            "train": slice(0, 8),
            "val": slice(8, 10),
            "test": slice(10, 12),
        }.items():
            save(tmp_path / name, GREY[rows])
        held_out = datasets.load(str(tmp_path), tmp_path, "test").held_out
        np.testing.assert_array_equal(held_out.images[:, 0], GREY[10:])
        assert "2 validation images are not used" in capsys.readouterr().err
        train, held_out = datasets.load(str(tmp_path), tmp_path, "validation")
        np.testing.assert_array_equal(held_out.images[:, 0], GREY[8:10])
        assert len(train) == 8

    def test_validation_images_are_tested_on_if_there_are_no_others(self, tmp_path, capsys):
        save(tmp_path / "train", GREY[:9])
        save(tmp_path / "validation", GREY[9:])
        for evaluate_on in ("test", "validation"):
            split = datasets.load(str(tmp_path), tmp_path, evaluate_on)
            assert (len(split.train), len(split.held_out)) == (9, 3)
        assert "there are no test images: the 3 validation images" in capsys.readouterr().err

    def test_a_fifth_of_given_training_images(self, tmp_path):
        save(tmp_path / "train", GREY[:10])
        save(tmp_path / "test", GREY[10:])
        split = datasets.load(str(tmp_path), tmp_path, "validation")
        assert (len(split.train), len(split.held_out)) == (8, 2)
        pixels = {image.numpy().tobytes() for part in split for image in part.images}
        assert pixels == {image.tobytes() for image in GREY[:10]}

    @pytest.mark.parametrize("word", ["train", "test"])
    def test_words_for_splits_may_be_classes(self, tmp_path, word):
        for name in ("bus", word, "car"):
            save(tmp_path / name, GREY[:4])
        assert set(files.read(str(tmp_path)).labels) == {"bus", "car", word}

    @pytest.mark.parametrize(
        ("tree", "words"),
        [
            ({"": 3, "cat": 9}, ("00.png and cat/00.png", "folder of its class")),
            ({"train": 12}, ("the folders train alone", "train and test")),
            ({"test": 6, "val": 6}, ("the folders test, val alone", "train and test")),
            ({"train": 6, "test": 5, "cat": 3}, ("test, train, which are a split", "cat")),
            ({"train": 6, "test": 5, "": 3}, ("test, train, which are a split", "00.png")),
            ({"train": 6, "training": 5, "test": 3}, ("two of them are one split",)),
            ({"train": 8, "test/cat": 4}, ("train/00.png", "test/cat/00.png")),
            ({"train": 7, "test": 5}, ("7 images to train on", "8 and 2 or more")),
            ({"train": 11, "test": 1}, ("1 to evaluate on", "8 and 2 or more")),
        ],
    )
    def test_unclear_layouts_are_refused(self, tmp_path, tree, words):
        for name, count in tree.items():
            save(tmp_path / name, GREY[:count])
        with refused(str(tmp_path), *words):
            files.read(str(tmp_path))

    def test_a_split_is_given_once(self, tmp_path):
        for name in ("train", "test"):
            save(tmp_path / name, GREY)
        with refused("--split-column part", "has its split already"):
            files.read(str(tmp_path), DataOptions(split_column="part"))

    def test_a_link_to_a_folder_above_is_not_followed(self, tmp_path):
        save(tmp_path / "cat", GREY[:6])
        save(tmp_path / "dog", GREY[6:])
        (tmp_path / "cat" / "up").symlink_to(tmp_path)
        assert len(files.read(str(tmp_path)).images) == M

    def test_a_linked_folder_is_followed(self, tmp_path):
        save(tmp_path / "elsewhere" / "x", GREY)
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "cat").symlink_to(tmp_path / "elsewhere" / "x")
        assert files.read(str(tmp_path / "data")).labels.tolist() == ["cat"] * M


class TestBadFiles:
    @pytest.fixture
    def folder(self, tmp_path):
        save(tmp_path, COLOUR)
        for number in (1, 4, 7, 9):
            (tmp_path / f"{number:02d}.png").write_bytes(b"no image")
        content = (tmp_path / "11.png").read_bytes()
        (tmp_path / "11.png").write_bytes(content[: len(content) // 2])
        return tmp_path

    def test_they_are_named_and_counted(self, folder):
        with refused(
            "01.png is not a readable image", "04.png", "07.png", "2 more", "--skip-bad"
        ) as refusal:
            files.read(str(folder))
        assert "09.png" not in str(refusal.value)

    def test_they_are_skipped(self, folder, capsys, monkeypatch):
        monkeypatch.setattr(files, "FEWEST", 7)
        read = files.read(str(folder), DataOptions(skip_bad=True)).images
        rows = [0, 2, 3, 5, 6, 8, 10]
        np.testing.assert_array_equal(read, channels_first(COLOUR)[rows])
        printed = capsys.readouterr().err
        assert "5 of 12 files are left out" in printed
        assert all(f"{number:02d}.png is not" in printed for number in (1, 4, 7, 9, 11))

    def test_their_rows_of_a_table_are_skipped(self, folder, monkeypatch):
        monkeypatch.setattr(files, "FEWEST", 7)
        rows = "\n".join(f"{number:02d}.png,{number}" for number in range(M))
        (folder / "labels.csv").write_text(f"file,label\n{rows}\n")
        options = DataOptions(skip_bad=True, labels=folder / "labels.csv")
        assert files.read(str(folder), options).labels.tolist() == [0, 2, 3, 5, 6, 8, 10]

    def test_other_things_are_skipped(self, tmp_path, capsys):
        save(tmp_path, GREY)
        os.mkfifo(tmp_path / "x.png")
        Image.fromarray(GREY[2] / np.float32(255)).save(tmp_path / "y.tif")
        assert len(files.read(str(tmp_path), DataOptions(skip_bad=True)).images) == M
        printed = capsys.readouterr().err
        assert "x.png is a named pipe" in printed
        assert "y.tif has 32 bits a pixel" in printed

    def test_the_only_colour_image_is_damaged_in_a_later_page(self, tmp_path):
        save(tmp_path, GREY)
        first, second = (Image.fromarray(array) for array in COLOUR[:2])
        first.save(tmp_path / "x.tif", save_all=True, append_images=[second])
        content = (tmp_path / "x.tif").read_bytes()
        read = files.read(str(tmp_path)).images
        assert read.shape == (M + 2, 3, 6, 5)
        # The file ends within the pixels of the second page.
        cut = content[: content.index(COLOUR[1].tobytes()) + 20]
        (tmp_path / "x.tif").write_bytes(cut)
        with refused("x.tif is not a readable image"):
            files.read(str(tmp_path))
        read = files.read(str(tmp_path), DataOptions(skip_bad=True)).images
        np.testing.assert_array_equal(read, GREY[:, None])

    def test_no_file_is_left(self, tmp_path):
        for number in range(M):
            (tmp_path / f"{number}.png").write_bytes(b"no image")
        with refused("none of the 12 files is a readable image"):
            files.read(str(tmp_path), DataOptions(skip_bad=True))

    def test_an_archive_has_no_files_to_skip(self, tmp_path):
        np.savez(tmp_path / "data.npz", images=GREY)
        with refused("--skip-bad", "no folder"):
            files.read(str(tmp_path / "data.npz"), DataOptions(skip_bad=True))


class TestOpened:
    """Images of a folder that are decoded on demand."""

    @pytest.mark.parametrize("grey", [False, True])
    def test_they_are_those_that_are_read(self, tmp_path, grey):
        save(tmp_path / "a", COLOUR[:6])
        save(tmp_path / "b", GREY[6:])
        first, *others = (Image.fromarray(array) for array in COLOUR[:3])
        first.save(tmp_path / "b" / "x.tif", save_all=True, append_images=others)
        options = DataOptions(grey=grey)
        read, opened = files.read(str(tmp_path), options), files.open_images(str(tmp_path), options)
        assert len(opened.images) == 15
        assert opened.images.shape == read.images.shape[1:]
        pictures = pickle.loads(pickle.dumps(opened.images))
        np.testing.assert_array_equal(np.stack([pictures[i] for i in range(15)]), read.images)
        assert opened.labels.tolist() == read.labels.tolist()

    def test_they_are_turned_upright(self, tmp_path):
        """The header says so, and the sizes are those of upright images."""
        exif = Image.Exif()
        exif[0x0112] = 6
        for number, array in enumerate(COLOUR):
            lying = Image.fromarray(np.ascontiguousarray(np.rot90(array)))
            lying.save(tmp_path / f"{number:02d}.{('png', 'tif')[number % 2]}", exif=exif)
        pictures = files.open_images(str(tmp_path)).images
        assert pictures.shape == (3, 6, 5)
        np.testing.assert_array_equal(pictures[3], channels_first(COLOUR)[3])
        np.testing.assert_array_equal(pictures[4], channels_first(COLOUR)[4])

    def test_a_palette_of_grey_has_no_colour(self, tmp_path):
        for number, array in enumerate(GREY):
            Image.fromarray(array).convert("P").save(tmp_path / f"{number:02d}.gif")
        assert files.open_images(str(tmp_path)).images.shape == (1, 6, 5)

    def test_damage_is_refused_where_it_is_met(self, tmp_path):
        save(tmp_path, COLOUR)
        content = (tmp_path / "07.png").read_bytes()
        (tmp_path / "07.png").write_bytes(content[:-40])
        pictures = files.open_images(str(tmp_path)).images
        np.testing.assert_array_equal(pictures[6], channels_first(COLOUR)[6])
        with refused("07.png is not a readable image", "replace it"):
            pictures[7]

    def test_sizes_are_compared_by_their_headers(self, tmp_path):
        save(tmp_path, COLOUR)
        Image.fromarray(GREY[0].T.copy()).save(tmp_path / "04.png")
        with refused("04.png is 6 x 5 but 00.png is 5 x 6", "one size"):
            files.open_images(str(tmp_path))
