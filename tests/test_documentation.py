"""The Python of README and pages runs as it stands, and their links lead somewhere."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from guides.air import ResidualGuide
from pyro_models.air import AIR
from pyro_models.networks import Convolutions
from pyro_models.store import ParameterStoreError
from tests import doors
from tests.data.refusals import refused
from tests.estimators.exact import Projections, z_scores
from tests.pages import PAGES, ROOT, anchors, blocks, links, read
from tests.test_train_air import SMALL
from train import acai, ae, air, figures, icvae
from train.acai import ACAISettings
from train.ae import AESettings
from train.air import AIRSettings
from train.bench import BenchSettings
from train.bench import main as bench
from train.cli import command
from train.data import datasets
from train.data.labelled import Split
from train.estimators import MarginalELBO, TraceGraphELBO
from train.icvae import ICVAESettings
from train.methods import METHODS
from train.trained import load

BLOCKS = blocks("".join(map(read, set(PAGES) - {"docs/estimators.md"})))
"""Their Python, by the names that its fences have; one page has tests of its own."""
RUN = (
    *("first", "air", "scenes", "canvas", "drawn", "leave-one-out", "trained", "guide", "method"),
    *("method-used", "logger", "likelihood", "guarantee", "table", "table-transformer", "shared"),
    *("first-run", "notebook"),
)
"""The blocks that tests of this file run."""


def test_every_block_is_run():
    assert set(BLOCKS) == set(RUN)


def test_the_readme_is_short():
    assert len(read("README.md").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    """Files that are there, and headings that they have."""
    for file, anchor in links(read(page)):
        target = (ROOT / page).parent / file if file else ROOT / page
        assert target.exists(), file
        if anchor:
            assert anchor in anchors(target.read_text()), f"{file}#{anchor}"


@pytest.mark.parametrize("page", PAGES[1:])
def test_a_page_is_found_from_the_readme(page):
    assert page in {file for file, _ in links(read("README.md"))}


def test_results_has_every_table_of_a_benchmark():
    named = set(re.findall(r"benchmarks[/.](\w+)", read("docs/results.md")))
    scripts = {file.stem: file.read_text() for file in (ROOT / "benchmarks").glob("*.py")}
    tables = {
        name
        for name, source in scripts.items()
        if "__main__" in source and re.search(r"\bmarkdown\(|\bprint_times\(|\| --- ", source)
    }
    assert {"air_quality", "air_step", "icvae_step", "abc_quality"} <= tables
    assert tables <= named
    assert named <= set(scripts)


def test_the_first_lines():
    names: dict = {}
    exec(BLOCKS["first"], names)
    assert names["loss"] > 0
    assert names["detection"].masks.shape == (64, 3, 50, 50)


def test_what_air_finds_in_images():
    names: dict = {}
    exec(BLOCKS["air"], names)
    assert names["detection"].boxes.shape == (64, 3, 4)
    assert names["scenes"].canvas.shape == (16, 1, 50, 50)
    assert names["loss"] > 0


def test_scenes():
    names: dict = {}
    exec(BLOCKS["scenes"], names)
    assert names["scenes"].masks.shape == (100, 150, 150)
    assert names["classes"].shape == (100, 20)
    assert np.array_equal(names["again"].images, names["sprites"].images)


def test_scenes_of_any_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    air.main(AIRSettings(**SMALL, guide="convolutional", run_dir=Path("runs/small")))
    names = {"images": np.zeros((2, 150, 150)), "photograph": np.zeros((1, 70, 90))}
    exec(BLOCKS["canvas"], names)
    assert names["found"].masks.shape == (2, 20, 150, 150)


def test_what_air_finds_twice_in_a_process():
    """Each pair is trained; without the line for it the second one is refused, and not the first.

    The mutation: a second pair in the store of the first.
    """
    small = BLOCKS["air"].replace("50, 50", "12, 12").replace("64, ", "4, ")
    small = small.replace("max_objects=3", "max_objects=1, window_size=4, hidden=4")
    for _ in range(2):
        names: dict = {}
        begun = small.replace("svi = ", "started = model.decoder[0].bias.clone()\nsvi = ")
        exec(begun, names)
        assert not torch.equal(names["model"].decoder[0].bias, names["started"])
    careless = small.replace("pyro.clear_param_store()", "")
    assert careless != small
    with pytest.raises(ParameterStoreError, match="clear_param_store"):
        exec(careless, {})


def test_factors_of_your_own_are_drawn():
    names: dict = {}
    exec(BLOCKS["drawn"], names)
    shapes = [(name, tuple(names[name].shape)) for name in ("turn", "hearts")]
    assert shapes == [("turn", (13, 3, 64, 64)), ("hearts", (2, 3, 64, 64))]
    assert len(names["rooms"]) == len(names["rooms"].column("wall_hue")) == 500


def test_an_own_estimator_has_no_bias(small_air):
    """And joins the bench: by name, as a module's class."""
    names: dict = {}
    exec(BLOCKS["leave-one-out"], names)
    project = Projections(small_air(max_objects=2, presence_prior=0.05))
    exact = project.draw(MarginalELBO())
    assert (z_scores(project.draw(names["LeaveOneOutELBO"](), copies=50), exact) < 5).all()

    # The mutation: presences that learn nothing from their cost.
    unmarked = BLOCKS["leave-one-out"].replace('get("presence")', 'get("nothing")')
    assert unmarked != BLOCKS["leave-one-out"]
    exec(unmarked, names)
    assert (z_scores(project.draw(names["LeaveOneOutELBO"](), copies=50), exact) > 5).any()


def test_an_own_estimator_joins_the_bench(tmp_path, monkeypatch):
    (tmp_path / "your_module.py").write_text(BLOCKS["leave-one-out"])
    monkeypatch.syspath_prepend(tmp_path)
    rows = ("marginal", "your_module:LeaveOneOutELBO")
    bench(
        BenchSettings(
            **SMALL, draws=3, exact_draws=3, rounds=1, estimators=rows, run_dir=tmp_path / "bench"
        )
    )
    with (tmp_path / "bench" / "gradients.csv").open(newline="") as file:
        assert {row["estimator"] for row in csv.DictReader(file)} == set(rows)


def test_trained_models_put_to_use(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = datasets.load("mnist5k", Path("data"), "test").train.images[:100]
    np.savez(tmp_path / "few.npz", images=images)
    acai.main(
        ACAISettings(
            data=str(tmp_path / "few.npz"),
            steps=2,
            depth=2,
            z_dim=16,
            cluster_starts=1,
            run_dir=tmp_path / "runs" / "my-acai",
        )
    )
    names: dict = {}
    block = BLOCKS["trained"].replace("steps=300", "steps=30")
    assert block != BLOCKS["trained"]
    exec(block, names)
    assert names["codes"].shape == (1_000, 16)
    assert names["between"].shape == (5, 7, 28, 28)
    assert names["scores"].mean() > 0.5
    exec(BLOCKS["shared"], names)
    assert torch.equal(names["model"].encode(images), names["acai"].encode(images))


def test_the_first_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ae.main(AESettings(steps=2, batch_size=16, cluster_starts=1, run_dir=Path("runs/my-ae")))
    names: dict = {}
    exec(BLOCKS["first-run"], names)
    assert names["images"].shape == (1_000, 28, 28)
    assert names["between"].shape == (1, 7, 28, 28)


def test_a_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    sex, rich = random.choice(["Male", "Female"], 200), random.choice(["low", "high"], 200)
    frame = {"sex": sex, "age": random.integers(20, 60, 200), "job": list("abcd") * 50}
    pd.DataFrame(frame | {"income": rich}).to_csv("people.csv", index=False)
    names: dict = {}
    short = {"z_dim=4": "z_dim=4, steps=3", "steps=500": "steps=3"}
    for name in ("table", "table-transformer"):
        block = BLOCKS[name]
        for long, few in short.items():
            block = block.replace(long, few)
        assert block != BLOCKS[name]
        exec(block, names)
    assert names["model"].predict(names["people"]).shape == (200,)


@pytest.mark.parametrize("channels", [1, 3])
def test_another_guide(channels):
    names = {"ResidualGuide": ResidualGuide, "Convolutions": Convolutions, "nn": nn}
    exec(BLOCKS["guide"], names)
    model = AIR((channels, 20, 20), window_size=8)
    guide = names["ConvolutionalEncoder"](model, hidden=16)
    images = torch.rand(5, channels, 20, 20)
    MarginalELBO().differentiable_loss(model, guide, images).backward()
    assert all(weight.grad.isfinite().all() for weight in guide.encoder.parameters())
    assert guide.detect(images).z_what.shape == (5, 3, 20)


@pytest.fixture
def sparse(tmp_path, monkeypatch) -> Path:
    """The page's own method in a file, and the folder as the working one."""
    (tmp_path / "sparse.py").write_text(BLOCKS["method"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "sparse.py"
    sys.modules.pop("sparse", None)


def test_another_method(sparse, capsys):
    """With a file of its own, and no line anywhere else; it can be killed and gone on with."""
    assert len(BLOCKS["method"].splitlines()) < 100
    flags = ["--steps", "60", "--eval-every", "30", "--run-dir", "run"]
    said = sparse.with_name("said")
    assert doors.finish(doors.start_script(sparse, *flags, said=said)) == 0, said.read_text()
    results = json.loads(Path("run/results.json").read_text())
    assert results["method"] == "sparse"
    assert results["reconstruction_mse"] < 0.09
    assert results["probe_accuracy"] > 0.5
    assert set(results["figures"]) == {"reconstructions", "codes", "curves"}
    from sparse import METHOD, SparseSettings

    with pytest.raises(SystemExit, match="2"):
        command(SparseSettings, METHOD.main, ["--sparsity", "-1"])
    assert "--sparsity" in capsys.readouterr().err


def test_another_method_is_taken_by_whatever_takes_a_method(sparse, monkeypatch):
    """load, export, the comparison, figures drawn again and scikit-learn; no other file knows."""
    data = datasets.load("mnist5k", Path("data"), "test")
    few = Split(*(images.select(torch.arange(0, len(images), 10)) for images in data))
    monkeypatch.setattr(datasets, "load", lambda *_: few)
    from sparse import METHOD, SparseSettings

    METHOD.main(SparseSettings(steps=3, run_dir=Path("runs/my-sparse"), device="cpu"))
    names: dict = {}
    exec(BLOCKS["method-used"], names)
    images = few.held_out.images[:5]
    codes = names["trained"].encode(images)
    assert codes.shape == (5, 64)
    assert codes.min() == 0
    program = torch.export.load("exported/encoder.pt2").module()
    torch.testing.assert_close(program(images[:, 0] / 255), codes)
    (table,) = Path("runs").glob("compare-*/comparison.csv")
    with table.open(newline="") as file:
        assert "my-sparse" in {row["method"] for row in csv.DictReader(file)}
    drawn = figures.main(figures.FiguresSettings(run=Path("runs/my-sparse")), METHOD)
    assert set(drawn) == {"reconstructions", "codes", "curves"}
    flat = few.train.images.flatten(1).numpy()
    transformer = names["SparseTransformer"](steps=2, z_dim=3)
    assert transformer.fit_transform(flat).shape == (len(flat), 3)
    assert transformer.inverse_transform(transformer.transform(flat[:2])).shape == (2, 784)
    with refused("holds a run of 'sparse', which cannot be loaded by its name"):
        load("runs/my-sparse")
    with refused("holds a run of 'sparse', not of ae"):
        load("runs/my-sparse", METHODS["ae"])
    with refused("method is 'cuda', no Method", "or device='cuda'"):
        load("runs/my-sparse", "cuda")


def test_a_guarantee(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = datasets.load("mnist5k", Path("data"), "test").held_out.select(torch.arange(200))
    settings = ICVAESettings(
        steps=2, levels=2, hidden=(8,), memory=0, run_dir=Path("runs/my-finite"), device="cpu"
    )
    icvae.main(settings, data=data)
    names = {"images": data.images, "labels": data.labels.numpy(), "frequencies": np.full(10, 0.1)}
    exec(BLOCKS["guarantee"], names)
    assert names["found"].cells <= 4
    assert names["found"].estimate < names["found"].bound < 1
    assert names["most"] == pytest.approx(0.207, abs=0.001)


def test_another_logger(monkeypatch, tmp_path):
    """Of the names that the page calls; the library itself is not needed."""
    calls = []

    class Run:
        def log(self, metrics, step):
            calls.append((step, set(metrics)))

        def finish(self, exit_code):
            calls.append(exit_code)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda config: Run()))
    block = BLOCKS["logger"].replace("steps=500", "steps=2, cluster_starts=1, hidden=(8,)")
    assert block != BLOCKS["logger"]
    exec(block, {})
    assert calls == [
        (2, {"autoencoder_loss", "mse", "train_seconds"}),
        (2, {"validation_mse"}),
        0,
    ]


def test_a_cell_of_a_notebook(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8)
    np.savez("few.npz", images=images)
    settings = {"steps": 1, "z_dim": 2, "hidden": (4,), "cluster_starts": 1, "device": "cpu"}
    ae.main(ae.AESettings(**settings, data="few.npz", run_dir=Path("runs/my-ae")))
    *lines, last = BLOCKS["notebook"].strip().splitlines()
    names = {}
    exec("\n".join([*lines, f"shown = {last}"]), names)
    held_out = len(images) // 5
    assert names["shown"].about["codes"]["shape"] == [held_out, 2]


def test_another_likelihood():
    names = {"AIR": AIR, "dist": dist, "pyro": pyro}
    exec(BLOCKS["likelihood"], names)
    model = names["BernoulliAIR"]((20, 20), window_size=8, presence_prior=0.5)
    guide = ResidualGuide(model, hidden=16)
    images = torch.rand(5, 1, 20, 20).round()
    for estimator in (MarginalELBO(), TraceGraphELBO()):
        loss = estimator.differentiable_loss(model, guide, images)
        loss.backward()
        assert loss.isfinite()
    assert model.sample(50).images.unique().tolist() == [0, 1]
