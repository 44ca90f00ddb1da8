"""``python -m train.air``: its flags, its files, its refusals, and that it learns."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.refusals import refused
from tests.kills import PLAIN, TIMES
from train.air import METHOD, AIRSettings, main
from train.cli import command
from train.trained import load

SMALL = {
    "train_scenes": 300,
    "held_out_scenes": 60,
    "iw_scenes": 4,
    "iw_particles": 5,
    "steps": 6,
    "log_every": 2,
    "eval_every": 3,
    "checkpoint_every": 3,
    "batch_size": 8,
    "guide_hidden": 16,
    "what_hidden": 16,
    "device": "cpu",
}
KEYS = {
    *PLAIN,
    "count_accuracy",
    "count_accuracy_map",
    "count_accuracy_majority",
    "reconstruction_mse",
    "reconstruction_mse_mean_image",
    "reconstruction_mse_empty",
    "elbo",
    "iw_bound",
    "iw_particles",
    "iw_scenes",
    "box_iou",
    "ap_50",
    "count_error",
    *(f"count_accuracy_at.{n}" for n in range(3)),
}


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    """The command as a person gives it."""
    arguments = [sys.executable, "-m", "train.air", *flags]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120)


def small(tmp_path: Path, **changes) -> AIRSettings:
    return AIRSettings(**(SMALL | {"run_dir": tmp_path / "run"} | changes))


def test_a_run_from_the_command_line(tmp_path):
    flags = [
        part
        for name, value in SMALL.items()
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    finished = run(*flags, "--run-dir", str(tmp_path / "run"))
    assert finished.returncode == 0, finished.stderr
    # A line of results for scripts, and lines that a person reads; a bar is for terminals.
    assert finished.stdout.startswith("method=air steps=6 ")
    assert finished.stdout.count("\n") == 1
    assert dict(word.split("=") for word in finished.stdout.split())["worked"] == "False"
    said = finished.stderr.splitlines()
    assert said[0] == "This run of air did not work:"
    assert said[-1] == f"Results: {tmp_path / 'run' / 'results.json'}"
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results.keys() == KEYS
    figures = {path.name for path in (tmp_path / "run" / "figures").iterdir()}
    names = ("scenes", "curves", "objects", "prior", "counts")
    assert figures == {f"{name}.png" for name in names}
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert {line["step"] for line in logged} == {2, 3, 4, 6}


@pytest.mark.parametrize(
    "changes",
    [
        {"estimator": "tracegraph"},
        {"estimator": "tracegraph", "baseline": "average"},
        {"estimator": "tracegraph", "baseline": "network", "guide": "recurrent"},
        {"guide": "recurrent", "anchors": 0, "count_prior": "geometric", "beta_start": 0.01},
        {"precision": "bf16", "clip_norm": 10.0},
        {"max_objects": 2, "presence_prior_start": None, "beta": 0.7, "batch_size": 1},
    ],
)
def test_every_part_trains(tmp_path, changes):
    results = main(small(tmp_path, **changes))
    assert results.keys() == KEYS
    assert np.isfinite([results["elbo"], results["iw_bound"]]).all()


def test_a_resumed_run_ends_as_one_that_never_stopped(tmp_path):
    settings = small(tmp_path, estimator="tracegraph", baseline="average", steps=9)
    whole = main(settings)
    parts = replace(settings, run_dir=tmp_path / "parts")
    halted = replace(parts, steps=9, checkpoint_every=4)

    class Halt(Exception):
        pass

    from train.engine.runs import Run

    save = Run.save_checkpoint

    def save_and_halt(self, step, *rest):
        save(self, step, *rest)
        if step == 4:
            raise Halt

    Run.save_checkpoint = save_and_halt
    try:
        with pytest.raises(Halt):
            main(halted)
    finally:
        Run.save_checkpoint = save
    resumed = main(replace(halted, resume=True))
    assert {k: v for k, v in whole.items() if k not in TIMES} == {
        k: v for k, v in resumed.items() if k not in TIMES
    }
    weights = [
        torch.load(max((folder / "checkpoints").iterdir()), weights_only=True)["module"]
        for folder in (settings.run_dir, parts.run_dir)
    ]
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_scenes_of_ones_own(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "own.npz", images=rng.random((60, 20, 30)).astype(np.float32))
    results = main(small(tmp_path, data=str(tmp_path / "own.npz"), window_size=8))
    assert results["count_accuracy"] is None
    assert np.isfinite(results["elbo"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--estimator", "nonesuch"], ("--estimator", "nonesuch", "marginal")),
        (["--nonesuch", "3"], ("--nonesuch",)),
        (["--max-objects", "0"], ("--max-objects", "1 or more")),
        (["--steps", "many"], ("--steps",)),
        (["--presence-prior", "1.0"], ("--presence-prior", "between 0 and 1")),
        (["--likelihood-scale", "nan"], ("--likelihood-scale", "above 0")),
        (["--window-scale", "3", "-1"], ("--window-scale", "above 0")),
        (["--baseline", "network"], ("--baseline", "--estimator")),
        (["--digit-size", "60", "60"], ("--digit-size", "--canvas-size")),
        (["--data", "nonesuch"], ("--data", "nonesuch", "mnist5k")),
        (["--max-objects", "1"], ("--max-objects", "2")),
        (["--batch-size", "100000"], ("--batch-size", "300")),
    ],
)
def test_bad_input_is_one_clear_line(capsys, tmp_path, flags, words):
    few = ["--train-scenes", "300", "--held-out-scenes", "60"]
    with pytest.raises(SystemExit) as stop:
        command(AIRSettings, main, [*few, *flags, "--run-dir", str(tmp_path / "run")])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    for word in words:
        assert word in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_counts_that_are_more_than_the_model_has_objects(tmp_path):
    counts = np.array([5] * 20)
    np.savez(tmp_path / "own.npz", images=np.zeros((20, 20, 20)), counts=counts)
    with refused("--max-objects 3", "5"):
        main(small(tmp_path, data=str(tmp_path / "own.npz")))


def test_a_run_of_an_earlier_version_is_resumed(tmp_path):
    """The mutation: settings that it lacks have their defaults, which are not what it had."""
    main(small(tmp_path))
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    for name in ("place_scale", "background", "composition", "guide_channels"):
        del config["settings"][name]
    path.write_text(json.dumps(config))
    assert main(small(tmp_path, steps=8, resume=True))["steps"] == 8


def test_an_estimators_parameters_are_trained_saved_and_resumed(tmp_path):
    """The mutation: an optimiser that lacks them, or a checkpoint."""
    options = {"estimator": "rodeo", "particles": 3, "decay": "none"}
    main(small(tmp_path, **options))
    first = load(tmp_path / "run").objective.estimators["rodeo"]
    assert first.alpha != 0
    assert first.beta != 0
    main(small(tmp_path, **options, steps=8, resume=True))
    main(small(tmp_path, **options, steps=8, run_dir=tmp_path / "once"))
    resumed, once = (load(tmp_path / name).objective.state_dict() for name in ("run", "once"))
    assert "estimators.rodeo.alpha" in once
    for name, value in once.items():
        assert torch.equal(value, resumed[name]), name


@pytest.mark.parametrize(
    ("data", "guide", "composition"),
    [("tetrominoes", "convolutional", "sum"), ("multi-sprites", "convolutional", "over")],
)
def test_scenes_whose_masks_are_known(tmp_path, data, guide, composition):
    """The mutation: masks that are lost on the way from the data to the measures."""
    results = main(small(tmp_path, data=data, max_objects=5, train_scenes=40, held_out_scenes=20))
    config = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    assert (config["guide"], config["composition"]) == (guide, composition)
    for name in ("mean_iou", "segmentation_covering", "mean_segmentation_covering"):
        assert 0 <= results[name] <= 1
    assert -1 <= results["foreground_ari"] <= 1


def test_it_learns_to_count(tmp_path):
    """A short run on small scenes of real digits, far above the third that guessing gets."""
    settings = small(
        tmp_path,
        steps=400,
        max_objects=2,
        compile="off",
        iw_scenes=200,
        batch_size=32,
        canvas_size=30,
        digit_size=(14, 14),
        window_size=14,
        guide_hidden=64,
        what_hidden=64,
        train_scenes=3_000,
        held_out_scenes=500,
        log_every=100,
        eval_every=400,
        checkpoint_every=400,
        likelihood_scale=0.2,
        anneal_steps=200,
        learning_rate=2e-3,
    )
    results = main(settings)
    assert results["count_accuracy"] > 0.8
    assert results["iw_bound"] > results["elbo"]
    assert (tmp_path / "run" / "figures" / "failures.png").exists()


def test_build_takes_every_setting():
    settings = AIRSettings(max_objects=2, what_dim=7, anchors=0, guide="recurrent")
    objective = METHOD.build(settings, {"shape": (30, 40)})
    model = objective.model
    assert (model.max_objects, model.what_dim, model.shape) == (2, 7, (1, 30, 40))
    assert len(objective.guide.anchors) == 0
