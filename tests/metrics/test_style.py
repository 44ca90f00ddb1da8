from __future__ import annotations

import numpy as np
import pytest

from train.metrics.style import STYLES, centred, morphometrics, style_r2


def stroke(
    thickness: float, slant: float = 0.0, length: float = 24.0, size: int = 28, fine: int = 8
) -> np.ndarray:
    """A straight stroke through the middle, of so many pixels, leaning so many degrees."""
    y, x = (np.mgrid[: size * fine, : size * fine] + 0.5) / fine - size / 2
    angle = np.radians(slant)
    along = -y * np.cos(angle) + x * np.sin(angle)
    across = x * np.cos(angle) + y * np.sin(angle)
    inside = (np.abs(across) <= thickness / 2) & (np.abs(along) <= length / 2)
    return inside.reshape(size, fine, size, fine).mean((1, 3))


@pytest.mark.parametrize("thickness", [2.0, 2.5, 3.0, 4.0])
@pytest.mark.parametrize("slant", [-30.0, -10.0, 0.0, 20.0])
def test_a_stroke_has_the_slant_and_thickness_it_was_drawn_with(thickness, slant):
    found = dict(zip(STYLES, morphometrics(stroke(thickness, slant)[None])[0], strict=True))
    # The moments' shear sees the ends of a thick stroke too.
    assert found["slant"] == pytest.approx(slant, abs=1 + 0.03 * abs(slant) * thickness / 2)
    assert found["thickness"] == pytest.approx(thickness, abs=0.5)


@pytest.mark.parametrize("width", [5, 9, 14])
def test_a_frame_is_as_wide_as_it_was_drawn(width):
    image = np.zeros((28, 28), dtype=np.uint8)
    image[4:24, 6 : 6 + width] = 255
    image[7:21, 9 : 3 + width] = 0
    assert morphometrics(image[None])[0, STYLES.index("width")] == pytest.approx(width, abs=0.6)


def test_width_is_without_the_slant():
    straight, leaning = morphometrics(np.stack([stroke(3.0), stroke(3.0, 30.0)]))[:, 2]
    assert leaning == pytest.approx(straight, abs=1.5)
    # The mutation: measured on the image as it is, a leaning stroke is three times as wide.
    columns = np.flatnonzero(stroke(3.0, 30.0).sum(0) > 0.5)
    assert np.ptp(columns) > straight + 5


def test_neither_brightness_nor_batches_nor_type_matter():
    images = np.stack([stroke(2.0, a) for a in range(-20, 20, 5)])
    wanted = morphometrics(images)
    np.testing.assert_allclose(morphometrics(0.5 * images), wanted, atol=1e-6)
    np.testing.assert_allclose(morphometrics(images, batch=3), wanted)
    np.testing.assert_allclose(morphometrics((255 * images).astype(np.uint8)), wanted, atol=0.2)


def test_empty_and_full_images_and_none():
    images = np.stack([np.zeros((9, 9)), np.ones((9, 9))])
    found = morphometrics(images)
    assert not found[0].any()
    assert np.isfinite(found).all()
    assert found[1, 2] == pytest.approx(9, abs=0.5)
    assert morphometrics(np.zeros((0, 9, 9))).shape == (0, 3)


def test_styles_are_read_within_classes_only():
    """What an embedding says of a style by way of the class does not count."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 4, 4_000)
    within = rng.normal(size=(4_000, 3))
    styles = within + 10 * classes[:, None]
    z = np.stack([classes + 0.0, within[:, 0], rng.normal(size=4_000)], axis=1)
    parts = [(z[rows], styles[rows], classes[rows]) for rows in np.array_split(np.arange(4_000), 2)]
    found = style_r2(*parts)
    assert found["slant"] == pytest.approx(1, abs=1e-3)
    # Standard error of a share near zero from 2,000: 0.0007 or so.
    assert abs(found["thickness"]) < 0.01
    # The mutation: with the class means left in, all of it would be read.
    whole = style_r2(*((a, b, np.zeros_like(c)) for a, b, c in parts))
    assert whole["thickness"] > 0.9


def test_centring_takes_out_each_classs_mean():
    values, classes = np.arange(6.0).reshape(6, 1), np.array([0, 1, 0, 1, 2, 2])
    found = centred(values, classes)
    for each in range(3):
        assert found[classes == each].mean() == pytest.approx(0)
