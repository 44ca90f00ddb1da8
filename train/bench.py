"""Compares estimators: ``python -m train.estimators``, of AIR or of a VAE with binary latents."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import tyro

from train.air import METHOD, AIRSettings
from train.cli import command, leaves_no_trace
from train.errors import require
from train.settings import Count, Whole
from train.settings.binary import BinaryBenchSettings

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

    from train.data.scenes import Scenes
    from train.engine.runs import Run
    from train.objective import ELBOObjective

BASELINES: dict[str, Literal["none", "average", "network"]] = {
    "": "none",
    "average": "average",
    "network": "network",
}
"""Baselines by what follows an estimator's name."""

ROWS = (
    "marginal",
    "tracegraph",
    "tracegraph+average",
    "tracegraph+network",
    "enum",
    "concrete",
    "iw",
    "rws",
    "rloo",
    "disarm",
    "arms",
    "double-cv",
    "rodeo",
    "muprop",
    "rebar",
    "straight-through",
    "mvd",
    "enumerate",
)
COLUMNS = ("estimator", "variance", "bias_se", "bias_share", "milliseconds", "variance_time")


@dataclass(frozen=True)
class BenchSettings(AIRSettings):
    """Compare estimators of the ELBO: bias, variance and cost of their gradients."""

    task: Literal["air", "bvae"] = "air"
    """What estimators are compared on. air: AIR. bvae: a VAE with binary latents, which has flags
    of its own: add --task bvae to --help."""
    estimators: tuple[str, ...] = ROWS
    """Estimators to compare: names as for train.air's --estimator, with +average or +network for a
    baseline, or your own as module:Class."""
    checkpoint: Path | None = None
    """Run folder of train.air, whose model, data and step the gradients are measured at; None: a
    new model."""
    draws: Count = 200
    """Number of gradients drawn from each estimator."""
    exact_draws: Count = 2_000
    """Number of gradients drawn from the exact sum over counts, the reference of the others."""
    baseline_steps: Whole = 300
    """Number of steps for which only the baseline is trained, before its estimator is measured."""
    rounds: Count = 30
    """Number of timed steps of each estimator; the estimators take turns."""
    training_seeds: Whole = 0
    """Number of seeds with which each estimator is also trained, for --steps; 0: no training."""
    estimator: tyro.conf.Suppress[str] = "marginal"
    baseline: tyro.conf.Suppress[Literal["none", "average", "network"]] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.estimators), "--estimators is empty: name at least one")
        require(self.draws > 1, "--draws is 1: a variance needs 2 or more")
        require(self.exact_draws > 1, "--exact-draws is 1: a variance needs 2 or more")


RUNS = frozenset({"estimators", "training_seeds"})
"""The settings that say which runs a comparison has."""


class Subject(NamedTuple):
    """The model at which estimators are measured.

    Attributes:
        settings: Its settings.
        weights: Its state dictionary; empty for a new model.
        step: The number of steps that it was trained.
    """

    settings: AIRSettings
    weights: dict[str, Any]
    step: int


def subject(settings: BenchSettings) -> Subject:
    """Returns the model of ``--checkpoint``, or a new one.

    Raises:
        InputError: If the checkpoint cannot be read, or is no run of ``train.air``.
    """
    from train.trained import load

    if settings.checkpoint is None:
        names = [field.name for field in fields(AIRSettings)]
        return Subject(AIRSettings(**{name: getattr(settings, name) for name in names}), {}, 0)
    trained = load(settings.checkpoint)
    require(
        trained.method is METHOD,
        f"--checkpoint {settings.checkpoint} holds a run of {trained.saved.method}, not of air: "
        "give another one",
    )
    from_bench = ("data_dir", "device", "seed", "particles", "temperature", "temperature_start")
    chosen = replace(trained.settings, **{name: getattr(settings, name) for name in from_bench})
    return Subject(chosen, trained.objective.state_dict(), trained.saved.step)


def row_settings(settings: AIRSettings, row: str) -> AIRSettings:
    """Returns the settings of ``train.air`` for a row of the comparison.

    Args:
        settings: The settings of the model.
        row: The name of an estimator, with ``+average`` or ``+network`` for a baseline.

    Raises:
        InputError: If there is no such estimator or baseline.
    """
    from train.estimators import make

    name, _, baseline = row.partition("+")
    require(
        baseline in BASELINES,
        f"--estimators {row}: {baseline} is no baseline; give +average or +network",
    )
    # --particles is for estimators that have several draws by default.
    particles = settings.particles if make(name).num_particles > 1 else None
    make(name, particles)
    return replace(settings, estimator=name, baseline=BASELINES[baseline], particles=particles)


def build_row(
    settings: AIRSettings, shape: Sequence[int], weights: dict[str, Any]
) -> ELBOObjective:
    """Builds the objective of a row with given weights.

    Args:
        settings: The settings of the row.
        shape: Height and width of a scene in pixels, in colour after the number of channels.
        weights: A state dictionary. Weights that it lacks, and those of a baseline, stay as they
            are initialised.
    """
    import torch

    torch.manual_seed(settings.seed)
    objective = METHOD.build(settings, {"shape": shape})
    METHOD.use_estimator(settings, objective)
    state = {
        name: value for name, value in weights.items() if not name.startswith("guide.baseline")
    }
    objective.load_state_dict({**objective.state_dict(), **state})
    return objective


def build_rows(
    settings: dict[str, AIRSettings], model: Subject, scenes: Scenes, device: torch.device
) -> tuple[dict[str, ELBOObjective], ELBOObjective]:
    """Builds the objectives of all rows, and the exact objective, with equal weights."""
    exact_settings = row_settings(model.settings, "marginal")
    exact = build_row(exact_settings, scenes.shape, model.weights).to(device)
    # One seed does not give equal weights, because a baseline's are drawn before others.
    weights = exact.state_dict()
    objectives = {
        row: build_row(row_setting, scenes.shape, weights).to(device)
        for row, row_setting in settings.items()
    }
    return objectives, exact


def compare_gradients(
    settings: BenchSettings,
    objectives: dict[str, ELBOObjective],
    exact: ELBOObjective,
    batch: tuple[torch.Tensor, ...],
    step: int,
) -> list[dict[str, Any]]:
    """Measures the gradients of all rows: see :func:`train.studies.gradients.compare`."""
    from train.studies import gradients

    return gradients.compare(
        objectives,
        exact,
        batch,
        step,
        draws=settings.draws,
        exact_draws=settings.exact_draws,
        baseline_steps=settings.baseline_steps,
        rounds=settings.rounds,
    )


def report_gradients(run: Run, table: list[dict[str, Any]]) -> dict[str, Callable[[], Figure]]:
    """Saves the table of gradients, prints the rows of all weights, and returns its figure."""
    from train import plots, tables

    run.save_table("gradients", table)
    print(tables.markdown([row for row in table if row["group"] == "all"], COLUMNS))
    return {"gradients": lambda: plots.estimators(table)}


def train_rows(
    run: Run, rows: dict[str, AIRSettings], seeds: int
) -> dict[str, Callable[[], Figure]]:
    """Trains AIR with each row and seed, saves and prints the tables, and returns their figure."""
    from train import plots, tables
    from train.studies import races

    table = races.race(run, METHOD, list(rows.items()), seeds)
    run.save_table("training", table)
    print(tables.markdown(races.summary(table), races.SUMMARY))
    return {"training": lambda: plots.races(table)}


@leaves_no_trace
def main(settings: BenchSettings) -> dict[str, Any]:
    """Compares gradients of estimators on one batch, then trains with each if asked."""
    from train import verdict
    from train.data.scenes import load_scenes
    from train.engine import parallel, runtime
    from train.engine.runs import Run

    parallel.require_alone("train.estimators")
    device = runtime.setup(settings)
    model = subject(settings)
    rows = {row: row_settings(model.settings, row) for row in settings.estimators}
    scenes = load_scenes(model.settings).train
    batch = scenes.batches(model.settings.batch_size, model.settings.seed, device)(0)
    objectives, exact = build_rows(rows, model, scenes, device)
    run = Run.create(settings, "estimators", study=RUNS)

    table = compare_gradients(settings, objectives, exact, batch, model.step)
    paths, reasons = verdict.draw(run, report_gradients(run, table))
    if settings.training_seeds:
        drawn = verdict.draw(run, train_rows(run, rows, settings.training_seeds))
        paths, reasons = paths | drawn[0], reasons | drawn[1]
    results = {"step": model.step, "estimators": len(rows)}
    return run.finish(results | {"figures": paths, "reasons": reasons})


@leaves_no_trace
def main_binary(settings: BinaryBenchSettings) -> dict[str, Any]:
    """Trains a VAE with binary latents with each estimator and seed, and compares them."""
    from train import plots, tables, verdict
    from train.engine import parallel
    from train.engine.runs import Run
    from train.studies import binary

    parallel.require_alone("train.estimators")
    run = Run.create(settings, "estimators", study=RUNS)
    rows = binary.race(run, settings)
    run.save_table("training", rows)
    summary = binary.summary(rows)
    run.save_table("summary", summary)
    print(tables.markdown(summary, binary.SUMMARY))
    means = binary.mean_over_seeds(rows)
    paths, reasons = verdict.draw(run, {"training": lambda: plots.races(means, binary.PANELS)})
    results = {"estimators": len(summary), "figures": paths, "reasons": reasons}
    return run.finish(results)


def task_of(arguments: Sequence[str]) -> str:
    """Returns the value of ``--task`` on a command line; ``"air"`` if it is not there."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--task", default="air")
    return parser.parse_known_args(list(arguments))[0].task


def run() -> None:
    """Runs the command line of ``python -m train.estimators``."""
    if task_of(sys.argv[1:]) == "bvae":
        command(BinaryBenchSettings, main_binary)
    else:
        command(BenchSettings, main)
