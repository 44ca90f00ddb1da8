"""Training of a method from its settings: data, objective, loop, results, figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from train import fitting, verdict
from train.data.fingerprint import fingerprint
from train.engine import callbacks as standard_callbacks
from train.engine import runtime
from train.engine.loop import fit
from train.engine.runs import Run
from train.method import Method, Prepared
from train.settings import Settings
from train.watch import Watch

if TYPE_CHECKING:
    from train.engine.callbacks import Callback


class Session(NamedTuple):
    """A method that is ready to be trained.

    Attributes:
        settings: Its settings, fitted to the data.
        device: Where it is.
        prepared: Objective, batches and inputs.
        watch: What evaluates, measures and draws it.
        data_hash: The :func:`~train.data.fingerprint.fingerprint` of its data.
    """

    settings: Settings
    device: torch.device
    prepared: Prepared
    watch: Watch
    data_hash: str


def begin(method: Method, settings: Settings) -> Session:
    """Seeds, loads the data and builds everything that training needs; writes nothing.

    Raises:
        InputError: If data or settings cannot be used.
    """
    device = runtime.setup(settings)
    data = method.load_data(settings)
    settings = fitting.fitted(settings, *method.misfits(settings, data))
    prepared = method.prepare(settings, data, device)
    watch = method.watch(settings, data, prepared.objective)
    return Session(settings, device, prepared, watch, fingerprint(*data))


def train(method: Method, settings: Settings, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Trains a method, and leaves the process of whoever calls it as it was.

    See :func:`train.engine.runtime.preserved`.

    Args:
        method: The method.
        settings: Its settings.
        callbacks: What follows the training beside the log, the progress bar and TensorBoard: see
            :class:`train.engine.callbacks.Callback`.

    Returns:
        The results, which ``results.json`` holds too. Of several processes that train together
        only the first has any.

    Raises:
        InputError: If data or settings cannot be used, or training diverges.
        Interrupted: If Ctrl-C is pressed.
    """
    with runtime.preserved():
        settings, device, prepared, watch, data_hash = begin(method, settings)
        run = Run.create(settings, method.name, **prepared.inputs, data_hash=data_hash)

        def evaluate(step: int) -> Mapping[str, float]:
            metrics = watch.evaluate(step)
            if arrays := watch.snapshot():
                run.save_stage(step, **arrays)
            return metrics

        best = method.best(settings)
        result = fit(
            *(prepared.objective, prepared.batches, run, settings, device),
            evaluate=evaluate,
            best=best,
            callbacks=(*standard_callbacks.standard(run, settings), *callbacks),
        )
        if not run.writes:
            return {}
        values = result._asdict()
        if best is not None:
            values["best_step"] = best.step
        return verdict.finish(run, values, watch)
