"""The explorer in a notebook: the widget's messages, and its page in a browser."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pytest
import torch

from tests import browser
from tests.data.refusals import refused
from train.explore import ExploreSettings, opened
from train.explorer.widget import answer, scoped
from train.trained import load

PAGE = """<!doctype html><main id="cell"></main><script type="module">
const listeners = [];
const model = {
  get: (name) => window.state[name],
  on: (name, listener) => listeners.push(listener),
  send: async (message) => {
    const answer = JSON.parse(await window.kernel(JSON.stringify(message)));
    listeners.forEach((listener) => listener(answer));
  },
};
window.render = async () => {
  const url = URL.createObjectURL(new Blob([window.state._esm], {type: "text/javascript"}));
  const { default: widget } = await import(url);
  await widget.render({ model, el: document.getElementById("cell") });
};
</script>"""


def test_a_widget_answers_messages(explored, monkeypatch):
    ae = load(explored["ae"])
    images = np.random.default_rng(0).integers(0, 256, (7, 12, 10), dtype=np.uint8)
    widget = ae.explore(images, labels=list("aabbccd"))
    assert widget.about["codes"]["shape"] == [7, 2]
    assert widget.about["colourings"][0]["classes"] == ["a", "b", "c", "d"]
    said = []
    monkeypatch.setattr(widget, "send", said.append)
    for verb, fields in (("decode", {"codes": [[0, 1]]}), ("decode", {"codes": 3}), ("x", {})):
        widget._handle_custom_msg({"id": 5, "verb": verb, "fields": fields}, [])
    good, *bad = said
    assert good["id"] == 5
    assert good["answer"]["images"]["shape"] == [1, 1, 12, 10]
    assert ["1 to 512" in bad[0]["error"], "no verb x" in bad[1]["error"]] == [True, True]
    assert "cannot be answered" in answer(None, {"id": 1})["error"]
    # Without images, those of the run.
    assert load(explored["air"]).explore().about["kind"] == "scenes"


def test_what_cannot_be_shown_is_refused(explored, monkeypatch):
    icvae = load(explored["icvae"])
    images = torch.zeros(3, 12, 10)
    with refused("labels are missing"):
        icvae.explore(images)
    with refused("2 labels for 3 images"):
        icvae.explore(images, labels=["ant", "bee"])
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with refused("anywidget is not installed: pip install 'structured-latents[notebook]'"):
        load(explored["ae"]).explore(images)


def test_the_style_is_of_the_cell_alone():
    style = scoped(':root { --a: 1 } :root[data-theme="dark"] { --a: 2 }')
    assert style == ':host { --a: 1 } :host([data-theme="dark"]) { --a: 2 }'


@pytest.mark.parametrize("name", ["ae", "air"])
def test_the_page_in_a_cell(explored, name):
    trained = load(explored[name])
    widget = trained.explore()
    view = opened(explored[name], ExploreSettings((explored[name],)))
    state = {name: getattr(widget, name) for name in ("about", "sources", "style")}
    with browser.started() as chromium, chromium.new_page() as page:
        problems: list[Any] = []
        page.on("pageerror", lambda error: problems.append(error))
        page.expose_function("kernel", lambda text: json.dumps(answer(view, json.loads(text))))
        page.set_content(PAGE)
        page.evaluate("state => { window.state = state; }", state | {"_esm": widget._esm})
        page.wait_for_function("!!window.render")
        page.evaluate("window.render()")
        page.wait_for_selector("main[data-ready=true]")
        page.wait_for_selector("body:not([data-busy=true])")
        if name == "ae":
            page.get_by_role("slider", name="z1").press("End")
            page.wait_for_selector("body:not([data-busy=true])")
            z = page.evaluate(
                "document.querySelector('#cell div').shadowRoot.querySelector('.run').view.z"
            )
            drawn, expected = "decoded", trained.decode([z])
        else:
            drawn, expected = "model", trained.reconstruct(view.held_out.images[1:2])
        found = page.locator(f"[data-name={drawn}]").evaluate(browser.READ)
        pixels = np.array(found["pixels"]).reshape(found["height"], found["width"], 4)[..., 0]
        assert np.abs(pixels - (expected[0].numpy() * 255).round()).max() <= 1
        assert problems == []
