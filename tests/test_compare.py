"""All methods in one table: the same images, the same measures, and what makes each row."""

from __future__ import annotations

import csv
import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro

from tests.data.refusals import refused
from tests.kills import save_own
from train.abc import ABCSettings
from train.acai import ACAISettings
from train.ae import AESettings
from train.ae import main as train_ae
from train.air import AIRSettings
from train.air import main as train_air
from train.compare import CompareSettings, codecs_of, main, reproduced, train_all
from train.data import datasets
from train.data.datasets import load
from train.data.labelled import Images, Split
from train.engine.runs import Run
from train.icvae import ICVAESettings
from train.icvae import main as train_icvae
from train.method import Method
from train.methods import METHODS
from train.settings import Settings
from train.studies import comparison
from train.studies.comparison import MEASURES, Codec, compare, nearest, pairs, references
from train.trained import load as load_run


@pytest.mark.parametrize(
    "settings",
    [
        AIRSettings(),
        AIRSettings(steps=7, window_scale=(2.0, 0.5), presence_prior_start=None),
        ABCSettings(withheld=(), replacement=True, data="own images.npz"),
        ABCSettings(set_column="floor_hue"),
        ICVAESettings(condition=("ink", "paper")),
        ACAISettings(critic=False, run_dir=Path("x"), hidden=(3, 4)),
    ],
)
def test_a_command_makes_the_settings_it_is_of(settings):
    words = shlex.split(reproduced("method", settings))
    assert words[:3] == ["python", "-m", "train.method"]
    again = tyro.cli(type(settings), args=words[3:])
    assert again == replace(settings, run_dir=None)


def small(stride: int = 10) -> Split:
    """Returns every so many-th digit of each split."""
    data = load("mnist5k", Path("data"), "test")
    return Split(*(images.select(torch.arange(0, len(images), stride)) for images in data))


def test_measures_of_known_codecs():
    data = small()
    known = references(data, "command", seed=0, size=20)[:2]
    label = Codec("label", "command", lambda images: np.eye(10)[images.labels.numpy()], None, 3.0)
    noise = Codec(
        "noise",
        "command",
        lambda images: np.random.default_rng(0).normal(size=(len(images), 5)),
        None,
    )
    rows = {row["method"]: row for row in compare([*known, label, noise], data)}
    assert set(rows["pixels"]) == {"method", "command", "reasons", *MEASURES}
    # Pixels lose nothing; components lose what numpy says.
    assert rows["pixels"]["reconstruction_mse"] < 1e-12
    flat, others = (part.images.numpy().reshape(len(part), -1) / 255 for part in data)
    mean = flat.mean(0)
    basis = np.linalg.svd(flat - mean, full_matrices=False)[2][:20]
    rest = ((others - mean) @ basis.T @ basis + mean).clip(0, 1) - others
    assert rows["PCA"]["reconstruction_mse"] == pytest.approx((rest**2).mean(), rel=1e-3)
    # A code that is the class tells all of it and, within classes, nothing of style.
    assert rows["label"]["probe_accuracy"] == rows["label"]["leakage"] == 1
    assert rows["label"]["cluster_accuracy"] > 0.85
    assert abs(rows["label"]["slant_r2"]) < 0.01
    assert rows["label"]["reconstruction_mse"] is None
    assert rows["noise"]["leakage"] < 0.25
    assert rows["label"]["seconds"] == 3.0


def test_a_measure_that_fails_leaves_the_others():
    """More classes than images to find them in, of each of which one is held out."""
    torch.manual_seed(0)
    drawn = torch.randint(0, 256, (30, 28, 28), dtype=torch.uint8)
    data = Split(Images(drawn[:20], torch.arange(20)), Images(drawn[20:], torch.arange(20, 30)))
    (row,) = compare(references(data, "command", seed=0)[:1], data)
    assert row["cluster_accuracy"] is row["interpolation"] is None
    assert {"cluster_accuracy", "interpolation"} <= set(row["reasons"])
    assert row["reasons"]["interpolation"] == "no two held-out images are of one class"
    assert row["reconstruction_mse"] < 1e-12


def test_pairs_are_of_one_class():
    labels = torch.tensor([0, 1, 2, 0, 1, 0, 3])
    one, other = pairs(labels)
    assert sorted(zip(one.tolist(), other.tolist(), strict=True)) == [(0, 3), (1, 4), (3, 5)]
    assert len(pairs(torch.zeros(900))[0]) == 500


def test_nearest():
    others = torch.eye(3).unsqueeze(1)
    found = nearest(torch.tensor([[[2.0, 0, 0]], [[1.0, 1.0, 0]]]), others)
    torch.testing.assert_close(found, torch.tensor([0.0, 1 - 0.5**0.5]))


@pytest.mark.figures
def test_runs_are_compared(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(datasets, "load", lambda *_: small(40))
    options = {"batch_size": 16, "hidden": (8,), "cluster_starts": 1, "device": "cpu"}
    settings = AESettings(steps=3, **options, run_dir=tmp_path / "my-ae")
    train_ae(settings)
    results = main(CompareSettings(runs=(settings.run_dir,), device="cpu", run_dir=tmp_path / "c"))
    assert results["rows"] == 4
    text = (tmp_path / "c" / "comparison.md").read_text()
    assert "| my-ae | 10 |" in text
    assert (
        "- my-ae: `python -m train.ae --threads 1 --steps 3 --batch-size 16 --network dense "
        "--hidden 8 --cluster-starts 1`" in text
    )
    assert "| my-ae | 10 |" in capsys.readouterr().out
    with (tmp_path / "c" / "comparison.csv").open(newline="") as file:
        cells = {(row["method"], row["measure"]): row for row in csv.DictReader(file)}
    assert len(cells) == 4 * len(MEASURES)
    own = json.loads((settings.run_dir / "results.json").read_text())
    found = float(cells["my-ae", "reconstruction_mse"]["value"])
    assert found == pytest.approx(own["reconstruction_mse"], rel=1e-4)
    assert (tmp_path / "c" / "figures" / "comparison.png").exists()


def test_without_runs_each_method_is_trained(tmp_path, monkeypatch):
    made = []

    def make(self: Method, settings: Settings) -> None:
        made.append(settings)
        settings.run_dir.mkdir(parents=True)
        Run(settings.run_dir, self.name).finish({})

    monkeypatch.setattr(Method, "main", make)
    monkeypatch.setattr(type(METHODS["icvae"]), "main", make)
    settings = CompareSettings(steps=7, seed=3, device="cpu")
    # The second time none is made again.
    for _ in range(2):
        paths = train_all(settings, Run(tmp_path, "compare"), METHODS.values())
    assert [path.name for path in paths] == ["air", "icvae", "abc", "acai", "ae"]
    assert [settings.run_dir for settings in made] == paths
    assert {(settings.steps, settings.seed) for settings in made} == {(7, 3)}


def test_bad_input():
    data = small()
    unlabelled = Split(*(Images(part.images, None) for part in data))
    with refused("need classes as labels"):
        compare([], unlabelled)


def test_every_run_that_cannot_be_compared_is_named_before_anything_is_computed(
    tmp_path, monkeypatch
):
    own = {"data": str(save_own(tmp_path)), "steps": 1, "batch_size": 8, "device": "cpu"}
    small, labels = tmp_path / "small", tmp_path / "sees-labels"
    train_ae(AESettings(**own, cluster_starts=1, hidden=(4,), run_dir=small))
    icvae = {"invariance": "none", "hidden": (4,), "encoder_sees_labels": True}
    train_icvae(ICVAESettings(**own, **icvae, run_dir=labels))
    wider = tmp_path / "wider.npz"
    images = np.random.default_rng(0).integers(0, 256, (60, 20, 20), dtype=np.uint8)
    np.savez(wider, images=images, labels=np.arange(60) % 4)
    air = AIRSettings(
        **own,
        **{"what_hidden": 4, "guide_hidden": 4, "anchors": 0, "iw_scenes": 1, "window_size": 4},
        run_dir=tmp_path / "air",
    )
    train_air(air)
    monkeypatch.setattr(comparison, "compare", None)
    monkeypatch.setattr(comparison, "references", None)
    runs = (tmp_path / "nowhere", small, labels, air.run_dir)
    settings = CompareSettings(runs=runs, data=str(wider), device="cpu", run_dir=tmp_path / "c")
    with refused(
        f"{runs[0]} holds no run",
        f"{small}: images has shape",
        f"{labels}: images has shape",
        f"{air.run_dir}: its scenes are 16x16: too small for images of 20x20",
    ):
        main(settings)
    more = tmp_path / "more.npz"
    np.savez(more, images=images[:, :16, :16], labels=np.arange(60) % 5)
    with refused(str(labels)) as refusal:
        main(replace(settings, runs=(small, labels), data=str(more)))
    assert str(small) not in str(refusal.value)
    assert not (tmp_path / "c").exists()


def test_an_encoder_that_sees_labels_is_given_them(tmp_path):
    own = {"data": str(save_own(tmp_path)), "steps": 1, "batch_size": 8, "device": "cpu"}
    icvae = {"invariance": "none", "hidden": (4,), "encoder_sees_labels": True}
    train_icvae(ICVAESettings(**own, **icvae, run_dir=tmp_path / "run"))
    data = load(own["data"], Path("data"), "test")
    (codec,) = codecs_of([tmp_path / "run"], data, torch.device("cpu"))
    codes = codec.encode(data.held_out)
    others = codec.encode(Images(data.held_out.images, (data.held_out.labels + 1) % 4))
    assert codes.shape == (len(data.held_out), 2)
    assert not np.allclose(codes, others)


def test_a_run_with_named_conditions(tmp_path):
    """Its codes are decoded under the columns of the images, and a VAE's under nothing."""
    rows = np.arange(60)
    columns = {"class": rows % 3, "ink": np.array(["red", "blue"] * 30), "size": rows / 60}
    images = np.random.default_rng(0).integers(0, 256, (60, 16, 16), dtype=np.uint8)
    data = Images.of_columns(torch.from_numpy(images), columns).hold_out()
    own = {"steps": 1, "batch_size": 8, "device": "cpu", "hidden": (4,), "invariance": "none"}
    named, vae = tmp_path / "named", tmp_path / "vae"
    train_icvae(ICVAESettings(**own, condition=("size", "ink"), run_dir=named), data=data)
    train_icvae(ICVAESettings(**own, condition="none", run_dir=vae), data=data)
    codecs = codecs_of([named, vae], data, torch.device("cpu"))
    (row, _) = compare(codecs, data)
    held_out, images = data.held_out, data.held_out.images
    trained = load_run(named)
    decoded = trained.decode(trained.encode(images), trained.labels_of(held_out))
    wanted = (decoded - images[:, 0] / 255).square().mean().item()
    assert row["reconstruction_mse"] == pytest.approx(wanted, rel=1e-4)
    assert row["interpolation"] is not None
    without = Split(*(replace(x, columns={}) for x in data))
    with refused(f"{named}: --data has no column size: its columns are none") as refusal:
        codecs_of([named, vae], without, torch.device("cpu"))
    assert str(vae) not in str(refusal.value)
