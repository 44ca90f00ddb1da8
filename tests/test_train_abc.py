"""``python -m train.abc``: its files, its refusals, and that it finds style."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.kills import PLAIN
from train import plots
from train.abc import ABCSettings, main
from train.cli import command
from train.data import datasets
from train.data.labelled import Images

SMALL = {
    "steps": 6,
    "log_every": 2,
    "eval_every": 3,
    "checkpoint_every": 3,
    "stack_size": 8,
    "channels": 4,
    "hidden": 8,
    "device": "cpu",
    # A cosine would end with the first part of a resumed run.
    "decay": "none",
    "withheld": (2,),
}
TERMS = {
    "component_weight": 2.0,
    "components": 5,
    "component_steps": 2,
    "energy_weight": 3.0,
    "separation_weight": 4.0,
}
"""The terms beside the cycle."""
EACH = {
    "class_accuracy",
    "class_accuracy_untrained",
    "class_accuracy_pca",
    "class_accuracy_morphometrics",
    "style_r2",
    "retrieval_error",
    "retrieval_error_random",
    "retrieval_error_oracle",
}


def saved(path: Path, **arrays: Any) -> Path:
    images = np.random.default_rng(0).integers(0, 256, (200, 16, 15), dtype=np.uint8)
    np.savez(path, **({"images": images, "labels": np.arange(200) % 4} | arrays))
    return path


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A person's own few images, in four sets."""
    return saved(tmp_path / "own.npz")


def small(tmp_path: Path, data: Path, **changes: Any) -> ABCSettings:
    return ABCSettings(**(SMALL | {"run_dir": tmp_path / "run", "data": str(data)} | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"withheld": (), "curated": "one", "other_stack_size": 12},
        {"withheld": (0, 1), "views": 2, "normalise": True, "similarity": "cosine"} | TERMS,
        {"withheld": (0,), "precision": "bf16"} | TERMS,
    ],
)
def test_a_run_leaves_its_files(tmp_path, own, changes):
    main(small(tmp_path, own, **changes))
    run = tmp_path / "run"
    results = json.loads((run / "results.json").read_text())
    withheld = {f"{key}_withheld" for key in EACH} if changes.get("withheld") != () else set()
    once = {"class_probes", "class_accuracy_majority"}
    assert set(results) == PLAIN | once | EACH | withheld
    assert set(results["style_r2"]) == {"slant", "thickness", "width"}
    assert {path.stem for path in (run / "figures").glob("*.png")} == {
        "maps",
        "retrieval",
        "curves",
    }


@pytest.mark.parametrize("terms", [{}, TERMS], ids=["cycle", "terms"])
def test_a_resumed_run_is_the_same(tmp_path, own, terms):
    given = {"views": 2} | terms
    straight = main(small(tmp_path, own, **given))
    main(small(tmp_path, own, **given, run_dir=tmp_path / "parts", steps=3))
    resumed = main(small(tmp_path, own, **given, run_dir=tmp_path / "parts", resume=True))
    for key in ("class_accuracy", "retrieval_error", "style_r2"):
        assert resumed[key] == straight[key]


@pytest.mark.drawn
def test_sets_of_a_column(tmp_path, monkeypatch):
    """Of text: sets are named by it on the command line, in figures, and in the run."""
    labels = np.stack([np.linspace(0, 1, 200).astype(str), ["ant", "007", "7", "bee"] * 50], axis=1)
    data = saved(tmp_path / "own.npz", labels=labels)
    titles: list[str] = []
    maps, gallery = plots.maps, plots.gallery
    monkeypatch.setattr(plots, "maps", lambda p: titles.extend(t for t, *_ in p) or maps(p))
    monkeypatch.setattr(plots, "gallery", lambda rows: titles.extend(rows) or gallery(rows))
    results = main(small(tmp_path, data, set_column=1, withheld=("007",)))
    assert results["class_accuracy"] <= 1
    assert titles == [
        *(f"{each} training" for each in ("withheld 007, before", "withheld 007, after")),
        *("7, after training", "a 007", "a 7", "a ant", "a bee"),
    ]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["inputs"]["sets"] == ["007", "7", "ant", "bee"]
    assert config["settings"]["withheld"] == ["007"]


def test_sets_by_name(tmp_path, monkeypatch):
    """What embeddings reveal of every column, that of the sets first."""
    data = saved(tmp_path / "own.npz")
    contents = dict(np.load(data))
    rows = np.arange(200)
    columns = {
        "shape": rows % 3,
        "scale": np.linspace(0.5, 1, 7)[rows % 7],
        "wall_hue": np.linspace(0, 0.9, 10)[rows % 10],
    }
    images = torch.from_numpy(contents["images"])
    split = Images.of_columns(images, columns).hold_out()
    monkeypatch.setattr(datasets, "load", lambda *_, **__: split)
    results = main(small(tmp_path, data, set_column="scale", withheld=("0.583",), stack_size=5))
    names = [name for name in results if name.startswith("read")]
    assert names == [
        f"{kind}.{name}"
        for name in ("scale", "shape", "wall_hue")
        for kind in ("read", "read_chance")
    ]
    assert results["read_chance.scale"] == results["read_chance.wall_hue"] == 0
    assert results["read_chance.shape"] == pytest.approx(1 / 3, abs=0.1)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["settings"]["set_column"] == "scale"
    assert config["inputs"]["sets"] == ["0.5", "0.583", "0.667", "0.75", "0.833", "0.917", "1"]


def test_a_number_is_a_column_of_the_labels():
    """As it was in earlier versions, also where the command line has it as text."""
    assert ABCSettings(set_column="1") == ABCSettings(set_column=1)
    assert ABCSettings().set_column == 0


def test_a_collapse_is_told(tmp_path, own, capsys):
    main(small(tmp_path, own, learning_rate=1e-9, temperature=1e9))
    assert "they have collapsed" in capsys.readouterr().err


def test_style_is_found(tmp_path):
    """A short real run: styles are read better after it, and others are found by them."""
    settings = ABCSettings(
        steps=200,
        stack_size=64,
        eval_every=200,
        device="cpu",
        run_dir=tmp_path / "run",
    )
    found = main(settings)
    assert found["style_r2"]["slant"] > 0.6
    assert found["style_r2"]["thickness"] > 0.6
    assert found["style_r2_withheld"]["slant"] > 0.7
    assert found["retrieval_error"] < 0.85 * found["retrieval_error_random"]
    history = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["cycle_loss"] for line in history if "cycle_loss" in line]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--stack-size", "1"], "--stack-size 1"),
        (["--stack-size", "900"], "--stack-size 900 is larger than set 0"),
        (["--withheld", "11"], "--withheld 11: there is no such set"),
        (["--withheld", "-1"], "--withheld -1: there is no such set"),
        (["--withheld", *map(str, range(9))], "1 sets besides the withheld ones"),
        (["--temperature", "0"], "--temperature is 0"),
        (["--normalise", "--embed-dim", "1"], "--normalise leaves --embed-dim 1"),
        (["--set-column", "1"], "--set-column 1"),
        (["--set-column", "ink"], "--set-column ink: --data has no such column"),
        (["--set-column", ""], "--set-column is empty"),
        (["--set-column", "-1"], "--set-column is -1"),
        (
            ["--component-weight", "1", "--embed-dim", "129"],
            "129 dimensions explain anything in a stack of 256: give stacks of 258 or more",
        ),
        (["--component-weight", "1", "--components", "785"], "--components 785 is above the 784"),
        (["--component-steps", "9"], "--component-steps 9 is used with --component-weight alone"),
    ],
)
def test_bad_flags(tmp_path, flags, words, capsys):
    with pytest.raises(SystemExit) as stop:
        command(ABCSettings, main, [*flags, "--run-dir", str(tmp_path / "run")])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_an_unknown_similarity(capsys):
    with pytest.raises(SystemExit) as stop:
        command(ABCSettings, main, ["--similarity", "dot"])
    assert stop.value.code == 2
    assert "dot" in capsys.readouterr().err
