"""Trains several runs with different settings, and collects them in a table and a figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from train import plots, verdict
from train.engine import parallel
from train.engine.runs import Run
from train.studies.parts import results_of

if TYPE_CHECKING:
    from train.settings.icvae import ICVAESettings

MEASURES = (
    "leakage",
    "leakage_linear",
    "leakage_mean",
    "leakage_parameters",
    "chance",
    "reconstruction_mse",
    "elbo",
    "train_seconds",
)


def tradeoff(
    settings: ICVAESettings, main: Callable[[ICVAESettings], Mapping[str, Any]]
) -> dict[str, Any]:
    """Trains ICVAE with each weight in ``settings.sweep``, and a VAE and a CVAE of equal size.

    Args:
        settings: The settings that all runs have in common.
        main: Trains a run in its ``run_dir``. It is not called for finished runs, and resumes one
            that was stopped.

    Returns:
        The number of ``runs``, the path of the ``table``, ``figures``, and the ``reasons`` of
        figures that failed.

    Raises:
        InputError: If several processes train together.
    """
    parallel.require_alone("--sweep")
    run = Run.create(settings, "icvae-sweep", study=frozenset({"sweep"}))
    constant = replace(settings, sweep=(), weight_start=None)
    cvae = replace(constant, invariance="none", weight=0.0)
    cases = [("VAE", replace(cvae, condition="none")), ("CVAE", cvae)]
    cases += [
        (settings.invariance, replace(constant, weight=weight, weight_start=settings.weight_start))
        for weight in settings.sweep
    ]
    rows = []
    for term, case in cases:
        results = results_of(run, f"runs/{term}-{case.weight:g}", case, main)
        # Results of earlier versions may lack a measure.
        measures = {name: results.get(name) for name in MEASURES}
        rows.append({"term": term, "weight": case.weight, "z_dim": case.z_dim} | measures)
    run.save_table("tradeoff", rows)
    paths, reasons = verdict.draw(run, {"tradeoff": lambda: plots.tradeoff(rows)})
    table = {"runs": len(rows), "table": str(run.directory / "tradeoff.csv")}
    return run.finish(table | {"figures": paths, "reasons": reasons})
