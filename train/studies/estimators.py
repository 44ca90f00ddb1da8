"""Compares estimators of AIR's ELBO: ``python -m train.estimators``."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from train.air import AIRSettings
from train.cli import command, leaves_no_trace
from train.errors import require
from train.settings import Count, Whole

if TYPE_CHECKING:
    from train.objective import ELBOObjective

ROWS = (
    "marginal",
    "tracegraph",
    "tracegraph+average",
    "tracegraph+network",
    "enum",
    "concrete",
    "iw",
    "rws",
)
COLUMNS = ("estimator", "variance", "bias_se", "bias_share", "milliseconds", "variance_time")


@dataclass(frozen=True)
class BenchSettings(AIRSettings):
    """Compare estimators of the ELBO: bias, variance and cost of their gradients."""

    estimators: tuple[str, ...] = ROWS
    """What to compare: names as for train.air's --estimator, +average or +network for a baseline,
    or your own as module:Class."""
    checkpoint: Path | None = None
    """Run of train.air whose model, data and step to measure at; a new model if not given."""
    draws: Count = 200
    """Gradients that are drawn of each estimator."""
    exact_draws: Count = 2_000
    """Gradients that are drawn of the exact sum over counts, to hold the others against."""
    baseline_steps: Whole = 300
    """Steps in which a baseline learns before it is measured, all else held."""
    rounds: Count = 30
    """Steps of each estimator that are timed, in turn."""
    training_seeds: Whole = 0
    """Seeds with which each estimator is also trained, for --steps; 0 for no training."""
    estimator: tyro.conf.Suppress[str] = "marginal"
    baseline: tyro.conf.Suppress[str] = "none"
    resume: tyro.conf.Suppress[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.estimators), "--estimators is empty: name at least one")
        require(self.draws > 1, "--draws is 1: a variance needs 2 or more")
        require(self.exact_draws > 1, "--exact-draws is 1: a variance needs 2 or more")


def row_settings(settings: AIRSettings, row: str) -> AIRSettings:
    """The settings of ``train.air`` for a row of the comparison."""
    from train.estimators import make

    name, _, baseline = row.partition("+")
    require(
        baseline in ("", "average", "network"),
        f"--estimators {row}: {baseline} is no baseline; give +average or +network",
    )
    # K is for those that have more than one draw by nature.
    particles = settings.particles if make(name).num_particles > 1 else None
    make(name, particles)
    return replace(settings, estimator=name, baseline=baseline or "none", particles=particles)


def air_settings(settings: BenchSettings) -> tuple[AIRSettings, dict[str, Any], int]:
    """Settings, weights and step of the model that is measured."""
    from train.trained import TrainedAIR, load

    if settings.checkpoint is None:
        names = [field.name for field in fields(AIRSettings)]
        return AIRSettings(**{name: getattr(settings, name) for name in names}), {}, 0
    trained = load(settings.checkpoint)
    require(
        isinstance(trained, TrainedAIR),
        f"--checkpoint {settings.checkpoint} holds a run of {trained.saved.method}, not of air: "
        "give another one",
    )
    kept = ("data_dir", "device", "seed", "particles", "temperature", "temperature_start")
    chosen = replace(trained.settings, **{name: getattr(settings, name) for name in kept})
    return chosen, trained.objective.state_dict(), trained.saved.step


def assembled(
    settings: AIRSettings, row: str, shape: tuple[int, int], weights: dict[str, Any]
) -> ELBOObjective:
    """The objective of a row with given weights; a baseline's stay as they are drawn."""
    import torch

    from train.air import build

    torch.manual_seed(settings.seed)
    chosen = row_settings(settings, row)
    objective = build(chosen, shape)
    own = {name: value for name, value in weights.items() if not name.startswith("guide.baseline")}
    if own:
        objective.load_state_dict({**objective.state_dict(), **own})
    return objective


@leaves_no_trace
def main(settings: BenchSettings) -> dict[str, Any]:
    """Rows, exact gradient, their gradients, times; then training runs if asked."""
    from train import figures, tables
    from train.data.batches import Batches
    from train.data.scenes import load_scenes
    from train.engine import parallel, runtime
    from train.engine.runs import Run
    from train.metrics.measuring import Measures
    from train.studies import gradients, races

    parallel.require_alone("train.estimators")
    device = runtime.setup(settings)
    chosen, weights, step = air_settings(settings)
    for row in settings.estimators:
        row_settings(chosen, row)
    data = load_scenes(chosen)
    batch = Batches((data.train.images,), chosen.batch_size, chosen.seed, device)(0)
    shape = data.train.shape
    exact = assembled(chosen, "marginal", shape, weights).to(device)
    given = exact.state_dict()  # the seed alone won't do: a baseline's weights are drawn first
    rows = settings.estimators
    objectives = {row: assembled(chosen, row, shape, given).to(device) for row in rows}
    run = Run.create(settings, "estimators")
    measures = Measures(run)

    table = gradients.compare(
        objectives,
        exact,
        batch,
        step,
        draws=settings.draws,
        exact_draws=settings.exact_draws,
        baseline_steps=settings.baseline_steps,
        rounds=settings.rounds,
    )
    run.save_table("gradients", table)
    print(tables.markdown([row for row in table if row["group"] == "all"], COLUMNS))
    measures.draw("gradients", lambda: figures.estimators(table))
    if settings.training_seeds:
        runs = [(row, row_settings(chosen, row)) for row in settings.estimators]
        raced = races.race(run, runs, settings.training_seeds)
        run.save_table("training", raced)
        print(tables.markdown(races.summary(raced), races.SUMMARY))
        measures.draw("training", lambda: figures.races(raced))
    return run.finish({"step": step, "estimators": len(rows)} | measures.results())


if __name__ == "__main__":
    command(BenchSettings, main)
