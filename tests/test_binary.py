"""The VAE with binary latents, and ``python -m train.estimators --task bvae``."""

from __future__ import annotations

import csv
import itertools
import json
import math
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from guides.binary import BinaryGuide
from pyro_models.binary import BinaryVAE
from tests.data.refusals import refused
from train.bench import main_binary, task_of
from train.data.labelled import Images
from train.errors import Interrupted
from train.estimators import DiscreteELBO, MultiSampleELBO, Relax
from train.settings.binary import BinaryBenchSettings, BinaryVAESettings
from train.studies.binary import (
    METHOD,
    BinaryObjective,
    BinaryWatch,
    evaluations_of,
    make_estimator,
    mean_over_seeds,
    summary,
)

TINY: dict[str, Any] = {
    "steps": 4,
    "eval_every": 2,
    "log_every": 1,
    "batch_size": 5,
    "latents": 3,
    "measure_on": (20, 20),
    "bound_samples": 3,
    "variance_draws": 3,
    "device": "cpu",
}


@pytest.fixture
def data(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    path = tmp_path / "images.npz"
    np.savez(path, images=rng.integers(0, 256, (60, 6, 5), dtype=np.uint8))
    return str(path)


def tiny(name: str = "rloo") -> tuple[BinaryObjective, Tensor]:
    torch.manual_seed(0)
    model = BinaryVAE((1, 3, 2), latents=3, hidden=(4,))
    guide = BinaryGuide(model, hidden=(4,))
    objective = BinaryObjective(model, guide, make_estimator(name, None, 3))
    return objective, torch.rand(7, 1, 3, 2)


def test_the_elbo_is_the_formula(double):
    """Enumerated over all 8 codes; the mutation: a prior that is not 1/2."""
    objective, images = tiny("enumerate")
    x = torch.bernoulli(images)
    logits = objective.guide.encoder(x.flatten(1))
    total = torch.zeros(())
    for bits in itertools.product((0.0, 1.0), repeat=3):
        z = torch.tensor(bits).expand(7, 3)
        log_q = -torch.nn.functional.softplus((1 - 2 * z) * logits).sum(1)
        pixels = objective.model.decoder(z)
        log_p = -torch.nn.functional.softplus((1 - 2 * x.flatten(1)) * pixels).sum(1)
        total = total + (log_q.exp() * (log_p - 3 * math.log(2) - log_q)).sum()
    loss = DiscreteELBO("enumerate").differentiable_loss(objective.model, objective.guide, x)
    torch.testing.assert_close(loss, -total)


def test_each_step_draws_the_images_anew():
    objective, images = tiny()
    seen = []
    objective.guide.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for _ in range(2):
        objective((images,), torch.tensor(0))
    drawn = [x for x in seen if len(x) == 7]
    assert not torch.equal(drawn[0], drawn[-1])
    assert set(drawn[0].unique().tolist()) == {0.0, 1.0}


def test_the_bound_rises_to_the_evidence():
    objective, images = tiny()
    grey = (255 * images).to(torch.uint8)
    watch = BinaryWatch(
        objective, Images(grey, None), Images(grey, None), BinaryVAESettings(**TINY)
    )
    x = watch.binary("test").flatten(1)
    codes = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)))
    with torch.no_grad():
        pixels = objective.model.decoder(codes)[:, None]
        log_p = -torch.nn.functional.softplus((1 - 2 * x) * pixels).sum(-1)
    evidence = (log_p.logsumexp(0) - 3 * math.log(2)).mean()
    torch.manual_seed(0)
    bounds = [
        np.mean([watch.bound("test", k) for _ in range(repeats)])
        for k, repeats in ((1, 200), (5, 200), (2_000, 5))
    ]
    assert bounds[0] < bounds[1] < evidence
    assert bounds[2] == pytest.approx(float(evidence), abs=0.01)


def test_variance_is_of_the_estimator_alone():
    """An exact gradient has none; the mutation: images that are drawn anew for each gradient."""
    variances = {}
    for name in ("enumerate", "reinforce", "rloo"):
        objective, images = tiny(name)
        grey = Images((255 * images).to(torch.uint8), None)
        settings = replace(BinaryVAESettings(**TINY), variance_draws=300)
        variances[name] = BinaryWatch(objective, grey, grey, settings).gradient_variance()
    assert variances["enumerate"] < 1e-12
    assert variances["reinforce"] > 2 * variances["rloo"] > 0


def test_estimators_by_name():
    assert isinstance(make_estimator("vimco", 5, 3), MultiSampleELBO)
    assert make_estimator("disarm-bound", None, 3).gradient == "disarm"
    assert isinstance(make_estimator("relax", None, 3).default, Relax)
    assert make_estimator("arms", 3, 3).num_particles == 3
    with refused("--estimator disram", "give reinforce, rloo"):
        make_estimator("disram", None, 3)
    with refused("--estimator vimco", "2 or more"):
        make_estimator("vimco", 1, 3)
    assert [evaluations_of(n) for n in ("rloo", "arms@3", "rebar@1", "muprop")] == [2, 3, 3, 2]


def test_all_estimators_are_raced(tmp_path, data, capsys):
    names = ("rloo", "rodeo@3", "relax@1", "disarm-bound@4")
    settings = BinaryBenchSettings(
        **TINY, data=data, estimators=names, training_seeds=2, run_dir=tmp_path / "bench"
    )
    results = main_binary(settings)
    assert results["estimators"] == 4
    printed = capsys.readouterr().out
    assert all(printed.count(f"| {name} |") == 1 for name in names)
    with (tmp_path / "bench" / "training.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], bool(row["test_bound"])) for row in rows[:2]] == [
        ("2", False),
        ("4", True),
    ]
    folder = tmp_path / "bench" / "training" / "rodeo@3-1"
    config = json.loads((folder / "config.json").read_text())
    assert (config["settings"]["estimator"], config["settings"]["particles"]) == ("rodeo", 3)
    assert (tmp_path / "bench" / "figures" / "training.png").exists()


def test_a_comparison_that_was_stopped_goes_on_and_takes_more_seeds(tmp_path, data, monkeypatch):
    """Finished runs are not repeated, and what differs otherwise is refused.

    The mutations: the run inside is begun anew; its checkpoint is asked for in the study's folder.
    """
    folder = tmp_path / "bench"
    settings = BinaryBenchSettings(
        **TINY, data=data, estimators=("rloo",), training_seeds=1, run_dir=folder
    )

    def pressed(self: BinaryWatch, step: int) -> dict[str, float]:
        signal.raise_signal(signal.SIGINT)
        return {}

    with monkeypatch.context() as patch:
        patch.setattr(BinaryWatch, "evaluate", pressed)
        with pytest.raises(Interrupted, match=f"--run-dir {folder}$"):
            main_binary(settings)
    checkpoints = folder / "training" / "rloo-0" / "checkpoints"
    assert [path.stem for path in checkpoints.iterdir()] == ["00000002"]
    resumed = replace(settings, resume=True)
    main_binary(resumed)
    finished = (folder / "training" / "rloo-0" / "results.json").stat().st_mtime_ns
    results = main_binary(replace(resumed, training_seeds=2, estimators=("rloo", "disarm")))
    assert results["estimators"] == 2
    assert (folder / "training" / "rloo-0" / "results.json").stat().st_mtime_ns == finished
    assert (folder / "training" / "disarm-1" / "results.json").exists()
    with refused("--steps is 9", "a run is resumed as it was started"):
        main_binary(replace(resumed, steps=9))


def row(name: str, seed: int, step: int, seconds: float, elbo: float, **last: Any) -> dict:
    results = dict.fromkeys(("train_elbo", "test_elbo", "test_bound", "train_seconds", "steps"))
    measured = {"held_out_elbo": elbo, "gradient_variance": 2.0, "seconds": seconds}
    return {"estimator": name, "seed": seed, "step": step} | results | measured | last


def test_equal_time_is_that_of_the_fastest():
    """The slow one is half as far when the fast one is done; one that fell apart has no row."""
    rows = []
    for seed in (0, 1):
        for name, speed in (("fast", 1.0), ("slow", 2.0)):
            final = {"train_elbo": -90.0, "test_elbo": -91.0 - seed, "test_bound": -89.0}
            rows.append(row(name, seed, 10, 10 * speed, -200.0))
            rows.append(row(name, seed, 20, 20 * speed, -100.0, **final))
    rows.append(row("broken", 0, 10, 3.0, -300.0))
    table = {entry["estimator"]: entry for entry in summary(rows)}
    assert table["fast"]["elbo_at_equal_time"] == "-100.00 ± 0"
    assert table["slow"]["elbo_at_equal_time"] == "-200.00 ± 0"
    assert table["fast"]["test_elbo"] == "-91.50 ± 0.5"
    assert (table["fast"]["milliseconds"], table["slow"]["milliseconds"]) == (1000.0, 2000.0)
    assert (table["broken"]["runs"], table["broken"]["test_elbo"]) == (0, None)
    means = [r for r in mean_over_seeds(rows) if r["estimator"] == "slow"]
    assert [r["seconds"] for r in means] == [20.0, 40.0]


def test_the_command_knows_its_tasks():
    assert task_of(["--steps", "3"]) == "air"
    assert task_of(["--task", "bvae", "--help"]) == "bvae"
    assert task_of(["--task=bvae"]) == "bvae"
    with refused("--estimators rloo@two", "after @"):
        BinaryBenchSettings(estimators=("rloo@two",))
    with refused("--estimators is empty"):
        BinaryBenchSettings(estimators=())
    assert METHOD.name == "bvae"
