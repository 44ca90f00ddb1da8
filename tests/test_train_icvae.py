"""``python -m train.icvae``: its files, its refusals, and that it keeps classes out of codes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.kills import PLAIN
from train.cli import command
from train.icvae import ICVAESettings, main

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
    "leakage_mean",
    "leakage_parameters",
    "chance",
}


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


@pytest.mark.parametrize("shape", [(200,), (200, 2)])
def test_quantities_as_condition(tmp_path, shape):
    data = saved(tmp_path / "own.npz", labels=np.random.default_rng(1).normal(size=shape))
    results = main(small(tmp_path, data, invariance="pairwise"))
    assert results["chance"] == 0
    assert results["leakage"] <= 1


@pytest.mark.figures
def test_a_sweep_has_a_table_and_a_figure(tmp_path, own):
    main(small(tmp_path, own, sweep=(0.0, 2.0)))
    run = tmp_path / "run"
    with (run / "tradeoff.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["term"], row["weight"]) for row in rows] == [
        ("VAE", "0.0"),
        ("CVAE", "0.0"),
        ("direct", "0.0"),
        ("direct", "2.0"),
    ]
    assert (run / "figures" / "tradeoff.png").stat().st_size > 10_000
    assert (run / "runs" / "direct-2" / "results.json").exists()


def test_classes_are_kept_out_of_codes(tmp_path):
    """A short real run: with the term an adversary reads less than without."""
    short = {"steps": 200, "batch_size": 128, "hidden": (128, 128)}
    short |= {"log_every": 100, "eval_every": 200, "checkpoint_every": 200}
    found = {}
    for weight in (0.0, 10.0):
        settings = ICVAESettings(
            **(SMALL | short), weight=weight, run_dir=tmp_path / str(weight), beta=0.1
        )
        found[weight] = main(settings)
    assert found[10.0]["leakage"] < found[0.0]["leakage"] - 0.05
    assert found[10.0]["leakage"] < 0.25
    assert found[10.0]["reconstruction_mse"] < 0.06


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--batch-size", "1"], "--batch-size 1: --invariance direct"),
        (["--invariance", "echo", "--batch-size", "64"], "--echo-terms 100"),
        (["--condition", "none"], "nothing for --invariance direct to keep out"),
        (["--weight", "-1"], "--weight is -1"),
        (["--z-dim", "0"], "--z-dim is 0"),
        (["--hidden"], "--hidden is empty"),
        (["--sweep", "1", "--resume", "--run-dir", "x"], "leave --resume out"),
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


def test_the_direct_term_needs_classes(tmp_path, capsys):
    data = saved(tmp_path / "own.npz", labels=np.random.default_rng(1).normal(size=200))
    refused(["--data", str(data), "--run-dir", str(tmp_path / "run")], "needs classes", capsys)
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
