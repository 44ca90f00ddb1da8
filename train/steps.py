"""A step of training: gradients, and every optimiser's move."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from train import parallel
from train.compiled import Differentiate, Gradients, Replay, Take, Values, compiled, replays, wanted
from train.objective import Batch, Objective
from train.runtime import precision, random_state, set_random_state
from train.settings import InputError, Settings


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
        self.rates = {
            name: [group["lr"] for group in optimiser.param_groups]
            for name, optimiser in self.optimisers.items()
        }
        self.differentiate: Differentiate = self.gradients
        self.take: Take = self.move
        self.begun = False

    def __call__(self, batch: Batch, done: int) -> Values:
        """Takes the step after ``done`` others; returns losses and metrics, detached.

        They are read before the next step, which may write over them.
        """
        if not self.begun:
            self.begin(batch, done)
        factor = decay(done, self.settings)
        for name, optimiser in self.optimisers.items():
            for group, rate in zip(optimiser.param_groups, self.rates[name], strict=True):
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate * factor)
                else:
                    group["lr"] = rate * factor
        return self.take(batch, torch.full((), done, device=self.device))

    def begin(self, batch: Batch, done: int) -> None:
        """Checks the step, and compiles it where the settings ask for it; changes nothing else.

        Args:
            batch: A batch, whose shapes all others have.
            done: The number of steps done.

        Raises:
            InputError: If it is to be compiled and cannot be.
        """
        self.begun = True
        step = torch.full((), done, device=self.device)
        # Pyro's checks of shapes and supports wait for the device; once is enough.
        with self.rehearsal(), pyro.validation_enabled(), precision(self.settings, self.device):
            self.objective(batch, step)
        if not wanted(self.settings, self.device):
            return
        try:
            with self.rehearsal():
                self.differentiate = compiled(self.gradients, self.objective, batch, step)
            if replays(self.device):
                for optimiser in self.optimisers.values():
                    for group in optimiser.param_groups:
                        group["lr"] = torch.tensor(group["lr"], device=self.device)
                self.take = Replay(self.move, batch, step, self.rehearsal)
        except InputError as error:
            if self.settings.compile == "on":
                raise
            print(f"{error}; it goes on without", file=sys.stderr)

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Takes everything back, at the end, to what it was: weights, moments, random numbers."""
        buffers = [
            (module, name, held)
            for module in self.objective.modules()
            for name, held in module.named_buffers(recurse=False)
        ]
        changed = [*self.objective.parameters(), *(held for _, _, held in buffers), *self.moments()]
        kept = [tensor.detach().clone() for tensor in changed]
        random = random_state(self.device)
        try:
            yield
        finally:
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

    def move(self, batch: Batch, step: Tensor) -> Values:
        """Moves all parameters; nothing in it depends on numbers of the host."""
        # Those of the step before would only take memory meanwhile.
        self.objective.zero_grad()
        losses, metrics, found = self.differentiate(batch, step)
        for name, weights in self.parameters.items():
            for weight, gradient in zip(weights, found[name], strict=True):
                weight.grad = gradient
            if parallel.size() > 1:
                parallel.average(every_gradient(weights))
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
