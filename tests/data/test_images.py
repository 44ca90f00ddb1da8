"""Images of every type are converted to grey levels, or refused."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_models.shapes import Shape
from tests.data.refusals import refused
from train.data.images import (
    CLIPPED,
    ROUNDING,
    as_bytes,
    as_images,
    centred,
    cropped,
    luminance,
    without_grey_axis,
)

GREY = np.random.default_rng(0).integers(0, 256, (3, 6, 5), dtype=np.uint8)
SHAPE = Shape(1, 6, 5)
COLOUR = np.random.default_rng(1).integers(0, 256, (4, 3, 6, 5), dtype=np.uint8)
MASK = GREY > 127
WHITE = np.where(MASK, 255, 0)


def convert(given: Any, shape: Shape | None = SHAPE) -> tuple[np.ndarray, list[str]]:
    """Images as bytes, grey ones without channels, and the messages."""
    messages: list[str] = []
    with warnings.catch_warnings():
        # PyTorch warns of read-only arrays.
        warnings.simplefilter("error")
        images = as_images(given, shape, say=messages.append)
    assert images.dtype in (torch.uint8, torch.float32)
    assert images.ndim == 4
    return without_grey_axis(as_bytes(images)).numpy(), messages


def read_only() -> np.ndarray:
    array = GREY.copy()
    array.setflags(write=False)
    return array


@pytest.mark.parametrize("shape", [None, SHAPE], ids=["of any shape", "of this shape"])
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        *((GREY.astype(kind), GREY) for kind in ("u1", "i2", ">i2", "u2", "<u4", ">i8", "u8")),
        *(((GREY / 255).astype(kind), GREY) for kind in ("f4", ">f4", "f8", ">f8", "g")),
        ((GREY[:, None]), GREY),
        ((GREY[..., None] / 255), GREY),
        (GREY[::-1, :, ::-1], GREY[::-1, :, ::-1]),
        (GREY.transpose(0, 2, 1).copy().transpose(0, 2, 1), GREY),
        (read_only(), GREY),
        (GREY.tolist(), GREY),
        ((GREY / 255).tolist(), GREY),
        (list(GREY), GREY),
        ([image[None] / 255 for image in torch.from_numpy(GREY)], GREY),
        ([Image.fromarray(image) for image in GREY], GREY),
        (torch.from_numpy(GREY), GREY),
        (torch.from_numpy(GREY).long(), GREY),
        ((torch.from_numpy(GREY) / 255).requires_grad_(), GREY),
        ((torch.from_numpy(GREY) / 255).double()[:, None], GREY),
        (MASK, WHITE),
        (torch.from_numpy(MASK), WHITE),
        (MASK.tolist(), WHITE),
        (np.zeros((2, 6, 5), int), np.zeros((2, 6, 5))),
    ],
)
def test_unambiguous_images_are_converted_silently(given, expected, shape):
    images, messages = convert(given, shape)
    np.testing.assert_array_equal(images, expected)
    assert not messages


@pytest.mark.parametrize(
    "given",
    [
        *(GREY[0], GREY[0][..., None], GREY[0][None], GREY[0].tolist()),
        *(Image.fromarray(GREY[0]), [Image.fromarray(GREY[0])], torch.from_numpy(GREY[0])),
    ],
)
def test_one_image_is_a_batch_of_one(given):
    np.testing.assert_array_equal(convert(given)[0], GREY[:1])


@pytest.mark.parametrize("shape", [None, Shape(3, 6, 5)], ids=["of any shape", "of this shape"])
@pytest.mark.parametrize(
    "given",
    [
        *(COLOUR, COLOUR / 255, torch.from_numpy(COLOUR)),
        np.moveaxis(COLOUR, 1, -1),
        np.ascontiguousarray(np.moveaxis(COLOUR, 1, -1)) / 255,
        np.moveaxis(COLOUR, 1, -1).tolist(),
        list(torch.from_numpy(COLOUR)),
    ],
)
def test_colour_images_of_either_layout(given, shape):
    images, messages = convert(given, shape)
    np.testing.assert_array_equal(images, COLOUR)
    assert not messages


@pytest.mark.parametrize("given", [COLOUR[1], np.moveaxis(COLOUR[1], 0, -1)])
def test_one_colour_image_is_a_batch_of_one(given):
    np.testing.assert_array_equal(convert(given, Shape(3, 6, 5))[0], COLOUR[1:2])


def test_channels_that_may_be_first_or_last():
    """They are first, with a message; what the shape of a model decides needs none."""
    images, (line,) = convert(COLOUR[..., :3], None)
    np.testing.assert_array_equal(images, COLOUR[..., :3])
    assert "(4, 3, 6, 3), and is taken for (N, C, H, W)" in line
    last, messages = convert(COLOUR[..., :3], Shape(3, 3, 6))
    np.testing.assert_array_equal(last, np.moveaxis(COLOUR[..., :3], -1, 1))
    assert not messages


@pytest.mark.parametrize("kind", ["bytes", "floats"])
def test_luminance_is_pils(kind):
    images = torch.from_numpy(COLOUR)
    expected = np.stack(
        [np.asarray(Image.fromarray(image).convert("L")) for image in np.moveaxis(COLOUR, 1, -1)]
    )
    if kind == "bytes":
        np.testing.assert_array_equal(luminance(images)[:, 0], expected)
        assert torch.equal(luminance(images[:, :1]), images[:, :1])
    else:
        actual = luminance(images / 255)
        assert actual.shape == (4, 1, 6, 5)
        np.testing.assert_allclose(255 * actual[:, 0], expected, atol=0.51)
    with refused("2 channels"):
        luminance(images[:, :2])


def test_no_images_are_an_empty_batch():
    assert convert(GREY[:0])[0].shape == convert(GREY[:0] / 255)[0].shape == (0, 6, 5)


def test_conversions_are_reported():
    for given in (MASK.astype(int), MASK.astype(np.uint8), torch.from_numpy(MASK).long()):
        images, (line,) = convert(given)
        np.testing.assert_array_equal(images, WHITE)
        assert "0 and 1 only, and are taken for black and white" in line
    colour = np.zeros((6, 5, 3), np.uint8)
    colour[..., 0] = 100
    images, (line,) = convert([Image.fromarray(GREY[0]), Image.fromarray(colour)])
    assert images[1, 0, 0] == round(0.299 * 100)
    assert line == "1 of 2 images were colour and were turned to grey"
    with pytest.warns(UserWarning, match="turned to grey") as caught:
        as_images(Image.fromarray(colour), SHAPE)
    # The warning points at the line that called the function.
    assert caught[0].filename == __file__


def test_floats_outside_of_the_unit_interval():
    ramp = np.linspace(0, 1, 600).reshape(20, 6, 5)
    for given, words in (
        (ramp * (1 + 1.8 * ROUNDING) - 0.9 * ROUNDING, ""),
        (ramp + 1.9 * ROUNDING, "runs from 0.0019 to 1.002 and is clipped to [0, 1]"),
        (ramp * (1 + 2 * CLIPPED) - CLIPPED, "runs from -0.25 to 1.25 and is clipped"),
    ):
        images = as_images(given, SHAPE, say=lambda line, words=words: check_message(line, words))
        expected = torch.from_numpy(given).clamp(0, 1).float().unsqueeze(1)
        torch.testing.assert_close(images, expected)
    for given in (
        *(ramp * 255, ramp * 2 - 1, ramp * 1.6, (ramp - ramp.mean()) / ramp.std()),
        np.where(ramp == 1, 1.3, ramp),
    ):
        with refused("floats must be in [0, 1]", "divide by 255"):
            as_images(given, SHAPE)


def check_message(line: str, words: str) -> None:
    assert words
    assert words in line


@pytest.mark.parametrize(
    ("given", "shape", "words"),
    [
        (GREY[:, :5], SHAPE, ("(3, 5, 5)", "takes (M, 6, 5)")),
        (GREY.reshape(3, 30), SHAPE, ("(3, 30)", "takes (M, 6, 5)")),
        (np.zeros((3, 6, 5, 3)), SHAPE, ("(3, 6, 5, 3)", "takes (M, 6, 5)")),
        (
            np.zeros((3, 6, 5, 2)),
            None,
            ("(3, 6, 5, 2)", "neither 1 nor 3 channels", "(N, C, H, W)"),
        ),
        (np.zeros((3, 4, 6, 5)), None, ("neither 1 nor 3 channels", "without the transparency")),
        (np.zeros((3, 2, 6, 5, 3)), None, ("(3, 2, 6, 5, 3)", "(N, H, W)")),
        (np.zeros((4, 6, 5)), Shape(3, 6, 5), ("(4, 6, 5)", "takes (M, 3, 6, 5)", "of 3x6x5")),
        (np.zeros((3, 1, 6, 5)), Shape(3, 6, 5), ("(3, 1, 6, 5)", "takes (M, 3, 6, 5)")),
        (np.zeros((3, 5, 6, 3)), Shape(3, 6, 5), ("(3, 5, 6, 3)", "takes (M, 3, 6, 5)")),
        (GREY[0], None, ("(6, 5)", "(N, H, W)")),
        (GREY.astype(int) * 2, SHAPE, ("integers from", "0 to 255")),
        (GREY.astype(int) - 255, SHAPE, ("integers from", "0 to 255")),
        (torch.from_numpy(GREY).long() * 2, SHAPE, ("integers from", "0 to 255")),
        (GREY.astype(complex), SHAPE, ("complex128", "uint8")),
        (torch.from_numpy(GREY).to(torch.complex64), SHAPE, ("complex64", "uint8")),
        (np.full((1, 6, 5), "a"), SHAPE, ("<U1", "uint8")),
        (None, SHAPE, ("object", "uint8")),
        (np.full((1, 6, 5), np.nan), SHAPE, ("not finite",)),
        ([GREY[0], GREY[1].T], SHAPE, ("unlike things", "one size")),
        ([torch.zeros(6, 5), torch.zeros(5, 6)], SHAPE, ("unlike things", "one size")),
        ([Image.new("L", (5, 6)), Image.new("L", (6, 5))], SHAPE, ("several sizes", "one size")),
        (Image.new("F", (5, 6)), SHAPE, ("32 bits", "8 or 16")),
    ],
)
def test_unusable_images_are_refused(given, shape, words):
    with refused("images", *words) as caught:
        as_images(given, shape)
    # The caller is Python code, which has no flags.
    assert "--" not in str(caught.value)


@pytest.mark.parametrize("shape", [(6, 5), (9, 8), (8, 9)])
def test_images_are_centred_and_cropped_back(shape):
    images = torch.from_numpy(GREY)
    larger = centred(images, shape)
    assert larger.shape == (3, *shape)
    assert larger.sum() == images.sum()
    assert torch.equal(cropped(larger, (6, 5)), images)
    rows = larger.amax((0, 2)).nonzero().flatten()
    above, below = int(rows[0]), shape[0] - 1 - int(rows[-1])
    assert 0 <= below - above <= 1
