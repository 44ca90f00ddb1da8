"""The page as static files: in a browser, without Python, its models give what PyTorch gives."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import browser
from tests.browser import Page
from tests.data.refusals import refused
from train import export
from train.errors import InputError
from train.explore import ExploreSettings, opened
from train.explorer import runtime
from train.export import ExportSettings, main
from train.trained import load


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser.started() as started:
        yield started


@pytest.fixture(scope="module")
def ort(pytestconfig) -> Path:
    """The files of onnxruntime-web, fetched once with npm."""
    folder = pytestconfig.cache.mkdir(runtime.PACKAGE)
    if not all((folder / name).exists() for name in runtime.FILES):
        try:
            found = runtime.files(None)
        except InputError as error:
            pytest.skip(f"there is no onnxruntime-web: {error}")
        for name, content in found.items():
            (folder / name).write_bytes(content)
    return folder


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Any web server will do: this one is Python's."""

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serves a folder."""
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        thread = threading.Thread(target=web.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{web.server_address[1]}/"
        web.shutdown()
        thread.join()


@pytest.fixture
def show(chromium, explored, ort, tmp_path, monkeypatch) -> Iterator[Callable[[str], Page]]:
    """Exports a run, and opens the page."""
    # What it is at other sizes is another test's.
    monkeypatch.setattr(export, "SIZES", (2,))
    with ExitStack() as stack:
        pages = []

        def opening(name: str) -> Page:
            main(ExportSettings(explored[name], web=tmp_path / name, ort=ort))
            address = stack.enter_context(served(tmp_path / name))
            page = stack.enter_context(chromium.new_page())
            pages.append(Page(page, address))
            return pages[-1]

        yield opening
        for page in pages:
            assert page.problems == []
            assert all(url.startswith((page.address, "data:")) for url in page.requests)


def outputs(page: Page, model: str, **feeds: Any) -> dict[str, np.ndarray]:
    """Runs a model in the page."""
    given = {}
    for name, value in feeds.items():
        array = np.asarray(value)
        given[name] = {"shape": array.shape, "data": array.flatten().tolist()}
    found = page.page.evaluate(
        """async ([model, given]) => {
          const { run } = await import("./static/backend.js");
          for (const [name, feed] of Object.entries(given)) {
            feed.data = name === "counts"
              ? BigInt64Array.from(feed.data, BigInt) : Float32Array.from(feed.data);
          }
          const found = await run(model, given);
          for (const each of Object.values(found)) each.data = Array.from(each.data);
          return found;
        }""",
        [model, given],
    )
    return {name: np.array(each["data"]).reshape(each["shape"]) for name, each in found.items()}


def levels(images: torch.Tensor) -> np.ndarray:
    return (images.numpy() * 255).round().astype(int)


def test_codes_under_quantities(show, explored):
    """Labels are standardised, and the encoder sees them, too."""
    page, icvae = show("icvae-quantities"), load(explored["icvae-quantities"])
    z, (chosen,) = [page.view("view.z")], page.view("view.chosen")
    assert np.abs(page.drawn("decoded")[0] - levels(icvae.decode(z, [chosen]))).max() <= 1
    page.page.get_by_role("slider", name="z1").press("End")
    page.idle()
    z = [page.view("view.z")]
    assert np.abs(page.drawn("decoded")[0] - levels(icvae.decode(z, [chosen]))).max() <= 1
    label = icvae.conditions([chosen], 1).numpy()
    found = outputs(page, "decoder", z=z, label=label)["reconstruction"]
    with torch.no_grad():
        exact = icvae.objective.model.decode(torch.tensor(z), torch.tensor(label))[:, 0]
    np.testing.assert_allclose(found, exact.numpy(), atol=1e-4)
    page.view("view.pick(3)")
    page.idle()
    image, (chosen,) = torch.tensor(page.drawn("sketch")), page.view("view.chosen")
    np.testing.assert_allclose(page.view("view.z"), icvae.encode(image, [chosen])[0], atol=1e-4)


def test_scenes(show, explored):
    page, air = show("air-single"), load(explored["air-single"])
    scene = torch.tensor(page.drawn("scene"))
    expected = air.detect(scene)
    found = outputs(page, "encoder", image=(scene / 255).numpy())
    for name, value in found.items():
        np.testing.assert_allclose(value, getattr(expected, name), atol=1e-4, err_msg=name)
    rebuilt = levels(expected.reconstruction.clamp(0, 1))
    assert np.abs(page.drawn("model") - rebuilt).max() <= 1
    page.view("view.change([1, 0.2, -0.3])")
    page.idle()
    code = np.zeros((1, 7))
    for row, each in zip(code, page.view("view.objects"), strict=False):
        row[:] = [1, *each["where"], *each["what"]]
    changed = air.decode([[*code.flatten(), *page.view("view.background")]])
    assert np.abs(page.drawn("model") - levels(changed)).max() <= 1
    before = page.drawn("prior 1")
    page.click("Draw again")
    page.page.wait_for_timeout(200)
    assert not np.array_equal(page.drawn("prior 1"), before)


def test_nearest_images(show, explored):
    page, abc = show("abc"), load(explored["abc"])
    query = torch.tensor(page.drawn("sketch"))
    view = opened(explored["abc"], ExploreSettings((explored["abc"],)))
    for name, rows in view.rows.items():
        images = view.held_out.images[rows]
        (nearest,) = abc.retrieve(query, images)[0].tolist()
        assert np.array_equal(page.drawn(f"set {name}, 1"), images[nearest].numpy())


def test_what_a_page_cannot_do_is_refused(explored, tmp_path, monkeypatch):
    with refused("--web", "echo"):
        main(ExportSettings(explored["icvae-echo"], web=tmp_path))
    with refused("--ort", "has no ort.wasm.min.mjs", runtime.PACKAGE):
        runtime.files(tmp_path)
    monkeypatch.setattr(runtime.shutil, "which", lambda _: None)
    with refused("no npm", "--ort"):
        runtime.files(None)
    monkeypatch.setattr(runtime.shutil, "which", lambda _: "false")
    with refused("npm cannot fetch", "--ort"):
        runtime.files(None)
    assert not (tmp_path / "index.html").exists()
