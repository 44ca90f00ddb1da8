"""Compares estimators in short training runs: ELBO and count accuracy over steps and seconds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from train.engine.runs import Run
from train.errors import InputError
from train.method import Method
from train.settings import EstimatorSettings
from train.studies.parts import results_of


def race(
    run: Run, method: Method, runs: Sequence[tuple[str, EstimatorSettings]], seeds: int
) -> list[dict[str, Any]]:
    """Trains a method of scenes with each estimator and seed, in folders under ``training/``.

    Finished runs are not repeated, and one that was stopped goes on. A run that diverges has rows
    until then, without final measures.

    Args:
        run: The run folder in which the runs are saved.
        method: The record of the method.
        runs: For each estimator its name and the settings of its runs.
        seeds: The number of seeds, counted from 0.

    Returns:
        A row for each evaluation: ``estimator``, ``seed``, ``step``, ``seconds`` of training so
        far, and ``count_accuracy`` and ``elbo`` on 1,000 held-out scenes. The last row of a run
        also has ``final_count_accuracy``, ``final_elbo`` and ``final_iw_bound``, on all held-out
        scenes. Missing values are ``None``.
    """
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        for name, settings in runs:
            folder = f"training/{name.replace(':', '.')}-{seed}"
            try:
                results = results_of(run, folder, replace(settings, seed=seed), method.main)
            except InputError as error:
                print(f"{name}, seed {seed}: {error}")
                results = {}
            rows += evaluations(Run(run.directory / folder, method.name), name, seed, results)
    return rows


def evaluations(run: Run, name: str, seed: int, results: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the rows of one run: see :func:`race`."""
    history = run.history()
    if "held_out_elbo" not in history:
        return [empty_row(name, seed, 0)]
    steps, elbos = history["held_out_elbo"]
    # Seconds are interpolated, because evaluations may lie between two lines of the log.
    seconds = np.interp(steps, *history["train_seconds"])
    # The user's scenes may have no counts, and the history has only finite values.
    logged_accuracies = history.get("held_out_count_accuracy", ((), ()))
    accuracies = dict(zip(*map(list, logged_accuracies), strict=True))
    rows = [
        empty_row(name, seed, int(step))
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
"""The columns of :func:`summary`."""


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns a row for each estimator: means over its finished runs, and the lowest accuracy."""
    table = []
    for name in dict.fromkeys(row["estimator"] for row in rows):
        last_rows = [
            row for row in rows if row["estimator"] == name and row["final_elbo"] is not None
        ]
        means: dict[str, Any] = dict.fromkeys(SUMMARY)
        for key in ("count_accuracy", "elbo", "iw_bound"):
            values = [row[f"final_{key}"] for row in last_rows if row[f"final_{key}"] is not None]
            means[key] = statistics.fmean(values) if values else None
            if key == "count_accuracy" and values:
                means["lowest_accuracy"] = min(values)
        if last_rows:
            means["seconds"] = statistics.fmean(row["seconds"] for row in last_rows)
        table.append(means | {"estimator": name, "runs": len(last_rows)})
    return table


def empty_row(name: str, seed: int, step: int) -> dict[str, Any]:
    """Returns a row of :func:`race` whose measures are ``None``."""
    measures = ("seconds", "count_accuracy", "elbo")
    finals = ("final_count_accuracy", "final_elbo", "final_iw_bound")
    return {"estimator": name, "seed": seed, "step": step} | dict.fromkeys(measures + finals)
