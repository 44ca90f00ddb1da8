"""``python -m train.ae`` and ``train.acai``: their files, their refusals, and that they learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyro_models.ae import dense
from tests.kills import PLAIN
from train import acai, ae
from train.acai import ACAISettings
from train.ae import AESettings
from train.cli import command
from train.data import labelled
from train.metrics import autoencoding

SMALL = {
    "steps": 6,
    "log_every": 2,
    "eval_every": 3,
    "checkpoint_every": 3,
    "batch_size": 9,
    "device": "cpu",
    "cluster_starts": 2,
}
MEASURES = {
    *("reconstruction_mse", "reconstruction_mse_mean_image"),
    *("probe_accuracy", "cluster_accuracy"),
}


def saved(path: Path, **arrays: Any) -> Path:
    """A person's own few images, of sides that cannot be halved."""
    images = np.random.default_rng(0).integers(0, 256, (100, 15, 13), dtype=np.uint8)
    np.savez(path, **({"images": images, "labels": np.arange(100) % 4} | arrays))
    return path


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return saved(tmp_path / "own.npz")


def train_ae(run: Path, data: Path, **changes: Any) -> dict[str, Any]:
    return ae.main(AESettings(**(SMALL | {"run_dir": run, "data": str(data)} | changes)))


def train_acai(run: Path, data: Path | str, **changes: Any) -> dict[str, Any]:
    kind = {"run_dir": run, "data": str(data), "depth": 2, "hidden": (16,)}
    return acai.main(ACAISettings(**(SMALL | kind | changes)))


def figures(run: Path) -> set[str]:
    return {path.stem for path in (run / "figures").glob("*.png")}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"z_dim": 2, "hidden": (8,)}, marks=pytest.mark.figures),
        {"network": "conv", "noise": 0.2, "optimiser": "rmsprop", "patience": 0},
    ],
)
def test_an_autoencoder_leaves_its_files(tmp_path, own, changes):
    run = tmp_path / "run"
    train_ae(run, own, **changes)
    results = json.loads((run / "results.json").read_text())
    assert set(results) == PLAIN | MEASURES | {"best_step"}
    grid = {"grid"} if changes.get("z_dim") == 2 else set()
    assert figures(run) == {"reconstructions", "codes", "curves"} | grid


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, marks=pytest.mark.figures),
        {"network": "dense", "dropout": 0.5, "z_dim": 5, "mixing": 0.0},
        {"critic": False, "batch_size": 1},
    ],
)
def test_acai_leaves_its_files(tmp_path, own, changes):
    """A batch of nine is odd, and 15x13 is padded to 16x16."""
    run = tmp_path / "run"
    train_acai(run, own, **changes)
    assert set(json.loads((run / "results.json").read_text())) == PLAIN | MEASURES
    assert figures(run) == {"interpolations", "codes", "curves"}


def test_lines(tmp_path):
    found = train_acai(tmp_path / "run", "lines", z_dim=16)
    assert set(found) == PLAIN | MEASURES | {"mean_distance", "smoothness"}
    assert found["probe_accuracy"] is None
    assert 0 < found["mean_distance"] < 1


def test_images_without_labels(tmp_path):
    data = tmp_path / "own.npz"
    np.savez(data, images=np.random.default_rng(0).integers(0, 256, (60, 16, 16), dtype=np.uint8))
    assert train_ae(tmp_path / "ae", data)["probe_accuracy"] is None
    assert train_acai(tmp_path / "acai", data)["cluster_accuracy"] is None


def test_a_run_goes_on_for_more_steps(tmp_path, own):
    # A cosine would have ended with the first part.
    straight = train_ae(tmp_path / "whole", own, decay="none")
    train_ae(tmp_path / "parts", own, decay="none", steps=3)
    resumed = train_ae(tmp_path / "parts", own, decay="none", resume=True)
    for key in MEASURES:
        assert resumed[key] == straight[key]


def test_an_autoencoder_learns(tmp_path):
    """A short real run: a code of ten does better than ten principal components' 0.035."""
    found = ae.main(AESettings(steps=300, device="cpu", run_dir=tmp_path / "run", cluster_starts=5))
    assert found["reconstruction_mse"] < 0.03
    assert found["probe_accuracy"] > 0.7
    assert found["cluster_accuracy"] > 0.4


def test_acai_learns(tmp_path):
    settings = ACAISettings(
        steps=300,
        network="dense",
        hidden=(200,),
        learning_rate=1e-3,
        decay="none",
        critic_weight=0.125,
        device="cpu",
        eval_every=300,
        run_dir=tmp_path / "run",
        cluster_starts=5,
    )
    found = acai.main(settings)
    assert found["reconstruction_mse"] < 0.06
    assert found["probe_accuracy"] > 0.75
    history = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["critic_loss"] for line in history if "critic_loss" in line]
    # What the best constant answer has.
    assert losses[-1] < 0.055


@pytest.mark.parametrize(
    ("method", "flags", "words"),
    [
        (ae, ["--z-dim", "0"], "--z-dim is 0"),
        (ae, ["--noise", "-0.1"], "--noise is -0.1"),
        (ae, ["--patience", "-1"], "--patience is -1"),
        (acai, ["--mixing", "0.6"], "--mixing is 0.6"),
        (acai, ["--batch-size", "1"], "--batch-size 1: mixing needs a partner"),
        (acai, ["--cluster-starts", "0"], "--cluster-starts is 0"),
    ],
)
def test_bad_flags(tmp_path, method, flags, words, capsys):
    settings = AESettings if method is ae else ACAISettings
    with pytest.raises(SystemExit) as stop:
        command(settings, method.main, [*flags, "--run-dir", str(tmp_path / "run")])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_bad_images(tmp_path, capsys):
    data = tmp_path / "own.npz"
    np.savez(data, images=np.zeros((60, 16, 16), dtype=np.uint8))
    flags = ["--data", str(data), "--batch-size", "4", "--run-dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as stop:
        command(ACAISettings, acai.main, flags)
    assert stop.value.code == 2
    assert "every image is the same" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_look_keeps_a_measure_that_is_exactly_zero(monkeypatch):
    data = labelled.Images(torch.zeros(6, 4, 4, dtype=torch.uint8), torch.arange(6) % 2)
    watch = autoencoding.ACAIWatch(dense((4, 4), 2, (3,)), data, data)
    monkeypatch.setattr("train.metrics.probes.probe_accuracy", lambda *_: 0.0)
    monkeypatch.setattr("train.metrics.clusters.cluster_accuracy", lambda *_, **__: None)
    seen = watch.evaluate(0)
    assert seen.keys() == {"held_out_mse", "probe_accuracy"}
    assert seen["probe_accuracy"] == 0
