"""Measures what Pyro, the optimiser and the loop add to the arithmetic of a training step.

    python benchmarks/overhead.py

The "whole" step is that of training, from the data to the optimiser; "compiled" is the same with
--compile on. The "bare" step is the forward and backward pass of the same networks and losses in
plain PyTorch, on a fixed batch; the "updated" one has the same optimiser too. Both must have equal
losses before they are timed. Settings are the defaults. Steps take turns, and seconds are those of
the processor, so that other programs on the machine change little; what is added is the median of a
round's ratios, with an interval that covers it in 95%.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
import tyro
from cases import CPU, DEFAULTS, case
from torch import Tensor
from torch.nn import functional as F

from guides.air import ResidualGuide
from guides.icvae import GaussianGuide
from pyro_models.air import AIR
from pyro_models.icvae import ICVAE
from pyro_models.networks import crop, paste
from train.engine.loop import TrainState
from train.engine.runtime import tune_cpu
from train.errors import InputError
from train.losses.information import class_information
from train.objective import Batch
from train.studies.timing import median_interval, ratios, turns
from train.tables import markdown

Step = Callable[[int], Any]


@dataclass(frozen=True)
class Benchmark:
    """Time whole and bare steps in turn."""

    methods: tuple[str, ...] = tuple(DEFAULTS)
    """Methods to time."""
    rounds: int = 60
    """Number of timed rounds."""
    each: int = 2
    """Steps of each alternative in a round."""
    threads: int = 1
    """Number of threads."""
    compiled: bool = True
    """Time compiled steps too, which take about a minute each to compile."""


def bare_air(objective: Any, annealed: dict[str, Tensor]) -> Callable[[Batch], Tensor]:
    """Returns the loss of AIR's default model and guide, counts summed out, without Pyro."""
    model: AIR = objective.model
    guide: ResidualGuide = objective.guide
    image, recurrence, step, encoder, decoder = (
        *(guide.image, guide.recurrence, guide.step, guide.encoder),
        model.decoder,
    )
    sizes = [1, 3, 3, len(guide.anchors), recurrence.out_features]

    def loss(batch: Batch) -> Tensor:
        (x,) = batch
        projected = image(x.flatten(-3))
        hidden = torch.zeros_like(projected)
        latents = x.new_zeros(len(x), 3 + model.what_dim)
        canvas = torch.zeros_like(x)
        canvases, logits, kls = [canvas], [], [x.new_zeros(len(x))]
        for i in range(model.max_objects):
            residual, features = x, projected
            if i:
                residual = x - canvas
                features = projected - F.linear(canvas.flatten(-3), image.weight)
            features = features + recurrence(torch.cat([hidden, latents], -1))
            logit, places, spreads, choice, hidden = step(features.relu()).split(sizes, -1)
            hidden = hidden.tanh()
            near = (choice - guide.distance_penalty[choice.argmax(-1)]).softmax(-1) @ guide.anchors
            loc, scale = model.where_scale * places + near, spreads.sigmoid()
            kl = _kl(loc / model.where_scale, scale)
            where = model.where_loc + loc + model.where_scale * scale * torch.randn_like(loc)
            window = crop(residual, where, model.window_size).flatten(-3)
            loc, log_scale = encoder(window).chunk(2, -1)
            scale = log_scale.clamp(max=1.0).exp()
            what = loc + scale * torch.randn_like(loc)
            latents = torch.cat([where, what], -1)
            side = model.window_size
            glimpse = (decoder(what) + model.decoder_bias).sigmoid().unflatten(-1, (1, side, side))
            canvas = canvas + paste(glimpse, where, model.shape.sides)
            canvases.append(canvas)
            logits.append(logit.squeeze(-1))
            kls.append(kls[-1] + kl + _kl(loc, scale))
        z = torch.stack(logits)
        continued = torch.cat([torch.zeros_like(z[:1]), F.logsigmoid(z).cumsum(0)])
        log_q = continued + torch.cat([F.logsigmoid(-z), torch.zeros_like(z[:1])])
        steps = model.step_logits(annealed["presence_prior"])
        zero = steps.new_zeros(1)
        log_p = torch.cat([zero, F.logsigmoid(steps).cumsum(0)])
        log_p = log_p + torch.cat([F.logsigmoid(-steps), zero])
        log_x = _log_prob(x, torch.stack(canvases), model.likelihood_scale)
        cost = annealed["beta"] * (torch.stack(kls) + log_q - log_p.unsqueeze(-1))
        return (log_q.exp() * (cost - log_x)).sum() / len(x)

    return loss


def bare_icvae(objective: Any, annealed: dict[str, Tensor]) -> Callable[[Batch], Tensor]:
    """Returns the loss of ICVAE's default model and guide, with direct penalty, without Pyro."""
    model: ICVAE = objective.model
    guide: GaussianGuide = objective.guide
    features, heads, decoder, memory = guide.features, guide.heads, model.decoder, guide.memory

    def loss(batch: Batch) -> Tensor:
        x, c = batch
        mu, log_variance = heads(features(x)).chunk(2, -1)
        log_variance = guide.LIMIT * (log_variance / guide.LIMIT).tanh()
        scale = (0.5 * log_variance).exp()
        z = mu + scale * torch.randn_like(mu)
        term = class_information(z, mu, log_variance, c, memory())
        memory.put(mu, log_variance, c)
        out = decoder(torch.cat([z, c], -1))
        log_x = _log_prob(x, out.view_as(x), model.likelihood_scale)
        cost = annealed["beta"] * _kl(mu, scale) + annealed["invariance"] * term
        return (cost - log_x).mean()

    return loss


def _kl(loc: Tensor, scale: Tensor) -> Tensor:
    """Returns the KL divergence of diagonal Gaussians from the standard normal, of shape (*)."""
    return 0.5 * (loc.square() + scale.square() - 1 - 2 * scale.log()).sum(-1)


def _log_prob(x: Tensor, loc: Tensor, scale: float) -> Tensor:
    """Returns the log-density of images under independent Normals around ``loc``."""
    squares = F.mse_loss(loc, x.expand_as(loc), reduction="none").sum((-3, -2, -1))
    constant = 0.5 * x[0].numel() * math.log(2 * math.pi * scale**2)
    return -squares / (2 * scale**2) - constant


BARE = {"air": bare_air, "icvae": bare_icvae}


def steps(name: str, compiles: bool) -> dict[str, Step]:
    """Returns the bare and the whole step of a method and the stages between, by name.

    Args:
        name: The method.
        compiles: Whether to add a compiled step, if it can be compiled.
    """
    settings = DEFAULTS[name]()
    objective, data = case(settings)
    batch = data(0)
    start = torch.zeros(())
    loss = None
    if name in BARE:
        loss = BARE[name](
            objective, {key: value(start) for key, value in objective.annealed.items()}
        )
        torch.manual_seed(0)
        expected = objective(batch, start)[0]["elbo"]
        torch.manual_seed(0)
        torch.testing.assert_close(loss(batch), expected)
    training = TrainState(objective, settings, CPU, None)
    training.prepare(data)
    parameters = training.stepper.parameters

    def arithmetic(losses: Callable[[], dict[str, Tensor]]) -> Step:
        def step(_: int) -> None:
            values = losses()
            for i, (key, value) in enumerate(values.items(), start=1):
                for weight in parameters[key]:
                    weight.grad = None
                value.backward(inputs=parameters[key], retain_graph=i < len(values))

        return step

    def update(_: int) -> None:
        for optimiser in training.stepper.optimisers.values():
            optimiser.step()

    def objective_alone() -> dict[str, Tensor]:
        with pyro.validation_enabled(False):
            return objective(batch, start)[0]

    bare = arithmetic(lambda: {"elbo": loss(batch)} if loss else objective_alone())

    def updated(i: int) -> None:
        bare(i)
        update(i)

    stages = {
        "bare": bare,
        "updated": updated,
        "with Pyro": arithmetic(objective_alone),
        "optimiser": update,
        "whole": lambda _: training.train_step(data),
    }
    if compiles:
        compiled = TrainState(objective, replace(settings, compile="on"), CPU, None)
        try:
            compiled.prepare(data)
        except InputError as error:
            print(f"{name}: {error}", file=sys.stderr)
        else:
            stages["compiled"] = lambda _: compiled.train_step(data)
    return stages


def main(benchmark: Benchmark) -> None:
    """Times each method and prints a Markdown table."""
    tune_cpu()
    torch.set_num_threads(benchmark.threads)
    columns = [
        "bare",
        "updated",
        "with Pyro",
        "optimiser",
        "whole",
        *["compiled"] * benchmark.compiled,
    ]
    rows = []
    for name in benchmark.methods:
        torch.manual_seed(0)
        stages = steps(name, benchmark.compiled)
        times = turns(stages, benchmark.rounds, benchmark.each, time.process_time)
        row = {
            f"{key}, ms": round(statistics.median(times[key]), 1) if key in times else None
            for key in columns
        }
        for variant in columns[4:]:
            for start in columns[:2]:
                added = "-"
                if variant in times:
                    by_round = ratios(times[variant], times[start])
                    low, high = (f"{end - 1:.0%}" for end in median_interval(by_round))
                    added = f"{statistics.median(by_round) - 1:.0%} ({low} to {high})"
                row[f"{variant}, added to {start}"] = added
        rows.append({"step of": name, **row})
        print(rows[-1], flush=True)
    print(markdown(rows, list(rows[0])))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
