"""When compiled steps take over from eager ones, and what happens if they cannot."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor, nn

from train import processes
from train.engine import ahead, automatic, parallel
from train.engine.compiled import GradientFunction, StepFunction, can_replay, compile_gradients
from train.engine.compiling import GradientCompiler
from train.engine.step_key import step_key
from train.errors import InputError, note, require
from train.objective import Batch, Objective
from train.processes import spare_processors
from train.settings import Settings


class Steps(Protocol):
    """What a takeover needs of :class:`train.engine.steps.Stepper`, which says what each does."""

    objective: Objective
    settings: Settings
    device: torch.device
    parameters: dict[str, list[nn.Parameter]]
    learning_rates: list[float]
    step_function: StepFunction
    compiled_from: int | None

    @property
    def eager_step(self) -> StepFunction: ...

    @property
    def gradients(self) -> GradientFunction: ...

    def step_tensor(self, done: int) -> Tensor: ...

    def dry_run(self) -> AbstractContextManager[None]: ...

    def assign_learning_rates(self, rates: Sequence[float | Tensor]) -> None: ...

    def verified(
        self, compute_gradients: GradientFunction, batch: Callable[[int], Batch], done: int
    ) -> StepFunction: ...


class Takeover:
    """Compiles the steps of a stepper, at once or in the background, and replaces the eager ones.

    Rounding sends a compiled run another way, so that it matters from which step on. That step is
    recorded in :attr:`Steps.compiled_from`, and ``settings.compile_from`` repeats it.

    Args:
        stepper: What takes the steps. Its objective was not called yet in this process.
        batch: Returns the batch of a step; all have the same shapes.
        done: The number of steps done.
        automatic: Whether compiled steps have to pay: see :mod:`train.engine.automatic`.

    Raises:
        InputError: If steps are to be compiled in the background, and cannot be.
    """

    def __init__(
        self,
        stepper: Steps,
        batch: Callable[[int], Batch],
        done: int,
        *,
        automatic: bool = False,
    ) -> None:
        self.stepper = stepper
        self.batch = batch
        self.settings = stepper.settings
        self.automatic = automatic
        self.waiting = False
        self.compiler: GradientCompiler | None = None
        device = stepper.device
        if device.type == "cpu" and not can_replay(device) and ahead.is_available():
            key = step_key(
                stepper.objective, stepper.parameters, batch(done), self.settings.precision
            )
            self.compiler = GradientCompiler(stepper.gradients, stepper.objective, key)
        if self.settings.compile == "background":
            require(
                self.compiler is not None and processes.size() == 1,
                "--compile background is for a CPU and one process: give --compile on",
            )

        start, recorded = self.settings.compile_from, stepper.compiled_from
        require(
            start is None or recorded == start or (recorded is None and done <= start),
            f"--compile-from {start}: this run has done {done:,} steps, compiled ones "
            f"{'never' if recorded is None else f'from {recorded} on'}: leave it out",
        )

    def begin(self, done: int) -> None:
        """Compiles the step, or begins to.

        Args:
            done: The number of steps done.

        Raises:
            InputError: If compiled steps are demanded from now on, and cannot be had.
        """
        start = self.settings.compile_from
        if start is not None and start >= self.settings.steps:
            return
        if self.automatic and self.stepper.compiled_from is None:
            self._begin_if_it_pays(done)
        elif self._waits(done):
            self._start(done)
        else:
            self.switch(done)

    def _begin_if_it_pays(self, done: int) -> None:
        """Takes a kept step, begins to compile one, or does neither."""
        assert self.compiler is not None
        with self.stepper.dry_run():
            step = self._step(self.stepper.eager_step, done)
            share = automatic.share_of(step)
            seconds = automatic.seconds_of(step)[0] * (self.settings.steps - done)
        if self.compiler.is_kept():
            if automatic.takes_kept(seconds):
                self.switch(done)
        elif automatic.compiles(seconds, share):
            note(
                f"--compile auto: the steps of this run take about {seconds / 60:.0f} minutes as "
                "they are: they are compiled in the background"
            )
            self._start(done)

    def _step(self, function: StepFunction, done: int) -> Callable[[], object]:
        """A step to time."""
        batch, step = self.batch(done), self.stepper.step_tensor(done)
        return lambda: function(batch, step)

    def _start(self, done: int) -> None:
        """Begins to compile in the background."""
        assert self.compiler is not None
        try:
            if not self.compiler.is_kept():
                with self.stepper.dry_run():
                    self.compiler.start(self.batch(done), self.stepper.step_tensor(done))
            self.waiting = True
        except InputError as error:
            self._give_up(str(error))

    def _waits(self, done: int) -> bool:
        """Whether eager steps come first."""
        start = self.settings.compile_from
        if self.settings.compile != "background" or self.stepper.compiled_from is not None:
            return False
        if start is not None:
            return done < start
        assert self.compiler is not None
        if self.compiler.is_kept():
            return False
        if not spare_processors():
            note("--compile background: there is one processor, so the step is compiled first")
            return False
        return True

    def is_due(self, done: int) -> bool:
        """Whether compiled steps take over before the next one.

        Args:
            done: The number of steps done.
        """
        if self.compiler is None or not self.waiting:
            return False
        start = self.settings.compile_from
        return done == start if start is not None else not self.compiler.is_running()

    def switch(self, done: int) -> None:
        """Takes compiled steps from now on, unless they cannot be compiled, or differ.

        Args:
            done: The number of steps done.

        Raises:
            InputError: See :meth:`begin`.
        """
        waited, self.waiting, problem = self.waiting, False, ""
        try:
            step_function = self._compiled_step(done)
            gain = self._gain(step_function, done)
        except InputError as error:
            problem = str(error)
        # Either all ranks use the compiled step or none does.
        problems = [message for message in parallel.all_gather(problem) if message]
        if problems:
            self._give_up(problems[0])
            return
        self.stepper.step_function = step_function
        if self.stepper.compiled_from is None:
            self.stepper.compiled_from = done
        if waited or gain:
            note(
                f"steps are compiled from step {done:,} on{gain}: --compile background "
                f"--compile-from {done} repeats this run"
            )

    def _gain(self, compiled: StepFunction, done: int) -> str:
        """How much faster compiled steps are, in words, if they have to be.

        Raises:
            InputError: If they are hardly or no faster.
        """
        if not self.automatic or self.stepper.compiled_from is not None:
            return ""
        steps = (self._step(each, done) for each in (self.stepper.eager_step, compiled))
        with self.stepper.dry_run():
            before, now = automatic.seconds_of(*steps)
        require(
            now < automatic.FASTER * before,
            f"--compile auto: compiled steps are {before / now:.2f} times as fast",
        )
        return f", {before / now:.1f} times as fast"

    def close(self) -> None:
        """Stops what compiles in the background."""
        if self.compiler is not None:
            self.compiler.close()

    def _compiled_step(self, done: int) -> StepFunction:
        """A compiled step that was compared with the eager one."""
        stepper, first = self.stepper, self.batch(done)
        step = stepper.step_tensor(done)
        if self.compiler is None:
            with stepper.dry_run():
                gradients = compile_gradients(stepper.gradients, stepper.objective, first, step)
            return stepper.verified(gradients, self.batch, done)
        if self.compiler.is_started:
            return stepper.verified(self.compiler.finish(), self.batch, done)
        kept = self.compiler.find(first)
        if kept is not None:
            try:
                return stepper.verified(kept, self.batch, done)
            except InputError as error:
                self.compiler.discard()
                self._require_time(str(error))
                note(f"a kept step is compiled anew, as it is no longer right: {error}")
        self._require_time("--compile auto: no kept step can be used")
        with stepper.dry_run():
            gradients = self.compiler.compile(first, step)
        return stepper.verified(gradients, self.batch, done)

    def _require_time(self, problem: str) -> None:
        """Raises :class:`InputError` if the run does not wait for a step to be compiled."""
        require(not self.automatic or self.stepper.compiled_from is not None, problem)

    def _give_up(self, problem: str) -> None:
        """Goes on with eager steps, and says so, unless compiled ones are demanded."""
        demanded = self.settings.compile == "on" or (
            self.settings.compile == "background"
            and (self.stepper.compiled_from, self.settings.compile_from) != (None, None)
        )
        require(not demanded, problem)
        self.stepper.compiled_from = None
        self.stepper.assign_learning_rates(self.stepper.learning_rates)
        if processes.rank() == 0:
            print(f"{problem}; training continues uncompiled", file=sys.stderr)
