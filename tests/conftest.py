"""A clean Pyro and a seed for every test, and an AIR small enough to be checked exactly."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from guides.air import ConvolutionalGuide, ResidualGuide, StepwiseGuide
from pyro_models.air import AIR
from tests import few, undrawn
from train import verdict
from train.metrics import adversaries, clusters

torch.set_num_threads(1)

# What is imported and collected stays, so that the garbage collector need not look at it: in
# tests of small steps that is a sixth of the time.
gc.disable()


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()


# PyTorch notes with a formatted stack how to seed a device that is not initialised yet.
for device in (torch.cuda, torch.xpu, torch.mtia):
    if not device.is_available() and hasattr(device, "manual_seed_all"):
        device.manual_seed_all = lambda seed: None


class SmallAIR(NamedTuple):
    model: AIR
    guide: StepwiseGuide
    images: Tensor


@pytest.fixture(autouse=True)
def _clean_pyro() -> None:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps compiled steps in a folder of the tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRUCTURED_LATENTS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _quick_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves a blank file in place of each figure of a run, to make which is half of a short run.

    Where figures are what a test is about, it is marked ``figures``, and the first of each name is
    rendered; all are with ``figures("all")``. Where it is about what they show, or whether they can
    be drawn, it is marked ``drawn``: they are made, and not rendered.
    """
    figures = request.node.get_closest_marker("figures")
    if figures:
        if "all" not in figures.args:
            monkeypatch.setattr(verdict, "draw", undrawn.DrawOnce())
        return
    if request.node.get_closest_marker("drawn"):
        save = Figure.savefig

        def savefig(figure: Figure, file: Any, **options: Any) -> None:
            save(Figure(figsize=(1, 1)), file, **options | {"dpi": 20})

        monkeypatch.setattr(Figure, "savefig", savefig)
        return
    monkeypatch.setattr(verdict, "draw", undrawn.draw)


@pytest.fixture(autouse=True)
def _quick_measures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits few adversaries, and k-means few times, where measures are not what a test is about."""
    if "metrics" not in request.path.parts:
        monkeypatch.setattr(adversaries, "candidates", few.candidates)
        monkeypatch.setattr(clusters, "best_means", few.best_means)


@pytest.fixture(scope="session")
def explored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small runs of every method to explore, by name: see :mod:`tests.explored`."""
    from tests.explored import make_runs

    return make_runs(tmp_path_factory.mktemp("explored"))


@pytest.fixture
def double() -> Iterator[None]:
    """Double precision for whatever the test makes."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def small_air(double: None) -> Callable[..., SmallAIR]:
    """Makes a small AIR in double precision, every weight of it random.

    A new guide's heads are zero, and it is sure of itself: that would hide faults.
    """

    def make(
        guide_class: type[StepwiseGuide] = ResidualGuide,
        *,
        images: int = 6,
        anchors: int = 2,
        baseline: nn.Module | None = None,
        **settings: Any,
    ) -> SmallAIR:
        settings = {
            "shape": (10, 11),
            "max_objects": 3,
            "window_size": 5,
            "what_dim": 3,
            "hidden": 8,
            "decoder_bias": -1.0,
            "likelihood_scale": 0.4,
            "presence_prior": 0.3,
            "where_loc": (2.0, 0.0, 0.0),
            "where_scale": (0.4, 0.5, 0.5),
            **settings,
        }
        model = AIR(**settings)
        sizes = {"hidden": 8, "anchors": anchors}
        if guide_class is ConvolutionalGuide:
            sizes = {"channels": 8}
        guide = guide_class(model, encoder_hidden=8, baseline=baseline, **sizes)
        # Not the global generator: a baseline's weights must not change the others.
        generator = torch.Generator().manual_seed(0)
        for name, weight in [*model.named_parameters(), *guide.named_parameters()]:
            if not name.startswith("baseline"):
                scale = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.3
                weight.data.normal_(0, scale, generator=generator)
        # Presences that differ from image to image.
        if guide_class is ConvolutionalGuide:
            guide.gains.data[:] = torch.tensor([5.0, 4.0])
        else:
            guide.step[-1].weight.data[0] *= 3
        brightness, pixels = (
            torch.rand(images, *shape, generator=generator) for shape in ((1, 1, 1), model.shape)
        )
        return SmallAIR(model, guide, (0.2 + 0.6 * brightness) * pixels)

    return make
