"""``python -m train.estimators``."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.data.refusals import refused
from tests.test_train_air import SMALL, small
from train import air, plots
from train.ae import AESettings
from train.ae import main as train_ae
from train.backgrounds import with_background
from train.bench import BenchSettings, build_row, main, row_settings, subject
from train.cli import command
from train.engine.runs import Run
from train.errors import InputError
from train.objective import ELBOObjective
from train.plots import races
from train.studies import gradients
from train.studies.races import SUMMARY, evaluations, summary
from train.tables import markdown
from train.trained import load
from train.windows import with_windows

FEW = {"draws": 3, "exact_draws": 4, "baseline_steps": 2, "rounds": 1}


def bench(tmp_path: Path, **changes) -> BenchSettings:
    return BenchSettings(**(SMALL | FEW | {"run_dir": tmp_path / "bench"} | changes))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.figures
def test_every_estimator_has_a_row_a_figure_and_a_race(tmp_path, capsys):
    rows_wanted = ("tracegraph+network", "rws")
    settings = bench(tmp_path, training_seeds=2, estimators=rows_wanted, particles=3)
    results = main(settings)
    assert results["estimators"] == 2
    printed = capsys.readouterr().out
    for name in rows_wanted:
        assert printed.count(f"| {name} |") == 2
    table = rows(tmp_path / "bench" / "gradients.csv")
    assert {row["estimator"] for row in table} == set(settings.estimators)
    assert all(float(row["variance"]) >= 0 and float(row["milliseconds"]) > 0 for row in table)
    raced = rows(tmp_path / "bench" / "training.csv")
    assert [row["step"] for row in raced[:2]] == ["3", "6"]
    assert {(row["estimator"], row["seed"]) for row in raced} == {
        (name, seed) for name in settings.estimators for seed in "01"
    }
    assert all(row["final_iw_bound"] for row in raced if row["step"] == "6")
    for name in ("gradients", "training"):
        assert (tmp_path / "bench" / "figures" / f"{name}.png").stat().st_size > 10_000


def test_a_baseline_does_not_change_the_other_weights(tmp_path, monkeypatch):
    compare, captured = gradients.compare, {}

    def look(objectives: dict, exact: ELBOObjective, *args: Any, **options: Any) -> list:
        captured.update(objectives, exact=exact)
        return compare(objectives, exact, *args, **options)

    monkeypatch.setattr(gradients, "compare", look)
    main(bench(tmp_path, estimators=("tracegraph+network", "tracegraph")))
    network, plain, exact = (objective.state_dict() for objective in captured.values())
    assert network.keys() > plain.keys() == exact.keys()
    for name, weight in exact.items():
        assert torch.equal(network[name], weight)
        assert torch.equal(plain[name], weight)


@pytest.mark.drawn
def test_the_same_weights_in_each_row_and_those_of_the_checkpoint(tmp_path, monkeypatch):
    def broken(table: list) -> None:
        raise RuntimeError("no such font")

    # A figure that fails costs no table and no result.
    monkeypatch.setattr(plots, "estimators", broken)
    air.main(small(tmp_path, steps=6, presence_prior_start=0.4, anneal_steps=12))
    settings = bench(tmp_path, checkpoint=tmp_path / "run", estimators=("marginal", "tracegraph"))
    results = main(settings)
    assert results["step"] == 6
    assert results["reasons"] == {"figures/gradients.png": "RuntimeError: no such font"}
    chosen, weights, step = subject(settings)
    assert (step, chosen.guide_hidden, chosen.anneal_steps) == (6, 16, 12)
    for row in ("marginal", "tracegraph+network"):
        state = build_row(row_settings(chosen, row), (50, 50), weights).state_dict()
        for name, value in weights.items():
            torch.testing.assert_close(state[name], value, rtol=0, atol=0)


def test_draws_are_for_those_that_have_several(tmp_path):
    settings, _, _ = subject(bench(tmp_path, particles=5))
    assert row_settings(settings, "marginal").particles is None
    assert row_settings(settings, "iw").particles == 5
    assert row_settings(settings, "tracegraph+network").baseline == "network"


def test_a_run_that_fell_apart_has_a_row_without_measures(tmp_path):
    table = evaluations(Run(tmp_path / "none", "air"), "marginal", 3, {})
    assert [(row["estimator"], row["seed"], row["elbo"]) for row in table] == [
        ("marginal", 3, None)
    ]
    races(table)
    (row,) = summary(table)
    assert row["runs"] == 0
    assert row["elbo"] is None
    assert markdown([row], SUMMARY).endswith("| marginal | 0 | - | - | - | - | - |")


def test_an_evaluation_that_was_no_number_is_left_out_by_itself(tmp_path):
    """The mutation: accuracies and ELBOs are paired in order, whatever their steps."""
    run = Run(tmp_path, "air")
    for step, (elbo, accuracy) in enumerate([(-3.0, 0.5), (math.nan, 0.6), (-1.0, math.nan)], 1):
        run.log(step, {"train_seconds": float(step)})
        run.log(step, {"held_out_elbo": elbo, "held_out_count_accuracy": accuracy})
    rows = evaluations(run, "marginal", 0, {"elbo": None})
    assert [(row["step"], row["elbo"], row["count_accuracy"]) for row in rows] == [
        (1, -3.0, 0.5),
        (3, -1.0, None),
    ]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--estimators", "margnal"], "--estimator margnal is not known"),
        (["--estimators", "marginal+average"], "--baseline average is of no use"),
        (["--estimators", "tracegraph+none_such"], "none_such is no baseline"),
        (["--estimators", "rws", "--particles", "1"], "2 or more"),
        (["--particles", "0"], "--particles is 0"),
        (["--draws", "1"], "--draws is 1"),
        (["--estimators", "math:pi"], "no subclass of pyro.infer.ELBO"),
        (["--checkpoint", "nowhere"], "nowhere holds no run"),
    ],
)
def test_bad_input(flags, words, tmp_path, capsys):
    flags = [*flags, "--run-dir", str(tmp_path / "bench"), "--train-scenes", "10"]
    with pytest.raises(SystemExit) as stop:
        command(BenchSettings, main, flags)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "bench").exists()


def test_a_checkpoint_that_cannot_be_read(tmp_path):
    run = tmp_path / "run"
    air.main(small(tmp_path))
    trained = load(run)
    assert (trained.saved.method, trained.saved.step) == ("air", 6)
    given = replace(small(tmp_path), run_dir=run, threads=torch.get_num_threads())
    assert trained.settings == with_background(with_windows(given, trained.shape, given.digit_size))

    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"settings": {"colour": "red"}}))
    with refused(str(run), "'colour' is no setting"):
        subject(bench(tmp_path, checkpoint=run))
    settings = AESettings(run_dir=tmp_path / "ae", steps=1, hidden=(4,), cluster_starts=1)
    train_ae(settings)
    with refused("--checkpoint", "holds a run of ae, not of air"):
        subject(bench(tmp_path, checkpoint=settings.run_dir))


@pytest.mark.parametrize("estimator", ["iw", "enum", "concrete", "rws"])
def test_train_air_with_each(tmp_path, estimator):
    start = 1.0 if estimator == "concrete" else None
    results = air.main(small(tmp_path, estimator=estimator, temperature_start=start))
    assert results["steps"] == 6
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert any("elbo" in line for line in lines)


def test_an_unknown_estimator_makes_no_run(tmp_path):
    with pytest.raises(InputError, match="--estimator nothing is not known"):
        air.main(small(tmp_path, estimator="nothing"))
    assert not (tmp_path / "run").exists()
