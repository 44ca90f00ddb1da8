"""Whatever the data, a finished training is kept, and its last lines say whether it worked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.data.refusals import refused
from train import abc, acai, ae, air, icvae, plots
from train.engine.runs import Run
from train.metrics import autoencoding, clusters, embedding, invariance
from train.metrics.goals import Beats, Goal, Stays
from train.metrics.measuring import Measures
from train.metrics.watch import Watch
from train.verdict import finish

COMMON = {
    **{"steps": 2, "log_every": 1, "eval_every": 1, "checkpoint_every": 2, "device": "cpu"},
    "batch_size": 2,
}
DOORS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "ae": (ae.main, ae.AESettings, {"hidden": (8,), "cluster_starts": 1}),
    "acai": (acai.main, acai.ACAISettings, {"depth": 2, "z_dim": 16, "cluster_starts": 1}),
    "abc": (
        *(abc.main, abc.ABCSettings),
        {"stack_size": 2, "replacement": True, "channels": 2, "hidden": 4, "withheld": ()},
    ),
    "icvae": (icvae.main, icvae.ICVAESettings, {"hidden": (8,), "memory": 4}),
    "air": (
        *(air.main, air.AIRSettings),
        {"window_size": 8, "what_hidden": 8, "guide_hidden": 8, "anchors": 2, "iw_particles": 2},
    ),
}


def run(method: str, folder: Path, arrays: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The results of a run of two steps, from its folder."""
    np.savez(folder / "own.npz", **arrays)
    main, settings, kind = DOORS[method]
    given = COMMON | kind | changes | {"data": str(folder / "own.npz"), "run_dir": folder / "run"}
    main(settings(**given))
    return json.loads((folder / "run" / "results.json").read_text())


def images(number: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (number, 16, 16), dtype=np.uint8)


@pytest.mark.parametrize(
    ("method", "number", "classes", "missing"),
    [
        # More classes than images to find them in; and no image to validate on but one.
        ("ae", 10, 10, {"cluster_accuracy"}),
        # Networks among the probes hold a part of what they learn from out, by class.
        ("abc", 12, 3, {"class_accuracy", "class_probes", "class_accuracy_untrained"}),
    ],
)
def test_a_measure_that_fails_loses_no_results(tmp_path, method, number, classes, missing):
    labels = np.arange(number) % classes
    results = run(method, tmp_path, {"images": images(number), "labels": labels})
    assert missing <= {name for name, value in results.items() if value is None}
    assert missing <= set(results["reasons"])
    assert all("Error: " in results["reasons"][name] for name in missing)
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert method == "abc" or results["reconstruction_mse"] > 0


@pytest.mark.drawn
def test_a_figure_and_a_look_that_fail_lose_no_results(tmp_path, monkeypatch):
    """ACAI looks at its probes while it trains, too."""

    def breaks(*_: Any, **__: Any) -> None:
        raise ValueError("as on strange data")

    monkeypatch.setattr(plots, "codes", breaks)
    monkeypatch.setattr(clusters, "cluster_accuracy", breaks)
    arrays = {"images": images(12), "labels": np.arange(12) % 2}
    results = run("acai", tmp_path, arrays)
    assert results["cluster_accuracy"] is results["figures"]["codes"] is None
    assert results["reasons"] == dict.fromkeys(
        ["cluster_accuracy", "figures/codes.png"], "ValueError: as on strange data"
    )
    assert 0 <= results["probe_accuracy"] <= 1
    assert (tmp_path / "run" / results["figures"]["interpolations"]).exists()


def test_scenes_that_are_all_one_did_not_work(tmp_path):
    arrays = {"images": np.full((10, 16, 16), 200), "counts": np.arange(10) % 2}
    results = run("air", tmp_path, {**arrays, "images": arrays["images"].astype(np.uint8)})
    assert results["worked"] is False
    assert results["count_accuracy_majority"] == 0.5
    assert results["reconstruction_mse_mean_image"] == pytest.approx(0, abs=1e-12)
    assert results["reconstruction_mse_empty"] == pytest.approx((200 / 255) ** 2, rel=1e-5)
    assert results["advice"] == ["other scenes: all of these are the same image"]


def test_what_abc_lacks_among_held_out_images_is_said_before_the_first_step():
    sets = torch.tensor([0, 0, 1, 2])
    names = ["cat", "dog", "owl", "newt"]
    embedding.require_held_out(sets, (2,), names)
    embedding.require_held_out(sets, (), names)
    with refused("--withheld newt: none of its images is among the 4 held out", "add more"):
        embedding.require_held_out(sets, (1, 3), names)
    with refused("the 4 images held out are of fewer than two sets", "add more"):
        embedding.require_held_out(sets, (1, 2), names)


@pytest.mark.parametrize(
    ("goal", "results", "worked"),
    [
        (autoencoding.GOAL, {"reconstruction_mse": 0.0117}, True),
        # All black, where the mean image is better; and the mean image itself, but for chance.
        (autoencoding.GOAL, {"reconstruction_mse": 0.0486}, False),
        (autoencoding.GOAL, {"reconstruction_mse": 0.0394}, False),
        (autoencoding.GOAL, {"reconstruction_mse": None}, None),
        (autoencoding.GOAL, {"reconstruction_mse": 0, "reconstruction_mse_mean_image": 0}, False),
        (embedding.GOALS[0], {"retrieval_error": 0.6}, True),
        (embedding.GOALS[0], {"retrieval_error": 0.99}, False),
        (embedding.GOALS[1], {"class_accuracy": 0.35}, True),
        (embedding.GOALS[1], {"class_accuracy": 0.95}, False),
        (invariance.goals("reconstruction_mse", True)[1], {"leakage": 0.122}, True),
        (invariance.goals("reconstruction_mse", True)[1], {"leakage": 0.78}, False),
        # An R² may be below zero.
        (invariance.goals("reconstruction_mse", True)[1], {"leakage": -0.3, "chance": 0.0}, True),
    ],
)
def test_goals(goal, results, worked):
    known = {
        "reconstruction_mse_mean_image": 0.0395,
        **{"retrieval_error_random": 1.0, "retrieval_error_oracle": 0.2},
        **{"class_accuracy_majority": 0.11, "chance": 0.11},
    }
    assert goal.judge(known | results) is worked


def test_a_code_that_may_tell_labels_is_not_held_to_keeping_them_out():
    (goal,) = invariance.goals("reconstruction_mse", False)
    assert goal.measure == "reconstruction_mse"


def test_the_last_lines_of_a_run(tmp_path):
    goals: list[Goal] = [
        Beats(measure="mse", reference="mse_mean", beside="the mean image's", advice="more"),
        Stays(measure="leakage", reference="chance", beside="chance", advice="more"),
    ]
    run = Run(tmp_path, "icvae")

    class Known(Watch):
        def __init__(self, values: dict[str, float]) -> None:
            self.values = values

        def measure(self) -> Measures:
            measures = Measures()
            for name, value in self.values.items():
                measures.add(name, lambda value=value: value)
            return measures

        def goals(self) -> list[Goal]:
            return goals

    def judged(**values: float) -> Any:
        return finish(run, {"steps": 3}, Known(values))

    good = {"mse": 0.01, "mse_mean": 0.07, "leakage": 0.12, "chance": 0.1}
    worked = judged(**good)
    assert worked["worked"] is True
    assert worked == json.loads((tmp_path / "results.json").read_text())
    assert worked.lines == (
        "This run of icvae worked:",
        "  mse is 0.01, better than the mean image's: 0.07",
        "  leakage is 0.12, near chance: 0.1",
        f"Weights: {tmp_path / 'model.safetensors'}",
        f"Figures: {tmp_path / 'figures'} (none)",
        f"Results: {tmp_path / 'results.json'}",
    )
    failed = judged(**good | {"mse": 2.5e9, "leakage": float("nan")})
    assert failed["worked"] is False
    assert failed.lines[:5] == (
        "This run of icvae did not work:",
        "  mse is 2.5e+09, hardly or no better than the mean image's: 0.07",
        "  leakage cannot be judged: there is no leakage (it is not a finite number)",
        "  To try: more",
        "  Missing: leakage (it is not a finite number)",
    )
    assert judged(**good | {"leakage": float("nan")})["worked"] is None
