from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceGraph_ELBO
from torch import Tensor, nn

from guides.air import (
    BaselineNetwork,
    DecayingAverage,
    LearnsFromCosts,
    RecurrentGuide,
    ResidualGuide,
    model_and_guide,
)
from pyro_models.air import AIR
from pyro_models.likelihoods import NormalImage
from pyro_models.networks import boxes, crop, paste
from pyro_models.presence import FixPresence, all_present, presence_logits
from train.estimators import MarginalELBO, TraceGraphELBO

GUIDES = pytest.mark.parametrize("guide_class", [ResidualGuide, RecurrentGuide])
PRIORS = pytest.mark.parametrize("count_prior", ["steps", "geometric"])
CHANNELS = pytest.mark.parametrize("channels", [1, 3])
SITES = ("z_pres", "z_where", "z_what")


def count_probabilities(count_prior: str, pi: float, n_max: int = 3) -> Tensor:
    p = torch.tensor([pi**n for n in range(n_max + 1)])
    if count_prior == "geometric":
        return p / p.sum()
    p[:-1] *= 1 - pi
    return p


def log_prior_of_counts(model: AIR, **kwargs: Tensor | float) -> Tensor:
    """The log-probability that the model itself gives to each count."""
    n_max = model.max_objects
    counts = torch.arange(n_max + 1)
    data = {f"z_pres_{i}": (counts > i).to(torch.get_default_dtype()) for i in range(n_max)}
    conditioned = poutine.condition(model, data=data)
    trace = poutine.trace(conditioned).get_trace(n=n_max + 1, **kwargs)
    trace.compute_log_prob()
    return sum(trace.nodes[name]["log_prob"] for name in data)


# The model


@PRIORS
@pytest.mark.parametrize("pi", [0.01, 0.3, 0.9])
def test_prior_of_the_count(small_air, count_prior, pi):
    model = small_air(count_prior=count_prior, presence_prior=pi).model
    wanted = count_probabilities(count_prior, pi)
    torch.testing.assert_close(wanted.sum().item(), 1.0)
    torch.testing.assert_close(log_prior_of_counts(model).exp(), wanted)


@PRIORS
def test_the_prior_can_be_annealed(small_air, count_prior):
    model = small_air(count_prior=count_prior).model
    for pi in (0.9, torch.tensor(0.7)):
        wanted = count_probabilities(count_prior, float(pi))
        torch.testing.assert_close(log_prior_of_counts(model, presence_prior=pi).exp(), wanted)
    wanted = count_probabilities(count_prior, 0.3)
    torch.testing.assert_close(log_prior_of_counts(model).exp(), wanted)


@PRIORS
def test_samples_follow_the_prior(small_air, count_prior):
    n, pi = 5_000, 0.4
    model = small_air(count_prior=count_prior, presence_prior=pi).model
    scene = model.sample(n)
    p = count_probabilities(count_prior, pi)
    found = torch.bincount(scene.counts, minlength=4) / n
    assert ((found - p).abs() < 5 * (p * (1 - p) / n).sqrt()).all()

    noise = scene.images - scene.canvas
    size = noise.numel()
    assert noise.mean().abs() < 5 * 0.4 / size**0.5
    assert (noise.std() - 0.4).abs() < 5 * 0.4 / (2 * size) ** 0.5
    assert not scene.canvas[scene.counts == 0].any()
    assert scene.canvas[scene.counts > 0].flatten(1).any(1).float().mean() > 0.9

    # Places: a median inverse scale of 2.
    nodes = poutine.trace(model).get_trace(n=n).nodes
    log_scale = torch.cat([nodes[f"z_where_{i}"]["value"][:, 0] for i in range(3)])
    sd, size = 0.4 / 2, len(log_scale)
    assert (log_scale.mean() - math.log(2)).abs() < 5 * sd / size**0.5
    assert (log_scale.std() - sd).abs() < 5 * sd / (2 * size) ** 0.5


def assert_in_the_convention_of_the_data(boxes: Tensor, counts: Tensor) -> None:
    """Boxes inside an image of 10 by 11, zeros where there is no object."""
    there = torch.arange(boxes.shape[1]) < counts[:, None]
    assert (boxes[~there] == 0).all()
    assert ((boxes >= 0) & (boxes <= torch.tensor([11.0, 10.0, 11.0, 10.0]))).all()
    assert (boxes[..., 2:] >= boxes[..., :2]).all()


@CHANNELS
def test_shapes_of_a_scene(small_air, channels):
    model = small_air(presence_prior=0.6, shape=(channels, 10, 11)).model
    for n in (1, 50):
        scene = model.sample(n)
        assert scene.images.shape == scene.canvas.shape == (n, channels, 10, 11)
        assert scene.counts.shape == (n,)
        assert scene.counts.dtype == torch.int64
        assert scene.boxes.shape == (n, 3, 4)
        assert_in_the_convention_of_the_data(scene.boxes, scene.counts)
        assert not any(part.requires_grad for part in scene)


@pytest.mark.parametrize("who", ["model", "guide"])
def test_after_an_absence_there_is_nothing(small_air, who):
    model, guide, images = small_air(presence_prior=0.5)
    images = images.repeat(100, 1, 1, 1)
    trace = poutine.trace(model if who == "model" else guide).get_trace(images)
    z_pres = torch.stack([trace.nodes[f"z_pres_{i}"]["value"] for i in range(3)])
    assert (z_pres.diff(dim=0) <= 0).all()
    assert z_pres.sum(0).unique().tolist() == [0, 1, 2, 3]


def test_sites(small_air):
    model, guide, images = small_air()
    latents = {f"{name}_{i}" for name in SITES for i in range(3)}
    for net, wanted in ((model, {*latents, "x"}), (guide, latents)):
        nodes = poutine.trace(net).get_trace(images).nodes
        found = {name for name, site in nodes.items() if site["type"] == "sample"}
        assert found == {*wanted, "scenes"}
        marked = {name for name in found if nodes[name]["infer"].get("presence")}
        assert marked == {f"z_pres_{i}" for i in range(3)}
        assert nodes["z_pres_0"]["value"].shape == (6,)
        assert nodes["z_where_0"]["value"].shape == nodes["z_what_0"]["value"].shape == (6, 3)
        assert all(nodes[name]["fn"].batch_shape == (6,) for name in wanted)


@CHANNELS
def test_likelihood_has_its_constant(small_air, channels):
    model, _, images = small_air(shape=(channels, 10, 11))
    trace = poutine.trace(model).get_trace(images)
    trace.compute_log_prob()
    squares = ((images - trace.nodes["x"]["fn"].mean) ** 2).sum((1, 2, 3))
    constant = 110 * channels * (math.log(0.4) + 0.5 * math.log(2 * math.pi))
    wanted = -squares / (2 * 0.4**2) - constant
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], wanted)


def test_beta_scales_latents_only(small_air):
    model, guide, images = small_air()
    for net in (model, guide):
        nodes = poutine.trace(net).get_trace(images, beta=0.25).nodes
        for name, site in nodes.items():
            if name.startswith("z_"):
                assert site["scale"] == 0.25
    assert poutine.trace(model).get_trace(images, beta=0.25).nodes["x"]["scale"] == 1


@CHANNELS
def test_the_canvas_is_the_sum_of_the_objects_there(small_air, channels):
    model, _, images = small_air(presence_prior=0.6, shape=(channels, 10, 11))
    nodes = poutine.trace(model).get_trace(images).nodes
    wanted = torch.zeros_like(images)
    for i in range(3):
        z_pres, z_where, z_what = (nodes[f"{name}_{i}"]["value"] for name in SITES)
        for b in range(6):
            if z_pres[b]:
                wanted[b] += model.paste(z_what[b], z_where[b])
    torch.testing.assert_close(nodes["x"]["fn"].mean, wanted)


@CHANNELS
def test_decoded_windows_are_bounded_and_begin_mostly_empty(double, channels):
    model = AIR((channels, 50, 50), window_size=6, what_dim=3, hidden=8)
    windows = model.decode(torch.randn(4, 5, 3))
    assert windows.shape == (4, 5, channels, 6, 6)
    assert windows.min() > 0
    assert windows.max() < 0.3


def test_an_object_in_colour_has_a_mask_and_a_colour(small_air):
    """The mutations: the bias is added to colours too, or a colour is taken for the mask."""
    model = small_air(shape=(3, 10, 11)).model
    z_what = torch.randn(4, 6, 3)
    logits = model.decoder(z_what).unflatten(-1, (4, 5, 5))
    mask, colour = model.appearance(z_what)
    torch.testing.assert_close(mask, (logits[..., :1, :, :] - 1).sigmoid())
    torch.testing.assert_close(colour, logits[..., 1:, :, :].sigmoid())
    torch.testing.assert_close(model.decode(z_what), mask * colour)


def test_the_mask_of_a_grey_object_is_its_grey_level(small_air):
    model = small_air().model
    z_what = torch.randn(4, 6, 3)
    mask, colour = model.appearance(z_what)
    assert torch.equal(mask, (model.decoder(z_what) - 1).sigmoid().unflatten(-1, (1, 5, 5)))
    assert torch.equal(model.decode(z_what), mask)
    assert torch.equal(colour, torch.ones_like(mask))


@pytest.mark.parametrize("channels", [2, 3])
def test_channels_are_pasted_and_cropped_apart(double, channels):
    """The mutation: channels are mixed, or the places of objects taken for those of channels."""
    windows, images = torch.rand(2, 4, channels, 5, 5), torch.rand(4, channels, 10, 11)
    z_where = torch.randn(2, 4, 3)
    pasted, cropped = paste(windows, z_where, (10, 11)), crop(images, z_where, 5)
    assert pasted.shape == (2, 4, channels, 10, 11)
    assert cropped.shape == (2, 4, channels, 5, 5)
    for i in range(channels):
        one = slice(i, i + 1)
        torch.testing.assert_close(pasted[:, :, one], paste(windows[:, :, one], z_where, (10, 11)))
        torch.testing.assert_close(cropped[:, :, one], crop(images[:, one], z_where, 5))


@CHANNELS
@pytest.mark.parametrize("batch", [1, 3, 6])
@pytest.mark.parametrize("who", ["model", "guide", "detect", "likelihood"])
def test_images_of_other_axes_are_refused(small_air, channels, batch, who):
    """The mutation: without channels, or as a single image, they are broadcast."""
    model, guide, images = small_air(shape=(channels, 10, 11), images=batch)
    likelihood = NormalImage(dist.Normal(torch.zeros_like(images), 0.4), 3)
    callers = {"model": model, "guide": guide, "detect": guide.detect}
    take = callers.get(who, likelihood.log_prob)
    take(images)
    wrong = [images[:, 0], images.repeat(1, 2, 1, 1), images[..., 1:], images.mT]
    if who != "likelihood":
        wrong.append(images[0])
    elif batch == channels:
        # These are the axes of a single image, whose likelihood under each canvas is defined.
        del wrong[0]
    for other in wrong:
        with pytest.raises(ValueError, match=r"images have shape .*: give \((\*|B), C, H, W\)"):
            take(other)


def test_another_likelihood(small_air):
    class Photons(AIR):
        def observe(self, canvas: Tensor, images: Tensor | None) -> Tensor:
            return pyro.sample("x", dist.Poisson(canvas + 0.1).to_event(3), obs=images)

    model = Photons((10, 11), window_size=5, what_dim=3, hidden=8, presence_prior=0.5)
    images = model.sample(3).images
    assert torch.equal(images, images.round())
    assert poutine.trace(model).get_trace(images).log_prob_sum().isfinite()


@pytest.mark.parametrize("pi", [0.0, 1.0, -0.1, 1.5])
def test_a_prior_that_is_no_probability_is_refused(pi):
    with pytest.raises(ValueError, match="presence_prior"):
        AIR(presence_prior=pi)


# Presence


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_absence_is_certain_after_absence(dtype):
    logits = torch.tensor([-20.0, 0.0, 3.0, 40.0], dtype=dtype, requires_grad=True)
    fn = dist.Bernoulli(logits=presence_logits(torch.zeros(4, dtype=dtype), logits))
    assert fn.logits.dtype == dtype
    assert fn.probs.tolist() == [0.0] * 4
    assert not fn.sample((100,)).any()
    log_prob = fn.log_prob(torch.zeros(4, dtype=dtype))
    assert log_prob.tolist() == [0.0] * 4
    assert fn.log_prob(torch.ones(4, dtype=dtype)).isfinite().all()
    for out in (log_prob, fn.probs, fn.entropy()):
        (gradient,) = torch.autograd.grad(out.sum(), logits, retain_graph=True)
        assert gradient.tolist() == [0.0] * 4


def test_presence_logits_keep_what_can_be():
    logits = torch.randn(5)
    assert presence_logits(None, logits) is logits
    assert torch.equal(presence_logits(torch.ones(5), logits), logits)
    mixed = presence_logits(torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0]), logits)
    assert torch.equal(mixed[::2], logits[::2])
    assert (mixed[1::2].sigmoid() == 0).all()


def test_fixed_presences(small_air):
    _, guide, images = small_air()
    with FixPresence(all_present) as row:
        for _ in range(2):
            row.names.clear()
            trace = poutine.trace(guide).get_trace(images)
    assert row.names == ["z_pres_0", "z_pres_1", "z_pres_2"]
    for name in row.names:
        assert torch.equal(trace.nodes[name]["value"], torch.ones(6))
        assert not trace.nodes[name]["is_observed"]


# The guides


@GUIDES
@pytest.mark.parametrize(
    ("baseline", "extra"),
    [
        (None, set()),
        (lambda: DecayingAverage(3), {"baseline.total", "baseline.weight"}),
        (
            lambda: BaselineNetwork(110, 8, hidden=8),
            {f"baseline.{name}" for name in ("image.weight", "image.bias", "state.weight")}
            | {f"baseline.head.{i}.{name}" for i in (0, 2) for name in ("weight", "bias")},
        ),
    ],
)
def test_states_hold_weights_once_and_no_settings(small_air, guide_class, baseline, extra):
    model, guide, _ = small_air(guide_class, baseline=baseline and baseline())
    layers = {f"decoder.{i}.{name}" for i in (0, 2) for name in ("weight", "bias")}
    assert set(model.state_dict()) == layers
    own = {"image.weight", "image.bias", "recurrence.weight"}
    own |= {
        f"{net}.{i}.{w}" for net in ("step", "encoder") for i in (0, 2) for w in ("weight", "bias")
    }
    assert set(guide.state_dict()) == own | extra
    storages = [{value.data_ptr() for value in net.state_dict().values()} for net in (model, guide)]
    assert storages[0].isdisjoint(storages[1])
    weights = [{id(weight) for weight in net.parameters()} for net in (model, guide)]
    assert weights[0].isdisjoint(weights[1])


@GUIDES
@pytest.mark.parametrize("anchors", [0, 1, 2, 5])
def test_a_new_guide_starts_at_the_priors_size(double, guide_class, anchors):
    model = AIR((10, 11), window_size=5, what_dim=3, hidden=8, where_loc=(2.0, 0.3, -0.2))
    guide = guide_class(model, hidden=8, encoder_hidden=8, anchors=anchors)
    nodes = poutine.trace(guide).get_trace(torch.rand(4, 1, 10, 11)).nodes
    torch.testing.assert_close(nodes["z_pres_0"]["fn"].probs, torch.tensor(2.0).sigmoid().expand(4))
    for i in range(3):
        places = nodes[f"z_where_{i}"]["fn"].base_dist
        offsets = places.loc - model.where_loc
        torch.testing.assert_close(offsets[:, 0], torch.zeros(4))
        # On the canvas, and with fewer than two anchors at its middle.
        reach = 0.9 * 2.0 if anchors > 1 else 1e-9
        assert (offsets[:, 1:].abs() < reach).all()
        assert (places.scale < model.where_scale).all()


@GUIDES
@pytest.mark.parametrize("anchors", [2, 3])
def test_anchors_are_a_grid_over_the_canvas(small_air, guide_class, anchors):
    _, guide, images = small_air(guide_class, anchors=anchors, max_objects=1)
    for net, weight in (("places", slice(1, 4)), ("choice", slice(7, 7 + anchors**2))):
        guide.step[-1].weight.data[weight] = 0
        guide.step[-1].bias.data[weight] = 0 if net == "places" else -1_000
    centres = set()
    for i in range(anchors**2):
        bias = guide.step[-1].bias.data
        bias[7 + i] = 0
        # Not those found, which are cut off at the canvas' edge.
        where = guide.detect(images).z_where[0, 0]
        left, top, right, bottom = boxes(where, (10, 11), square=True).tolist()
        bias[7 + i] = -1_000
        assert (right - left, bottom - top) == pytest.approx((5, 5))
        centres.add((round((left + right) / 11 - 1, 9), round((top + bottom) / 10 - 1, 9)))
    axis = [-0.45, 0.45] if anchors == 2 else [-0.6, 0.0, 0.6]
    assert centres == {(x, y) for x in axis for y in axis}


@GUIDES
def test_a_window_never_falls_between_two_places(small_air, guide_class):
    """Equal logits at opposite corners: their mean would be the canvas' middle."""
    _, guide, _ = small_air(guide_class, anchors=5)
    first, last = guide.anchors[0], guide.anchors[-1]
    choice = torch.full((2, 25), -10.0)
    choice[:, 0] = choice[:, -1] = 5.0
    choice[0, 0] += 1e-3
    choice[1, -1] += 1e-3
    places = guide.choose(choice)
    size = (last - first).norm()
    assert (places[0] - first).norm() < 0.02 * size
    assert (places[1] - last).norm() < 0.02 * size
    # Without the neighbourhood this is what a place would be.
    mean = choice.softmax(dim=-1) @ guide.anchors
    assert (mean.norm(dim=-1) < 0.02 * size).all()


@GUIDES
def test_a_place_moves_between_neighbours_with_a_gradient(small_air, guide_class):
    _, guide, _ = small_air(guide_class, anchors=5)
    choice = torch.full((25,), -100.0)
    choice[[11, 12]] = torch.tensor([0.0, 0.5])
    choice.requires_grad_()
    place = guide.choose(choice)
    low, high = sorted([guide.anchors[11, 2].item(), guide.anchors[12, 2].item()])
    assert low < place[2].item() < high
    (grad,) = torch.autograd.grad(place[2], choice)
    assert grad[11] * grad[12] < 0
    weights = (choice - guide.distance_penalty[12]).softmax(-1)
    torch.testing.assert_close(grad[12], weights[12] * (guide.anchors[12, 2] - place[2]))


@GUIDES
def test_a_guide_without_anchors(small_air, guide_class):
    _, guide, images = small_air(guide_class, anchors=0)
    nodes = poutine.trace(guide).get_trace(images).nodes
    features = guide.image(images.flatten(1))
    out = guide.step(features.relu())
    wanted = guide.model.where_loc + guide.model.where_scale * out[:, 1:4]
    torch.testing.assert_close(nodes["z_where_0"]["fn"].mean, wanted)


def test_a_guide_never_looks_at_a_presence(small_air):
    """Its steps on the path with all present are those of every count."""
    _, guide, images = small_air()
    pyro.set_rng_seed(1)
    with FixPresence(all_present):
        every = poutine.trace(guide).get_trace(images).nodes
    pyro.set_rng_seed(1)
    with FixPresence(lambda step, message: torch.full((6,), float(step < 1))):
        one = poutine.trace(guide).get_trace(images).nodes
    for name, site in every.items():
        if name.startswith(("z_where", "z_what")):
            assert torch.equal(site["value"], one[name]["value"])
    assert torch.equal(every["z_pres_1"]["fn"].logits, one["z_pres_1"]["fn"].logits)


@CHANNELS
def test_a_residual_step_sees_what_is_left(small_air, channels):
    """Taken from the image by hand, what the first object explains gives the next step's view."""
    model, guide, images = small_air(shape=(channels, 10, 11))
    seen = []
    look = guide.look
    guide.__dict__["look"] = lambda *args: seen.append(look(*args)) or look(*args)
    nodes = poutine.trace(guide).get_trace(images).nodes
    left = images
    for i, (view, features) in enumerate(seen):
        torch.testing.assert_close(view, left)
        torch.testing.assert_close(features, guide.image(left.flatten(1)))
        left = left - model.paste(nodes[f"z_what_{i}"]["value"], nodes[f"z_where_{i}"]["value"])
    assert len(seen) == 3


def spread_counts(guide: RecurrentGuide) -> Tensor:
    """Makes images, and presences so unlike and so near one half that every count is found."""
    images = torch.randn(100, *guide.model.shape)
    guide.step[-1].weight.data[0] *= 4
    with FixPresence(all_present):
        nodes = poutine.trace(guide).get_trace(images).nodes
    logits = torch.stack([nodes[f"z_pres_{i}"]["fn"].logits for i in range(3)])
    guide.step[-1].bias.data[0] -= logits.median()
    return images


@GUIDES
@CHANNELS
def test_detect(small_air, guide_class, channels):
    model, guide, _ = small_air(guide_class, shape=(channels, 10, 11))
    # Places beyond the edge, too.
    guide.step[-1].weight.data[2:4] *= 3
    images = spread_counts(guide)
    found = guide.detect(images)
    assert found.counts.shape == (100,)
    assert found.probabilities.shape == (100, 4)
    assert found.boxes.shape == (100, 3, 4)
    assert found.z_where.shape == found.z_what.shape == (100, 3, 3)
    assert found.reconstruction.shape == images.shape
    assert not any(part.requires_grad for part in found)
    assert len(found.counts.unique()) >= 3

    data = {f"z_pres_{i}": torch.ones(100) for i in range(3)}
    for name in ("z_where", "z_what"):
        data |= {f"{name}_{i}": getattr(found, name)[:, i] for i in range(3)}
    nodes = poutine.trace(poutine.condition(guide, data=data)).get_trace(images).nodes
    for name in list(data)[3:]:
        torch.testing.assert_close(nodes[name]["fn"].mean, data[name])
    p = [nodes[f"z_pres_{i}"]["fn"].logits.sigmoid() for i in range(3)]
    one = torch.ones(100)
    wanted = [one - p[0], p[0] * (1 - p[1]), p[0] * p[1] * (1 - p[2]), p[0] * p[1] * p[2]]
    torch.testing.assert_close(found.probabilities, torch.stack(wanted, dim=1))
    torch.testing.assert_close(found.probabilities.sum(1), one)
    assert torch.equal(found.counts, found.probabilities.max(1).indices)

    assert_in_the_convention_of_the_data(found.boxes, found.counts)
    windows = boxes(found.z_where, (10, 11), square=True)
    inside = (windows >= 0) & (windows <= torch.tensor([11.0, 10.0, 11.0, 10.0]))
    there = (torch.arange(3) < found.counts[:, None]).unsqueeze(-1)
    assert not (inside | ~there).all()
    kept = inside & there
    assert kept.any(-1).sum() > 20
    assert torch.equal(found.boxes[kept], windows[kept])
    canvas = torch.zeros_like(images)
    for b, count in enumerate(found.counts.tolist()):
        for i in range(count):
            canvas[b] += model.paste(found.z_what[b, i], found.z_where[b, i])
    torch.testing.assert_close(found.reconstruction, canvas)


@GUIDES
def test_detect_is_the_same_each_time_and_for_each_image_alone(small_air, guide_class):
    _, guide, images = small_air(guide_class)
    found = guide.detect(images)
    before = torch.get_rng_state()
    for again, part in zip(guide.detect(images), found, strict=True):
        assert torch.equal(again, part)
    assert torch.equal(before, torch.get_rng_state())
    alone = [guide.detect(image[None]) for image in images]
    for parts, part in zip(zip(*alone, strict=True), found, strict=True):
        torch.testing.assert_close(torch.cat(parts), part)


@GUIDES
def test_detect_and_sample_leave_pyros_parameter_store_alone(small_air, guide_class):
    first, second = small_air(guide_class), small_air(guide_class)
    for weight in [*second.model.parameters(), *second.guide.parameters()]:
        weight.data *= 0.9
    nets = [first.model, first.guide, second.model, second.guide]
    states = [{name: value.clone() for name, value in net.state_dict().items()} for net in nets]
    for air in (first, second, first):
        air.model.sample(2)
        air.guide.detect(air.images)
    assert not list(pyro.get_param_store())
    for net, state in zip(nets, states, strict=True):
        for name, value in net.state_dict().items():
            assert torch.equal(value, state[name])


def test_a_baseline_is_that_of_a_presence_that_can_be(small_air):
    network = BaselineNetwork(110, 8, hidden=8)
    _, guide, images = small_air(baseline=network)
    with FixPresence(lambda step, message: torch.full((6,), float(step < 1))):
        nodes = poutine.trace(guide).get_trace(images).nodes
    values = [nodes[f"z_pres_{i}"]["infer"]["baseline"]["baseline_value"] for i in range(3)]
    assert all(value.shape == (6,) for value in values)
    assert values[0].all()
    assert values[1].all()
    assert not values[2].any()
    inputs = [*guide.step.parameters(), *guide.image.parameters()]
    found = torch.autograd.grad(
        sum(values).sum(), [*inputs, network.state.weight], allow_unused=True
    )
    assert found[:-1] == (None,) * len(inputs)
    assert found[-1].any()


class BrightnessBaseline(nn.Module):
    """A user's own: it foretells from the images alone, and learns from the costs it is handed."""

    def __init__(self) -> None:
        super().__init__()
        self.costs: list[tuple[int, Tensor, Tensor]] = []

    def forward(self, step: int, images: Tensor, hidden: Tensor) -> Tensor:
        return images.mean((-3, -2, -1))

    def update(self, step: int, costs: Tensor, weights: Tensor) -> None:
        self.costs.append((step, costs, weights))


@pytest.mark.parametrize(
    "make",
    [lambda: DecayingAverage(3), lambda: BaselineNetwork(110, 8, hidden=8), BrightnessBaseline],
    ids=["average", "network", "own"],
)
@pytest.mark.parametrize("images", [6, 1])
@pytest.mark.parametrize("particles", [1, 4])
def test_a_baseline_has_the_shape_of_its_presence(small_air, make, images, particles):
    """Also with draws side by side, as Pyro's estimator wants it."""
    baseline = make()
    air = small_air(baseline=baseline, images=images)
    options = {"num_particles": particles, "vectorize_particles": True, "max_plate_nesting": 1}
    for elbo in (TraceGraph_ELBO(**options), TraceGraphELBO(**options)):
        assert math.isfinite(elbo.loss_and_grads(*air))
    with pyro.plate("draws", particles, dim=-3):
        nodes = poutine.trace(air.guide).get_trace(air.images).nodes
    for i in range(3):
        site = nodes[f"z_pres_{i}"]
        # Pyro's costs have no leading dimensions of one.
        shape = [particles, 1, images] if particles > 1 else [images] if images > 1 else []
        value = site["infer"]["baseline"]["baseline_value"]
        assert list(value.shape) == shape
        assert i or value.any()
        assert ("observe_cost" in site["infer"]) == hasattr(baseline, "update")


@pytest.mark.parametrize("make", [DecayingAverage, lambda n: BaselineNetwork(110, 8, hidden=n)])
def test_baselines_take_states_of_draws_side_by_side(double, make):
    baseline, images, hidden = make(3), torch.rand(6, 1, 10, 11), torch.rand(4, 6, 8)
    values = baseline(1, images, hidden)
    assert values.shape == (4, 6)
    torch.testing.assert_close(values, torch.stack([baseline(1, images, h) for h in hidden]))


def test_an_own_baseline_is_handed_the_costs(small_air):
    baseline = BrightnessBaseline()
    air = small_air(baseline=baseline)
    loss = TraceGraphELBO().differentiable_loss(*air)
    assert isinstance(baseline, LearnsFromCosts)
    assert sorted(step for step, _, _ in baseline.costs) == [0, 1, 2]
    (costs,) = (costs for step, costs, _ in baseline.costs if step == 0)
    torch.testing.assert_close(costs.sum(), -loss.detach())
    assert all(costs.shape == weights.shape == (6,) for _, costs, weights in baseline.costs)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_scenes_of_a_given_count(small_air, count):
    model, _, _ = small_air()
    scenes = model.sample(7, count)
    assert scenes.counts.tolist() == [count] * 7
    assert (scenes.canvas.flatten(1).sum(1) > 0).tolist() == [count > 0] * 7


def test_a_spread_without_bounds_breaks_nothing(small_air):
    """The mutation: the exponential as it is, which is infinite here."""
    model, guide, images = small_air()
    with torch.no_grad():
        guide.encoder[-1].bias[model.what_dim :] = 1_000
    loss = MarginalELBO().differentiable_loss(model, guide, images)
    assert loss.isfinite()
    gradients = torch.autograd.grad(loss, list(guide.parameters()), allow_unused=True)
    assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)


@pytest.mark.parametrize("baseline", ["none", "average", "network"])
@pytest.mark.parametrize("guide", ["residual", "recurrent"])
def test_the_factory_draws_weights_in_the_order_of_saved_seeds(guide, baseline):
    """Model, baseline, guide: the same seed gives the weights that it always gave.

    The mutation: another order, a setting that is not passed on, or another width.
    """
    sizes = {"window_size": 5, "what_dim": 3, "max_objects": 2}
    options = {"decoder_bias": -2.0, "presence_prior": 0.2, "count_prior": "geometric"}
    options["likelihood_scale"] = 0.4
    torch.manual_seed(1)
    model = AIR(
        (10, 11),
        hidden=8,
        where_loc=(2.0, 0.0, 0.0),
        # A place's deviation is that of the shorter side, brought to scale.
        where_scale=(0.3, 1.1, 1.0),
        **sizes,
        **options,
    )
    expected_baseline = None
    if baseline == "average":
        expected_baseline = DecayingAverage(2)
    elif baseline == "network":
        expected_baseline = BaselineNetwork(110, 6)
    guide_class = ResidualGuide if guide == "residual" else RecurrentGuide
    widths = {"hidden": 6, "encoder_hidden": 8, "anchors": 3}
    expected = model, guide_class(model, **widths, baseline=expected_baseline)

    torch.manual_seed(1)
    kinds = {"guide": guide, "baseline": baseline, "window_scale": (2.0, 0.3)}
    widths = {"what_hidden": 8, "guide_hidden": 6, "anchors": 3}
    actual = model_and_guide((10, 11), **sizes, **options, **kinds, **widths)
    assert type(actual[1]) is guide_class
    assert type(actual[1].baseline) is type(expected_baseline)
    assert actual[1].model is actual[0]
    for net, wanted in zip(actual, expected, strict=True):
        tensors = dict(net.state_dict()) | dict(net.named_buffers())
        for name, tensor in (dict(wanted.state_dict()) | dict(wanted.named_buffers())).items():
            assert torch.equal(tensors.pop(name), tensor), name
        assert not tensors
    for name in ("shape", "count_prior", "decoder_bias", "likelihood_scale", *sizes):
        assert getattr(actual[0], name) == getattr(model, name)
