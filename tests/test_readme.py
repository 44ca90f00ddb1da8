"""The README's Python runs as it stands."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from guides.air import ResidualGuide
from pyro_models.air import AIR
from pyro_models.networks import Convolutions
from pyro_models.store import ParameterStoreError
from tests.estimators.exact import Projections, z_scores
from tests.test_train_air import SMALL
from train import acai
from train.acai import ACAISettings
from train.data import datasets
from train.estimators import MarginalELBO, TraceGraphELBO
from train.studies.estimators import BenchSettings
from train.studies.estimators import main as bench

BLOCKS = re.findall(
    r"```python\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text(), re.DOTALL
)


def test_what_air_finds_in_images():
    names: dict = {}
    exec(BLOCKS[0], names)
    assert names["found"].boxes.shape == (64, 3, 4)
    assert names["scenes"].canvas.shape == (16, 50, 50)
    assert names["loss"] > 0


def test_what_air_finds_twice_in_a_process():
    """Each pair is trained; without the line for it the second one is refused, and not the first.

    The mutation: a second pair in the store of the first.
    """
    small = BLOCKS[0].replace("50, 50", "12, 12").replace("64, ", "4, ")
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


def test_an_own_estimator_has_no_bias(small_air):
    """And joins the bench: by name, as a module's class."""
    names: dict = {}
    exec(BLOCKS[1], names)
    project = Projections(small_air(max_objects=2, presence_prior=0.05))
    exact = project.draw(MarginalELBO())
    assert (z_scores(project.draw(names["LeaveOneOutELBO"](), copies=50), exact) < 5).all()

    # The mutation: presences that learn nothing from their cost.
    unmarked = BLOCKS[1].replace('get("presence")', 'get("nothing")')
    assert unmarked != BLOCKS[1]
    exec(unmarked, names)
    assert (z_scores(project.draw(names["LeaveOneOutELBO"](), copies=50), exact) > 5).any()


def test_an_own_estimator_joins_the_bench(tmp_path, monkeypatch):
    (tmp_path / "your_module.py").write_text(BLOCKS[1])
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
    exec(BLOCKS[2], names)
    assert names["codes"].shape == (1_000, 16)
    assert names["between"].shape == (5, 7, 28, 28)
    assert names["scores"].mean() > 0.6


def test_another_guide():
    names = {"ResidualGuide": ResidualGuide, "Convolutions": Convolutions, "nn": nn}
    exec(BLOCKS[4], names)
    model = AIR((20, 20), window_size=8)
    guide = names["ConvolutionalGuide"](model, hidden=16)
    images = torch.rand(5, 20, 20)
    MarginalELBO().differentiable_loss(model, guide, images).backward()
    assert all(weight.grad.isfinite().all() for weight in guide.encoder.parameters())
    assert guide.detect(images).z_what.shape == (5, 3, 20)


def test_another_method(tmp_path):
    """With a file of its own, and no line anywhere else; it can be killed and gone on with."""
    path = tmp_path / "sparse.py"
    path.write_text(BLOCKS[5])
    assert len(BLOCKS[5].splitlines()) < 100
    flags = ["--steps", "60", "--eval-every", "30", "--run-dir", str(tmp_path / "run")]
    call = [sys.executable, str(path), *flags]
    ended = subprocess.run(call, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert ended.returncode == 0, ended.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["method"] == "sparse"
    assert 0.1 < results["held_out_zeros"] < 0.9
    assert results["held_out_mse"] < 0.09
    ended = subprocess.run([*call, "--sparsity", "-1"], capture_output=True, text=True)
    assert ended.returncode == 2
    assert "--sparsity" in ended.stderr


def test_another_likelihood():
    names = {"AIR": AIR, "dist": dist, "pyro": pyro}
    exec(BLOCKS[3], names)
    model = names["BernoulliAIR"]((20, 20), window_size=8, presence_prior=0.5)
    guide = ResidualGuide(model, hidden=16)
    images = torch.rand(5, 20, 20).round()
    for estimator in (MarginalELBO(), TraceGraphELBO()):
        loss = estimator.differentiable_loss(model, guide, images)
        loss.backward()
        assert loss.isfinite()
    assert model.sample(50).images.unique().tolist() == [0, 1]
