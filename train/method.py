"""One record a method: settings, how it is built from data, what is watched, what it can do.

Each front door defines its record, and everything else asks it: training,
:func:`train.trained.load`, the comparison, exports and the scikit-learn transformers. Nothing here
imports torch, so that ``--help`` answers at once; the methods of a record import what they need.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from pyro_models.shapes import Shape
from train.errors import brief, note
from train.settings import Settings

if TYPE_CHECKING:
    import torch
    from pyro.infer import ELBO

    from train.engine.callbacks import Callback
    from train.engine.loop import Best
    from train.fitting import Misfit
    from train.metrics.watch import Watch
    from train.objective import Batch, ELBOObjective, Objective
    from train.verbs.base import Trained

D = TypeVar("D", bound=tuple)

GIVEN = "given from Python"
"""The ``data`` of a run whose data were no setting: there is no such file."""

LARGEST_SIDE = 2**16
"""Images have fewer pixels on each side."""


class Prepared(NamedTuple):
    """What training a method on data needs.

    Attributes:
        objective: Networks and losses, on the device.
        batches: Returns the training batch of a step.
        inputs: What the networks depend on beside the settings, as plain values for
            ``config.json``; its ``shape`` is the images' height and width, in colour after the
            number of channels.
    """

    objective: Objective
    batches: Callable[[int], Batch]
    inputs: dict[str, Any]


class Session(NamedTuple):
    """A method that is ready to be trained.

    Attributes:
        settings: Its settings, fitted to the data.
        device: Where it is.
        prepared: Objective, batches and inputs.
        watch: What evaluates, measures and draws it.
        data_hash: The :func:`~train.data.fingerprint.fingerprint` of its data.
        measured_on: The number of images of each split on which it is measured, by the split.
    """

    settings: Any
    device: torch.device
    prepared: Prepared
    watch: Watch
    data_hash: str
    measured_on: dict[str, int]


class Method(ABC):
    """A method: subclass it, and give an instance to whatever trains, loads or compares.

    Attributes:
        name: Its name: ``config.json`` has it, and run folders are called by it.
        settings: The dataclass of its settings.
        needs_labels: Whether data without labels are refused.
    """

    name: ClassVar[str]
    settings: ClassVar[type[Settings]]
    needs_labels: ClassVar[bool] = False

    @abstractmethod
    def build(self, settings: Any, inputs: Mapping[str, Any]) -> Objective:
        """Makes networks and losses; imports nothing that the settings name.

        Args:
            settings: The method's settings.
            inputs: What :meth:`inputs` returns, or what ``config.json`` has of it.

        Raises:
            InputError: If the settings do not go together.
            ValueError: If the inputs are not those of a run.
        """

    def load_data(self, settings: Any, data: Any = None) -> Any:
        """Loads the data, a named tuple with fields ``train`` and ``held_out`` at least.

        Args:
            settings: The method's settings.
            data: Data to use in place of those that the settings name: see
                :func:`train.data.streaming.adapters.as_split`.
        """
        from train.data import datasets
        from train.data.streaming import adapters

        if data is None:
            data = datasets.load(
                settings.data, settings.data_dir, settings.evaluate_on, settings.data_options
            )
        else:
            data = adapters.as_split(data, settings.evaluate_on, settings.data_options)
        if self.needs_labels:
            data.train.require_labels()
        return data

    def resolved(self, settings: Any, data: Any) -> Any:
        """Returns the settings with values for those that the data decide; by default all stay.

        Args:
            settings: The method's settings as they were given.
            data: What :meth:`load_data` returns.
        """
        return settings

    def misfits(self, settings: Any, data: Any) -> Sequence[Misfit | None]:
        """Settings that the data are too few or too small for: see :mod:`train.fitting`."""
        from train import fitting, processes

        train = data.train
        return [fitting.batch(settings.batch_size, train.max_batch_size, processes.size())]

    def inputs(self, settings: Any, data: Any) -> dict[str, Any]:
        """What the networks depend on beside the settings, as plain values."""
        return {"shape": data.train.shape.outside}

    def batches(self, settings: Any, data: Any, device: torch.device) -> Callable[[int], Batch]:
        """Returns training batches as a function of the step."""
        return data.train.batches(settings.batch_size, settings.seed, device)

    def prepare(self, settings: Any, data: Any, device: torch.device) -> Prepared:
        """Makes the objective on a device, and the batches that train it.

        Args:
            settings: The method's settings, fitted to the data.
            data: What :meth:`load_data` returns.
            device: Where to train.
        """
        inputs = self.inputs(settings, data)
        batches = self.batches(settings, data, device)
        return Prepared(self.build(settings, inputs).to(device), batches, inputs)

    def watch(self, settings: Any, data: Any, objective: Any) -> Watch:
        """Returns what evaluates, measures and draws the objective; by default nothing.

        Args:
            settings: The method's settings.
            data: What :meth:`load_data` returns.
            objective: The objective, before its first step.
        """
        from train.metrics.watch import Watch

        return Watch()

    def sampled(self, settings: Any, data: D, *, stored: bool = False) -> D:
        """Returns the images that a model is measured on: a sample of each split.

        Args:
            settings: ``measure_on``.
            data: What :meth:`load_data` returns.
            stored: See :func:`train.data.samples.sample`.
        """
        from train.data.samples import sample

        split: Any = data
        return split._make(map(partial(sample, stored=stored), data, self.most(settings, data)))

    def most(self, settings: Any, data: Any) -> list[int]:
        """Returns the most images of each split that a model is measured on."""
        train, others = settings.measure_on
        return [train if split == "train" else others for split in data._fields]

    def best(self, settings: Any) -> Best | None:
        """Returns what selects the best weights by evaluation; by default the last ones stay."""
        return None

    @property
    def trained(self) -> type[Trained]:
        """The class of what :func:`train.trained.load` returns."""
        from train.verbs.base import Trained

        return Trained

    def of_run(self, inputs: Mapping[str, Any]) -> Method:
        """Returns the record that loads a run: this one, unless data of its kind have their own.

        Args:
            inputs: What ``config.json`` has of :meth:`inputs`.
        """
        return self

    def shape(self, inputs: Mapping[str, Any]) -> Shape:
        """Reads the images' channels, height and width out of :meth:`inputs`.

        Raises:
            ValueError: If they are none.
        """
        return Shape.of(sides("shape", inputs["shape"], least=1, channels=True))

    def begin(self, settings: Any, data: Any = None) -> Session:
        """Seeds, loads the data and builds everything that training needs; writes nothing.

        Args:
            settings: The method's settings.
            data: See :meth:`load_data`.

        Raises:
            InputError: If data or settings cannot be used.
        """
        from train import fitting
        from train.data import samples
        from train.data.fingerprint import fingerprint
        from train.engine import runtime
        from train.settings.effects import without_effect

        device = runtime.setup(settings)
        if data is None:
            data = self.load_data(settings)
        else:
            data = self.load_data(settings, data)
            settings = replace(settings, data=GIVEN)
        given = settings
        settings = self.resolved(settings, data)
        for line in without_effect(given, settings):
            note(line)
        settings = fitting.fitted(settings, *self.misfits(settings, data))
        prepared = self.prepare(settings, data, device)
        watch = self.watch(settings, data, prepared.objective)
        measured_on = {
            split: samples.size(part, most)
            for split, part, most in zip(data._fields, data, self.most(settings, data), strict=True)
        }
        return Session(settings, device, prepared, watch, fingerprint(*data), measured_on)

    def main(
        self, settings: Any, callbacks: Sequence[Callback] = (), *, data: Any = None
    ) -> dict[str, Any]:
        """Trains, measures and draws a run, and leaves the process as it was.

        See :func:`train.engine.runtime.preserved`.

        Args:
            settings: The method's settings.
            callbacks: What follows the training beside the log, the progress bar and TensorBoard:
                see :class:`train.engine.callbacks.Callback`.
            data: Data to use in place of ``settings.data``: a data set of PyTorch's, images, or a
                split of them. See :func:`train.data.streaming.adapters.as_split`.

        Returns:
            The results, which ``results.json`` holds too. Of several processes that train together
            only the first has any.

        Raises:
            InputError: If data or settings cannot be used, or training diverges.
            Interrupted: If Ctrl-C is pressed.
        """
        from train import verdict
        from train.engine import callbacks as standard
        from train.engine import runtime, threads
        from train.engine.loop import fit
        from train.engine.runs import Run

        with runtime.preserved():
            session = self.begin(settings, data)
            settings, device, prepared, watch, data_hash, measured_on = session
            settings = threads.settled(settings, prepared.objective, prepared.batches, device)
            run = Run.create(settings, self.name, **prepared.inputs, data_hash=data_hash)

            def evaluate(step: int) -> Mapping[str, float]:
                metrics = watch.evaluate(step)
                if arrays := watch.snapshot():
                    run.save_stage(step, **arrays)
                return metrics

            best = self.best(settings)
            result = fit(
                *(prepared.objective, prepared.batches, run, settings, device),
                evaluate=evaluate,
                best=best,
                callbacks=(*standard.standard(run, settings), *callbacks),
            )
            if not run.writes:
                return {}
            values = result._asdict() | {"measured_on": measured_on}
            selected = {} if best is None else {"best_step": best.step}
            return verdict.finish(run, values | selected, watch)


class ELBOMethod(Method):
    """A Pyro model and guide, with an estimator of their ELBO that the settings name.

    Its settings have ``estimator``, and may have ``particles``. :meth:`build` returns an
    :class:`~train.objective.ELBOObjective` with the estimator of :meth:`estimator`.

    Attributes:
        estimators: The names that the settings may give; ``None`` for all of
            :data:`train.estimators.ESTIMATORS`. A class of one's own is never refused by its name.
    """

    estimators: ClassVar[Sequence[str] | None] = None

    def estimator(self, settings: Any, make: Callable[..., ELBO]) -> ELBO:
        """Makes the estimator that the settings name.

        Args:
            settings: The method's settings.
            make: :func:`train.estimators.make`, which imports an estimator of one's own, or
                :func:`train.estimators.restored`, which does not.
        """
        names = {} if self.estimators is None else {"names": self.estimators}
        return make(settings.estimator, getattr(settings, "particles", None), **names)

    def use_estimator(self, settings: Any, objective: ELBOObjective) -> None:
        """Imports the estimator that the settings name, and sets it in an objective."""
        from train.estimators import annealed_names, make
        from train.objective import schedule

        objective.estimator = self.estimator(settings, make)
        # One of one's own is unknown where an objective is built.
        objective.annealed |= schedule(settings, *annealed_names(objective.estimator))

    def prepare(self, settings: Any, data: Any, device: torch.device) -> Prepared:
        prepared = super().prepare(settings, data, device)
        # Not in build, which makes networks for load too, and a file must not import anything.
        objective: Any = prepared.objective
        self.use_estimator(settings, objective)
        return prepared


def sides(name: str, values: Any, least: int, *, channels: bool = False) -> tuple[int, ...]:
    """Reads a height and a width that ``config.json`` has under a name.

    Args:
        name: The name.
        values: The values.
        least: The least value.
        channels: Whether there may be a number of channels before them.

    Raises:
        ValueError: If they are not two integers (or three), at least ``least`` and below
            :data:`LARGEST_SIDE`.
    """
    if (
        not isinstance(values, list | tuple)
        or len(values) not in ((2, 3) if channels else (2,))
        or not all(type(value) is int and least <= value < LARGEST_SIDE for value in values)
    ):
        raise ValueError(
            f"'{name}' is {brief(values)}, not two whole numbers from {least} to {LARGEST_SIDE:,}"
        )
    return tuple(values)
