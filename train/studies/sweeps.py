"""Several runs side by side: one table and one figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from train import plots, verdict
from train.engine import parallel
from train.engine.runs import Run
from train.engine.saved import run_once

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
    """Trains with each weight of ``settings.sweep``, beside a VAE and a CVAE of the same size.

    Args:
        settings: The settings that the runs share.
        main: Trains one run, in its ``run_dir``. A run that has its results is not trained again.
    """
    parallel.require_alone("--sweep")
    run = Run.create(settings, "icvae-sweep")
    one = replace(settings, sweep=(), weight_start=None)
    plain = replace(one, invariance="none", weight=0.0)
    cases = [("VAE", replace(plain, condition="none")), ("CVAE", plain)]
    cases += [
        (settings.invariance, replace(one, weight=weight, weight_start=settings.weight_start))
        for weight in settings.sweep
    ]
    rows = []
    for term, case in cases:
        directory = run.directory / "runs" / f"{term}-{case.weight:g}"
        results = run_once(
            directory, lambda case=case, path=directory: main(replace(case, run_dir=path))
        )
        # Results of an earlier version may lack a measure.
        measures = {name: results.get(name) for name in MEASURES}
        rows.append({"term": term, "weight": case.weight, "z_dim": case.z_dim} | measures)
    run.save_table("tradeoff", rows)
    paths, reasons = verdict.draw(run, {"tradeoff": lambda: plots.tradeoff(rows)})
    table = {"runs": len(rows), "table": str(run.directory / "tradeoff.csv")}
    return run.finish(table | {"figures": paths, "reasons": reasons})
