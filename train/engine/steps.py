"""A step of training: gradients, and every optimiser's move."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from train import processes
from train.engine import parallel
from train.engine.agreement import BUFFER, WEIGHTS, Outcome, State, difference
from train.engine.compiled import (
    Differentiate,
    Gradients,
    Replay,
    Take,
    Values,
    compiled,
    replays,
    wanted,
)
from train.engine.runtime import precision, random_state, set_random_state
from train.errors import InputError, first_line, require
from train.objective import Batch, Objective
from train.settings import Settings


class Stepper:
    """One step of every optimiser of an objective.

    Args:
        objective: What is trained.
        settings: The learning rate and its decay, the precision, the gradient's largest norm, and
            whether to compile.
        device: Where to train.

    Attributes:
        optimisers: One for each loss, by its name.
        parameters: The parameters of each.
    """

    def __init__(self, objective: Objective, settings: Settings, device: torch.device) -> None:
        self.objective = objective
        self.settings = settings
        self.device = device
        groups = objective.parameter_groups(settings.learning_rate)
        self.optimisers = {
            name: optimiser(parameters, settings, device) for name, parameters in groups.items()
        }
        self.parameters = {
            name: [weight for group in parameters for weight in group["params"]]
            for name, parameters in groups.items()
        }
        self.rates = [group["lr"] for group in self.groups()]
        self.take: Take = self.move
        self.begun = False
        self.in_dry_run = False

    def __call__(self, batch: Batch, done: int) -> Values:
        """Takes the step after ``done`` others; returns losses and metrics, detached.

        They are read before the next step, which may write over them.
        """
        if not self.begun:
            self.begin(lambda _: batch, done)
        self.set_rates(decay(done, self.settings))
        return self.take(batch, self.number(done))

    def begin(self, batch: Callable[[int], Batch], done: int) -> None:
        """Checks the step, and compiles it where the settings ask for it; changes nothing else.

        A compiled step is taken only if it does what the step itself does: see :meth:`compare`.

        Args:
            batch: Gives the batch of a step, all of the same shapes.
            done: The number of steps done.

        Raises:
            InputError: If it is to be compiled and cannot be, or compiled does something else.
        """
        self.begun = True
        # Pyro's checks of shapes and supports wait for the device; once is enough.
        with self.dry_run(), pyro.validation_enabled(), precision(self.settings, self.device):
            self.objective(batch(done), self.number(done))
        if not wanted(self.settings, self.device):
            return
        problem = ""
        try:
            take = self.faster(batch, done)
        except InputError as error:
            problem = str(error)
        # Processes that train one model take its steps in one way.
        problems = [each for each in parallel.all_gather(problem) if each]
        if not problems:
            self.take = take
            return
        require(self.settings.compile != "on", problems[0])
        self.use_rates(self.rates)
        if processes.rank() == 0:
            print(f"{problems[0]}; it goes on without", file=sys.stderr)

    def faster(self, batch: Callable[[int], Batch], done: int) -> Take:
        """The step compiled, recorded where that can be done, and compared; changes nothing else.

        Raises:
            InputError: If one of these fails.
        """
        first, step = batch(done), self.number(done)
        with self.dry_run():
            differentiate = compiled(self.gradients, self.objective, first, step)
        take: Take = partial(self.move, differentiate=differentiate)
        try:
            if replays(self.device):
                self.use_rates([torch.tensor(rate, device=self.device) for rate in self.rates])
                take = Replay(take, first, step, self.dry_run)
            found = self.compare(take, batch, done)
        # CUDA's errors are among them, that of too little memory for the comparison too.
        except RuntimeError as error:
            raise InputError(
                f"--compile: a compiled step fails ({first_line(error)}): give --compile off"
            ) from error
        require(
            not found,
            f"--compile: a compiled step differs from the step itself ({found}): "
            "give --compile off",
        )
        return take

    def compare(self, take: Take, batch: Callable[[int], Batch], done: int) -> str:
        """Takes three steps in two ways, from the same weights, and takes everything back.

        Whatever changes from step to step changes here, so that nothing recorded can stand for
        it: the batch, the number of steps done, from now to the last one, the learning rates, by
        a factor of four, weights, moments and random numbers. Each step begins where
        :meth:`move` left the one before, as rounding would grow over the steps; but random
        numbers are drawn on in each way, as they must be the same. A replay draws them from
        CUDA's generator, where that stands, and moves it on by as much as the step would have.

        Args:
            take: The other way.
            batch: Gives the batch of a step.
            done: The number of steps done.

        Returns:
            The first thing that differs by more than rounding, in words; nothing if all agree.
        """
        last = max(done, self.settings.steps - 1)
        with self.dry_run():
            # An optimiser makes its moments in its first step.
            with self.dry_run():
                self.move(batch(done), self.number(done))
            random = random_state(self.device)
            rates = [group["lr"] for group in self.groups()]
            for i, number in enumerate((done, (done + last) // 2, last)):
                step, before = self.number(number), self.state()
                with self.dry_run():
                    set_random_state(random, self.device)
                    self.use_rates(rates)
                    self.set_rates(0.25**i)
                    found = self.outcome(take, batch(done + i), step)
                    random = found.random
                self.use_rates(self.rates)
                self.set_rates(0.25**i)
                exact = None
                if self.settings.precision != "fp32":
                    with self.dry_run(), self.single_precision():
                        exact = self.outcome(self.move, batch(done + i), step)
                expected = self.outcome(self.move, batch(done + i), step)
                differs = difference(before, expected, found, exact or expected)
                if differs:
                    return f"step {i + 1} of 3: {differs}"
            self.use_rates(rates)
        return ""

    @contextmanager
    def single_precision(self) -> Iterator[None]:
        """Takes steps in single precision, whatever the settings say."""
        settings, self.settings = self.settings, replace(self.settings, precision="fp32")
        try:
            yield
        finally:
            self.settings = settings

    def outcome(self, take: Take, batch: Batch, step: Tensor) -> Outcome:
        """Takes a step; returns copies of all that it leaves."""
        losses, metrics = take(batch, step)
        copies = [{name: each.clone() for name, each in told.items()} for told in (losses, metrics)]
        return Outcome(*copies, self.state(), random_state(self.device))

    def state(self) -> State:
        """Copies of weights, buffers and what the optimisers remember, by kind and name."""
        names = {weight: name for name, weight in self.objective.named_parameters()}
        state = {(WEIGHTS, name): weight for weight, name in names.items()}
        state |= {(BUFFER, name): each for name, each in self.objective.named_buffers()}
        for optimiser in self.optimisers.values():
            for weight, moments in optimiser.state.items():
                state |= {(kind, names[weight]): each for kind, each in moments.items()}
        return {
            key: each.detach().clone() for key, each in state.items() if isinstance(each, Tensor)
        }

    def groups(self) -> list[dict[str, Any]]:
        """The groups of parameters of all optimisers."""
        return [group for each in self.optimisers.values() for group in each.param_groups]

    def use_rates(self, rates: Sequence[float | Tensor]) -> None:
        """Has the optimisers read the learning rates of their groups there."""
        for group, rate in zip(self.groups(), rates, strict=True):
            group["lr"] = rate

    def set_rates(self, factor: float) -> None:
        """Sets the learning rates to a factor times those of the settings."""
        for group, rate in zip(self.groups(), self.rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate * factor)
            else:
                group["lr"] = rate * factor

    def number(self, done: int) -> Tensor:
        """The number of steps done as a step takes it, of shape ()."""
        return torch.full((), done, device=self.device)

    @contextmanager
    def dry_run(self) -> Iterator[None]:
        """Takes everything back, at the end, to what it was: weights, moments, random numbers.

        Steps in it are this process' alone: they wait for no other.
        """
        buffers = [
            (module, name, held)
            for module in self.objective.modules()
            for name, held in module.named_buffers(recurse=False)
        ]
        changed = [*self.objective.parameters(), *(held for _, _, held in buffers), *self.moments()]
        kept = [tensor.detach().clone() for tensor in changed]
        random = random_state(self.device)
        outer, self.in_dry_run = self.in_dry_run, True
        try:
            yield
        finally:
            self.in_dry_run = outer
            with torch.no_grad():
                for moment in self.moments():
                    # What an optimiser has made meanwhile begins at zero.
                    moment.zero_()
                for tensor, before in zip(changed, kept, strict=True):
                    tensor.copy_(before)
            for module, name, held in buffers:
                setattr(module, name, held)
            set_random_state(random, self.device)
            self.objective.zero_grad()

    def moments(self) -> list[Tensor]:
        """What the optimisers remember."""
        return [
            each
            for optimiser in self.optimisers.values()
            for state in optimiser.state.values()
            for each in state.values()
            if isinstance(each, Tensor)
        ]

    def gradients(
        self, batch: Batch, step: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Gradients]:
        """Losses and metrics, detached, and each loss' gradients of its own parameters."""
        with pyro.validation_enabled(False), precision(self.settings, self.device):
            losses, metrics = self.objective(batch, step)
        # A loss moves its own parameters only, whatever else it depends on.
        found = {
            name: torch.autograd.grad(
                losses[name], weights, retain_graph=i < len(losses), allow_unused=True
            )
            for i, (name, weights) in enumerate(self.parameters.items(), start=1)
        }
        return {name: loss.detach() for name, loss in losses.items()}, metrics, found

    def move(
        self, batch: Batch, step: Tensor, differentiate: Differentiate | None = None
    ) -> Values:
        """Moves all parameters; nothing in it depends on numbers of the host.

        Args:
            batch: Tensors with one row for each datum.
            step: The number of steps done.
            differentiate: What gives losses and gradients, :meth:`gradients` if nothing else.
        """
        # Those of the step before would only take memory meanwhile.
        self.objective.zero_grad()
        losses, metrics, found = (differentiate or self.gradients)(batch, step)
        for name, weights in self.parameters.items():
            for weight, gradient in zip(weights, found[name], strict=True):
                weight.grad = gradient
            if processes.size() > 1 and not self.in_dry_run:
                parallel.all_reduce_mean(every_gradient(weights))
            if self.settings.clip_norm is not None:
                nn.utils.clip_grad_norm_(weights, self.settings.clip_norm)
        for optimiser in self.optimisers.values():
            optimiser.step()
        return losses, metrics

    def load(self, states: Mapping[str, Any]) -> None:
        """Takes back what the optimisers remember, by name; rates and flags stay as they are."""
        for name, optimiser in self.optimisers.items():
            saved = states[name]
            groups = [
                {**group, "params": before["params"]}
                for group, before in zip(optimiser.param_groups, saved["param_groups"], strict=True)
            ]
            optimiser.load_state_dict({"state": saved["state"], "param_groups": groups})


def optimiser(
    parameters: list[dict[str, Any]], settings: Settings, device: torch.device
) -> torch.optim.Optimizer:
    """The optimiser of the settings, for groups of parameters with their learning rates."""
    cuda = device.type == "cuda"
    if settings.optimiser == "rmsprop":
        # With Keras' forgetting and not PyTorch's: published rates come from there.
        return torch.optim.RMSprop(parameters, alpha=0.9, eps=1e-7, foreach=True, capturable=cuda)
    return torch.optim.Adam(parameters, fused=cuda or device.type == "cpu", capturable=cuda)


def every_gradient(parameters: list[nn.Parameter]) -> list[Tensor]:
    """The gradients of weights, zeros where there are none, as other processes may have some."""
    for weight in parameters:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
    return [weight.grad for weight in parameters]


def decay(done: int, settings: Settings) -> float:
    """The factor on the learning rates after ``done`` steps: 1, or half a cosine down to 0."""
    if settings.decay == "none":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * done / settings.steps))
