"""Several runs side by side: one table and one figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train import figures
from train.engine import parallel
from train.engine.runs import Run
from train.engine.saved import read_results
from train.metrics.measuring import Measures

if TYPE_CHECKING:
    from train.icvae import ICVAESettings

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


def icvae(
    settings: ICVAESettings, main: Callable[[ICVAESettings], Mapping[str, Any]]
) -> dict[str, Any]:
    """Trains with each weight of ``settings.sweep``, and a VAE and a CVAE of the same size.

    Args:
        settings: What the runs have in common.
        main: Makes one run, in its ``run_dir``. Runs that are there already are not made again.
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
        results = once(directory, lambda path, case=case: main(replace(case, run_dir=path)))
        # Runs that were there already may be of a version that did not measure all of it.
        found = {name: results.get(name) for name in MEASURES}
        rows.append({"term": term, "weight": case.weight, "z_dim": case.z_dim} | found)
    run.save_table("tradeoff", rows)
    measures = Measures(run)
    measures.draw("tradeoff", lambda: figures.tradeoff(rows))
    table = {"runs": len(rows), "table": str(run.directory / "tradeoff.csv")}
    return run.finish(table | measures.results())


def once(directory: Path, make: Callable[[Path], Any]) -> dict[str, Any]:
    """The results of a run, which is made only if it is not there."""
    if not (directory / "results.json").exists():
        make(directory)
    return read_results(directory)
