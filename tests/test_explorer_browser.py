"""The explorer in a real browser, used as a person does: what it draws is what PyTorch decodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_models.networks import boxes
from tests import browser
from tests.browser import Page
from train.explore import ExploreSettings, opened
from train.explorer.server import serving
from train.trained import load


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser.started() as started:
        yield started


@pytest.fixture
def show(chromium, explored) -> Iterator[Callable[..., Page]]:
    """Opens the explorer over runs; nothing may go wrong, and nothing is fetched elsewhere."""
    with ExitStack() as stack:
        pages = []

        def opening(*names: str, **options: Any) -> Page:
            settings = ExploreSettings((explored["ae"],))
            views = [opened(explored[name], settings) for name in names]
            address = stack.enter_context(serving(views))
            options = {"viewport": {"width": 1280, "height": 900}} | options
            page = stack.enter_context(chromium.new_page(**options))
            pages.append(Page(page, address))
            return pages[-1]

        yield opening
        for page in pages:
            assert page.problems == []
            assert all(url.startswith((page.address, "data:")) for url in page.requests)


def levels(images: torch.Tensor) -> np.ndarray:
    """The bytes of images in [0, 1]."""
    return (images.numpy() * 255).round().astype(np.uint8)


def close(drawn: np.ndarray, expected: torch.Tensor) -> bool:
    """Whether what is drawn is an image, as far as codes that travel as text allow it."""
    difference = drawn.astype(int) - levels(expected).reshape(drawn.shape).astype(int)
    return bool(np.abs(difference).max() <= 1) and bool(levels(expected).std() > 1)


def side_by_side(images: torch.Tensor) -> torch.Tensor:
    """Images (n, H, W) as one, of shape (H, n W)."""
    return images.movedim(0, 1).flatten(1)


def test_a_map_decodes_what_is_under_the_pointer(show, explored):
    page, ae = show("ae"), load(explored["ae"])
    above = page.page.get_by_role("application", name="Map of 12 held-out codes")
    seen = set()
    for place in ((0.3, 0.3), (0.7, 0.4), (0.5, 0.8)):
        page.move(above, place)
        z = page.view("view.z")
        low, high = page.view("view.map.low"), page.view("view.map.high")
        expected = [
            low[0] + place[0] * (high[0] - low[0]),
            high[1] - place[1] * (high[1] - low[1]),
        ]
        assert z == pytest.approx(expected, abs=0.02 * (high[0] - low[0]))
        assert close(page.drawn("decoded"), ae.decode([z]))
        seen.add(page.drawn("decoded").tobytes())
    assert len(seen) == 3
    # Arrow keys move, and Enter takes the nearest image.
    above.press("Shift+ArrowLeft")
    page.idle()
    assert page.view("view.z")[0] < z[0]
    assert close(page.drawn("decoded"), ae.decode([page.view("view.z")]))
    above.press("Enter")
    page.idle()
    codes = page.view("view.codes")
    index = codes.index(
        min(codes, key=lambda each: np.hypot(*np.subtract(each, page.view("view.z"))))
    )
    image = torch.tensor(page.drawn("sketch"))
    assert ae.encode(image).numpy()[0] == pytest.approx(codes[index], abs=1e-5)


def test_sliders_and_colours(show, explored):
    page, ae = show("ae-colour"), load(explored["ae-colour"])
    slider = page.page.get_by_role("slider", name="z2")
    before = page.view("view.z")
    for _ in range(3):
        slider.press("ArrowRight")
    page.idle()
    z = page.view("view.z")
    assert z[1] > before[1]
    assert close(page.drawn("decoded", channels=3), ae.decode([z]))
    entry = page.page.get_by_role("button", name="bee")
    entry.click()
    assert entry.get_attribute("aria-pressed") == "false"
    assert page.view("[...view.map.hidden]") == [1]


def test_a_drawing_is_encoded_and_rebuilt(show, explored, tmp_path):
    page, ae = show("ae"), load(explored["ae"])
    page.click("Clear")
    page.move(page.canvas("sketch"), (0.2, 0.2), (0.5, 0.6), (0.8, 0.7), press=True)
    drawing = page.drawn("sketch")
    assert drawing.max() > 200
    assert close(page.drawn("reconstruction"), ae.reconstruct(torch.tensor(drawing)))
    page.click("Undo")
    assert page.drawn("sketch").max() == 0
    image = np.random.default_rng(3).integers(0, 256, (12, 10), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "mine.png")
    page.page.locator("input[type=file]").set_input_files(tmp_path / "mine.png")
    page.page.wait_for_timeout(100)
    page.idle()
    assert np.array_equal(page.drawn("sketch")[0], image)
    z = ae.encode(image).numpy()[0]
    assert page.view("view.z") == pytest.approx(z, abs=1e-5)
    (tmp_path / "no.png").write_bytes(b"no image")
    page.page.locator("input[type=file]").set_input_files(tmp_path / "no.png")
    page.page.get_by_text("no.png is no image that this browser can read").wait_for()


def test_walks(show, explored):
    page, ae = show("ae"), load(explored["ae"])
    ends = []
    for i, name in enumerate(("start", "end")):
        page.view(f"view.pick({3 + i})")
        page.idle()
        page.click(f"Take as {name}")
        ends.append(np.array(page.view("view.z")))
    share = np.linspace(0, 1, 9)[:, None]
    line = ends[0] + share * (ends[1] - ends[0])
    assert close(page.drawn("linear"), side_by_side(ae.decode(line)))
    a, b = (np.linalg.norm(end) for end in ends)
    angle = np.arccos(ends[0] @ ends[1] / (a * b))
    circle = np.sin((1 - share) * angle) * ends[0] / a + np.sin(share * angle) * ends[1] / b
    circle *= (a + share * (b - a)) / np.sin(angle)
    assert close(page.drawn("spherical"), side_by_side(ae.decode(circle)))
    assert not np.array_equal(page.drawn("linear"), page.drawn("spherical"))
    page.page.get_by_role("slider", name="along").press("End")
    page.idle()
    assert page.view("view.z") == pytest.approx(ends[1])


def test_a_code_under_every_class(show, explored):
    page, icvae = show("icvae"), load(explored["icvae"])
    z = [page.view("view.z")]
    for name in ("ant", "bee", "cat"):
        assert close(page.drawn(f"class {name}"), icvae.decode(z, name))
    page.page.get_by_role("radio", name="cat").click()
    page.idle()
    assert close(page.drawn("decoded"), icvae.decode(z, "cat"))
    page.page.keyboard.press("ArrowLeft")
    page.idle()
    assert page.page.get_by_role("radio", checked=True).get_attribute("aria-label") == "bee"
    assert close(page.drawn("decoded"), icvae.decode(z, "bee"))
    assert page.page.get_by_text("12.2%").is_visible()


def test_a_code_under_quantities(show, explored):
    page, icvae = show("icvae-quantities"), load(explored["icvae-quantities"])
    slider = page.page.get_by_role("slider", name="quantities 2")
    slider.press("Home")
    page.idle()
    z, (chosen,) = [page.view("view.z")], page.view("view.chosen")
    part = page.view("view.about.conditions[0]")
    assert chosen[1] == pytest.approx(part["low"][1], abs=1e-6)
    assert close(page.drawn("decoded"), icvae.decode(z, [chosen]))
    values = [[chosen[0], y] for y in np.linspace(part["low"][1], part["high"][1], 9)]
    strip = page.page.get_by_role("img", name="The code at 9 values of quantities 2")
    pixels = np.array(strip.evaluate(browser.READ)["pixels"]).reshape(12, 90, 4)[..., 0]
    assert close(pixels.astype(np.uint8), side_by_side(icvae.decode(z * 9, values)))


def test_a_scene_is_looked_into_while_it_is_drawn(show, explored):
    page, air = show("air"), load(explored["air"])
    page.move(page.canvas("scene"), (0.6, 0.2), (0.8, 0.5), (0.6, 0.8), press=True)
    scene = torch.tensor(page.drawn("scene"))
    found = air.detect(scene)
    bars = page.page.locator(".bars .value").all_text_contents()
    shares = [float(text.strip("%")) / 100 for text in bars]
    assert shares == pytest.approx(found.probabilities[0].tolist(), abs=0.005)
    count = int(found.counts[0])
    assert page.page.locator("[data-most=true]").text_content().startswith(str(count))
    assert close(page.drawn("model"), found.reconstruction.clamp(0, 1))
    assert page.view("view.objects.length") == count >= 1
    assert close(page.drawn("mask 1"), found.masks[0, 0])
    cut = scene[0] / 255 * (found.masks[0, 0] * 255).round() / 255
    assert close(page.drawn("object 1"), cut)


def test_objects_are_dragged_added_and_removed(show, explored):
    page, air = show("air"), load(explored["air"])

    def expected() -> torch.Tensor:
        objects = page.view("view.objects")
        code = np.zeros((3, 4 + 3))
        for row, each in zip(code, objects, strict=False):
            row[:] = [1, *each["where"], *each["what"]]
        return air.decode([[*code.flatten(), *page.view("view.background")]])

    def window() -> np.ndarray:
        where = torch.tensor([[page.view("view.objects[view.selected].where")] * 3])
        model = air.objective.model
        return boxes(where, model.shape.sides, square=model.square_windows)[0, 0].numpy()

    while page.view("view.objects.length"):
        page.click("Remove object")
    page.click("Add object")
    page.view("view.change([Math.log(2.6), 0, 0])")
    page.idle()
    before, box = page.drawn("model"), window()
    assert close(before, expected())
    page.move(page.canvas("handles"), (0.5, 0.5), (0.6, 0.55), (0.75, 0.6), press=True)
    # A quarter of 24 pixels to the right, and a tenth of 20 down.
    np.testing.assert_allclose(window() - box, [6, 2, 6, 2], atol=0.3)
    after = page.drawn("model")
    assert not np.array_equal(before, after)
    assert close(after, expected())
    page.canvas("handles").press("ArrowLeft")
    page.idle()
    np.testing.assert_allclose(window() - box, [5, 2, 5, 2], atol=0.3)
    page.click("Larger")
    assert window()[2] - window()[0] > box[2] - box[0]
    assert close(page.drawn("model"), expected())
    page.click("Add object")
    page.click("Add object")
    assert close(page.drawn("model"), expected())
    page.click("Add object")
    assert page.page.get_by_text("at most 3 objects").is_visible()
    page.click("As found")
    assert close(page.drawn("model"), air.reconstruct(torch.tensor(page.drawn("scene"))))


def test_draws_from_the_prior(show, explored):
    page = show("air")
    before = page.drawn("prior 1")
    page.click("Draw again")
    page.page.wait_for_timeout(200)
    assert not np.array_equal(before, page.drawn("prior 1"))


def test_nearest_images_in_every_set(show, explored):
    page, abc = show("abc"), load(explored["abc"])
    above = page.page.get_by_role("application", name="Map of 12 held-out embeddings")
    page.move(above, (0.3, 0.4))
    query = torch.tensor(page.drawn("sketch"))
    view = opened(explored["abc"], ExploreSettings((explored["abc"],)))
    for name, rows in view.rows.items():
        images = view.held_out.images[rows]
        nearest = abc.retrieve(query, images, k=2)[0]
        for k, index in enumerate(nearest.tolist()):
            assert np.array_equal(page.drawn(f"set {name}, {k + 1}"), images[index].numpy())


COUNT = """(canvas, [r, g, b]) => {
  const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let n = 0;
  for (let i = 0; i < data.length; i += 4) {
    n += data[i] === r && data[i + 1] === g && data[i + 2] === b;
  }
  return n;
}"""
MARGINAL, RLOO = (230, 159, 0), (86, 180, 233)


def test_a_legend_hides_an_estimator(show):
    page = show("bench")
    for name in ("elbo", "variance"):
        assert page.canvas(name).is_visible()
        assert page.canvas(name).evaluate(COUNT, MARGINAL) > 20
        assert page.canvas(name).evaluate(COUNT, RLOO) > 20
    entry = page.page.get_by_role("button", name="marginal")
    entry.click()
    assert entry.get_attribute("aria-pressed") == "false"
    for name in ("elbo", "variance"):
        assert page.canvas(name).evaluate(COUNT, MARGINAL) == 0
        assert page.canvas(name).evaluate(COUNT, RLOO) > 20


def test_runs_have_the_same_image(show, explored):
    page = show("ae", "icvae", "air")
    page.view("view.pick(5)", run=1)
    page.idle()
    image = page.drawn("sketch", 1)
    assert np.array_equal(page.drawn("sketch", 0), image)
    # A scene is larger: the image is in its middle.
    assert np.array_equal(page.drawn("scene", 2)[:, 4:16, 7:17], image)
    assert close(
        page.drawn("reconstruction"), load(explored["ae"]).reconstruct(torch.tensor(image))
    )
    page.page.get_by_label("runs have the same image").uncheck()
    page.view("view.pick(6)", run=1)
    page.idle()
    assert np.array_equal(page.drawn("sketch", 0), image)


SHIFTS = """() => new Promise(done => new PerformanceObserver(list => done(
  list.getEntries().reduce((sum, entry) => sum + entry.value, 0)
)).observe({type: "layout-shift", buffered: true}) || setTimeout(() => done(0), 100))"""


@pytest.mark.parametrize(("width", "scheme"), [(375, "dark"), (2560, "light")])
def test_any_run_width_and_scheme(show, explored, width, scheme):
    viewport = {"width": width, "height": 900}
    page = show(*explored, viewport=viewport, color_scheme=scheme)
    for run, name in enumerate(explored):
        if name.startswith(("ae", "acai", "icvae")):
            assert page.drawn("decoded", run).std() > 1
    assert page.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    background = "getComputedStyle(document.body).backgroundColor"
    dark, light = "rgb(15, 17, 21)", "rgb(244, 245, 247)"
    assert page.page.evaluate(background) == (dark if scheme == "dark" else light)
    other = "light" if scheme == "dark" else "dark"
    page.page.get_by_label("theme").select_option(other)
    assert page.page.evaluate(background) == (dark if other == "dark" else light)
    assert page.page.evaluate(SHIFTS) < 0.1
    # Every picture says what it is.
    assert page.page.evaluate(
        "[...document.querySelectorAll('canvas:not([aria-hidden])')]"
        ".every(canvas => canvas.getAttribute('aria-label'))"
    )


def test_what_goes_wrong_is_said_in_words(chromium, explored):
    view = opened(explored["ae"], ExploreSettings((explored["ae"],)))
    with chromium.new_page() as tab:
        with serving([view]) as address:
            page = Page(tab, address)
        page.page.get_by_role("slider", name="z1").press("ArrowRight")
        page.page.get_by_text("The server does not answer.").wait_for()
        page.page.get_by_role("button", name="Close").click()
        assert not page.page.locator("#notice").is_visible()
