"""One training step: the gradient of every loss, and the update of every optimiser."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import pyro
import torch
from torch import Tensor, nn

from train import processes
from train.engine import automatic, parallel
from train.engine.agreement import BUFFER, WEIGHTS, Outcome, Snapshot, difference
from train.engine.compiled import (
    GradientFunction,
    Gradients,
    Replay,
    StepFunction,
    Values,
    can_replay,
    should_compile,
)
from train.engine.runtime import precision, random_state, set_random_state
from train.engine.takeover import Takeover
from train.errors import InputError, first_line, require
from train.objective import Batch, Objective
from train.settings import Settings

Optimiser = TypeVar("Optimiser", bound=torch.optim.Optimizer)


class Stepper:
    """Takes training steps: one update by every optimiser of an objective.

    Each loss has an optimiser, which updates the parameters of that loss only.

    Args:
        objective: The networks and their losses, on ``device``.
        settings: The optimiser, the learning rate and its decay, the precision, the largest
            gradient norm, and whether to compile.
        device: The device to train on.

    Attributes:
        optimisers: The optimiser of each loss, by the name of the loss.
        parameters: The parameters of each loss, by the name of the loss.
        step_function: What takes a step: :meth:`eager_step`, or a compiled one.
        compiled_from: The number of steps that were done before the first compiled one; ``None`` if
            steps are not compiled.
        takeover: What compiles the step; ``None`` if nothing does.
    """

    def __init__(self, objective: Objective, settings: Settings, device: torch.device) -> None:
        self.objective = objective
        self.settings = settings
        self.device = device
        groups = objective.parameter_groups(settings.learning_rate)
        self.optimisers = {
            name: build_optimiser(parameters, settings, device)
            for name, parameters in groups.items()
        }
        self.parameters = {
            name: [weight for group in parameters for weight in group["params"]]
            for name, parameters in groups.items()
        }
        self.learning_rates = [group["lr"] for group in self.param_groups()]
        self.step_function: StepFunction = self.eager_step
        self.compiled_from: int | None = None
        self.takeover: Takeover | None = None
        self.prepared = False
        self.in_dry_run = False

    def __call__(self, batch: Batch, done: int) -> Values:
        """Takes one step.

        Args:
            batch: Tensors with one row for each example.
            done: The number of steps done before.

        Returns:
            Losses and metrics by name, detached. The next step may overwrite them in place.
        """
        if not self.prepared:
            self.prepare(lambda _: batch, done)
        factor = self.objective.learning_rate_factor(done)
        self.scale_learning_rates(decay(done, self.settings) * factor)
        return self.step_function(batch, self.step_tensor(done))

    def prepare(self, batch: Callable[[int], Batch], done: int) -> None:
        """Checks the step, and compiles it if the settings ask for that; trains nothing.

        A compiled step is used only if it does what the eager one does: see :meth:`compare`.

        Args:
            batch: Returns the batch of a step; all have the same shapes.
            done: The number of steps done.

        Raises:
            InputError: If ``settings.compile`` is ``"on"`` and the step cannot be compiled, or
                differs when compiled; see :class:`~train.engine.takeover.Takeover`.
        """
        self.prepared = True
        wanted = should_compile(self.settings, self.device)
        if wanted or automatic.applies(self.settings, self.device, done, self.compiled_from):
            self.takeover = Takeover(self, batch, done, automatic=not wanted)
        with self.dry_run():
            self.check(batch(done), self.step_tensor(done))
        if self.takeover is not None:
            self.takeover.begin(done)
        else:
            self.compiled_from = None

    def check(self, batch: Batch, step: Tensor) -> None:
        """Evaluates losses with Pyro's checks of shapes and supports, which wait for the device.

        Args:
            batch: Tensors with one row for each example.
            step: The number of steps done, of shape ().
        """
        with pyro.validation_enabled(), precision(self.settings, self.device):
            self.objective(batch, step)

    def verified(
        self, compute_gradients: GradientFunction, batch: Callable[[int], Batch], done: int
    ) -> StepFunction:
        """Makes a step of compiled gradients, captured as a CUDA graph where possible.

        Args:
            compute_gradients: A compiled form of :meth:`gradients`.
            batch: See :meth:`prepare`.
            done: See :meth:`prepare`.

        Raises:
            InputError: If the step cannot be captured, fails, or differs from the eager one.
        """
        candidate: StepFunction = partial(self.eager_step, compute_gradients=compute_gradients)
        try:
            if can_replay(self.device):
                # A graph reads learning rates from tensors; numbers would be constants in it.
                self.assign_learning_rates(
                    [torch.tensor(rate, device=self.device) for rate in self.learning_rates]
                )
                candidate = Replay(candidate, batch(done), self.step_tensor(done), self.dry_run)
            problem = self.compare(candidate, batch, done)
        # CUDA's errors are RuntimeErrors, including a lack of memory for the comparison.
        except RuntimeError as error:
            raise InputError(
                f"--compile: a compiled step fails ({first_line(error)}): give --compile off"
            ) from error
        require(
            not problem,
            f"--compile: a compiled step differs from the step itself ({problem}): "
            "give --compile off",
        )
        return candidate

    def compare(self, candidate: StepFunction, batch: Callable[[int], Batch], done: int) -> str:
        """Takes three steps both with a candidate and eagerly, and compares them; trains nothing.

        Everything that changes from step to step changes here too, so that nothing can be a
        constant in the candidate: the batch, the number of steps done (from now to the last), the
        learning rates (by a factor of four), weights, moments and random numbers. Both begin each
        step at the weights that :meth:`eager_step` left, because rounding errors would grow over
        the steps. Random numbers, though, must be identical, so each continues its own stream: a
        replayed graph draws from CUDA's generator at its current state and has to advance it as
        far as the eager step does.

        Args:
            candidate: The step to compare with :meth:`eager_step`.
            batch: Returns the batch of a step.
            done: The number of steps done.

        Returns:
            The first difference beyond rounding, in words; an empty string if there is none.
        """
        last = max(done, self.settings.steps - 1)
        with self.dry_run():
            # The optimisers create their moments in the first step.
            with self.dry_run():
                self.eager_step(batch(done), self.step_tensor(done))
            random = random_state(self.device)
            candidate_rates = [group["lr"] for group in self.param_groups()]
            for i, number in enumerate((done, (done + last) // 2, last)):
                step, before = self.step_tensor(number), self.snapshot()
                with self.dry_run():
                    set_random_state(random, self.device)
                    self.assign_learning_rates(candidate_rates)
                    self.scale_learning_rates(0.25**i)
                    actual = self.outcome_of(candidate, batch(done + i), step)
                    random = actual.random
                self.assign_learning_rates(self.learning_rates)
                self.scale_learning_rates(0.25**i)
                exact = None
                if self.settings.precision != "fp32":
                    with self.dry_run(), self.single_precision():
                        exact = self.outcome_of(self.eager_step, batch(done + i), step)
                expected = self.outcome_of(self.eager_step, batch(done + i), step)
                problem = difference(before, expected, actual, exact or expected)
                if problem:
                    return f"step {i + 1} of 3: {problem}"
            self.assign_learning_rates(candidate_rates)
        return ""

    @contextmanager
    def single_precision(self) -> Iterator[None]:
        """Computes in single precision inside the block, whatever the settings say."""
        settings, self.settings = self.settings, replace(self.settings, precision="fp32")
        try:
            yield
        finally:
            self.settings = settings

    def outcome_of(self, step_function: StepFunction, batch: Batch, step: Tensor) -> Outcome:
        """Takes a step; returns copies of the values that it gives and of the state it leaves."""
        losses, metrics = step_function(batch, step)
        return Outcome(
            {name: value.clone() for name, value in losses.items()},
            {name: value.clone() for name, value in metrics.items()},
            self.snapshot(),
            random_state(self.device),
        )

    def snapshot(self) -> Snapshot:
        """Copies weights, buffers and the tensors of the optimisers, by kind and name."""
        names: dict[Tensor, str] = {
            weight: name for name, weight in self.objective.named_parameters()
        }
        tensors: dict[tuple[str, str], Any] = {
            (WEIGHTS, name): weight for weight, name in names.items()
        }
        tensors |= {(BUFFER, name): buffer for name, buffer in self.objective.named_buffers()}
        for optimiser in self.optimisers.values():
            for weight, moments in optimiser.state.items():
                tensors |= {(kind, names[weight]): moment for kind, moment in moments.items()}
        return {
            key: tensor.detach().clone()
            for key, tensor in tensors.items()
            if isinstance(tensor, Tensor)
        }

    def param_groups(self) -> list[dict[str, Any]]:
        """Returns the parameter groups of all optimisers."""
        optimisers = self.optimisers.values()
        return [group for optimiser in optimisers for group in optimiser.param_groups]

    def assign_learning_rates(self, rates: Sequence[float | Tensor]) -> None:
        """Makes these objects the learning rates of the parameter groups, in order."""
        for group, rate in zip(self.param_groups(), rates, strict=True):
            group["lr"] = rate

    def scale_learning_rates(self, factor: float) -> None:
        """Sets every learning rate to ``factor`` times its initial value; tensors in place."""
        for group, rate in zip(self.param_groups(), self.learning_rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate * factor)
            else:
                group["lr"] = rate * factor

    def step_tensor(self, done: int) -> Tensor:
        """Returns the number of steps done as a tensor of shape () on the device."""
        return torch.full((), done, device=self.device)

    @contextmanager
    def dry_run(self) -> Iterator[None]:
        """Restores weights, buffers, moments and random states at the end of the block.

        Steps inside it do not communicate with other ranks.
        """
        buffers = [
            (module, name, buffer)
            for module in self.objective.modules()
            for name, buffer in module.named_buffers(recurse=False)
        ]
        tensors = [
            *self.objective.parameters(),
            *(buffer for _, _, buffer in buffers),
            *self.moments(),
        ]
        copies = [tensor.detach().clone() for tensor in tensors]
        random = random_state(self.device)
        outer, self.in_dry_run = self.in_dry_run, True
        try:
            yield
        finally:
            self.in_dry_run = outer
            with torch.no_grad():
                for moment in self.moments():
                    # Those that the optimisers created inside the block start at zero.
                    moment.zero_()
                for tensor, copy in zip(tensors, copies, strict=True):
                    tensor.copy_(copy)
            for module, name, buffer in buffers:
                setattr(module, name, buffer)
            set_random_state(random, self.device)
            self.objective.zero_grad()

    def moments(self) -> list[Tensor]:
        """Returns the tensors in the state of the optimisers: moments and step counts."""
        return [
            value
            for optimiser in self.optimisers.values()
            for state in optimiser.state.values()
            for value in state.values()
            if isinstance(value, Tensor)
        ]

    def gradients(
        self, batch: Batch, step: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Gradients]:
        """Computes losses, metrics, and the gradient of each loss for its own parameters.

        Args:
            batch: Tensors with one row for each example.
            step: The number of steps done, of shape ().

        Returns:
            Losses and metrics by name, detached, of shape (); and for each loss the gradients of
            ``parameters[name]``.
        """
        with pyro.validation_enabled(False), precision(self.settings, self.device):
            losses, metrics = self.objective(batch, step)
        # A loss may depend on parameters of others, which it must not update.
        gradients: Gradients = {
            name: torch.autograd.grad(
                losses[name], weights, retain_graph=i < len(losses), allow_unused=True
            )
            for i, (name, weights) in enumerate(self.parameters.items(), start=1)
        }
        return {name: loss.detach() for name, loss in losses.items()}, metrics, gradients

    def eager_step(
        self, batch: Batch, step: Tensor, compute_gradients: GradientFunction | None = None
    ) -> Values:
        """Computes gradients and updates all parameters; never waits for the device.

        Args:
            batch: Tensors with one row for each example.
            step: The number of steps done, of shape ().
            compute_gradients: A compiled form of :meth:`gradients`, to be used in its place.
        """
        # Frees the gradients of the previous step before new ones need memory.
        for weights in self.parameters.values():
            for weight in weights:
                weight.grad = None
        losses, metrics, gradients = (compute_gradients or self.gradients)(batch, step)
        for name, weights in self.parameters.items():
            for weight, gradient in zip(weights, gradients[name], strict=True):
                weight.grad = laid_out_like(weight, gradient)
            if processes.size() > 1 and not self.in_dry_run:
                parallel.all_reduce_mean(all_gradients(weights))
            if self.settings.clip_norm is not None:
                nn.utils.clip_grad_norm_(weights, self.settings.clip_norm)
        for optimiser in self.optimisers.values():
            optimiser.step()
        return losses, metrics

    def state_dict(self) -> dict[str, Any]:
        """Returns the ``state_dict`` of every optimiser, by the name of its loss."""
        return {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()}

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Restores the moments of every optimiser, but not its learning rates and options.

        Options such as ``capturable`` depend on the device, which may differ from that of the
        checkpoint.
        """
        for name, optimiser in self.optimisers.items():
            saved = states[name]
            groups = [
                {**group, "params": before["params"]}
                for group, before in zip(optimiser.param_groups, saved["param_groups"], strict=True)
            ]
            optimiser.load_state_dict({"state": saved["state"], "param_groups": groups})


def build_optimiser(
    parameters: list[dict[str, Any]], settings: Settings, device: torch.device
) -> torch.optim.Optimizer:
    """Builds the optimiser of the settings.

    Args:
        parameters: Parameter groups, each with its learning rate.
        settings: ``optimiser``: ``"adam"`` or ``"rmsprop"``.
        device: The device of the parameters.
    """
    cuda = device.type == "cuda"
    if settings.optimiser == "rmsprop":
        # Keras' defaults for alpha and eps, not PyTorch's: the published learning rates assume
        # them.
        rmsprop = untraced(torch.optim.RMSprop)
        return rmsprop(parameters, alpha=0.9, eps=1e-7, foreach=True, capturable=cuda)
    adam = untraced(torch.optim.Adam)
    return adam(parameters, fused=cuda or device.type == "cpu", capturable=cuda)


def untraced(optimiser: type[Optimiser]) -> type[Optimiser]:
    """Returns an optimiser's class without what hides its methods from PyTorch's compiler.

    That imports the compiler, which takes longer than importing PyTorch, and nothing here compiles
    an optimiser.
    """
    names = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    methods = {name: inspect.unwrap(getattr(optimiser, name)) for name in names}
    step = torch.no_grad()(inspect.unwrap(optimiser.step))
    return type(optimiser.__name__, (optimiser,), {**methods, "step": step})


def laid_out_like(weight: Tensor, gradient: Tensor | None) -> Tensor | None:
    """Returns a gradient whose elements are in memory in the order of its weight's.

    ``backward`` sees to it, ``autograd.grad`` does not: a convolution of images in the layout
    channels-last has such a gradient. Fused optimisers read both in the order of memory, and would
    move every weight by the gradient of another one.

    Args:
        weight: The weight.
        gradient: Its gradient, in any layout; ``None`` if there is none.
    """
    if gradient is None or gradient.stride() == weight.stride():
        return gradient
    return torch.empty_like(weight).copy_(gradient)


def all_gradients(parameters: list[nn.Parameter]) -> list[Tensor]:
    """Returns the gradients of parameters, after setting those that are ``None`` to zeros.

    Ranks average them in one tensor, so all ranks need gradients for the same parameters.
    """
    gradients = []
    for weight in parameters:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        gradients.append(weight.grad)
    return gradients


def decay(done: int, settings: Settings) -> float:
    r"""Computes the factor on the learning rates after ``done`` of :math:`T` steps.

    It is 1 if ``settings.decay`` is ``"none"``, else :math:`\frac12 (1 + \cos(\pi\, done / T))`,
    from 1 to 0.
    """
    if settings.decay == "none":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * done / settings.steps))
