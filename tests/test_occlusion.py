"""Opaque objects on a background: how they compose, what is inferred, and what is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from guides.air import ConvolutionalGuide, ResidualGuide, model_and_guide
from pyro_models.air import AIR, EDGE
from pyro_models.likelihoods import LayeredImage, Layers
from pyro_models.networks import paste
from tests.data.refusals import refused
from tests.estimators.exact import require_exact_sum
from tests.test_train_air import small
from train.air import main
from train.backgrounds import with_background
from train.estimators import MarginalELBO, TraceGraphELBO
from train.settings.air import AIRSettings
from train.trained import load

OPAQUE = {"composition": "over", "background": "constant"}
BACKGROUNDS = ("constant", "image", "learned")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_first_object_is_in_front(double, channels, count):
    """A painter who begins with the object at the back draws the same.

    The mutation: the last object in front, or an alpha that does not darken the background.
    """
    model = AIR((channels, 12, 14), window_size=6, what_dim=3, hidden=8, **OPAQUE)
    z_what = torch.randn(4, 3, 3)
    z_where = torch.tensor([0.7, 0.0, 0.0]) + 0.3 * torch.randn(4, 3, 3)
    background = torch.rand(4, channels)
    canvas = background[..., None, None].expand(4, channels, 12, 14)
    for i in reversed(range(count)):
        mask, colour = model.appearance(z_what[:, i])
        alpha, ink = (
            paste(layer, z_where[:, i], (12, 14), square=True) for layer in (mask, mask * colour)
        )
        canvas = canvas * (1 - alpha) + ink
    counts = torch.full((4,), count)
    torch.testing.assert_close(model.draw(z_where, z_what, counts, background), canvas)
    objects, masks = model.layers(z_where, z_what, counts, background[..., None, None])
    assert not objects[:, count:].any()
    assert not masks[:, count:].any()
    assert (masks.sum(1) <= 1 + 1e-12).all()


@pytest.mark.parametrize("composition", ["over", "mixture"])
@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_count_is_summed_out_exactly(small_air, channels, background, composition):
    """Pyro's enumeration of presences has the same value and gradient.

    The mutation: an object that occludes others although it is absent.
    """
    air = small_air(
        ConvolutionalGuide,
        shape=(channels, 10, 11),
        hidden=16,
        **OPAQUE | {"background": background, "composition": composition},
    )
    require_exact_sum(air)


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_the_model_and_the_verbs_draw_the_same(small_air, background):
    """The mutation: the background left out of one of the two."""
    air = small_air(ConvolutionalGuide, shape=(3, 10, 11), **OPAQUE | {"background": background})
    found = air.guide.detect(air.images)
    shape = air.model.background.latent_shape
    latent = None if shape is None else found.z_background.unflatten(1, shape)
    drawn = air.model.draw(found.z_where, found.z_what, found.counts, latent)
    torch.testing.assert_close(found.reconstruction, drawn)
    absent = air.model.draw(found.z_where, found.z_what, 0 * found.counts, latent)
    torch.testing.assert_close(found.background, absent.expand_as(air.images))


def test_an_object_without_texture_has_one_colour(double):
    """It is drawn as its mask times that colour, also where the mask ends.

    The mutation: a colour that is not multiplied by the mask, or that differs between pixels.
    """
    model = AIR((3, 12, 14), window_size=6, what_dim=3, hidden=8, texture=False, **OPAQUE)
    z_what, z_where = torch.randn(4, 1, 3), torch.zeros(4, 1, 3) + torch.tensor([0.7, 0.1, -0.2])
    mask, colour = model.appearance(z_what[:, 0])
    assert mask.shape == (4, 1, 6, 6)
    assert colour.shape == (4, 3, 1, 1)
    ink = paste(mask * colour, z_where[:, 0], (12, 14), square=True)
    alpha = paste(mask, z_where[:, 0], (12, 14), square=True)
    drawn = model.draw(z_where, z_what, torch.ones(4), torch.full((4, 3), 0.5))
    torch.testing.assert_close(drawn, 0.5 * (1 - alpha) + ink)
    layers = model.opaque_layers([(z_what[:, 0], z_where[:, 0])], torch.zeros(3, 1, 1))
    inside = (alpha > EDGE).expand_as(ink)
    assert 0 < inside.sum() < inside.numel()
    torch.testing.assert_close(layers.colours[0][inside], colour.expand_as(ink)[inside])


@pytest.mark.parametrize("composition", ["sum", "mixture"])
def test_a_run_without_texture_is_loaded(tmp_path, composition):
    settings = small(
        tmp_path, data="tetrominoes", composition=composition, guide="convolutional", texture=False
    )
    main(settings)
    model = load(settings.run_dir).objective.model
    assert (model.composition, model.texture) == (composition, False)


def test_one_colour_is_around_the_median(small_air):
    air = small_air(ConvolutionalGuide, shape=(3, 10, 11), **OPAQUE)
    medians = air.images.flatten(-2).median(-1).values
    found = air.guide.detect(air.images)
    torch.testing.assert_close(found.z_background, medians + air.guide.colour.correction)


@pytest.mark.parametrize("background", ["constant", "image"])
def test_score_functions_take_the_same_pair(small_air, background):
    air = small_air(ConvolutionalGuide, shape=(3, 10, 11), **OPAQUE | {"background": background})
    losses = []
    for seed in range(12):
        pyro.set_rng_seed(seed)
        losses.append(TraceGraphELBO().loss(*air))
    pyro.set_rng_seed(0)
    exact = np.mean([MarginalELBO().loss(*air) for _ in range(12)])
    error = np.std(losses) / np.sqrt(len(losses))
    assert abs(np.mean(losses) - exact) < 5 * error


def test_a_bright_background_is_noticed(tmp_path):
    """Digits on white: the run assumes a constant background, and keeps what it assumed."""
    path = tmp_path / "scenes.npz"
    rng = np.random.default_rng(0)
    images = np.full((80, 32, 32), 230, dtype=np.uint8)
    for image in images[:60]:
        row, column = rng.integers(0, 20, 2)
        image[row : row + 10, column : column + 10] = 30
    np.savez(path, images=images, counts=(np.arange(80) < 60).astype(int))
    results = main(small(tmp_path, data=str(path)))
    assert results["steps"] == 6
    trained = load(tmp_path / "run")
    chosen = (getattr(trained.settings, name) for name in ("background", "composition", "guide"))
    assert tuple(chosen) == ("constant", "over", "convolutional")
    found = trained.detect(images[-4:])
    assert (found.background - 230 / 255).abs().max() < 0.1
    codes = trained.encode(images[:3])
    assert codes.shape == (3, trained.code_size)
    torch.testing.assert_close(trained.decode(codes), trained.reconstruct(images[:3]))
    assert trained.sample(2).images.shape == (2, 32, 32)
    with refused("--guide residual", "the scenes are not black", "--guide convolutional"):
        main(small(tmp_path, data=str(path), run_dir=tmp_path / "other", guide="residual"))


def test_what_cannot_be_combined_is_refused():
    for background in BACKGROUNDS:
        with refused("--composition sum", f"--background {background}", "--composition over"):
            with_background(AIRSettings(background=background, composition="sum"))
        with refused("--guide residual", f"--background {background}", "--guide convolutional"):
            with_background(AIRSettings(background=background, guide="residual"))
        with pytest.raises(ValueError, match="composition"):
            AIR(background=background)
    with refused("--guide residual", "--composition over", "--guide convolutional"):
        with_background(AIRSettings(composition="over", guide="residual"))
    with pytest.raises(ValueError, match="composition"):
        ResidualGuide(AIR(**OPAQUE))
    with refused("--no-texture", "--composition over"):
        with_background(AIRSettings(texture=False), torch.zeros(5, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="texture"):
        AIR(texture=False)


def test_black_scenes_stay_sums():
    settings = with_background(AIRSettings(), torch.zeros(5, 1, 8, 8, dtype=torch.uint8))
    assert (settings.background, settings.composition) == ("black", "sum")
    assert settings.guide == "residual"
    assert with_background(settings) == settings


@pytest.mark.parametrize(
    ("flags", "guide"),
    [
        ({}, "residual"),
        ({"max_objects": 1}, "residual"),
        ({"max_objects": 4}, "convolutional"),
        ({"window_scale": (2.8, 0.1)}, "residual"),
        ({"window_scale": (3.1, 0.1)}, "convolutional"),
        # A guide that is asked for is taken.
        ({"max_objects": 9, "guide": "residual"}, "residual"),
    ],
)
def test_many_objects_and_small_ones_are_counted_by_the_convolutional_guide(flags, guide):
    assert with_background(AIRSettings(**flags)).guide == guide


def test_faint_objects_are_seen_as_bright_ones():
    """The mutation: a presence that reads the contrast of an object."""
    torch.manual_seed(0)
    _, guide = model_and_guide(
        (3, 60, 60), guide="convolutional", window_scale=(5, 0.2), window_size=12, **OPAQUE
    )
    probabilities = []
    for contrast in (0.15, 0.4):
        images = torch.full((1, 3, 60, 60), 0.5)
        images[..., 20:32, 30:42] += contrast
        found = guide.detect(images)
        centre = (found.windows[0, 0, :2] + found.windows[0, 0, 2:]) / 2
        assert (centre - torch.tensor([36.0, 26.0])).abs().max() < 3
        probabilities.append(1 - found.probabilities[0, 0].item())
    assert min(probabilities) > 0.99


# Each pixel shows one object


def layered(objects: int = 3, count: int = 2) -> tuple[LayeredImage, torch.Tensor]:
    """An image of random layers, of which the first ``count`` are present, and a value."""
    torch.manual_seed(3)
    masks = torch.rand(objects, 4, 1, 5, 6)
    behind = torch.cat([torch.ones(1, 4, 1, 5, 6), (1 - masks).cumprod(0)])
    colours, background = torch.rand(objects, 4, 3, 5, 6), torch.rand(4, 3, 1, 1)
    layers = Layers(colours, behind[:-1] * masks, behind, background)
    presence = (torch.arange(objects) < count).double()[:, None].expand(objects, 4)
    return LayeredImage(layers, presence, 0.3), torch.rand(4, 3, 5, 6)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_pixel_is_a_mixture_of_what_it_may_show(double, count):
    """Density and responsibilities, pixel by pixel; the mutation: a share that does not occlude."""
    image, value = layered(count=count)
    layers, outliers = image.layers, image.OUTLIERS
    responsibilities = image.responsibilities(value)
    log_probs = image.log_prob(value)
    for n in range(4):
        total = 0.0
        for y, x in itertools.product(range(5), range(6)):
            pixel = value[n, :, y, x]
            parts = []
            for i in range(count):
                fn = dist.Normal(layers.colours[i, n, :, y, x], 0.3)
                parts.append(layers.shares[i, n, 0, y, x] * fn.log_prob(pixel).sum().exp())
            behind = 1 - sum(layers.shares[i, n, 0, y, x] for i in range(count))
            fn = dist.Normal(layers.background[n, :, 0, 0], 0.3)
            rest = behind * fn.log_prob(pixel).sum().exp()
            density = (1 - outliers) * (sum(parts) + rest) + outliers
            total = total + density.log()
            for i, part in enumerate(parts):
                wanted = (1 - outliers) * part / density
                torch.testing.assert_close(responsibilities[i, n, y, x], wanted)
        torch.testing.assert_close(log_probs[n], total)
    assert not responsibilities[count:].any()


def test_draws_of_layers_have_their_mean(double):
    image, _ = layered()
    many = image.layers._replace(
        colours=image.layers.colours[:, :1].expand(3, 4_000, 3, 5, 6),
        shares=image.layers.shares[:, :1].expand(3, 4_000, 1, 5, 6),
        visible=image.layers.visible[:, :1].expand(4, 4_000, 1, 5, 6),
        background=image.layers.background[:1].expand(4_000, 3, 1, 1),
    )
    draws = LayeredImage(many, image.presence[:, :1].expand(3, 4_000), 0.3).sample()
    error = draws.std(0) / 4_000**0.5
    assert ((draws.mean(0) - image.mean[0]).abs() < 5 * error).all()


def test_masks_follow_the_edges_of_the_image():
    """A window of a sharp square, decoded as a disc: its mask is the square all the same."""
    torch.manual_seed(0)
    model = AIR((3, 12, 12), max_objects=1, window_size=6, what_dim=3, hidden=8, **OPAQUE)
    z_where = torch.tensor([[[0.0, 0.0, 0.0]]])
    z_what = torch.zeros(1, 1, 3)
    background = torch.zeros(1, 3, 1, 1)
    _, colour = model.appearance(z_what[:, 0])
    square = torch.zeros(1, 3, 12, 12)
    square[..., 3:9, 2:9] = colour.mean((-2, -1), keepdim=True)
    parts = model.visible_parts(z_where, z_what, torch.tensor([1]), background, square)
    torch.testing.assert_close(parts[0, 0] > 0.5, square[0, 0] > 0)
    # A smaller deviation is surer of it, and leaves the likelihood as it is.
    model.mask_scale = 0.1
    surer = model.visible_parts(z_where, z_what, torch.tensor([1]), background, square)
    inside = (square[0, 0] > 0) & (parts[0, 0] < 0.999)
    assert inside.any()
    assert (surer[0, 0] > parts[0, 0])[inside].all()
