from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.refusals import refused
from train.data import composition, datasets
from train.data.composition import INK, Digits, Rules
from train.data.crowds import place_in_turn
from train.data.fingerprint import fingerprint
from train.data.labelled import Images, Split
from train.data.scenes import Scenes, load_scenes, make_scenes
from train.settings import SceneSettings


@pytest.fixture(scope="module")
def digits():
    return datasets.load("mnist5k", Path("data"), "test").train.images


@pytest.fixture
def blocks():
    """A digit that fills its image; the sum of two is below 255, of three above."""
    return torch.full((1, 1, 28, 28), 100, dtype=torch.uint8)


@pytest.fixture(scope="module")
def scenes(digits):
    return make_scenes(digits, 400, canvas_size=70, max_digits=3, digit_size=(12, 28), seed=2)


def identical(first, second):
    return (
        torch.equal(first.images, second.images)
        and torch.equal(first.counts, second.counts)
        and torch.equal(first.boxes, second.boxes)
    )


def covered(scenes):
    """The number of boxes that each pixel is in, (M, 1, H, W)."""
    images = scenes.images[:, :1]
    cover = np.zeros(images.shape, dtype=np.int64)
    for (scene,), count, boxes in zip(cover, scenes.counts, scenes.boxes.int(), strict=True):
        for x0, y0, x1, y1 in boxes[:count].tolist():
            scene[y0:y1, x0:x1] += 1
    return torch.from_numpy(cover)


def widths(scenes):
    present = torch.arange(scenes.boxes.shape[1]) < scenes.counts[:, None]
    return (scenes.boxes[..., 2] - scenes.boxes[..., 0])[present]


class TestSeed:
    def test_same_seed_same_scenes(self, digits):
        torch.manual_seed(1)
        np.random.seed(1)  # noqa: NPY002 (the state that must not matter)
        first = make_scenes(digits, 300, digit_size=(18, 26), seed=5)
        torch.manual_seed(2)
        np.random.seed(2)  # noqa: NPY002
        state = torch.get_rng_state()
        assert identical(first, make_scenes(digits, 300, digit_size=(18, 26), seed=5))
        assert torch.equal(torch.get_rng_state(), state)

    def test_other_seed_other_scenes(self, digits):
        first, second = (make_scenes(digits, 300, seed=seed) for seed in (5, 6))
        assert not torch.equal(first.counts, second.counts)
        full = (first.counts == 2) & (second.counts == 2)
        different = (first.images[full] != second.images[full]).flatten(1).any(1)
        assert different.all()

    def test_number_of_threads_does_not_matter(self, digits):
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            first = make_scenes(digits, 200, seed=0)
            torch.set_num_threads(2)
            second = make_scenes(digits, 200, seed=0)
        finally:
            torch.set_num_threads(threads)
        assert identical(first, second)


class TestShapes:
    @pytest.mark.parametrize(("canvas_size", "max_digits"), [(50, 2), (40, 1), (100, 5)])
    def test_shapes_and_types(self, digits, canvas_size, max_digits):
        scenes = make_scenes(digits, 60, canvas_size=canvas_size, max_digits=max_digits, seed=0)
        assert scenes.images.shape == (60, 1, canvas_size, canvas_size)
        assert scenes.images.dtype == torch.uint8
        assert scenes.counts.shape == (60,)
        assert scenes.counts.dtype == torch.int64
        assert scenes.boxes.shape == (60, max_digits, 4)
        assert scenes.boxes.dtype == torch.float32
        assert scenes.counts.unique().tolist() == list(range(max_digits + 1))

    def test_more_scenes_than_are_drawn_at_once(self, digits, monkeypatch):
        monkeypatch.setattr("train.data.scenes.PIXELS_AT_ONCE", 50 * 50 * 3 * 7)
        scenes = make_scenes(digits, 100, seed=0)
        assert ((scenes.images >= INK).flatten(1).any(1) == (scenes.counts > 0)).all()
        assert (covered(scenes).amax((1, 2, 3)) == scenes.counts.clamp(max=1)).all()

    def test_select(self, digits):
        scenes = make_scenes(digits, 20, seed=0)
        chosen = scenes.select(torch.tensor([7, 3]))
        assert len(chosen) == 2
        assert torch.equal(chosen.boxes[1], scenes.boxes[3])
        assert torch.equal(chosen.images[0], scenes.images[7])


class TestStability:
    """Scenes of a seed never change: the hashes were written down in an earlier version."""

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({"n": 500, "seed": 0, "digit_size": (14, 14)}, "7161d72eb194826cfeadfe4092f22030"),
            (
                {
                    **{"n": 300, "seed": 3, "canvas_size": 70},
                    **{"max_digits": 3, "digit_size": (12, 28)},
                },
                "04c9efa71c80ae4251a888e6c5f18c64",
            ),
            (
                {"n": 300, "seed": 1, "digit_shrink": (1.3, 0.1), "overlap": "dim"},
                "92265cefe26b143c22360081bd85c844",
            ),
            (
                {"n": 300, "seed": 2, "max_digits": 6, "overlap": "any"},
                "086075237ea613ed1806e7ad928455e4",
            ),
            (
                {
                    **{"n": 300, "seed": 5, "canvas_size": 84},
                    **{"max_digits": 6, "digit_size": (16, 16)},
                },
                "b367ab80aa77226428bc194869c1d997",
            ),
        ],
    )
    def test_scenes_of_earlier_versions(self, settings, expected):
        # A constant stays constant when resized, on every processor.
        digits = torch.arange(1, 11, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 28, 28) * 20
        assert fingerprint(make_scenes(digits, **settings)) == expected

    def test_splits_have_the_seeds_of_earlier_versions(self, digits):
        split = load_scenes(SceneSettings(train_scenes=30, held_out_scenes=5, seed=7))
        assert identical(split.train, make_scenes(digits, 30, seed=14))
        held_out = datasets.load("mnist5k", Path("data"), "test").held_out.images
        assert identical(split.held_out, make_scenes(held_out, 5, seed=15))

    def test_masks_are_contents_and_change_no_scene(self, digits):
        plain = make_scenes(digits, 50, seed=0)
        masked = make_scenes(digits, 50, masks=True, seed=0)
        assert identical(plain, masked)
        assert fingerprint(plain) != fingerprint(masked)


class TestCounts:
    def test_given_counts_are_equally_frequent(self, digits):
        scenes = make_scenes(digits, 3000, counts=[3, 0, 1], canvas_size=80, seed=1)
        frequencies = scenes.counts.bincount() / 3000
        assert frequencies[2] == 0
        error = (1 / 3 * 2 / 3 / 3000) ** 0.5
        assert ((frequencies[[0, 1, 3]] - 1 / 3).abs() < 4 * error).all()
        assert scenes.boxes.shape == (3000, 3, 4)

    def test_all_counts_up_to_one_are_the_same_as_most_digits(self, digits):
        first = make_scenes(digits, 100, max_digits=3, canvas_size=80, seed=4)
        assert identical(first, make_scenes(digits, 100, counts=range(4), canvas_size=80, seed=4))

    def test_empty_scenes(self, digits):
        scenes = make_scenes(digits, 5, counts=[0], masks=True, seed=0)
        assert not scenes.images.any()
        assert not scenes.masks.any()
        assert scenes.boxes.shape == (5, 1, 4)

    @pytest.mark.parametrize(
        ("counts", "words"),
        [
            ([], ("--digit-counts has no number",)),
            ([1, 2, 1], ("--digit-counts has 1 more than once",)),
            ([-1], ("--digit-counts has -1", "0 or more")),
            ([1.5], ("--digit-counts has 1.5", "whole numbers")),
            ([True], ("--digit-counts has True", "whole numbers")),
        ],
    )
    def test_other_counts_are_refused(self, digits, counts, words):
        with refused(*words):
            make_scenes(digits, 5, counts=counts, seed=0)


def apart(scenes):
    """Whether no two boxes of a scene have a pixel in common, and all are inside the canvas."""
    assert scenes.boxes.min() >= 0
    assert scenes.boxes.max() <= scenes.images.shape[-1]
    return covered(scenes).max() == 1


class TestCrowds:
    @pytest.mark.parametrize(
        ("canvas_size", "counts", "size"),
        [(150, [20], (24, 24)), (84, [10], (24, 24)), (100, [0, 14], (8, 28))],
    )
    def test_many_digits_apart(self, digits, canvas_size, counts, size):
        settings = {"canvas_size": canvas_size, "counts": counts, "digit_size": size, "seed": 0}
        scenes = make_scenes(digits, 60, **settings)
        assert apart(scenes)
        assert set(scenes.counts.tolist()) <= set(counts)
        present = (scenes.boxes[..., 2:] > scenes.boxes[..., :2]).all(2).sum(1)
        assert torch.equal(present, scenes.counts)
        assert identical(scenes, make_scenes(digits, 60, **settings))

    def test_ink_is_that_of_the_digits(self, blocks):
        scenes = make_scenes(blocks, 40, canvas_size=60, counts=[7], digit_size=(12, 16), seed=0)
        assert torch.equal(scenes.images.long(), 100 * covered(scenes))
        area = (scenes.factors["size"] ** 2).sum(1)
        assert (scenes.images > 0).sum((1, 2, 3)).tolist() == area.tolist()

    @pytest.mark.parametrize("overlap", ["apart", "half", "dim", "any"])
    def test_digits_that_are_kept_are_those_that_are_resized_anew(self, monkeypatch, overlap):
        """The mutation: a kept digit is another one's, or of another size."""
        digits = torch.randint(0, 256, (30, 2, 9, 9), generator=torch.Generator().manual_seed(0))
        options = {"canvas_size": 30, "digit_size": (7, 10), "overlap": overlap, "masks": True}

        def made() -> Scenes:
            return make_scenes(digits.to(torch.uint8), 200, seed=1, **options)

        kept = made()
        # Room for the digits of one size, and for none.
        for room in (30 * 2 * 100, 0):
            monkeypatch.setattr(composition, "MOST_KEPT", room)
            anew = made()
            assert fingerprint(anew) == fingerprint(kept)
            assert torch.equal(anew.masks, kept.masks)

    def test_the_first_place_is_uniform(self, blocks):
        # Every place of the first digit leaves room for the second one.
        chosen = place_in_turn(
            np.random.default_rng(0),
            np.full(4000, 2),
            Digits(blocks),
            Rules(14, 2, (4, 4), None, "apart"),
        )
        corners = chosen.corner[chosen.slot == 0]
        for axis in (0, 1):
            frequencies = np.bincount(corners[:, axis], minlength=11) / len(corners)
            assert frequencies.shape == (11,)
            error = (1 / 11 * 10 / 11 / len(corners)) ** 0.5
            assert (np.abs(frequencies - 1 / 11) < 4 * error).all()

    def test_later_places_are_uniform_among_the_free_ones(self, blocks):
        # Of two digits of 4 pixels on a row of 9, the second has the places where |x - x0| >= 4.
        rng = np.random.default_rng(1)
        rules = Rules(9, 2, (4, 4), None, "apart")
        chosen = place_in_turn(rng, np.full(6000, 2), Digits(blocks), rules)
        first, second = (chosen.corner[chosen.slot == slot] for slot in (0, 1))
        assert (np.abs(first - second).max(1) >= 4).all()
        centred = (first == [0, 0]).all(1)
        free = [(x, y) for x in range(6) for y in range(6) if max(x, y) >= 4]
        places = second[centred]
        expected = len(places) / len(free)
        counts = [int((places == place).all(1).sum()) for place in free]
        assert sum(counts) == len(places) > 100
        assert max(abs(count - expected) for count in counts) < 5 * expected**0.5

    def test_scenes_that_are_begun_again_are_apart(self):
        # Four squares of 24 on 54 fit only near the corners.
        squares = torch.full((1, 1, 24, 24), 255, dtype=torch.uint8)
        scenes = make_scenes(squares, 6, canvas_size=54, counts=[4], seed=0)
        assert apart(scenes)
        assert (scenes.counts == 4).all()

    def test_digits_without_ink_do_not_fit(self):
        with refused("hardly ever fit"):
            make_scenes(torch.zeros(3, 28, 28, dtype=torch.uint8), 10, seed=0)


class TestMasks:
    def test_a_mask_is_the_ink_of_its_digit(self, digits):
        scenes = make_scenes(digits, 60, canvas_size=70, max_digits=3, masks=True, seed=2)
        assert torch.equal(scenes.masks > 0, scenes.images[:, 0] >= INK)
        for mask, count, boxes in zip(scenes.masks, scenes.counts, scenes.boxes, strict=True):
            for k in range(count):
                y, x = torch.nonzero(mask == k + 1, as_tuple=True)
                assert boxes[k].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]

    def test_the_digit_with_the_most_ink_is_visible(self):
        # Brightness tells the digits apart; a constant stays constant when resized.
        digits = torch.tensor([10, 30, 50], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 2, 28, 28)
        digits = digits // torch.tensor([1, 5], dtype=torch.uint8).view(2, 1, 1)
        scenes = make_scenes(digits, 80, counts=[4], overlap="any", masks=True, seed=0)
        ink = torch.tensor([10, 30, 50])[torch.from_numpy(scenes.factors["digit"])]
        inside = torch.zeros(80, 5, 50, 50, dtype=torch.long)
        for scene, boxes in enumerate(scenes.boxes.int().tolist()):
            for slot, (x0, y0, x1, y1) in enumerate(boxes):
                inside[scene, slot + 1, y0:y1, x0:x1] = ink[scene, slot]
        assert torch.equal(scenes.masks.long(), inside.argmax(1))
        assert (inside > 0).sum(1).max() > 2

    def test_masks_and_factors_are_selected(self, digits):
        scenes = make_scenes(digits, 40, masks=True, seed=0)
        chosen = scenes.select(torch.tensor([7, 3]))
        assert torch.equal(chosen.masks[1], scenes.masks[3])
        assert chosen.factors["digit"][0].tolist() == scenes.factors["digit"][7].tolist()
        assert torch.equal(scenes.select(slice(2)).masks, scenes.masks[:2])
        for part in scenes.hold_out():
            assert torch.equal(part.masks > 0, part.images[:, 0] >= INK)

    @pytest.mark.parametrize(
        "masks",
        [
            torch.zeros(2, 4, 5, dtype=torch.uint8),
            torch.zeros(3, 5, 4, dtype=torch.uint8),
            torch.zeros(3, 4, 5),
        ],
    )
    def test_masks_of_another_shape_or_type_are_refused(self, masks):
        images = torch.zeros(3, 1, 4, 5, dtype=torch.uint8)
        with refused("masks", "(3, 4, 5)", "uint8"):
            Scenes(images, None, None, masks=masks)

    def test_more_digits_than_masks_can_number_are_refused(self, blocks):
        with refused("256 digits", "255"):
            make_scenes(blocks, 1, max_digits=256, overlap="any", masks=True, seed=0)


class TestFactors:
    def test_a_digit_is_the_index_of_its_image(self):
        digits = torch.arange(1, 11, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 28, 28) * 20
        scenes = make_scenes(digits, 60, digit_size=(10, 20), seed=0)
        present = torch.arange(2) < scenes.counts[:, None]
        assert (scenes.factors["digit"][~present] == 0).all()
        assert torch.equal(torch.from_numpy(scenes.factors["size"])[present], widths(scenes).long())
        for image, count, boxes, digit in zip(
            scenes.images[:, 0],
            scenes.counts,
            scenes.boxes.int(),
            scenes.factors["digit"],
            strict=True,
        ):
            for (x0, y0, _, _), index in zip(boxes[:count].tolist(), digit, strict=False):
                assert image[y0, x0] == 20 * (index + 1)


class TestColour:
    def test_grey_digits_without_channels_are_taken(self, digits):
        first, second = (make_scenes(each, 60, seed=3) for each in (digits, digits[:, 0]))
        assert identical(first, second)

    @pytest.mark.parametrize("overlap", ["apart", "any"])
    def test_a_grey_digit_in_three_colours_has_the_scenes_of_the_grey_one(self, digits, overlap):
        """The same places, sizes and boxes, and each channel at its own brightness."""
        grey = make_scenes(digits, 100, overlap=overlap, seed=3)
        alike = make_scenes(digits.expand(-1, 3, -1, -1), 100, overlap=overlap, seed=3)
        assert identical(grey, Scenes(alike.images[:, :1], alike.counts, alike.boxes))
        assert torch.equal(alike.images, grey.images.expand_as(alike.images))
        red = digits * torch.tensor([1, 0, 0], dtype=torch.uint8).view(3, 1, 1)
        scenes = make_scenes(red, 100, overlap=overlap, seed=3)
        assert torch.equal(scenes.boxes, grey.boxes)
        assert torch.equal(scenes.images[:, 0], grey.images[:, 0])
        assert not scenes.images[:, 1:].any()

    def test_more_coloured_scenes_than_are_drawn_at_once(self, blocks, monkeypatch):
        colours = blocks * torch.tensor([1, 0, 2], dtype=torch.uint8).view(3, 1, 1)
        monkeypatch.setattr("train.data.scenes.PIXELS_AT_ONCE", 3 * 50 * 50 * 3 * 7)
        scenes = make_scenes(colours, 60, digit_size=(16, 16), seed=0)
        expected = covered(scenes) * torch.tensor([100, 0, 200]).view(3, 1, 1)
        assert torch.equal(scenes.images.long(), expected)


class TestDistribution:
    @pytest.mark.parametrize(("max_digits", "overlap"), [(2, "apart"), (2, "dim"), (3, "any")])
    def test_counts_are_uniform(self, digits, max_digits, overlap):
        n = 3000
        scenes = make_scenes(digits, n, max_digits=max_digits, overlap=overlap, seed=1)
        probability = 1 / (max_digits + 1)
        error = (probability * (1 - probability) / n) ** 0.5
        frequencies = scenes.counts.bincount() / n
        assert frequencies.shape == (max_digits + 1,)
        assert ((frequencies - probability).abs() < 4 * error).all()
        # No digit is hidden behind another by chance.
        assert ((scenes.images >= INK).flatten(1).any(1) == (scenes.counts > 0)).all()

    def test_places_are_uniform_up_to_both_edges(self, blocks):
        scenes = make_scenes(blocks, 4000, canvas_size=30, max_digits=1, seed=0)
        corners = scenes.boxes[scenes.counts == 1][:, 0, :2].long()
        for axis in (0, 1):
            frequencies = corners[:, axis].bincount(minlength=7) / len(corners)
            assert frequencies.shape == (7,)
            assert ((frequencies - 1 / 7).abs() < 4 * (1 / 7 * 6 / 7 / len(corners)) ** 0.5).all()

    def test_sizes_are_uniform(self, blocks):
        scenes = make_scenes(blocks, 3000, digit_size=(10, 14), overlap="any", seed=0)
        sizes = widths(scenes).long()
        frequencies = sizes.bincount(minlength=15) / len(sizes)
        assert frequencies.shape == (15,)
        assert (frequencies[:10] == 0).all()
        assert ((frequencies[10:] - 0.2).abs() < 4 * (0.2 * 0.8 / len(sizes)) ** 0.5).all()

    def test_sizes_by_shrinking(self, blocks):
        scenes = make_scenes(
            blocks, 4000, digit_shrink=(1.3, 0.1), max_digits=1, overlap="any", seed=0
        )
        sizes = widths(scenes)
        noise = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(100_000) + 0.5) / 100_000)
        expected = (28 / (1.3 + 0.1 * noise)).floor()
        error = expected.std() / len(sizes) ** 0.5
        assert (sizes.mean() - expected.mean()).abs() < 4 * error
        assert (sizes.std() / expected.std() - 1).abs() < 0.1

    def test_shrinking_stays_inside_the_canvas(self, blocks):
        scenes = make_scenes(
            blocks, 500, canvas_size=30, digit_shrink=(1.3, 3.0), overlap="any", seed=0
        )
        sizes = widths(scenes)
        assert (sizes.min(), sizes.max()) == (4, 30)

    def test_every_digit_is_drawn(self):
        # Brightness tells the digits apart; a constant stays constant when resized.
        digits = torch.arange(1, 11, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 28, 28) * 20
        scenes = make_scenes(digits, 500, max_digits=1, seed=0)
        frequencies = scenes.images.flatten(1).amax(1).unique(return_counts=True)
        assert frequencies[0].tolist() == [20 * level for level in range(11)]
        assert frequencies[1][1:].min() > 5


class TestBoxes:
    def test_all_ink_is_in_a_box(self, scenes):
        assert (scenes.images[covered(scenes) == 0] < INK).all()

    def test_boxes_are_tight(self, scenes):
        checked = 0
        for (image,), count, boxes in zip(
            scenes.images, scenes.counts, scenes.boxes.int(), strict=True
        ):
            for x0, y0, x1, y1 in boxes[:count].tolist():
                ink = image[y0:y1, x0:x1] >= INK
                assert ink.shape == (y1 - y0, x1 - x0)
                assert ink[0].any()
                assert ink[-1].any()
                assert ink[:, 0].any()
                assert ink[:, -1].any()
                checked += 1
        assert checked == scenes.counts.sum()

    def test_absent_objects_have_no_box(self, scenes):
        absent = torch.arange(3) >= scenes.counts[:, None]
        assert (scenes.boxes[absent] == 0).all()
        assert (scenes.boxes[~absent][:, 2:] > scenes.boxes[~absent][:, :2]).all()


class TestOverlap:
    def test_apart(self, digits):
        scenes = make_scenes(digits, 600, seed=0)
        assert covered(scenes).max() == 1

    @pytest.mark.parametrize(("overlap", "most"), [("apart", 1), ("dim", 2), ("any", 3)])
    def test_sums_of_digits(self, blocks, overlap, most):
        scenes = make_scenes(
            blocks, 500, max_digits=3, digit_size=(16, 16), overlap=overlap, seed=0
        )
        cover = covered(scenes)
        assert cover.max() == most
        assert torch.equal(scenes.images.long(), (100 * cover).clamp(max=255))

    @pytest.mark.parametrize(
        ("canvas_size", "counts", "size"), [(30, [3], (10, 14)), (48, [1, 20], (14, 14))]
    )
    def test_images_share_half_of_the_smaller_one_at_most(self, canvas_size, counts, size):
        """Few digits, and so many that they are placed in turn.

        The ink is a corner of the images. The mutations: ink in place of images, the larger one in
        place of the smaller one.
        """
        digits = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
        digits[..., :14, :14] = 255
        settings = {"canvas_size": canvas_size, "counts": counts, "digit_size": size}
        scenes = make_scenes(digits, 300, overlap="half", seed=0, **settings)
        sizes = torch.from_numpy(scenes.factors["size"])
        corners = scenes.boxes[..., :2]
        # Shares of the smaller image, one pair after another.
        shares = []
        for i, j in combinations(range(max(counts)), 2):
            sides = torch.minimum(
                corners[:, i] + sizes[:, i, None], corners[:, j] + sizes[:, j, None]
            ) - torch.maximum(corners[:, i], corners[:, j])
            smaller = torch.minimum(sizes[:, i], sizes[:, j]).clamp(min=1) ** 2
            present = scenes.counts > max(i, j)
            shares.append(torch.where(present, sides.clamp(min=0).prod(1) / smaller, 0))
        assert 0.47 < torch.stack(shares).max() <= 0.5
        assert set(scenes.counts.tolist()) == set(counts)

    def test_digits_may_be_close_when_dim(self, digits):
        # Two strokes may cross boxes without crossing each other.
        assert covered(make_scenes(digits, 600, overlap="dim", seed=0)).max() == 2


class TestLoad:
    @pytest.fixture
    def split(self, monkeypatch):
        """Training digits at a brightness of 128, held-out ones at 255."""

        def load(data, data_dir, evaluate_on, options):
            images = torch.ones(10, 28, 28, dtype=torch.uint8)
            return Split(Images(images * 128, None), Images(images * 255, None))

        monkeypatch.setattr(datasets, "load", load)

    def load(self, **settings):
        given = {"train_scenes": 200, "held_out_scenes": 100, "seed": 0} | settings
        return load_scenes(SceneSettings(**given))

    @pytest.mark.usefixtures("split")
    def test_held_out_scenes_have_held_out_digits_only(self):
        train, held_out = self.load()
        assert (len(train), len(held_out)) == (200, 100)
        assert train.images.unique().tolist() == [0, 128]
        assert held_out.images.unique().tolist() == [0, 255]

    @pytest.mark.usefixtures("split")
    def test_each_split_has_its_seed(self):
        first = self.load()
        assert identical(first.held_out, self.load(train_scenes=50).held_out)
        assert identical(first.train, self.load(held_out_scenes=50).train)
        assert not torch.equal(first.train.counts[:100], first.held_out.counts)
        other = self.load(seed=1)
        assert not torch.equal(first.held_out.counts, other.held_out.counts)
        assert not torch.equal(first.held_out.counts, other.train.counts[:100])

    @pytest.mark.usefixtures("split")
    def test_settings_reach_the_scenes(self):
        scenes = self.load(
            canvas_size=60, max_digits=3, digit_size=(9, 9), digit_shrink=None, overlap="any"
        ).held_out
        assert scenes.images.shape == (100, 1, 60, 60)
        assert scenes.counts.max() == 3
        assert (widths(scenes) == 9).all()
        assert (widths(self.load(digit_shrink=(2.0, 0.0)).train) == 14).all()

    def test_validation_scenes_have_no_test_digits(self, monkeypatch):
        splits = []
        load = datasets.load

        def spy(data, data_dir, evaluate_on, options):
            splits.append(evaluate_on)
            return load(data, data_dir, evaluate_on, options)

        monkeypatch.setattr(datasets, "load", spy)
        load_scenes(SceneSettings(evaluate_on="validation", train_scenes=5, held_out_scenes=5))
        assert splits == ["validation"]

    @pytest.mark.parametrize("known", [True, False])
    def test_scenes_of_a_file(self, tmp_path, known):
        n = 50
        images = np.zeros((n, 30, 20), dtype=np.uint8)
        images[:, 0, 0] = np.arange(n)
        counts = np.repeat([0, 1, 2], [25, 15, 10])
        boxes = np.zeros((n, 2, 4)) + np.arange(n)[:, None, None] + [0, 0, 1, 1]
        np.savez(
            tmp_path / "data.npz",
            images=images,
            **({"counts": counts, "boxes": boxes} if known else {}),
        )
        split = load_scenes(SceneSettings(data=str(tmp_path / "data.npz")))
        assert (len(split.train), len(split.held_out)) == (40, 10)
        numbers = [scenes.images[:, 0, 0, 0].tolist() for scenes in split]
        assert sorted(numbers[0] + numbers[1]) == list(range(n))
        for scenes, number in zip(split, numbers, strict=True):
            if known:
                assert scenes.counts.tolist() == counts[number].tolist()
                assert scenes.counts.bincount().tolist() == [
                    len(scenes) // 2,
                    3 * len(scenes) // 10,
                    len(scenes) // 5,
                ]
                present = scenes.counts > 0
                expected = torch.tensor(number)[present].float()
                assert torch.equal(scenes.boxes[present][:, 0, 0], expected)
            else:
                assert scenes.counts is None
                assert scenes.boxes is None
        validation = load_scenes(
            SceneSettings(data=str(tmp_path / "data.npz"), evaluate_on="validation")
        )
        assert (len(validation.train), len(validation.held_out)) == (32, 8)
        remaining = (
            validation.train.images[:, 0, 0, 0].tolist()
            + validation.held_out.images[:, 0, 0, 0].tolist()
        )
        assert sorted(remaining) == sorted(numbers[0])

    @pytest.mark.usefixtures("split")
    def test_held_out_scenes_may_have_other_counts(self):
        train, held_out = self.load(digit_counts=(0, 1, 3), canvas_size=84)
        assert train.counts.unique().tolist() == held_out.counts.unique().tolist() == [0, 1, 3]
        other = self.load(digit_counts=(0, 1, 3), held_out_digit_counts=(2,), canvas_size=84)
        assert identical(other.train, train)
        assert other.held_out.counts.unique().tolist() == [2]
        other.require_room(3)
        with refused("--max-objects 2", "3 objects"):
            other.require_room(2)
        with refused("--max-objects 2", "4 objects"):
            self.load(held_out_digit_counts=(4,), canvas_size=120).require_room(2)

    @pytest.mark.parametrize("name", ["multi-sprites", "multi-sprites-colour", "tetrominoes"])
    def test_scenes_drawn_from_code(self, name):
        first = self.load(data=name, train_scenes=12, held_out_scenes=8)
        assert [len(scenes) for scenes in first] == [12, 8]
        assert first.train.shape.channels == 3
        assert first.held_out.masks.amax() <= first.held_out.counts.max()
        # Each split has a seed of its own.
        again = self.load(data=name, train_scenes=5, held_out_scenes=8)
        assert identical(again.held_out, first.held_out)
        others = [
            self.load(data=name, train_scenes=12, held_out_scenes=8, **changed)
            for changed in ({"evaluate_on": "validation"}, {"seed": 1})
        ]
        scenes = [first.train, first.held_out, others[0].held_out, *others[1]]
        assert identical(others[0].train, first.train)
        assert len({fingerprint(each.select(slice(8))) for each in scenes}) == 5
        grey = self.load(data=name, train_scenes=12, held_out_scenes=8, grey=True)
        assert grey.train.shape.channels == 1
        assert torch.equal(grey.train.masks, first.train.masks)

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"label_column": ("x",)}, ("--label-column", "no labels")),
            ({"in_memory": "never"}, ("--in-memory never",)),
            ({"skip_bad": True}, ("--skip-bad", "your own images")),
            ({"train_scenes": 2_000_000_000}, ("2,000,000,100 scenes", "lower --train-scenes")),
        ],
    )
    def test_settings_of_other_data_are_refused(self, settings, words):
        with refused("--data tetrominoes", *words):
            self.load(data="tetrominoes", **settings)

    @pytest.mark.usefixtures("split")
    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"digit_counts": ()}, ("--digit-counts has no number",)),
            ({"digit_counts": (2, 2)}, ("--digit-counts has 2 more than once",)),
            ({"digit_counts": (-1,)}, ("--digit-counts is -1",)),
            ({"digit_counts": (0,)}, ("--digit-counts 0", "empty scenes")),
            ({"held_out_digit_counts": ()}, ("--held-out-digit-counts has no number",)),
            (
                {"digit_counts": (0, 1, 3), "max_digits": 4},
                ("--max-digits 4 contradicts --digit-counts", "up to 3"),
            ),
            ({"train_scenes": 0}, ("--train-scenes is 0", "1 or more")),
            ({"held_out_scenes": 0}, ("--held-out-scenes is 0", "1 or more")),
            ({"seed": -1}, ("--seed is -1", "0 or more")),
        ],
    )
    def test_unusable_settings_are_refused(self, settings, words):
        with refused(*words):
            self.load(**settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n": 0}, ("0 scenes", "--train-scenes")),
        ({"canvas_size": 0}, ("--canvas-size is 0", "1 or more")),
        ({"max_digits": 0}, ("--max-digits is 0", "1 or more")),
        ({"overlap": "some"}, ("--overlap some", "apart, half, dim and any")),
        ({"digit_size": (3, 24)}, ("--digit-size starts at 3", "4 pixels")),
        ({"digit_size": (24, 20)}, ("--digit-size 24 20", "smaller size first")),
        ({"digit_size": (24, 51)}, ("--digit-size goes up to 51", "--canvas-size 50")),
        ({"canvas_size": 20}, ("--digit-size", "--canvas-size 20")),
        ({"digit_shrink": (0.0, 0.1)}, ("--digit-shrink", "mean 0.0", "above 0")),
        ({"digit_shrink": (float("nan"), 0.1)}, ("--digit-shrink", "mean nan")),
        ({"digit_shrink": (1.3, -0.1)}, ("--digit-shrink", "deviation -0.1", "0 or more")),
        ({"digit_shrink": (0.5, 0.1)}, ("--digit-shrink 0.5", "56 pixels", "--canvas-size, 50")),
        ({"digit_shrink": (9.0, 0.1)}, ("--digit-shrink 9", "3 pixels", "4")),
        ({"max_digits": 5}, ("5 digits", "24 24", "--canvas-size", "--max-digits", "apart")),
        ({"n": 3, "digit_size": (50, 50)}, ("2 digits", "50 50", "--overlap any")),
        (
            {"digit_shrink": (0.6, 0.0), "overlap": "dim", "max_digits": 4},
            ("--digit-shrink 0.6 0.0", "by the rule dim"),
        ),
    ],
)
def test_unusable_settings_are_refused(settings, words):
    digits = torch.full((1, 1, 28, 28), 255, dtype=torch.uint8)
    given = {"n": 100, "seed": 0} | settings
    with refused(*words):
        make_scenes(digits, **given)
