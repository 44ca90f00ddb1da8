"""Tables of labels, columns of archives, and which of them are the label and the split."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.refusals import refused
from train.compare import CompareSettings, reproduced
from train.data import datasets
from train.data.fingerprint import fingerprint
from train.data.labelled import Images
from train.data.options import DataOptions
from train.data.reading import files, tables
from train.data.scenes import load_scenes
from train.settings import SceneSettings, Settings
from train.settings.flags import parse

M = 12
GREY = np.random.default_rng(0).integers(0, 256, (M, 6, 5), dtype=np.uint8)
DIGITS = [number % 3 for number in range(M)]
SLANTS = [number / 8 - 0.5 for number in range(M)]
WORDS = ["b c" if number % 2 else "a" for number in range(M)]
PARTS = ["train"] * 9 + ["test"] * 3


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "images").mkdir()
    for number, image in enumerate(GREY):
        Image.fromarray(image).save(tmp_path / "images" / f"{number:02d}.png")
    return tmp_path / "images"


@pytest.fixture
def archive(tmp_path) -> Path:
    np.savez(tmp_path / "data.npz", images=GREY)
    return tmp_path / "data.npz"


def table(folder: Path, *columns: list, name: str = "labels.csv", separator: str = ",") -> Path:
    """Writes a table: each column is a list of its name and its values."""
    path = folder.parent / name
    rows = [separator.join(map(str, row)) for row in zip(*columns, strict=True)]
    path.write_text("\n".join(rows) + "\n")
    return path


def names(form: str = "{:02d}.png") -> list[str]:
    return ["file", *(form.format(number) for number in range(M))]


def read(path: Path, labels: Path, *label_column: str, **others) -> files.Contents:
    options = DataOptions(labels=labels, label_column=label_column, **others)
    return files.read(str(path), options)


class TestFileNames:
    @pytest.mark.parametrize("form", ["{:02d}.png", "{:02d}", "./{:02d}.png", "images/{:02d}.png"])
    def test_forms(self, folder, form):
        order = np.random.default_rng(1).permutation(M)
        cells = [form.format(number) for number in order]
        path = table(folder, ["digit", *(DIGITS[i] for i in order)], ["name", *cells])
        contents = read(folder, path)
        assert contents.labels.tolist() == DIGITS
        assert contents.labels.dtype == np.int64
        assert list(contents.columns) == ["digit"]

    @pytest.mark.parametrize("form", ["{0}/{1:02d}.png", "{1:02d}.png", "{1:02d}"])
    def test_files_in_folders(self, folder, form):
        """A name alone is enough if it is the only one."""
        for number in range(M):
            target = folder / ("ant" if number < 5 else "cat")
            target.mkdir(exist_ok=True)
            (folder / f"{number:02d}.png").rename(target / f"{number:02d}.png")
        cells = [form.format("ant" if number < 5 else "cat", number) for number in range(M)]
        path = table(folder, ["file", *cells], ["slant", *SLANTS])
        contents = read(folder, path)
        assert contents.labels.tolist() == SLANTS
        assert contents.columns["class"].tolist() == ["ant"] * 5 + ["cat"] * 7
        assert read(folder, path, "class").labels.tolist() == ["ant"] * 5 + ["cat"] * 7

    def test_a_name_in_two_folders_is_no_name(self, folder):
        for name in ("ant", "cat"):
            (folder / name).mkdir()
        for number in range(M):
            (folder / f"{number:02d}.png").rename(
                folder / ("ant", "cat")[number % 2] / f"{number // 2}.png"
            )
        path = table(folder, ["file", *(f"{n // 2}.png" for n in range(M))], ["digit", *DIGITS])
        with refused("no column names the files", "ant/0.png", "'0.png, 0'"):
            read(folder, path)

    def test_another_column_looks_like_names(self, folder):
        """Files are called by numbers, and so are classes."""
        for number in range(M):
            (folder / f"{number:02d}.png").rename(folder / f"{number}.png")
        path = table(folder, ["digit", *DIGITS], ["id", *range(M)])
        expected = [DIGITS[int(name)] for name in sorted(map(str, range(M)))]
        assert read(folder, path).labels.tolist() == expected
        path = table(folder, ["one", *range(M)], ["other", *reversed(range(M))])
        with refused("columns one and other both name files"):
            read(folder, path)

    def test_pages_have_the_row_of_their_file(self, folder):
        first, *others = (Image.fromarray(image) for image in GREY[:3])
        first.save(folder / "00.tif", save_all=True, append_images=others)
        (folder / "00.png").unlink()
        path = table(folder, names("{:02d}"), ["digit", *DIGITS])
        assert read(folder, path).labels.tolist() == [0, 0, 0, *DIGITS[1:]]

    @pytest.mark.parametrize(
        ("cells", "words"),
        [
            (
                [f"{n:02d}.png" for n in range(4, 16)],
                (
                    "4 of its 12 rows name files that are not in",
                    "(12.png, 13.png, 14.png, ...)",
                    "4 of the 12 files have no row (00.png, 01.png, 02.png, ...)",
                ),
            ),
            ([f"{n:02d}.png" for n in range(11)], ("1 of the 12 files have no row (11.png)",)),
            ([f"{n:02d}.png" for n in (*range(12), 3)], ("lines 5 and 14", "03.png", "one row")),
            ([f"{n}.jpg" for n in range(100, 112)], ("no column names", "00.png", "'100.jpg, 0'")),
        ],
        ids=["both", "no row", "twice", "none"],
    )
    def test_rows_that_do_not_go_with_files(self, folder, cells, words):
        path = table(folder, ["file", *cells], ["digit", *range(len(cells))])
        with refused("labels.csv", *words):
            read(folder, path)

    def test_without_labels(self, folder):
        with refused("file names alone"):
            read(folder, table(folder, names()))


class TestArrays:
    def test_rows_are_in_the_order_of_the_images(self, archive):
        path = table(archive, ["digit", *DIGITS], ["slant", *SLANTS])
        contents = read(archive, path, "slant")
        assert contents.labels.tolist() == SLANTS
        assert contents.columns["digit"].tolist() == DIGITS

    def test_another_number_of_rows(self, archive):
        with refused("10 rows below its header but", "12 images"):
            read(archive, table(archive, ["digit", *DIGITS[:10]]))

    def test_a_header_may_be_missing(self, archive):
        with refused("11 rows below its header (is its first row a header?)"):
            read(archive, table(archive, WORDS))

    def test_columns_of_an_archive(self, tmp_path):
        np.savez(
            tmp_path / "data.npz",
            **{"images": GREY, "labels": np.array(DIGITS), "slant": np.array(SLANTS)},
            **{"word": np.array(WORDS), "bytes": np.array(WORDS).astype("S")},
            **{"one": np.int64(3), "short": np.arange(3), "wide": GREY.astype(float)},
            **{"objects": np.array([{}] * M), "day": np.array(["2020-01-01"] * M, "datetime64[D]")},
        )
        contents = files.read(str(tmp_path / "data.npz"))
        assert set(contents.columns) == {"labels", "slant", "word", "bytes"}
        assert contents.label == ("labels",)
        assert contents.columns["word"].tolist() == contents.columns["bytes"].tolist() == WORDS
        options = DataOptions(label_column=("slant",))
        assert files.read(str(tmp_path / "data.npz"), options).labels.tolist() == SLANTS

    def test_columns_without_labels_are_no_label(self, tmp_path):
        np.savez(tmp_path / "data.npz", images=GREY, digit=np.array(DIGITS))
        contents = files.read(str(tmp_path / "data.npz"))
        assert contents.labels is None
        assert contents.columns["digit"].tolist() == DIGITS
        split = datasets.load(str(tmp_path / "data.npz"), tmp_path, "test")
        assert split.train.labels is None
        with refused("--data has no labels", "--label-column", "digit"):
            split.train.require_labels()
        assert len(split.held_out.column("digit")) == 2

    def test_labels_of_several_columns_are_numbered(self, tmp_path):
        labels = np.stack([np.arange(M), np.arange(M) % 2], axis=1)
        np.savez(tmp_path / "data.npz", images=GREY, labels=labels)
        contents = files.read(str(tmp_path / "data.npz"))
        assert contents.label == ("0", "1")
        np.testing.assert_array_equal(contents.labels, labels)
        options = DataOptions(label_column=("1",))
        assert files.read(str(tmp_path / "data.npz"), options).labels.tolist() == [0, 1] * 6

    def test_a_column_that_is_not_finite_is_left_out(self, tmp_path, capsys):
        np.savez(tmp_path / "data.npz", images=GREY, slant=np.full(M, np.nan))
        assert not files.read(str(tmp_path / "data.npz")).columns
        assert "left out: " in capsys.readouterr().err
        with refused("--label-column slant", "not finite"):
            files.read(str(tmp_path / "data.npz"), DataOptions(label_column=("slant",)))

    def test_labels_beside_an_array(self, tmp_path):
        np.save(tmp_path / "data.npy", GREY)
        assert files.read(str(tmp_path / "data.npy")).labels is None
        np.save(tmp_path / "data-labels.npy", np.array(DIGITS))
        contents = files.read(str(tmp_path / "data.npy"))
        np.testing.assert_array_equal(contents.images[:, 0], GREY)
        assert contents.labels.tolist() == DIGITS
        opened = files.open_images(str(tmp_path / "data.npy"))
        assert opened.images.paths == (tmp_path / "data.npy",)
        assert opened.labels.tolist() == DIGITS
        np.save(tmp_path / "data-labels.npy", np.array(DIGITS[:5]))
        with refused("data-labels.npy has shape (5,)", "12 images"):
            files.read(str(tmp_path / "data.npy"))

    @pytest.mark.parametrize("suffix", ["npz", "npy"])
    def test_a_split_in_files(self, tmp_path, suffix):
        for name, rows in {"train": slice(0, 9), "test": slice(9, 12)}.items():
            if suffix == "npz":
                np.savez(tmp_path / f"{name}.npz", images=GREY[rows], labels=DIGITS[rows])
            else:
                np.save(tmp_path / f"{name}.npy", GREY[rows])
                np.save(tmp_path / f"{name}-labels.npy", DIGITS[rows])
        split = datasets.load(str(tmp_path), tmp_path, "test")
        np.testing.assert_array_equal(split.train.images[:, 0], GREY[:9])
        np.testing.assert_array_equal(split.held_out.images[:, 0], GREY[9:])
        assert split.held_out.labels.tolist() == DIGITS[9:]
        assert len(files.open_images(str(tmp_path)).images) == M

    def test_arrays_beside_images(self, folder):
        np.savez(folder / "test.npz", images=GREY)
        assert len(files.read(str(folder)).images) == M
        np.savez(folder / "train.npz", images=GREY)
        with refused("images beside test.npz, train.npz"):
            files.read(str(folder))

    @pytest.mark.parametrize(
        ("columns", "words"),
        [
            ({"train": {}}, ("train.npz alone", "train and test")),
            ({"train": {}, "test": {"labels": 0}}, ("labels and columns", "train.npz")),
            ({"train": {}, "test": {"images": 1}}, ("(1, 5, 6)", "(1, 6, 5)", "one shape")),
            ({"train": {"x": 0.5}, "test": {"x": "a"}}, ("x is fractions in", "but text in")),
        ],
    )
    def test_files_of_a_split_that_do_not_go_together(self, tmp_path, columns, words):
        for name, values in columns.items():
            images = GREY.transpose(0, 2, 1) if "images" in values else GREY
            others = {key: [value] * M for key, value in values.items() if key != "images"}
            np.savez(tmp_path / f"{name}.npz", images=images, **others)
        with refused(*words):
            files.read(str(tmp_path))

    @pytest.mark.parametrize(
        "content",
        [b"", b"no array", b"\x93NUMPY\x01\x00", None],
        ids=["empty", "text", "cut", "objects"],
    )
    def test_damaged_arrays(self, tmp_path, content):
        path = tmp_path / "data.npy"
        if content is None:
            np.save(path, np.array([{}] * M), allow_pickle=True)
        else:
            path.write_bytes(content)
        with refused(str(path), "numpy.save(path, images)"):
            files.read(str(path))

    def test_an_array_that_is_cut_short(self, tmp_path):
        np.save(tmp_path / "data.npy", GREY)
        path = tmp_path / "data.npy"
        path.write_bytes(path.read_bytes()[:-1])
        with refused(str(path), "damaged"):
            files.read(str(path))


class TestForms:
    @pytest.mark.parametrize("separator", [",", ";", "\t", ", "])
    @pytest.mark.parametrize("mark", ["", "\ufeff"])
    def test_separators_and_marks(self, folder, separator, mark):
        path = table(folder, names(), ["word", *WORDS], separator=separator)
        path.write_text(mark + path.read_text().replace("\n", "\r\n") + "\r\n")
        assert read(folder, path).labels.tolist() == WORDS

    def test_quotes(self, folder):
        cells = [f'"a, ""{number}""\nb"' for number in range(M)]
        path = table(folder, names(), ["word", *cells])
        assert read(folder, path).labels.tolist() == [f'a, "{n}"\nb' for n in range(M)]

    def test_a_single_column(self, archive):
        assert read(archive, table(archive, ["word", *WORDS])).labels.tolist() == WORDS

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", ("empty",)),
            (b"\n\n", ("empty",)),
            (b"\xff\xfef\x00i\x00", ("not UTF-8", "save it as CSV UTF-8")),
            (b"file,n\xe4me\n", ("not UTF-8",)),
            (b"a\0b,c\n", ("no table of text",)),
            (b"file,label\n", ("no rows",)),
            (b"0,1\n2,3\n", ("no header", "0, 1")),
            (b"00.png,1\n01.png,2\n", ("no header", "names the file 00.png")),
            (b"file,label,label\n00.png,1,2\n", ("two columns are called 'label'",)),
            (b",file,label\n0,00.png,1\n", ("column 1 has no name", "index=False")),
            (b"file,label\n00.png,1\n01.png\n", ("line 3 has 1 cells", "has 2")),
            (b"file,label\n00.png,1,5\n", ("line 2 has 3 cells", "in quotes")),
            (b'file,label\n"00.png,1\n', ("line 2", "close the quotes")),
            (b'file,label\n"00"x,1\n', ("line 2", "close the quotes")),
            (b"a,b;c\n1,2;3\n", ("by a comma or by a semicolon",)),
        ],
    )
    def test_unreadable_tables(self, folder, content, words):
        path = folder.parent / "labels.csv"
        path.write_bytes(content)
        with refused("labels.csv", *words):
            read(folder, path)

    def test_other_things_than_tables(self, folder):
        with refused("gone.csv", "no such file"):
            read(folder, folder / "gone.csv")
        with refused("is a folder", ".csv or .tsv"):
            read(folder, folder)
        (folder / "labels.xlsx").write_bytes(b"PK")
        with refused("labels.xlsx is another file", ".csv or .tsv"):
            read(folder, folder / "labels.xlsx")
        os.mkfifo(folder / "labels.csv")
        with refused("labels.csv is a named pipe"):
            read(folder, folder / "labels.csv")


class TestTypes:
    @pytest.mark.parametrize(
        ("cells", "expected"),
        [
            (range(M), np.arange(M)),
            (SLANTS, np.array(SLANTS)),
            (WORDS, np.array(WORDS)),
            (["1.0", "2.0"] * 6, np.array([1, 2] * 6)),
            (["1e3", "-.5", "+2"] * 4, np.array([1e3, -0.5, 2] * 4)),
            (["007", "010"] * 6, np.array(["007", "010"] * 6)),
            (["12", "12b"] * 6, np.array(["12", "12b"] * 6)),
            (["none", "some"] * 6, np.array(["none", "some"] * 6)),
            (["nan", "none"] * 6, np.array(["nan", "none"] * 6)),
            (["True", "False"] * 6, np.array(["True", "False"] * 6)),
            ([10**18, 5] * 6, np.array(["1" + "0" * 18, "5"] * 6)),
        ],
    )
    def test_types(self, archive, cells, expected):
        labels = read(archive, table(archive, ["x", *cells])).labels
        np.testing.assert_array_equal(labels, expected)
        assert labels.dtype == expected.dtype

    @pytest.mark.parametrize(
        ("bad", "words"),
        [
            ("", ("no value in line 7", "fill it in")),
            ("NA", ("no value in line 7 (NA)",)),
            ("nan", ("no value in line 7 (nan)",)),
            ("-inf", ("not finite in line 7 (-inf)",)),
            ("0.2.5", ("0.2.5", "line 7", "all numbers, or all words")),
            ("w" * 201, ("all numbers, or all words",)),
        ],
    )
    def test_a_bad_value_in_a_column_of_quantities(self, archive, capsys, bad, words):
        path = table(archive, ["digit", *DIGITS], ["x", *SLANTS[:5], bad, *SLANTS[6:]])
        with refused("--label-column x: ", "column x", *words):
            read(archive, path, "x")
        # As another column it is left out.
        assert list(read(archive, path, "digit").columns) == ["digit"]
        assert "left out: " in capsys.readouterr().err

    @pytest.mark.parametrize("bad", ["", "w" * 201])
    def test_a_bad_word(self, archive, bad):
        words = "no value in line 7" if not bad else "201 characters in line 7"
        with refused("column x", words):
            read(archive, table(archive, ["x", *WORDS[:5], bad, *WORDS[6:]]))

    def test_decimal_commas(self, archive):
        cells = [str(slant).replace(".", ",") for slant in SLANTS]
        path = table(archive, ["d", *DIGITS], ["x", *cells], separator=";")
        with refused("column x has decimal commas (line 2: -0,5)", "points"):
            read(archive, path, "x")


class TestChoices:
    def columns(self, folder):
        return table(
            folder,
            *(names(), ["slant", *SLANTS], ["label", *DIGITS], ["word", *WORDS], ["part", *PARTS]),
        )

    def test_the_label_is_the_one_that_is_called_so(self, folder, capsys):
        contents = read(folder, self.columns(folder))
        assert contents.label == ("label",)
        printed = capsys.readouterr().err
        assert "the label is the column label; --label-column chooses among slant, label" in printed
        assert "column part has splits: --split-column part uses them" in printed

    def test_or_the_first_one(self, folder):
        path = table(folder, ["part", *PARTS], names(), ["x", *SLANTS], ["word", *WORDS])
        assert read(folder, path, split_column="part").label == ("x",)

    def test_several_quantities(self, folder):
        contents = read(folder, self.columns(folder), "slant", "label")
        np.testing.assert_array_equal(contents.labels, np.stack([SLANTS, DIGITS], 1))
        split = datasets.load(
            str(folder),
            folder,
            "test",
            DataOptions(labels=self.columns(folder), label_column=("slant", "label")),
        )
        assert split.train.labels.shape == (10, 2)
        assert set(split.train.columns) == {"slant", "label", "word", "part"}

    @pytest.mark.parametrize(
        ("chosen", "words"),
        [
            (("colour",), ("--label-column colour", "slant, label, word, part")),
            (("slant", "word"), ("--label-column slant word", "word is text")),
            (("slant", "slant"), ("twice",)),
            (("file",), ("no such column",)),
        ],
    )
    def test_labels_that_cannot_be_chosen(self, folder, chosen, words):
        with refused(*words):
            read(folder, self.columns(folder), *chosen)

    def test_a_column_of_splits(self, folder):
        options = DataOptions(labels=self.columns(folder), split_column="part")
        split = datasets.load(str(folder), folder, "test", options)
        np.testing.assert_array_equal(split.train.images[:, 0], GREY[:9])
        np.testing.assert_array_equal(split.held_out.images[:, 0], GREY[9:])
        assert "part" not in split.train.columns

    def test_a_column_of_splits_in_an_archive(self, tmp_path):
        np.savez(tmp_path / "data.npz", images=GREY, part=np.array(PARTS))
        options = DataOptions(split_column="part")
        split = datasets.load(str(tmp_path / "data.npz"), tmp_path, "test", options)
        assert (len(split.train), len(split.held_out)) == (9, 3)

    @pytest.mark.parametrize(
        ("column", "words"),
        [
            ("word", ("--split-column word has 'a'", "train, training, validation")),
            ("label", ("--split-column label has '0'", "train, training")),
            ("colour", ("--split-column colour", "no such column")),
        ],
    )
    def test_splits_of_other_words(self, folder, column, words):
        with refused(*words):
            read(folder, self.columns(folder), split_column=column)

    def test_a_column_that_the_data_have_already(self, tmp_path):
        np.savez(tmp_path / "data.npz", images=GREY, labels=np.array(DIGITS))
        path = table(tmp_path / "data.npz", ["labels", *DIGITS], ["word", *WORDS])
        assert read(tmp_path / "data.npz", path, "word").columns["labels"].tolist() == DIGITS
        path = table(tmp_path / "data.npz", ["labels", *reversed(DIGITS)], ["word", *WORDS])
        with refused("labels.csv", "a column labels with other values", "rename one"):
            read(tmp_path / "data.npz", path)

    def test_the_split_is_stratified_and_the_same_each_time(self, archive):
        path = table(archive, ["word", *["a"] * 10, "b", "b"])
        options = DataOptions(labels=path)
        first, second = (datasets.load(str(archive), archive, "test", options) for _ in range(2))
        assert fingerprint(*first) == fingerprint(*second)
        assert first.held_out.labels.bincount().tolist() == [2]


class TestScenes:
    def test_counts_and_splits_of_a_table(self, folder):
        path = table(folder, names(), ["counts", *DIGITS], ["part", *PARTS])
        settings = SceneSettings(data=str(folder), labels=path, split_column="part")
        split = load_scenes(settings)
        np.testing.assert_array_equal(split.held_out.images[:, 0], GREY[9:])
        assert split.train.counts.tolist() == DIGITS[:9]
        # A random split has the same share of each count.
        held_out = load_scenes(replace(settings, split_column=None)).held_out
        assert len(held_out.counts.unique()) == len(held_out) == 2

    def test_colour_and_grey(self, tmp_path):
        images = np.stack([GREY, GREY // 2, GREY // 3], axis=-1)
        np.savez(tmp_path / "data.npz", images=images)
        settings = SceneSettings(data=str(tmp_path / "data.npz"))
        assert load_scenes(settings).train.shape == (3, 6, 5)
        assert load_scenes(replace(settings, grey=True)).train.shape == (1, 6, 5)

    def test_other_counts_are_refused(self, folder):
        path = table(folder, names(), ["counts", *SLANTS])
        with refused("column counts must be", "whole numbers"):
            load_scenes(SceneSettings(data=str(folder), labels=path))


class TestSettings:
    @pytest.mark.parametrize("kind", [Settings, CompareSettings])
    def test_flags(self, kind):
        words = "--labels x.csv --label-column a b --split-column part --grey --skip-bad"
        expected = DataOptions(Path("x.csv"), ("a", "b"), "part", True, True)
        assert parse(kind, words.split()).data_options == expected
        assert parse(kind, []).data_options == DataOptions()

    def test_the_command_that_reproduces_a_comparison(self):
        settings = CompareSettings(labels=Path("x.csv"), label_column=("a", "b"), grey=True)
        words = reproduced("compare", settings)
        assert words == "python -m train.compare --labels x.csv --label-column a b --grey"


class TestNamed:
    @pytest.mark.parametrize(
        ("options", "flag"),
        [
            ({"labels": Path("x.csv")}, "--labels"),
            ({"split_column": "x"}, "--split-column"),
            ({"skip_bad": True}, "--skip-bad"),
        ],
    )
    def test_flags_of_own_images_are_refused(self, tmp_path, options, flag):
        with refused(f"{flag} is for your own images", "mnist5k"):
            datasets.load("mnist5k", tmp_path, "test", DataOptions(**options))

    @pytest.fixture
    def named(self, monkeypatch):
        """A named data set in colour, with two columns, whose parts have other classes."""
        import torch

        from train.data.catalogue import CATALOGUE, DataSet
        from train.data.labelled import Split

        images = torch.arange(M * 3 * 16, dtype=torch.uint8).reshape(M, 3, 4, 4)
        columns = {"shape": np.array(WORDS), "size": np.array(SLANTS)}
        whole = Images.of_columns(images, columns)
        rows = torch.tensor([*range(9)]), torch.tensor([9, 11])
        split = Split(*(whole.select(index) for index in rows))
        monkeypatch.setitem(CATALOGUE, "toys", DataSet("toys", lambda folder: split))
        return split

    def test_the_label_is_chosen(self, named, tmp_path):
        for chosen in (("size",), ("shape",)):
            split = datasets.load("toys", tmp_path, "test", DataOptions(label_column=chosen))
            assert split.train.values.tolist() == named.train.column(chosen[0]).tolist()
        # The held-out part has the second class alone.
        assert split.held_out.labels.tolist() == [1, 1]
        with refused("--label-column colour", "shape, size"):
            datasets.load("toys", tmp_path, "test", DataOptions(label_column=("colour",)))

    def test_grey(self, named, tmp_path):
        split = datasets.load("toys", tmp_path, "test", DataOptions(grey=True))
        assert split.train.shape == (1, 4, 4)
        for grey, colour in zip(split, named, strict=True):
            for image, source in zip(grey.images, colour.images, strict=True):
                luma = Image.fromarray(source.permute(1, 2, 0).numpy()).convert("L")
                np.testing.assert_array_equal(image[0], np.asarray(luma))
        assert split.held_out.columns.keys() == named.held_out.columns.keys()


def test_labels_of_earlier_versions_keep_their_hash(tmp_path):
    """Runs on an archive with labels alone are resumed with it."""
    import torch

    labels = np.array(DIGITS)
    np.savez(tmp_path / "data.npz", images=GREY, labels=labels)
    split = datasets.load(str(tmp_path / "data.npz"), tmp_path, "test")
    before = Images.labelled(torch.from_numpy(GREY), labels).hold_out()
    assert fingerprint(*split) == fingerprint(*before)
    np.savez(tmp_path / "data.npz", images=GREY, labels=labels, slant=np.array(SLANTS))
    split = datasets.load(str(tmp_path / "data.npz"), tmp_path, "test")
    assert fingerprint(*split) != fingerprint(*before)


def test_a_table_is_read_in_one_go(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("file,label\na.png,3\n\nb.png,4\n")
    assert tables.read(path).lines == [2, 4]
