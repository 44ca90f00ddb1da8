"""``python -m train.icvae``: its files, its refusals, and that it keeps classes out of codes."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.data.refusals import refused as inputs_refused
from tests.kills import PLAIN
from train import plots
from train.cli import command
from train.data import datasets
from train.data.labelled import Images, Split
from train.icvae import ICVAESettings, main
from train.trained import load

SMALL = {
    "steps": 6,
    "log_every": 2,
    "eval_every": 3,
    "checkpoint_every": 3,
    "batch_size": 32,
    "hidden": (16, 16),
    "device": "cpu",
}
KEYS = {
    *PLAIN,
    "reconstruction_mse",
    "reconstruction_mse_mean_image",
    "elbo",
    "leakage",
    "leakage_linear",
    "leakage_adversaries",
    "leakage_interval",
    "leakage_balanced",
    "leakage_auc",
    "leakage_mean",
    "leakage_parameters",
    "chance",
}

OF_CLASSES = ("leakage_balanced", "leakage_auc")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A person's own few images, with classes."""
    return saved(tmp_path / "own.npz", labels=np.arange(200) % 3)


def saved(path: Path, **arrays: Any) -> Path:
    images = np.random.default_rng(0).integers(0, 256, (200, 9, 8), dtype=np.uint8)
    np.savez(path, **({"images": images} | arrays))
    return path


def small(tmp_path: Path, data: Path, **changes: Any) -> ICVAESettings:
    settings = SMALL | {"run_dir": tmp_path / "run", "data": str(data), "echo_terms": 20}
    return ICVAESettings(**(settings | changes))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, marks=pytest.mark.figures),
        {"invariance": "none", "condition": "none"},
        {"invariance": "pairwise", "weight_start": 0.0, "encoder_sees_labels": True},
        {"invariance": "kt", "network": "conv", "likelihood": "bernoulli", "z_dim": 5},
        {"invariance": "echo", "beta_start": 0.5},
    ],
)
def test_a_run_leaves_its_files(tmp_path, own, changes):
    main(small(tmp_path, own, **changes))
    run = tmp_path / "run"
    results = json.loads((run / "results.json").read_text())
    assert set(results) == KEYS
    assert results["method"] == "icvae"
    assert results["chance"] == pytest.approx(1 / 3, abs=0.02)
    figures = {path.stem for path in (run / "figures").glob("*.png")}
    told = changes.get("condition") != "none"
    assert figures == {"reconstructions", "codes", "curves"} | ({"swaps"} if told else set())


@pytest.mark.parametrize(("shape", "invariance"), [((200,), "pairwise"), ((200, 2), "adversarial")])
def test_quantities_as_condition(tmp_path, shape, invariance):
    data = saved(tmp_path / "own.npz", labels=np.random.default_rng(1).normal(size=shape))
    results = main(small(tmp_path, data, invariance=invariance))
    assert results["chance"] == 0
    assert results["leakage"] <= 1


def of_columns(monkeypatch: pytest.MonkeyPatch) -> Split:
    """Makes ``--data`` images with columns: two of classes and two of quantities."""
    random, rows = np.random.default_rng(0), np.arange(200)
    columns = {
        "class": rows % 4,
        "ink": np.array(["red", "blue", "green"])[random.integers(0, 3, 200)],
        "size": random.normal(size=200),
        "wall_hue": random.random(200),
    }
    images = torch.from_numpy(random.integers(0, 256, (200, 3, 9, 8), dtype=np.uint8))
    split = Images.of_columns(images, columns).hold_out()
    monkeypatch.setattr(datasets, "load", lambda *_, **__: split)
    return split


@pytest.mark.drawn
@pytest.mark.parametrize(
    ("condition", "changes"),
    [
        (("ink", "class"), {}),
        (("wall_hue", "ink", "size"), {"invariance": "club", "encoder_sees_labels": True}),
        ("size", {"invariance": "echo"}),
    ],
)
def test_named_conditions(tmp_path, own, monkeypatch, condition, changes):
    """Each has its measures by name, and the other columns are read; then it is loaded."""
    split = of_columns(monkeypatch)
    rows: list[str] = []
    gallery = plots.gallery
    monkeypatch.setattr(plots, "gallery", lambda given: rows.extend(given) or gallery(given))
    results = main(small(tmp_path, own, condition=condition, **changes))
    names = (condition,) if isinstance(condition, str) else condition
    others = [name for name in ("class", "ink", "size", "wall_hue") if name not in names]
    each = {f"{key}.{name}" for key in KEYS if key[:4] in ("leak", "chan") for name in names}
    each -= {f"{key}.{x}" for key in OF_CLASSES for x in ("size", "wall_hue")}
    read = {f"{key}.{name}" for key in ("read", "read_chance") for name in others}
    assert set(results) == {key for key in KEYS if key[:4] not in ("leak", "chan")} | each | read
    assert [name for name in results if name.startswith("read.")] == [f"read.{x}" for x in others]
    assert len(results["verdict"]) == 1 + len(names)
    swaps = [row.strip() for row in rows if row.startswith("a ")]
    images = min(4, 8 // len(names))
    assert swaps == [f"a {label}, {name}" for label in range(images) for name in names]

    trained = load(tmp_path / "run")
    labels = trained.labels_of(split.held_out)
    assert set(labels) == set(names)
    images = split.held_out.images
    z = trained.encode(images, labels)
    torch.testing.assert_close(
        trained.condition.of_labels(labels, len(images)),
        trained.condition.of_images(split.held_out),
    )
    assert trained.decode(z, labels).shape == images.shape
    if condition == ("ink", "class"):
        swapped = trained.transfer(images, {"ink": "red"}, labels)
        expected = trained.decode(z, {"ink": "red", "class": labels["class"]})
        torch.testing.assert_close(swapped, expected)
        torch.testing.assert_close(
            trained.interpolate(images[:2], images[2:4], 3, labels=["red", 1])[:, 0],
            trained.decode(z[:2], {"ink": "red", "class": 1}),
        )
        assert trained.sample(3, {"ink": "blue", "class": [0, 1, 2]}).shape == (3, 3, 9, 8)
        with inputs_refused("the labels have no class: give ink, class"):
            trained.transfer(images, {"ink": "red"})


def test_the_label_may_be_something_else_than_the_condition(tmp_path, own, monkeypatch):
    """A label without a name is read as ``labels``; a VAE's results are of the label."""
    split = of_columns(monkeypatch)
    unnamed = Split(
        *(replace(x, columns={"ink": x.columns["ink"]}) for x in (split.train, split.held_out))
    )
    monkeypatch.setattr(datasets, "load", lambda *_, **__: unnamed)
    results = main(small(tmp_path, own, condition=("ink",)))
    assert results["read_chance.labels"] == pytest.approx(0.25, abs=0.05)
    options = {"condition": "none", "invariance": "none", "run_dir": tmp_path / "vae"}
    results = main(small(tmp_path, own, **options))
    assert results["chance"] == pytest.approx(0.25, abs=0.05)
    assert {name for name in results if name.startswith("read.")} == {"read.ink"}


@pytest.mark.parametrize(
    ("condition", "invariance", "words"),
    [
        (("ink", "size", "wall_hue"), "direct", "but the values of size, wall_hue are quantities"),
        (("ink", "paper"), "direct", "--condition paper: --data has no such column: its columns"),
        (("ink", "ink"), "direct", "--condition ink ink: ink is twice"),
        (("ink", "none"), "direct", "--condition none is no condition"),
        ((), "direct", "--condition is empty"),
    ],
)
def test_bad_conditions(monkeypatch, capsys, tmp_path, condition, invariance, words):
    of_columns(monkeypatch)
    flags = ["--condition", *condition, "--invariance", invariance]
    refused([*flags, "--run-dir", str(tmp_path / "run")], words, capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.figures
def test_a_sweep_has_a_table_and_a_figure(tmp_path, own):
    main(small(tmp_path, own, sweep=(2.0,)))
    run = tmp_path / "run"
    assert (run / "figures" / "tradeoff.png").stat().st_size > 10_000
    # A weight is added, and what is finished not repeated.
    finished = (run / "runs" / "direct-2" / "results.json").stat().st_mtime_ns
    main(small(tmp_path, own, sweep=(0.0, 2.0), resume=True))
    assert (run / "runs" / "direct-2" / "results.json").stat().st_mtime_ns == finished
    with (run / "tradeoff.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["term"], row["weight"]) for row in rows] == [
        ("VAE", "0.0"),
        ("CVAE", "0.0"),
        ("direct", "0.0"),
        ("direct", "2.0"),
    ]


def test_classes_are_kept_out_of_codes(tmp_path):
    """A short real run: with the term an adversary reads less than without."""
    short = {"steps": 200, "batch_size": 128, "hidden": (128, 128)}
    short |= {"log_every": 100, "eval_every": 200, "checkpoint_every": 200}
    short |= {"measure_on": (2_000, 1_000)}
    found = {}
    for weight in (0.0, 10.0):
        settings = ICVAESettings(
            **(SMALL | short), weight=weight, run_dir=tmp_path / str(weight), beta=0.1
        )
        found[weight] = main(settings)
    assert found[10.0]["leakage"] < found[0.0]["leakage"] - 0.05
    assert found[10.0]["leakage"] < 0.25
    assert found[10.0]["reconstruction_mse"] < 0.06


def test_the_default_weight_is_that_of_the_penalty():
    """A discrepancy is far smaller than nats are."""
    assert ICVAESettings().weight == 10
    assert ICVAESettings(invariance="mmd").weight == 1_000
    assert ICVAESettings(invariance="mmd", weight=0.0).weight == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--batch-size", "1"], "--batch-size 1: --invariance direct"),
        (["--invariance", "mmd", "--batch-size", "1"], "--invariance mmd compares images"),
        (["--invariance", "club", "--batch-size", "1"], "--invariance club compares images"),
        (["--invariance", "echo", "--batch-size", "64"], "--echo-terms 100"),
        (["--condition", "none"], "nothing for --invariance direct to keep out"),
        (["--weight", "-1"], "--weight is -1"),
        (["--z-dim", "0"], "--z-dim is 0"),
        (["--hidden"], "--hidden is empty"),
        (["--sweep", "1", "--resume", "--run-dir", "x"], "--resume: there is no run in x"),
        (["--sweep", "1", "--condition", "digit"], "--sweep compares what codes reveal of the"),
    ],
)
def test_bad_flags(flags, words, capsys):
    refused(flags, words, capsys)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({}, "has no labels"),
        ({"labels": np.zeros(200, dtype=int)}, "a single class"),
        ({"labels": np.arange(100) % 3}, "labels"),
        ({"labels": np.full(200, np.nan)}, "labels"),
    ],
)
def test_bad_labels(tmp_path, arrays, words, capsys):
    data = saved(tmp_path / "own.npz", **arrays)
    refused(["--data", str(data), "--run-dir", str(tmp_path / "run")], words, capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("invariance", ["direct", "mmd"])
def test_terms_that_need_classes(tmp_path, invariance, capsys):
    data = saved(tmp_path / "own.npz", labels=np.random.default_rng(1).normal(size=200))
    flags = ["--data", str(data), "--run-dir", str(tmp_path / "run"), "--invariance", invariance]
    refused(flags, f"--invariance {invariance} needs classes, but the labels are", capsys)
    assert not (tmp_path / "run").exists()


def test_too_few_images_for_echo(tmp_path, own, capsys):
    flags = ["--data", str(own), "--run-dir", str(tmp_path / "run"), "--invariance", "echo"]
    refused([*flags, "--echo-terms", "50"], "only 40 images are held out", capsys)


def refused(flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        command(ICVAESettings, main, flags)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_an_estimator_may_be_chosen(tmp_path, own):
    """Pyro's sampled KL divergences are other numbers, of the same ELBO."""
    exact = main(small(tmp_path, own, run_dir=tmp_path / "exact"))
    sampled = main(small(tmp_path, own, estimator="tracegraph", run_dir=tmp_path / "sampled"))
    first, other = (
        json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0])
        for name in ("exact", "sampled")
    )
    assert first["elbo"] != other["elbo"]
    assert first["elbo"] == pytest.approx(other["elbo"], rel=0.1)
    assert exact["elbo"] == pytest.approx(sampled["elbo"], rel=0.2)


@pytest.mark.parametrize("estimator", ["marginal", "iw", "nothing"])
def test_an_estimator_that_does_not_fit_is_refused(tmp_path, own, estimator, capsys):
    flags = ["--estimator", estimator, "--data", str(own), "--run-dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as stop:
        command(ICVAESettings, main, flags)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert f"--estimator {estimator}" in error
    assert "give meanfield, tracegraph" in error
    assert not (tmp_path / "run").exists()
