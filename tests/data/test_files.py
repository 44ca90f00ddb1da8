import numpy as np
import pytest
from PIL import Image

from tests.data.refusals import refused
from train.data import files

M = 12
GREY = np.random.default_rng(0).integers(0, 256, (M, 6, 5), dtype=np.uint8)


def write(tmp_path, **arrays):
    np.savez(tmp_path / "own.npz", **arrays)
    return str(tmp_path / "own.npz")


def boxes(*rows):
    return np.tile(np.array(rows, dtype=np.float64), (M, 1, 1))


class TestArchives:
    @pytest.mark.parametrize(
        ("images", "expected"),
        [
            (GREY, GREY),
            (GREY[..., None], GREY),
            (GREY / 255, GREY),
            ((GREY / 255).astype(np.float32), GREY),
            (np.full((M, 2, 2), 0.5 / 255 + 1e-4), np.ones((M, 2, 2))),
            (GREY > 127, np.where(GREY > 127, 255, 0)),
        ],
        ids=["uint8", "one channel", "float64", "float32", "rounded", "bool"],
    )
    def test_images_become_uint8(self, tmp_path, images, expected):
        read = files.read(write(tmp_path, images=images)).images
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, expected)

    @pytest.mark.parametrize(
        ("labels", "kind"),
        [
            (np.arange(M, dtype=np.uint8), np.int64),
            (np.arange(M) % 2 == 0, np.int64),
            (np.linspace(-1, 1, M), np.float64),
            (np.arange(3 * M).reshape(M, 3), np.int64),
        ],
        ids=["classes", "bool", "quantity", "quantities"],
    )
    def test_labels(self, tmp_path, labels, kind):
        read = files.read(write(tmp_path, images=GREY, labels=labels)).labels
        assert read.dtype == kind
        np.testing.assert_allclose(read, labels.astype(kind))

    def test_rows_beyond_the_count_become_zeros(self, tmp_path):
        counts = np.arange(M) % 3
        given = boxes([0, 1, 2, 3], [1, 1, 4, 5])
        given[np.arange(2) >= counts[:, None]] = np.nan
        contents = files.read(
            write(tmp_path, images=GREY, counts=counts.astype(float), boxes=given)
        )
        assert contents.counts.dtype == np.int64
        np.testing.assert_array_equal(contents.counts, counts)
        np.testing.assert_array_equal(contents.boxes, np.nan_to_num(given))

    @pytest.mark.parametrize(
        ("arrays", "words"),
        [
            ({"pictures": GREY}, ("'images'", "pictures", "numpy.savez")),
            ({"images": GREY[0]}, ("(6, 5)", "(N, H, W)")),
            ({"images": np.zeros((M, 6, 5, 3))}, ("(12, 6, 5, 3)", "images.mean(3)")),
            ({"images": np.zeros((M, 3, 6, 5))}, ("(12, 3, 6, 5)", "images.mean(1)")),
            ({"images": np.zeros((0, 6, 5))}, ("empty",)),
            ({"images": np.zeros((M, 0, 5))}, ("empty",)),
            ({"images": GREY[:9]}, ("9 images", "10 or more")),
            ({"images": GREY.astype(np.int64)}, ("int64", "uint8", "[0, 1]")),
            ({"images": GREY.astype(complex)}, ("complex128", "uint8")),
            ({"images": GREY * 1.0}, ("255", "divide by 255")),
            ({"images": GREY / 255 - 0.5}, ("-0.5", "[0, 1]")),
            ({"images": np.where(GREY > 250, np.nan, 0)}, ("not finite",)),
            ({"images": np.where(GREY > 250, np.inf, 0)}, ("not finite",)),
            ({"images": np.array([None] * M)}, ("'images'", "objects")),
            ({"labels": np.array(["a", None] * 6, dtype=object)}, ("'labels'", "objects")),
            ({"labels": np.array(["a", "b"] * 6)}, ("'labels'", "numpy.unique")),
            ({"labels": np.arange(M - 1)}, ("'labels'", "(11,)", "12 images")),
            ({"labels": np.int64(3)}, ("'labels'", "()", "12 images")),
            ({"labels": np.zeros((M, 2, 2))}, ("'labels'", "(N, K)")),
            ({"labels": np.zeros((M, 0))}, ("'labels'", "(N, K)")),
            ({"labels": np.array([np.nan] * M)}, ("'labels'", "not finite")),
            ({"labels": np.arange(M) - 1}, ("'labels'", "-1", "from 0")),
            ({"counts": np.zeros(M + 1)}, ("'counts'", "(13,)", "12 images")),
            ({"counts": np.zeros((M, 1))}, ("'counts'", "(N,)")),
            ({"counts": np.arange(M) - 1}, ("'counts'", "0 or more")),
            ({"counts": np.full(M, 0.5)}, ("'counts'", "whole")),
            ({"counts": np.full(M, np.nan)}, ("'counts'", "whole")),
            ({"boxes": boxes([0, 0, 1, 1])}, ("'boxes'", "'counts'")),
            ({"boxes": np.zeros((M, 4)), "counts": np.zeros(M)}, ("'boxes'", "(N, K, 4)")),
            ({"boxes": np.zeros((3, 1, 4)), "counts": np.zeros(M)}, ("'boxes'", "12 images")),
            ({"boxes": boxes([0, 0, 1, 1]), "counts": np.full(M, 2)}, ("up to 2", "1 rows")),
            ({"boxes": boxes([0, 0, np.nan, 1]), "counts": np.ones(M)}, ("not finite",)),
            ({"boxes": boxes([4, 4, 2, 2]), "counts": np.ones(M)}, ("x0 < x1", "width")),
        ],
    )
    def test_what_cannot_be_used_is_refused(self, tmp_path, arrays, words):
        path = write(tmp_path, **({"images": GREY} | arrays))
        if "pictures" in arrays:
            path = write(tmp_path, **arrays)
        with refused(path, *words):
            files.read(path)

    def test_nothing_there(self, tmp_path):
        with refused("--data nmist", "mnist5k, mnist, fashion-mnist, kmnist"):
            files.read("nmist")
        with refused("gone.npz", "no such file"):
            files.read(str(tmp_path / "gone.npz"))

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"images: 1, 2, 3"])
    def test_not_an_archive(self, tmp_path, content):
        path = tmp_path / "own.npz"
        path.write_bytes(content)
        with refused(str(path), "numpy.savez"):
            files.read(str(path))

    def test_a_single_array(self, tmp_path):
        np.save(tmp_path / "own.npy", GREY)
        with refused("own.npy", "single array", "numpy.savez"):
            files.read(str(tmp_path / "own.npy"))

    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_flipped_bytes(self, tmp_path, save):
        path = tmp_path / "own.npz"
        save(path, images=GREY)
        content = bytearray(path.read_bytes())
        content[250:260] = bytes(255 - byte for byte in content[250:260])
        path.write_bytes(content)
        with refused(str(path), "'images' is damaged"):
            files.read(str(path))

    def test_cut_short(self, tmp_path):
        path = tmp_path / "own.npz"
        np.savez(path, images=GREY)
        path.write_bytes(path.read_bytes()[:-100])
        with refused(str(path), "damaged"):
            files.read(str(path))


class TestFolders:
    @pytest.fixture
    def folder(self, tmp_path):
        for index, image in enumerate(GREY):
            Image.fromarray(image).save(tmp_path / f"{index:02d}.png")
        return tmp_path

    def test_grey_images_in_order_of_name(self, folder):
        (folder / "notes.txt").write_text("not an image")
        (folder / "._00.png").write_text("what another system left")
        np.testing.assert_array_equal(files.read(str(folder)).images, GREY)

    def test_colours_become_grey(self, folder):
        Image.fromarray(np.repeat(GREY[3][..., None], 3, 2)).save(folder / "03.png")
        np.testing.assert_array_equal(files.read(str(folder)).images, GREY)

    def test_first_of_another_size_is_named(self, folder):
        Image.fromarray(GREY[0].T.copy()).save(folder / "04.png")
        Image.fromarray(GREY[0].T.copy()).save(folder / "07.png")
        with refused("04.png is 6 x 5 but 00.png is 5 x 6", "one size"):
            files.read(str(folder))

    @pytest.mark.parametrize("keep", [0, 40])
    def test_broken_image_is_named(self, folder, keep):
        content = (folder / "05.png").read_bytes()
        (folder / "05.png").write_bytes(content[:keep])
        with refused("05.png", "not a readable image"):
            files.read(str(folder))

    def test_sixteen_bits(self, folder):
        Image.fromarray(GREY[2].astype(np.uint16) * 257).save(folder / "02.png")
        with refused("02.png", "8 bits"):
            files.read(str(folder))

    def test_too_few(self, folder):
        for index in range(3):
            (folder / f"{index:02d}.png").unlink()
        with refused(str(folder), "9 images", "10 or more"):
            files.read(str(folder))

    def test_none(self, tmp_path):
        with refused(str(tmp_path), "no images", ".png"):
            files.read(str(tmp_path))
