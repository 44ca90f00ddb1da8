import io
import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.data.refusals import refused
from train.data import memory
from train.data.options import DataOptions
from train.data.reading import files

M = 12
COLOUR = np.random.default_rng(1).integers(0, 256, (M, 6, 5, 3), dtype=np.uint8)
GREY = np.random.default_rng(0).integers(0, 256, (M, 6, 5), dtype=np.uint8)


def write(tmp_path, **arrays):
    np.savez(tmp_path / "data.npz", **arrays)
    return str(tmp_path / "data.npz")


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
            (GREY.astype(">u2"), GREY),
            (GREY[:, None].astype(np.int64), GREY),
            ((GREY / 255).astype(">f4")[:, ::-1, ::-1], GREY[:, ::-1, ::-1]),
        ],
        ids=[
            *("uint8", "one channel", "float64", "float32", "rounded", "bool"),
            *("big-endian", "channel first", "flipped"),
        ],
    )
    def test_images_become_uint8(self, tmp_path, images, expected):
        read = files.read(write(tmp_path, images=images)).images
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, expected[:, None])

    def test_colour_images_of_either_layout(self, tmp_path, capsys):
        colour = np.random.default_rng(1).integers(0, 256, (M, 3, 6, 5), dtype=np.uint8)
        for images in (colour, np.moveaxis(colour, 1, -1), colour / 255):
            read = files.read(write(tmp_path, images=images)).images
            np.testing.assert_array_equal(read, colour)
            assert read.dtype == np.uint8
        assert not capsys.readouterr().err
        read = files.read(write(tmp_path, images=colour[..., :3])).images
        np.testing.assert_array_equal(read, colour[..., :3])
        assert "is taken for (N, C, H, W)" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("images", "expected"),
        [
            (COLOUR, np.moveaxis(COLOUR, -1, 1)),
            (np.moveaxis(COLOUR, -1, 1), np.moveaxis(COLOUR, -1, 1)),
            (COLOUR / 255, np.moveaxis(COLOUR, -1, 1)),
            (COLOUR > 127, np.moveaxis(np.where(COLOUR > 127, 255, 0), -1, 1)),
            (COLOUR.astype(">u2"), np.moveaxis(COLOUR, -1, 1)),
        ],
        ids=["channels last", "channels first", "float64", "bool", "big-endian"],
    )
    @pytest.mark.parametrize("suffix", [".npz", ".npy"])
    def test_colour(self, tmp_path, capsys, images, expected, suffix):
        path = write(tmp_path, images=images)
        if suffix == ".npy":
            path = str(tmp_path / "data.npy")
            np.save(path, images)
        read = files.read(path).images
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, expected)
        assert not capsys.readouterr().err
        grey = files.read(path, DataOptions(grey=True)).images
        pictures = np.moveaxis(expected, 1, -1).astype(np.uint8)
        luma = [np.asarray(Image.fromarray(picture).convert("L")) for picture in pictures]
        np.testing.assert_array_equal(grey[:, 0], luma)

    def test_either_axis_may_be_that_of_channels(self, tmp_path, capsys):
        images = np.random.default_rng(1).integers(0, 256, (M, 3, 8, 3), dtype=np.uint8)
        path = write(tmp_path, images=images)
        np.testing.assert_array_equal(files.read(path).images, images)
        assert "(12, 3, 8, 3), and is taken for (N, C, H, W)" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("labels", "kind"),
        [
            (np.arange(M, dtype=np.uint8), np.int64),
            (np.arange(M) % 2 == 0, np.int64),
            (np.linspace(-1, 1, M), np.float64),
            (np.arange(3 * M).reshape(M, 3), np.int64),
            (np.arange(M) % 2 - 20230115.0, np.int64),
            (np.array(["b", "a"] * 6), np.dtype("<U1")),
        ],
        ids=["classes", "bool", "quantity", "quantities", "whole", "names"],
    )
    def test_labels(self, tmp_path, labels, kind, capsys):
        read = files.read(write(tmp_path, images=GREY, labels=labels)).labels
        assert read.dtype == kind
        np.testing.assert_array_equal(read, labels.astype(kind))
        printed = "taken for classes: divide them by 10" in capsys.readouterr().err
        assert printed == (labels.dtype.kind == "f" and kind == np.int64)

    def test_rows_beyond_the_count_become_zeros(self, tmp_path):
        counts = np.arange(M) % 3
        corners = boxes([0, 1, 2, 3], [1, 1, 4, 5])
        corners[np.arange(2) >= counts[:, None]] = np.nan
        contents = files.read(
            write(tmp_path, images=GREY, counts=counts.astype(float), boxes=corners)
        )
        assert contents.counts.dtype == np.int64
        np.testing.assert_array_equal(contents.counts, counts)
        np.testing.assert_array_equal(contents.boxes, np.nan_to_num(corners))

    @pytest.mark.parametrize(
        ("arrays", "words"),
        [
            ({"pictures": GREY}, ("'images'", "pictures", "numpy.savez")),
            ({"images": GREY[0]}, ("(6, 5)", "(N, H, W)")),
            ({"images": np.zeros((M, 6, 5, 2))}, ("(12, 6, 5, 2)", "1 or 3 channels")),
            ({"images": np.zeros((M, 5, 6, 7))}, ("(12, 5, 6, 7)", "1 or 3 channels")),
            ({"images": np.zeros((M, 6, 5, 4))}, ("(12, 6, 5, 4)", "without the transparency")),
            ({"images": np.zeros((M, 4, 6, 5))}, ("(12, 4, 6, 5)", "without the transparency")),
            ({"images": np.zeros((0, 6, 5))}, ("empty",)),
            ({"images": np.zeros((M, 0, 5))}, ("empty",)),
            ({"images": GREY[:9]}, ("9 images", "10 or more")),
            ({"images": GREY.astype(np.int64) + 1}, ("1 to 256", "uint8", "[0, 1]")),
            ({"images": GREY.astype(np.uint64) + 2**63}, ("integers", "uint8", "[0, 1]")),
            ({"images": GREY.astype(complex)}, ("complex128", "uint8")),
            ({"images": GREY * 1.0}, ("255", "divide by 255")),
            ({"images": GREY / 255 - 0.5}, ("-0.5", "[0, 1]")),
            ({"images": np.where(GREY > 250, np.nan, 0)}, ("not finite",)),
            ({"images": np.where(GREY > 250, np.inf, 0)}, ("not finite",)),
            ({"images": np.array([None] * M)}, ("'images'", "objects")),
            ({"labels": np.array(["a", None] * 6, dtype=object)}, ("'labels'", "objects")),
            ({"labels": np.zeros(M, complex)}, ("'labels'", "complex", "text for classes")),
            ({"labels": np.arange(M - 1)}, ("'labels'", "(11,)", "12 images")),
            ({"labels": np.int64(3)}, ("'labels'", "()", "12 images")),
            ({"labels": np.zeros((M, 2, 2))}, ("'labels'", "(N, K)")),
            ({"labels": np.zeros((M, 0))}, ("'labels'", "(N, K)")),
            ({"labels": np.array([np.nan] * M)}, ("'labels'", "not finite")),
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

    def test_a_missing_path_is_refused(self, tmp_path):
        with refused("--data nmist", "mnist5k, lines", "fashion-mnist, kmnist"):
            files.read("nmist")
        with refused("gone.npz", "no such file"):
            files.read(str(tmp_path / "gone.npz"))

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"images: 1, 2, 3"])
    def test_another_format_is_refused(self, tmp_path, content):
        path = tmp_path / "data.npz"
        path.write_bytes(content)
        with refused(str(path), "numpy.savez"):
            files.read(str(path))

    def test_a_single_array_is_refused(self, tmp_path):
        np.save(tmp_path / "data.npy", GREY)
        (tmp_path / "data.npy").rename(tmp_path / "data.npz")
        with refused("data.npz", "single array", ".npy"):
            files.read(str(tmp_path / "data.npz"))

    def test_sizes_are_checked_before_arrays_are_read(self, tmp_path, monkeypatch):
        """An archive of 0.3 MB that unpacks to 300 MB, and arrays that do not fit into memory."""
        with (
            zipfile.ZipFile(tmp_path / "data.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as z,
            z.open("images.npy", "w") as file,
        ):
            head = {"descr": "|u1", "fortran_order": False, "shape": (300, 1000, 1000)}
            np.lib.format.write_array_header_1_0(file, head)
            for _ in range(30):
                file.write(bytes(10**7))
        monkeypatch.setattr(np.lib.format, "read_array", lambda *_, **__: pytest.fail("read"))
        with refused("'images' unpacks to 300 MB", "numpy.savez, not compressed"):
            files.read(str(tmp_path / "data.npz"))
        path = write(tmp_path, images=GREY, labels=np.arange(M))
        monkeypatch.setattr(memory, "available", lambda: 2 * GREY.nbytes)
        with refused(path, "unpacks to 456 bytes", "360 bytes", "50%", "fewer images"):
            files.read(path)

    def test_a_header_with_more_than_the_bytes_of_the_file_is_refused(self, tmp_path):
        buffer = io.BytesIO()
        head = {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6, 10**6)}
        np.lib.format.write_array_header_1_0(buffer, head)
        with zipfile.ZipFile(tmp_path / "data.npz", "w") as z:
            z.writestr("images.npy", buffer.getvalue())
        with refused("data.npz", "'images' is damaged"):
            files.read(str(tmp_path / "data.npz"))

    def test_a_pipe_is_refused(self, tmp_path):
        """Reading it would block."""
        os.mkfifo(tmp_path / "data.npz")
        with refused("data.npz is a named pipe", "give an .npz or .npy file or a folder"):
            files.read(str(tmp_path / "data.npz"))

    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_flipped_bytes_are_refused(self, tmp_path, save):
        path = tmp_path / "data.npz"
        save(path, images=GREY)
        content = bytearray(path.read_bytes())
        content[250:260] = bytes(255 - byte for byte in content[250:260])
        path.write_bytes(content)
        with refused(str(path), "'images' is damaged"):
            files.read(str(path))

    def test_cut_short(self, tmp_path):
        path = tmp_path / "data.npz"
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
        np.testing.assert_array_equal(files.read(str(folder)).images, GREY[:, None])

    def read(self, folder, capsys, **options):
        """Reads a folder; returns its grey images and the lines printed to standard error."""
        images = files.read(str(folder), DataOptions(**options)).images
        printed = capsys.readouterr().err
        assert all(line.startswith(f"note: {folder}: ") for line in printed.splitlines())
        assert images.shape[1] == 1
        return images[:, 0], printed

    def test_colours_become_grey(self, folder, capsys):
        Image.fromarray(np.repeat(GREY[3][..., None], 3, 2)).save(folder / "03.png")
        images, printed = self.read(folder, capsys)
        np.testing.assert_array_equal(images, GREY)
        # RGB with equal channels is not colour.
        assert not printed
        green = np.zeros((6, 5, 3), np.uint8)
        green[..., 1] = 200
        Image.fromarray(green).save(folder / "03.png")
        Image.fromarray(np.full((6, 5, 4), 51, np.uint8), "CMYK").save(folder / "04.tif")
        (folder / "04.png").unlink()
        images, printed = self.read(folder, capsys, grey=True)
        assert images[3, 0, 0] == round(0.587 * 200)
        # Four inks of a fifth each: 255 (1 - 1/5)^2.
        assert abs(int(images[4, 0, 0]) - 163) <= 1
        assert printed.count("\n") == 1
        assert "1 of 12 images were colour and were turned to grey" in printed

    @pytest.mark.parametrize("tag", range(1, 9))
    def test_images_are_rotated_by_exif(self, folder, capsys, tag):
        """Cameras store a rotated or mirrored image, and a tag of how it is to be shown."""
        upright = GREY[5]
        stored = {
            **{1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1]},
            **{5: upright.T, 6: np.rot90(upright), 7: upright[::-1, ::-1].T},
            8: np.rot90(upright, -1),
        }[tag]
        exif = Image.Exif()
        exif[0x0112] = tag
        Image.fromarray(np.ascontiguousarray(stored)).save(folder / "05.png", exif=exif)
        images, printed = self.read(folder, capsys)
        np.testing.assert_array_equal(images, GREY)
        assert ("1 of 12 images were turned upright" in printed) == (tag > 1)

    @staticmethod
    def ink(level, alpha=255):
        """An image of a square on a transparent background of white, and its pixels on black."""
        drawn = np.zeros((6, 5, 4), np.uint8)
        drawn[..., :3] = 255
        drawn[1:4, 1:4] = (level, level, level, alpha)
        on_black = np.zeros((6, 5), np.uint8)
        on_black[1:4, 1:4] = round(level * alpha / 255)
        return Image.fromarray(drawn), on_black

    def test_transparent_images(self, folder, capsys):
        """The background is black, unless the ink is black: then it is white."""
        drawn, on_black = self.ink(200, 102)
        drawn.save(folder / "02.png")
        images, printed = self.read(folder, capsys)
        np.testing.assert_array_equal(images[2], on_black)
        np.testing.assert_array_equal(images[3], GREY[3])
        assert "1 of 12 images were transparent and were put on black\n" in printed
        # A palette with a transparent colour.
        palette = Image.fromarray(np.where(on_black > 0, 1, 0).astype(np.uint8), "P")
        palette.putpalette([255, 255, 255, 80, 80, 80])
        palette.save(folder / "02.png", transparency=0)
        images, printed = self.read(folder, capsys)
        np.testing.assert_array_equal(images[2], np.where(on_black > 0, 80, 0))
        assert "put on black\n" in printed
        self.ink(0)[0].save(folder / "02.png")
        images, printed = self.read(folder, capsys)
        np.testing.assert_array_equal(images[2], np.where(on_black > 0, 0, 255))
        assert "put on white, as some would be lost on black" in printed
        self.ink(255)[0].save(folder / "07.png")
        with refused("07.png is transparent and can be seen on black only", "02.png on white"):
            files.read(str(folder))

    @pytest.mark.parametrize("kind", ["tiff", "gif"])
    def test_every_page_is_an_image(self, folder, capsys, kind):
        first, *others = (Image.fromarray(image) for image in GREY[4:7])
        first.save(folder / f"04.{kind}", save_all=True, append_images=others)
        for i in (4, 5, 6):
            (folder / f"{i:02d}.png").unlink()
        images, printed = self.read(folder, capsys)
        np.testing.assert_array_equal(images, GREY)
        assert "1 of 10 files have several pages, and each page is an image: 12 images" in printed

    def test_masks_of_0_and_1(self, tmp_path, capsys):
        for i in range(10):
            Image.fromarray(GREY[i] % 2).save(tmp_path / f"{i}.png")
        images = files.read(str(tmp_path)).images
        np.testing.assert_array_equal(images[:, 0], GREY[:10] % 2 * 255)
        assert "taken for black and white" in capsys.readouterr().err

    def test_other_kinds_of_files_are_refused(self, folder):
        os.mkfifo(folder / "x.png")
        with refused("x.png is a named pipe", "take it out"):
            files.read(str(folder))
        (folder / "x.png").unlink()
        (folder / "x.png").symlink_to("x.png")
        with refused("x.png is a link that leads nowhere", "take it out"):
            files.read(str(folder))
        (folder / "x.png").unlink()
        (folder / "x.png").mkdir()
        with refused("x.png is a folder", "take it out"):
            files.read(str(folder))

    def test_more_images_than_fit_into_memory_are_refused(self, folder, monkeypatch):
        monkeypatch.setattr(memory, "available", lambda: 2 * GREY.nbytes - 1)
        with refused("12 images need 360 bytes", "fewer images, or smaller ones"):
            files.read(str(folder))

    def test_the_first_image_of_another_size_is_named(self, folder):
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

    @pytest.mark.parametrize("kind", ["png", "tif", "pgm"])
    def test_sixteen_bits(self, folder, capsys, kind):
        (folder / "02.png").unlink()
        Image.fromarray(GREY[2].astype(np.uint16) * 257).save(folder / f"02.{kind}")
        images, printed = self.read(folder, capsys)
        np.testing.assert_array_equal(images, GREY)
        assert "1 of 12 images have 16 bits" in printed
        Image.fromarray(GREY[2] / np.float32(255)).save(folder / "02.tif")
        with refused("02.tif has 32 bits a pixel", "8 or 16"):
            files.read(str(folder))

    def test_too_few_images_are_refused(self, folder):
        for index in range(3):
            (folder / f"{index:02d}.png").unlink()
        with refused(str(folder), "9 images", "10 or more"):
            files.read(str(folder))

    def test_an_empty_folder_is_refused(self, tmp_path):
        with refused(str(tmp_path), "no images", ".png"):
            files.read(str(tmp_path))
