"""Each tutorial runs with tiny settings, and its notebook is made from its text as it is now."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jupytext
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from nbformat import NotebookNode
from pyro import poutine
from scipy.stats import norm

from tests.pages import ROOT, links
from train import plots
from train.data import datasets
from train.data.labelled import Split

FOLDER = ROOT / "docs" / "tutorials"
TUTORIALS = sorted(path.stem for path in FOLDER.glob("*.md"))
MOST_BYTES = 300_000
"""Most bytes of a notebook."""
Names = dict[str, Any]
"""What the cells of a tutorial have defined."""


def abc(names: Names) -> None:
    read = names["table"]
    assert set(read.columns) == {"ABC", "PCA", "chance"}
    assert read.loc["x", "PCA"] > 0.3 > read.loc["x", "chance"]
    # Of the queries' own colour there is no row.
    assert set(names["rows"]) == {"query", *names["colours"]} - {"red"}


def air(names: Names) -> None:
    here, library = names["values"]
    assert here == pytest.approx(library, rel=1e-5)
    assert names["ratio"] > 3
    assert names["results"]["count_accuracy_map"] >= 0


def acai(names: Names) -> None:
    # An image of a spot is nowhere but among those, and a mixture of two is.
    spots, distance = names["spots"], names["distance"]
    one, other = spots(names["turn"] * torch.tensor([0.0, 0.5]))
    assert distance(one[None]) < 0.01
    assert distance((one + other)[None] / 2) > 1
    assert all(len(means) == len(names["apart"]) for means in names["means"].values())
    assert names["along"].shape == names["walks"][0].shape


def autoencoder(names: Names) -> None:
    mean, linear, learnt = names["errors"].values()
    assert linear < mean
    assert learnt == pytest.approx(names["results"]["reconstruction_mse"], rel=1e-3)
    # The codes of the grid, as images: the first row is the highest z2.
    assert names["drawn"].shape == (names["columns"] ** 2, 28, 28)
    assert names["grid"][0].tolist() == [names["low"][0], names["high"][1]]


def likelihood(names: Names) -> None:
    here, enumerated = names["values"]
    assert here == pytest.approx(enumerated, rel=1e-4)
    # White costs nearly nothing where nothing is drawn, and grey what it cost.
    canvas = torch.zeros(1, 1, 24, 24)
    costs = {}
    for name in ("model", "fault_model"):
        for level in (0.0, 0.5, 1.0):
            trace = poutine.trace(names[name].observe).get_trace(canvas, canvas + level)
            density = trace.nodes["x"]["fn"].log_prob(canvas + level)
            costs[name, level] = -density.item() / canvas.numel()
    white, grey = (
        [costs[name, level] - costs[name, 0.0] for name in ("model", "fault_model")]
        for level in (1.0, 0.5)
    )
    assert white[0] == pytest.approx(1 / (2 * 0.3**2), rel=1e-3)
    assert white[1] < 1.5
    assert grey[0] == pytest.approx(grey[1], abs=0.1)


def own_estimator(names: Names) -> None:
    """The estimator that is wrong is found, and the one that is right is not."""
    assert names["largest_t"](names["mean_baseline"]) > 5
    assert names["largest_t"](names["others_baseline"]) < 4.5
    table = names["table"].set_index("estimator")
    assert table.loc["rloo", "variance"] < table.loc["reinforce", "variance"]
    assert set(names["history"]) == {"reinforce", "others-baseline", "disarm"}


def own_method(names: Names) -> None:
    assert names["refused"] == "--side is 0: give a number that is 1 or more"
    known = names["inpainter"].inpaint(names["images"], names["inside"] * 0 + 1)
    assert (known - names["images"][:, 0]).abs().max() < 1e-6
    compared = pd.read_csv("runs/comparison/comparison.csv")["method"]
    assert {"inpaint", "plain", "PCA"} <= set(compared)


def table(names: Names) -> None:
    # Bayes' rule in closed form: of a job that fits the sex, and of one that does not.
    job, height = math.log(0.7 / 0.3), 12 / 7
    right = 0.7 * norm.cdf(height / 2 + job / height) + 0.3 * norm.cdf(height / 2 - job / height)
    many = names["draw_people"](100_000, 7)
    guessed = (names["probability_of_woman"](many) > 0.5) == (many["sex"] == "woman")
    assert guessed.mean() == pytest.approx(right, abs=4 * (right * (1 - right) / len(many)) ** 0.5)
    assert all(found.estimate <= found.bound for found in names["bounds"])
    assert set(names["by_trees"].columns) == {*names["kinds"], "the best from a row"}


TINY: dict[str, tuple[Names, Callable[[Names], None]]] = {
    "abc": ({"number": 120, "steps": 1, "stack": 8}, abc),
    "acai": ({"steps": 2}, acai),
    "air": ({"number": 300, "steps": 2, "draws": 10}, air),
    "autoencoder": ({"steps": 2}, autoencoder),
    "likelihood": ({"number": 100, "steps": 2}, likelihood),
    "own-estimator": ({"draws": 300, "compared": 20, "warm_up": 20, "steps": 2}, own_estimator),
    "own-method": ({"steps": 2}, own_method),
    "table": ({"number": 300, "fresh": 3_000, "steps": 2, "hidden": (8,)}, table),
}
"""For each tutorial tiny values of its parameters, and what is checked when it has run."""


def few(data: str, *options: Any, real: Any = datasets.load) -> Split:
    """Takes the place of :func:`train.data.datasets.load`: of the digits a tenth."""
    split = real(data, *options)
    if data != "mnist5k":
        return split
    return Split(*(images.select(torch.arange(0, len(images), 10)) for images in split))


def gallery(rows: Mapping[str, np.ndarray]) -> None:
    """Takes the place of :func:`train.plots.gallery`, of which a hundred axes take seconds."""
    shapes = {images.shape for images in rows.values()}
    assert len(shapes) == 1, "every row has as many images, of one size"
    assert len(shapes.pop()) == 4


def cells(notebook: NotebookNode) -> list[tuple[str, str, tuple[str, ...]]]:
    """The cells of a notebook: their kind, source and tags."""
    return [
        (cell.cell_type, cell.source, tuple(cell.metadata.get("tags", ())))
        for cell in notebook.cells
    ]


def tagged(name: str, tag: str) -> list[str]:
    """The sources of a tutorial's cells with a tag."""
    notebook = jupytext.read(FOLDER / f"{name}.md")
    return [source for _, source, tags in cells(notebook) if tag in tags]


def test_every_tutorial_is_run():
    assert set(TUTORIALS) == set(TINY)


@pytest.mark.parametrize("name", TUTORIALS)
def test_a_tutorial_runs(name, tmp_path, monkeypatch):
    """Its cells in order, with tiny parameters; what it asserts, and what is checked here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load", few)
    monkeypatch.setattr(plots, "gallery", gallery)
    tiny, check = TINY[name]
    names: Names = {"__name__": "__main__"}
    with plt.rc_context({"backend": "agg"}):
        for kind, source, tags in cells(jupytext.read(FOLDER / f"{name}.md")):
            if kind == "code" and "install" not in tags:
                lines = source.replace("%matplotlib inline", "")
                # Without this file's own annotations import.
                exec(compile(lines, f"{name}.md", "exec", dont_inherit=True), names)
            if "parameters" in tags:
                assert set(tiny) <= set(names), "no parameters of the tutorial"
                names |= tiny
        plt.close("all")
    check(names)


@pytest.mark.parametrize("name", TUTORIALS)
def test_a_tutorial_begins_alike(name):
    """With a cell that installs the library in Colab, and one cell of parameters."""
    (install,) = tagged(name, "install")
    assert 'if "google.colab" in sys.modules:' in install
    assert "%pip install" in install
    assert len(tagged(name, "parameters")) == 1
    assert "## What to try next" in (FOLDER / f"{name}.md").read_text()


@pytest.mark.parametrize("name", TUTORIALS)
def test_links_of_a_tutorial_lead_somewhere(name):
    text = (FOLDER / f"{name}.md").read_text()
    assert all((FOLDER / file).exists() for file, _ in links(text))
    # What a person opens in Jupyter is a notebook.
    assert not [file for file, _ in links(text) if file.endswith(".md") and "/" not in file]


@pytest.mark.parametrize("name", TUTORIALS)
def test_a_notebook_is_made_from_its_text(name):
    """The mutation: a word of the text, or of a cell, that is changed."""
    path = FOLDER / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    assert cells(notebook) == cells(jupytext.read(FOLDER / f"{name}.md")), (
        f"make it anew: python docs/notebooks.py {name}"
    )
    assert path.stat().st_size <= MOST_BYTES
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert outputs
    assert "error" not in {output.output_type for output in outputs}
