"""Backgrounds: what is under objects, its posterior, and which one scenes are found to have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from guides.air import ConvolutionalGuide, model_and_guide
from guides.backdrops import ImageBackdrop
from pyro_models.air import AIR
from pyro_models.backgrounds import ImageBackground, LearnedBackground, make_background
from pyro_models.shapes import Shape
from tests.data.refusals import refused
from tests.test_train_air import small
from train.air import METHOD, main
from train.backgrounds import LEAST, find, with_background
from train.data import datasets
from train.data.drawn import multi_sprites, tetrominoes
from train.data.scenes import ScenesSplit, make_scenes
from train.settings.air import AIRSettings
from train.trained import load

KINDS = ("black", "constant", "image", "learned")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_drawn_is_under_every_pixel(kind, channels):
    """An even background is even up to the edges, and the prior's mean is one.

    The mutation: interpolation that fades to zero at the edges of the canvas.
    """
    background = make_background(kind, Shape(channels, 20, 31), 9.0)
    prior = background.prior()
    assert (prior is None) == (background.latent_shape is None) == (background.size == 0)
    latent = None if prior is None else prior.mean.expand(2, *background.latent_shape)
    image = background.image(latent).expand(2, channels, 20, 31)
    torch.testing.assert_close(image, torch.full_like(image, 0.0 if kind == "black" else 0.5))


def test_a_grid_draws_what_changes_slowly():
    """The mutation: centres of cells off by half a pixel, or rows and columns mixed up."""
    background = ImageBackground(Shape(1, 20, 40), 18.0)
    assert background.cell == 6
    assert background.latent_shape == (1, 4, 7)
    rows, columns = (6 * torch.arange(n) + 3.0 for n in (4, 7))
    ramp = 0.02 * rows.unsqueeze(1) + 0.01 * columns
    image = background.image(ramp.unsqueeze(0))[0]
    y, x = (torch.arange(n) + 0.5 for n in (20, 40))
    expected = 0.02 * y.unsqueeze(1) + 0.01 * x
    inside = (slice(3, 20), slice(3, 39))
    torch.testing.assert_close(image[inside], expected[inside])


@pytest.mark.parametrize("sides", [(50, 50), (33, 70), (5, 4)])
def test_an_object_does_not_change_what_is_found_under_it(sides):
    """Untrained, the guide sees a ramp beside an object and continues it below.

    It fills its window. The mutation: means in place of medians, medians in squares of a window, or
    an image that is not brought to whole cells.
    """
    background = ImageBackground(Shape(3, *sides), 18.0)
    backdrop = ImageBackdrop(background)
    height, width = sides
    ramp = torch.linspace(0.2, 0.8, width).expand(2, 3, height, width).clone()
    bare = background.image(backdrop(ramp).mean)
    if min(sides) < 20:
        # A single cell.
        torch.testing.assert_close(bare, bare[..., :1, :1].expand_as(bare))
        return
    torch.testing.assert_close(bare, ramp, atol=0.06, rtol=0)
    ramp[..., 7:25, 7:25] = 1
    covered = background.image(backdrop(ramp).mean)
    assert (covered - bare).abs().max() < 0.2
    torch.testing.assert_close(covered[..., 40:], bare[..., 40:], atol=0.05, rtol=0)


@pytest.mark.parametrize("level", [0.2, 0.6])
def test_texture_is_no_object(level):
    """Untrained, the guide finds an object among a texture, and none in the texture alone.

    The mutation: what is unexplained counts whatever else is unexplained in the scene.
    """
    torch.manual_seed(0)
    _, guide = model_and_guide(
        (60, 60),
        guide="convolutional",
        window_scale=(5, 0.2),
        window_size=12,
        background="image",
        composition="over",
    )
    scenes = level + 0.05 * torch.randn(2, 1, 60, 60)
    scenes[1, :, 22:32, 30:36] = level + 0.35
    found = guide.detect(scenes)
    empty, present = 1 - found.probabilities[:, 0]
    assert empty < 0.2
    assert present > 0.8
    centre = (found.windows[1, 0, :2] + found.windows[1, 0, 2:]) / 2
    assert (centre - torch.tensor([33.0, 27.0])).abs().max() < 4


def test_one_image_of_all_scenes_begins_as_their_median():
    """The mutation: a mean, which has ghosts of all objects."""
    torch.manual_seed(0)
    room = torch.rand(1, 8, 9)
    scenes = room.repeat(40, 1, 1, 1)
    scenes[:15, :, 2:5, 2:5] = 1
    background = LearnedBackground(Shape(1, 8, 9))
    background.start(iter(scenes.split(10)))
    torch.testing.assert_close(background.image(), room, atol=1 / 500, rtol=0)
    assert background.weights.abs().max() < 2


def test_earlier_weights_have_their_names():
    """Runs of versions that knew black and constant backgrounds alone can be loaded."""
    for kind, more in (("black", set()), ("constant", {"colour.correction", "colour.log_scale"})):
        model = AIR((20, 20), composition="over", background=kind)
        assert {name.split(".")[0] for name in model.state_dict()} == {"decoder"}
        names = set(ConvolutionalGuide(model).state_dict())
        assert {name for name in names if name.startswith("colour")} == more


def pictures(n: int, texture: float = 0.0, *, fixed: bool = False) -> torch.Tensor:
    """Scenes of a bright square on smooth pictures, one each, or one of all."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:40, :40] / 40
    slopes = rng.uniform(-0.25, 0.25, (2, 1 if fixed else n, 1, 1))
    images = np.broadcast_to(0.4 + slopes[0] * y + slopes[1] * np.cos(4 * x), (n, 40, 40)).copy()
    images += texture * rng.standard_normal(images.shape)
    for image in images[: n // 2]:
        row, column = rng.integers(0, 28, 2)
        image[row : row + 12, column : column + 12] = 0.9
    return torch.from_numpy((255 * images.clip(0, 1)).astype(np.uint8)).unsqueeze(1)


def even(n: int, level: float, **random: float) -> torch.Tensor:
    """Scenes of an even level, each its own if it is ``random``, with noise."""
    rng = np.random.default_rng(1)
    levels = level + rng.uniform(-1, 1, (n, 1, 1)) * random.get("levels", 0)
    images = levels + random.get("noise", 0) * rng.standard_normal((n, 40, 40))
    images[: n // 2, 5:17, 20:32] = 0.95
    return torch.from_numpy((255 * images.clip(0, 1)).astype(np.uint8)).unsqueeze(1)


CASES = {
    "black": ("black", lambda: even(60, 0.0)),
    "noise on black": ("black", lambda: even(60, 0.0, noise=0.1)),
    "white": ("constant", lambda: even(60, 0.2)),
    "a level a scene": ("constant", lambda: even(60, 0.4, levels=0.3)),
    "noise on grey": ("constant", lambda: even(60, 0.4, noise=0.1)),
    "sprites": ("constant", lambda: multi_sprites.sample(60, seed=0).images),
    "sprites in colour": (
        "constant",
        lambda: multi_sprites.sample(60, seed=0, coloured=True).images,
    ),
    "tetrominoes": ("black", lambda: tetrominoes.sample(60, seed=0).images),
    "pictures": ("image", lambda: pictures(60)),
    "noise on pictures": ("image", lambda: pictures(60, 0.04)),
    "a camera": ("learned", lambda: pictures(60, fixed=True)),
    "a camera with noise": ("learned", lambda: pictures(60, 0.04, fixed=True)),
    # With so few scenes nobody can tell what they have in common.
    "few scenes of a camera": ("image", lambda: pictures(LEAST - 1, fixed=True)),
    "one scene": ("image", lambda: pictures(1)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_simplest_background_that_explains_scenes_is_found(name, capsys):
    kind, scenes = CASES[name]
    images = scenes()
    assert find(AIRSettings(), images) == kind
    settings = with_background(AIRSettings(), images)
    assert settings.background == kind
    assert settings.composition == ("sum" if kind == "black" else "over")
    said = capsys.readouterr().err
    assert said.count("\n") == (kind != "black")
    assert (f"--background auto: {kind}" in said) == (kind != "black")


def test_small_objects_have_a_small_deviation():
    """In runs, by the size of digits or of boxes. The mutation: 0.4 for all."""
    digits = datasets.load("mnist5k", Path("data"), "test").held_out.images
    for size, wanted in (((24, 24), 0.4), ((16, 16), 0.27), ((8, 28), 0.25), ((28, 28), 0.4)):
        scenes = make_scenes(digits, 40, canvas_size=60, digit_size=size, seed=0)
        settings = METHOD.resolved(AIRSettings(), ScenesSplit(scenes, scenes))
        assert settings.likelihood_scale == wanted
        chosen = AIRSettings(likelihood_scale=0.3)
        assert METHOD.resolved(chosen, ScenesSplit(scenes, scenes)).likelihood_scale == 0.3
    boxed = replace(scenes, object_size=None)
    assert METHOD.resolved(AIRSettings(), ScenesSplit(boxed, boxed)).likelihood_scale == 0.4
    without = replace(boxed, boxes=None)
    assert METHOD.resolved(AIRSettings(), ScenesSplit(without, without)).likelihood_scale == 0.4


def test_one_image_of_scenes_that_have_none_in_common_is_noted(capsys):
    with_background(AIRSettings(background="learned"), pictures(60, fixed=True))
    assert not capsys.readouterr().err
    with_background(AIRSettings(background="learned"), even(60, 0.5, levels=0.4))
    assert "--background learned" in (said := capsys.readouterr().err)
    assert said.count("\n") == 1


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Short runs on pictures, whose backgrounds they find."""
    folder = tmp_path_factory.mktemp("air")
    for kind in ("image", "learned"):
        images = pictures(120, fixed=kind == "learned").squeeze(1).numpy()
        np.savez(folder / f"{kind}.npz", images=images, counts=np.arange(120) % 2)
        main(small(folder, data=str(folder / f"{kind}.npz"), run_dir=folder / kind))
    return folder


@pytest.mark.parametrize("kind", ["image", "learned"])
def test_a_run_is_put_to_use(runs, kind):
    trained = load(runs / kind)
    assert trained.settings.background == kind
    assert trained.objective.model.background.kind == kind
    images = pictures(8, fixed=kind == "learned").squeeze(1).numpy()
    found = trained.detect(images)
    assert found.background.shape == (8, 40, 40)
    assert found.z_background.shape == (8, trained.objective.model.background.size)
    # Of the scenes without objects.
    assert np.abs(found.background.numpy()[4:] - images[4:] / 255).mean() < 0.05
    codes = trained.encode(images)
    assert codes.shape == (8, trained.code_size)
    torch.testing.assert_close(trained.decode(codes), trained.reconstruct(images))
    assert trained.sample(2, count=1).images.shape == (2, 40, 40)


def test_an_image_of_each_scene_works_on_any_canvas(runs):
    """The mutation: cells that grow with the canvas, which the weights do not know."""
    trained = load(runs / "image")
    images = np.full((2, 60, 90), 100, dtype=np.uint8)
    images[:, :, 50:] = 160
    found = trained.detect(images)
    larger = load(runs / "image", shape=(60, 90))
    assert larger.objective.model.background.cell == trained.objective.model.background.cell
    assert torch.equal(larger.detect(images).background, found.background)
    far = np.abs(np.arange(90) - 50) > 12
    np.testing.assert_allclose(found.background[..., far], images[..., far] / 255, atol=0.05)


def test_one_image_of_all_scenes_has_one_size(runs):
    for act in (
        lambda: load(runs / "learned", shape=(60, 90)),
        lambda: load(runs / "learned").detect(np.zeros((2, 60, 90), dtype=np.uint8)),
    ):
        with refused("60x90", "--background learned", "40x40", "--background image"):
            act()
    assert load(runs / "learned", max_objects=5).detect(np.zeros((1, 40, 40))).z_where.shape[1] == 5
