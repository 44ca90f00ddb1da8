"""Estimators in short training runs: what each second and each step brought."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from train.engine.runs import Run
from train.engine.saved import run_once
from train.errors import InputError
from train.method import Method
from train.settings import EstimatorSettings


def race(
    run: Run, method: Method, runs: Sequence[tuple[str, EstimatorSettings]], seeds: int
) -> list[dict[str, Any]]:
    """Trains a method of scenes with each estimator and seed, in folders under ``training/``.

    Runs that are there already are not made again. One that breaks, because its loss is no longer
    finite, has its row without measures: that is a result too.

    Args:
        run: The run folder that they go to.
        method: The method.
        runs: For each estimator its name and the settings of its runs.
        seeds: The number of seeds, from 0.

    Returns:
        A row for each evaluation: ``estimator``, ``seed``, ``step``, ``seconds`` of training so
        far, ``count_accuracy`` and ``elbo`` on 1,000 held-out scenes; and at the last one
        ``final_count_accuracy``, ``final_elbo`` and ``final_iw_bound``, on all of them.
    """
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        for name, settings in runs:
            directory = run.directory / "training" / f"{name.replace(':', '.')}-{seed}"
            try:
                chosen = replace(settings, seed=seed, run_dir=directory)
                results = run_once(directory, lambda chosen=chosen: method.main(chosen))
            except InputError as error:
                print(f"{name}, seed {seed}: {error}")
                results = {}
            rows += evaluations(Run(directory, method.name), name, seed, results)
    return rows


def evaluations(run: Run, name: str, seed: int, results: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of one run: see :func:`race`."""
    history = run.history()
    if "held_out_elbo" not in history:
        return [blank(name, seed, 0)]
    steps, elbos = history["held_out_elbo"]
    # Evaluations may fall between two lines of the log.
    seconds = np.interp(steps, *history["train_seconds"])
    # Own scenes may have no counts, and either may not have been a number at some step.
    right = history.get("held_out_count_accuracy", ((), ()))
    accuracies = dict(zip(*map(list, right), strict=True))
    rows = [
        blank(name, seed, int(step))
        | {"seconds": float(time), "count_accuracy": accuracies.get(step), "elbo": float(elbo)}
        for step, time, elbo in zip(steps, seconds, elbos, strict=True)
    ]
    rows[-1] |= {f"final_{key}": results.get(key) for key in ("count_accuracy", "elbo", "iw_bound")}
    return rows


SUMMARY = (
    "estimator",
    "runs",
    "count_accuracy",
    "lowest_accuracy",
    "elbo",
    "iw_bound",
    "seconds",
)


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each estimator the means over its finished runs, and the lowest count accuracy."""
    found = []
    for name in dict.fromkeys(row["estimator"] for row in rows):
        ends = [row for row in rows if row["estimator"] == name and row["final_elbo"] is not None]
        means: dict[str, Any] = dict.fromkeys(SUMMARY)
        for key in ("count_accuracy", "elbo", "iw_bound"):
            values = [row[f"final_{key}"] for row in ends if row[f"final_{key}"] is not None]
            means[key] = statistics.fmean(values) if values else None
            if key == "count_accuracy" and values:
                means["lowest_accuracy"] = min(values)
        if ends:
            means["seconds"] = statistics.fmean(row["seconds"] for row in ends)
        found.append(means | {"estimator": name, "runs": len(ends)})
    return found


def blank(name: str, seed: int, step: int) -> dict[str, Any]:
    """A row without measures."""
    measures = ("seconds", "count_accuracy", "elbo")
    finals = ("final_count_accuracy", "final_elbo", "final_iw_bound")
    return {"estimator": name, "seed": seed, "step": step} | dict.fromkeys(measures + finals)
