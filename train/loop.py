"""The training loop: the only one, for every method."""

from __future__ import annotations

import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor, nn
from tqdm import tqdm

from train import parallel
from train.objective import Batch, Objective
from train.runs import Run
from train.runtime import precision, random_state, set_random_state
from train.settings import LARGEST, InputError, Interrupted, Settings, require


class Fitted(NamedTuple):
    """What a finished run took.

    Attributes:
        steps: Optimiser steps, those before a resume included.
        train_seconds: Seconds spent in them; evaluations and checkpoints do not count.
        examples_per_second: Training examples a second of these.
        device: Where they were done.
    """

    steps: int
    train_seconds: float
    examples_per_second: float
    device: str


class Best:
    """Keeps the weights that did best, and says when no better ones are to be expected.

    Args:
        metric: What is to be small, of what evaluations return.
        patience: How many evaluations in a row may be no better; ``None`` for any number.

    Attributes:
        value: The lowest value seen.
        step: When.
    """

    def __init__(self, metric: str, patience: int | None = None) -> None:
        self.metric = metric
        self.patience = patience
        self.value = math.inf
        self.step = 0
        self.waited = 0
        self.weights: dict[str, Tensor] = {}

    def see(self, step: int, seen: Mapping[str, float], objective: Objective) -> None:
        """Takes in an evaluation."""
        self.waited += 1
        if seen[self.metric] < self.value:
            self.value, self.step, self.waited = seen[self.metric], step, 0
            self.weights = {name: each.clone() for name, each in objective.state_dict().items()}

    @property
    def over(self) -> bool:
        """Whether to stop."""
        return self.patience is not None and self.waited > self.patience

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to go on choosing."""
        return {name: getattr(self, name) for name in ("value", "step", "waited", "weights")}

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes back a :meth:`state`."""
        for name, value in state.items():
            setattr(self, name, value)


def fit(
    objective: Objective,
    batch: Callable[[int], Batch],
    run: Run,
    settings: Settings,
    device: torch.device,
    monitor: Callable[[int], Mapping[str, float]] | None = None,
    evaluate: Callable[[int], Mapping[str, float]] | None = None,
    best: Best | None = None,
) -> Fitted:
    """Minimises an objective's losses, each with its own optimiser; leaves it in evaluation mode.

    Nothing in a step waits for the device: losses and metrics are added up there, and read every
    ``settings.log_every`` steps. Processes that torchrun started each take their share of every
    batch and average their gradients; the first one evaluates and writes, and the others end here.

    Args:
        objective: What is trained, on ``device``.
        batch: Gives the training batch of a step, the same each time it is asked.
        run: The run folder. A run to be resumed goes on from its last checkpoint.
        settings: The numbers of steps, rates and intervals.
        device: Where to train.
        monitor: Called every ``log_every`` steps; what it returns is logged with the metrics and
            shown on the progress bar.
        evaluate: Called every ``eval_every`` steps and after the last; what it returns is logged.
        best: Chooses among the evaluations: its weights are what is left in the objective and in
            ``model.safetensors``, and training ends when it says so.

    Raises:
        InputError: If a loss is not a finite number.
        Interrupted: If Ctrl-C was pressed.
    """
    if settings.compile:
        compile_networks(objective, device)
    parallel.start(device)
    stepper = Stepper(objective, settings, device)
    meter = Meter()
    clock = Stopwatch()
    saved: dict[str, Any] = {"step": 0}
    if settings.resume:
        saved = run.load_checkpoint(objective, stepper.optimisers, device)
    parallel.same(objective)
    if first := saved["step"]:
        clock.seconds = saved["train_seconds"]
        if best is not None:
            best.load(saved["best"])
    own = saved.get("ranks", [])[parallel.rank() :]
    if own:
        meter.load(own[0]["meter"])
        objective.load_state_dict(own[0]["buffers"], strict=False)
        set_random_state(own[0]["random"], device)
    elif parallel.rank():
        # Weights were drawn alike everywhere; what follows is not to be.
        pyro.set_rng_seed((settings.seed + 1_000_003 * parallel.rank() + first) % LARGEST)

    def save(step: int) -> None:
        meter.check(run)
        own = {
            "meter": meter.state(),
            "random": random_state(device),
            "buffers": buffers(objective),
        }
        extra = {
            "train_seconds": clock.seconds,
            "best": best.state() if best is not None else {},
            "ranks": parallel.gathered(own),
        }
        run.save_checkpoint(step, objective, stepper.optimisers, extra)

    bar = tqdm(
        total=settings.steps,
        initial=first,
        desc=run.method,
        unit="step",
        disable=not (run.writes and sys.stderr.isatty()),
    )
    step = first
    with bar, interrupts() as interrupted:
        while step < settings.steps and not (best is not None and best.over):
            step += 1
            with clock:
                share = tuple(parallel.mine(part) for part in batch(step - 1))
                meter.add(step, *stepper(share, step - 1))
            bar.update()
            last = step == settings.steps
            reads = last or step % settings.log_every == 0
            if reads:
                with clock:
                    metrics = meter.read(run)
                watched = _aside(monitor, step, objective, settings)
                run.log(step, metrics | watched | {"train_seconds": clock.seconds})
                shown = {name: metrics[f"{name}_loss"] for name in stepper.optimisers} | watched
                bar.set_postfix({name: f"{value:.4g}" for name, value in shown.items()})
            if evaluate is not None and (last or step % settings.eval_every == 0):
                seen = parallel.told(_aside(evaluate, step, objective, settings))
                run.log(step, seen)
                if best is not None:
                    best.see(step, seen, objective)
                    last = last or best.over
            # Processes must stop at the same step, so they ask each other, but not at each one.
            stop = parallel.told(interrupted()) if reads or parallel.size() == 1 else False
            if last or stop or step % settings.checkpoint_every == 0:
                save(step)
            if stop and not last:
                raise Interrupted(
                    f"stopped at step {step:,}; go on with the same command and "
                    f"--resume --run-dir {run.directory}"
                )
    parallel.stop()
    if not run.writes:
        raise SystemExit
    if best is not None:
        objective.load_state_dict(best.weights)
        run.save_weights(best.step, objective)
    objective.eval()
    rate = settings.batch_size * step / max(clock.seconds, 1e-9)
    return Fitted(step, clock.seconds, rate, str(device))


class Stepper:
    """One step of every optimiser of an objective.

    Args:
        objective: What is trained.
        settings: The learning rate and its decay, the precision and the gradient's largest norm.
        device: Where to train.

    Attributes:
        optimisers: One for each loss, by its name.
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
        self.checked = False

    def __call__(self, batch: Batch, done: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Takes the step after ``done`` others; returns losses and metrics, detached."""
        step = torch.full((), done, device=self.device)
        # Pyro's checks of shapes and supports wait for the device; once is enough.
        with pyro.validation_enabled(not self.checked), precision(self.settings, self.device):
            losses, metrics = self.objective(batch, step)
        self.checked = True
        factor = decay(done, self.settings)
        for i, (name, optimiser) in enumerate(self.optimisers.items(), start=1):
            # A loss moves its own parameters only, whatever else it depends on.
            optimiser.zero_grad()
            losses[name].backward(
                inputs=self.parameters[name], retain_graph=i < len(self.optimisers)
            )
            parallel.average(gradients(self.parameters[name]))
            if self.settings.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.parameters[name], self.settings.clip_norm)
            for group, rate in zip(optimiser.param_groups, self.rates[name], strict=True):
                group["lr"] = rate * factor
        for optimiser in self.optimisers.values():
            optimiser.step()
        return {name: loss.detach() for name, loss in losses.items()}, metrics


def optimiser(
    parameters: list[dict[str, Any]], settings: Settings, device: torch.device
) -> torch.optim.Optimizer:
    """The optimiser of the settings, for groups of parameters with their learning rates."""
    if settings.optimiser == "rmsprop":
        # With Keras' forgetting and not PyTorch's: published rates come from there.
        return torch.optim.RMSprop(parameters, alpha=0.9, eps=1e-7, foreach=True)
    return torch.optim.Adam(parameters, fused=device.type in ("cpu", "cuda"))


def gradients(parameters: list[nn.Parameter]) -> list[Tensor]:
    """The gradients of weights, zeros where processes that train together may find none."""
    if parallel.size() > 1:
        for weight in parameters:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
    return [weight.grad for weight in parameters if weight.grad is not None]


def decay(done: int, settings: Settings) -> float:
    """The factor on the learning rates after ``done`` steps: 1, or half a cosine down to 0."""
    if settings.decay == "none":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * done / settings.steps))


class Meter:
    """Means of losses and metrics, added up on the device; remembers the first that broke."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sums: Tensor | None = None
        self.steps = 0
        self.broken_step: Tensor | None = None
        self.broken_values: Tensor | None = None

    def add(self, step: int, losses: Mapping[str, Tensor], metrics: Mapping[str, Tensor]) -> None:
        """Takes in a step's losses and metrics."""
        named = {f"{name}_loss": loss for name, loss in losses.items()} | dict(metrics)
        values = torch.stack([value.float() for value in named.values()])
        if self.sums is None:
            self.load({"names": list(named), "sums": torch.zeros_like(values), "steps": 0})
        self.sums += values
        self.steps += 1
        first = (self.broken_step == 0) & ~values.isfinite().all()
        self.broken_step = torch.where(first, step, self.broken_step)
        self.broken_values = torch.where(first, values, self.broken_values)

    def read(self, run: Run) -> dict[str, float]:
        """The means since the last reading, as numbers; waits for the device."""
        self.check(run)
        parallel.average([self.sums])
        means = (self.sums / self.steps).tolist()
        self.sums.zero_()
        self.steps = 0
        return dict(zip(self.names, means, strict=True))

    def check(self, run: Run) -> None:
        """Raises :class:`InputError` if anything was not a finite number; waits for the device."""
        step = int(self.broken_step)
        if step:
            finite = self.broken_values.isfinite().tolist()
            broken = [name for name, ok in zip(self.names, finite, strict=True) if not ok]
            raise InputError(
                f"not a finite number at step {step:,}: {', '.join(broken)}; try a lower "
                f"--learning-rate, or --clip-norm 100 ({run.checkpoints})"
            )

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to log the same means."""
        return {"names": self.names, "sums": self.sums, "steps": self.steps}

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes back a :meth:`state`."""
        self.names, self.sums, self.steps = state["names"], state["sums"], state["steps"]
        self.broken_step = torch.zeros((), dtype=torch.long, device=self.sums.device)
        self.broken_values = torch.zeros_like(self.sums)


def buffers(module: nn.Module) -> dict[str, Tensor]:
    """What a module keeps beside its weights, which each process may have its own of."""
    weights = {name for name, _ in module.named_parameters()}
    return {name: each.cpu() for name, each in module.state_dict().items() if name not in weights}


class Stopwatch(AbstractContextManager["Stopwatch"]):
    """Adds up the seconds spent inside its ``with`` blocks."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.start = 0.0

    def __enter__(self) -> Stopwatch:
        self.start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self.start


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C into a flag that the loop reads; a second one stops at once."""
    pressed = False

    def press(*_: object) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


def compile_networks(objective: nn.Module, device: torch.device) -> None:
    """Compiles the networks of an objective in place.

    Raises:
        InputError: If there is no compiler for the CPU.
    """
    compilers = [os.environ.get("CXX", ""), "g++", "clang++", "cl"]
    require(
        device.type != "cpu" or any(shutil.which(name) for name in compilers if name),
        "--compile needs a C++ compiler on the CPU: install one (g++, say), or leave --compile out",
    )
    for module in objective.modules():
        if isinstance(module, nn.Sequential):
            module.compile()


def _aside(
    watch: Callable[[int], Mapping[str, float]] | None,
    step: int,
    objective: Objective,
    settings: Settings,
) -> dict[str, float]:
    """Looks at the objective in evaluation mode, with random numbers that training never sees."""
    if watch is None or parallel.rank():
        return {}
    objective.eval()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(settings.seed + step)
        seen = dict(watch(step))
    objective.train()
    return seen
