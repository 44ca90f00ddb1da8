"""Colour images at every method's doors: the command, verbs, exports, transformers, comparison."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_models.shapes import Shape
from tests.data.refusals import refused
from train.compare import CompareSettings
from train.compare import main as compare
from train.data.datasets import load as load_data
from train.export import export
from train.methods import METHODS
from train.trained import load
from train.transformers import (
    ABCTransformer,
    ACAITransformer,
    AETransformer,
    AIRTransformer,
    ICVAETransformer,
)
from train.verbs.base import Trained

SIDES = (16, 15)
COMMON: dict[str, Any] = {"steps": 3, "batch_size": 8, "device": "cpu"}
SMALL: dict[str, dict[str, Any]] = {
    "ae": {"network": "conv", "z_dim": 2},
    "acai": {"depth": 2, "z_dim": 16},
    "abc": {"channels": 2, "hidden": 8, "stack_size": 4},
    "icvae": {"hidden": (8, 8), "memory": 10},
    "air": {
        **{"window_size": 6, "what_hidden": 8, "guide_hidden": 8, "anchors": 2, "what_dim": 3},
        "max_objects": 1,
    },
}
MEASURED: dict[str, dict[str, Any]] = {
    "ae": {"cluster_starts": 1},
    "acai": {"cluster_starts": 1},
    "abc": {"withheld": ()},
    "icvae": {},
    "air": {"iw_particles": 2, "iw_scenes": 4},
}
"""Settings of measures, which transformers do not have."""
TRANSFORMERS = {
    "ae": AETransformer,
    "acai": ACAITransformer,
    "abc": ABCTransformer,
    "icvae": ICVAETransformer,
    "air": AIRTransformer,
}
ALL = pytest.mark.parametrize("name", list(METHODS))
DECODING = pytest.mark.parametrize("name", [name for name in METHODS if name != "abc"])
KNOWN: dict[str, dict[str, Any]] = {name: {} for name in METHODS} | {"icvae": {"labels": [0, 1, 2]}}
"""What verbs of three images are given beside them."""


def images(n: int = 60, seed: int = 0) -> np.ndarray:
    """Dark images with two bright rectangles, each of one colour; (n, 3, H, W)."""
    random = np.random.default_rng(seed)
    drawn = np.zeros((n, 3, *SIDES), dtype=np.uint8)
    for image in drawn:
        for _ in range(2):
            row, column = random.integers(0, 10, 2)
            image[:, row : row + 5, column : column + 4] = random.integers(80, 256, (3, 1, 1))
    return drawn


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with colour images in three classes, channels first and last."""
    path = tmp_path_factory.mktemp("colour")
    labels = np.arange(60) % 3
    np.savez(path / "first.npz", images=images(), labels=labels)
    np.savez(path / "last.npz", images=np.moveaxis(images(), 1, -1), labels=labels)
    return path


def train(name: str, data: Path, run: Path) -> Trained:
    method = METHODS[name]
    options = COMMON | SMALL[name] | MEASURED[name]
    method.main(method.settings(**options, data=str(data), run_dir=run))
    return load(run)


@pytest.fixture(scope="module")
def runs(folder):
    """Trains each method once."""
    made: dict[str, Trained] = {}

    def make(name: str) -> Trained:
        if name not in made:
            data = folder / ("last.npz" if name in ("ae", "air") else "first.npz")
            made[name] = train(name, data, folder / name)
        return made[name]

    return make


@ALL
def test_a_run_leaves_its_files(runs, folder, name):
    trained = runs(name)
    assert trained.shape == Shape(3, *SIDES)
    config = json.loads((folder / name / "config.json").read_text())
    assert config["inputs"]["shape"] == [3, *SIDES]
    results = json.loads((folder / name / "results.json").read_text())
    assert results["steps"] == 3
    drawn = {path.stem for path in (folder / name / "figures").glob("*.png")}
    assert drawn == set(results["figures"])
    assert "curves" in drawn
    assert len(drawn) >= 2


@ALL
def test_images_of_any_layout_have_the_same_codes(runs, name):
    """The mutation: channels that are taken for rows, or colours in another order."""
    trained, x = runs(name), images(3, seed=1)
    codes = trained.encode(x)
    assert codes.shape == (3, trained.code_size)
    assert codes.isfinite().all()
    last = np.moveaxis(x, 1, -1)
    for given in (torch.from_numpy(x), x / 255, last, last / 255, list(x), list(last)):
        torch.testing.assert_close(trained.encode(given), codes, rtol=1e-4, atol=1e-5)
    pictures = [Image.fromarray(np.ascontiguousarray(each)) for each in last]
    torch.testing.assert_close(trained.encode(pictures), codes)
    for one in (x[1], last[1], pictures[1]):
        torch.testing.assert_close(trained.encode(one), codes[1:2], rtol=1e-4, atol=1e-5)
    assert (trained.encode(x[:, ::-1]) - codes).abs().max() > 1e-6
    with refused("(4, 16, 15)", "this model takes (M, 3, 16, 15), images of 3x16x15"):
        trained.encode(np.zeros((4, *SIDES), dtype=np.uint8))


def test_the_layout_of_a_file_does_not_matter(folder):
    first, last = (
        load_data(str(folder / name), Path(), "test") for name in ("first.npz", "last.npz")
    )
    for one, other in zip(first, last, strict=True):
        assert one.shape == (3, *SIDES)
        assert torch.equal(one.images, other.images)


@DECODING
def test_images_are_decoded_in_colour(runs, name):
    trained, x, known = runs(name), images(3, seed=1), KNOWN[name]
    drawn = trained.decode(trained.encode(x), **known)
    assert drawn.shape == (3, 3, *SIDES)
    assert 0 <= drawn.min() <= drawn.max() <= 1
    assert (drawn[:, 0] != drawn[:, 1]).any()
    torch.testing.assert_close(trained.reconstruct(x, **known), drawn)
    assert trained.encode(drawn).isfinite().all()
    if name == "air":
        assert trained.detect(x).reconstruction.shape == (3, 3, *SIDES)
        scenes = trained.sample(2, count=1)
        assert scenes.images.shape == scenes.canvas.shape == (2, 3, *SIDES)
        return
    between = trained.interpolate(x, x[::-1].copy(), 5, **known)
    assert between.shape == (3, 5, 3, *SIDES)
    torch.testing.assert_close(between[:, 0], drawn)
    if name == "icvae":
        assert trained.sample(4, 1).shape == (4, 3, *SIDES)
        assert trained.transfer(x, 2).shape == (3, 3, *SIDES)


def test_an_embedder_retrieves_by_colour(runs):
    x = images(20, seed=1)
    nearest = runs("abc").retrieve(np.moveaxis(x[[7, 3]], 1, -1), x, k=4)
    assert nearest[:, 0].tolist() == [7, 3]


@ALL
def test_an_export_is_the_run(runs, tmp_path, name):
    trained, x = runs(name), torch.from_numpy(images(3, seed=1)) / 255
    export(trained, tmp_path)
    encoder = torch.export.load(tmp_path / "encoder.pt2").module()
    encoded = encoder(x)
    if name == "air":
        # All but the latent of a background, which has none.
        torch.testing.assert_close(encoded, tuple(trained.detect(x))[:-1])
        inputs: tuple[torch.Tensor, ...] = (encoded[3], encoded[4], encoded[0])
    elif name == "icvae":
        torch.testing.assert_close(encoded[0], trained.encode(x))
        inputs = (encoded[0], trained.conditions(KNOWN[name]["labels"], 3))
    else:
        torch.testing.assert_close(encoded, trained.encode(x))
        inputs = (encoded,)
    assert (tmp_path / "decoder.pt2").exists() == (name != "abc")
    if name != "abc":
        drawn = torch.export.load(tmp_path / "decoder.pt2").module()(*inputs)
        assert drawn.shape == (3, 3, *SIDES)
        torch.testing.assert_close(drawn.clamp(0, 1), trained.reconstruct(x, **KNOWN[name]))


@ALL
def test_a_transformer_takes_any_layout_and_returns_it(name):
    first, y = images(40), np.arange(40) % 2
    last = np.ascontiguousarray(np.moveaxis(first, 1, -1))
    make, options = TRANSFORMERS[name], {"steps": 2} | SMALL[name]
    transformer = make(**options).fit(last, y)
    assert transformer.trained_.shape == (3, *SIDES)
    codes = transformer.transform(last)
    assert codes.shape == (40, transformer.trained_.code_size)
    flat = make(**options, image_shape=(*SIDES, 3)).fit(last.reshape(40, -1), y)
    np.testing.assert_array_equal(flat.transform(last.reshape(40, -1)), codes)
    other = make(**options).fit(first, y)
    np.testing.assert_array_equal(other.transform(first), codes)
    if hasattr(transformer, "inverse_transform"):
        rows, planes = (each.inverse_transform(codes) for each in (flat, other))
        assert rows.shape == (40, 3 * SIDES[0] * SIDES[1])
        pixels = rows.reshape(40, *SIDES, 3)
        np.testing.assert_array_equal(np.moveaxis(pixels, -1, 1), planes.reshape(first.shape))
        assert (pixels[..., 0] != pixels[..., 1]).any()
    with pytest.raises(ValueError, match="C of 1 or 3"):
        make(**options).fit(np.zeros((40, 16, 8, 2)), y)


@pytest.mark.figures
def test_runs_are_compared(runs, folder, tmp_path):
    paths = tuple(folder / name for name in METHODS if runs(name))
    settings = CompareSettings(
        runs=paths, data=str(folder / "first.npz"), device="cpu", run_dir=tmp_path / "run"
    )
    results = compare(settings)
    assert results["rows"] == 3 + len(METHODS)
    table = (tmp_path / "run" / "comparison.md").read_text()
    for name in METHODS:
        assert f"| {name} | " in table
    assert (tmp_path / "run" / "figures" / "comparison.png").exists()
    # Scenes of grey digits are no place for colour images.
    grey = folder / "grey.npz"
    np.savez(grey, images=images()[:, 0], labels=np.arange(60) % 3)
    with refused("ae: images has shape", "air: its scenes are 3x16x15 and the images 16x15"):
        compare(replace(settings, data=str(grey), run_dir=tmp_path / "other"))
