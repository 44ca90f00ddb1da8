"""The VAE with binary latents as a method, and the comparison of estimators on it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pyro.infer import ELBO
from torch import Tensor
from torch.distributions import Bernoulli

from guides.binary import BinaryGuide
from pyro_models.binary import BinaryVAE
from pyro_models.networks import MLP
from train.data.batches import as_input
from train.data.labelled import Images, Split
from train.engine.runs import Run
from train.errors import InputError, require
from train.estimators import SITE_ESTIMATORS, DiscreteELBO, MultiSampleELBO, Relax
from train.method import Method
from train.metrics.measuring import Measures
from train.metrics.watch import Watch
from train.objective import Batch, ELBOObjective
from train.plots import Panel
from train.settings.binary import BinaryBenchSettings, BinaryVAESettings
from train.studies.gradients import moments
from train.studies.parts import results_of

BOUNDS: dict[str, Literal["vimco", "disarm", "reinforce"]] = {
    "vimco": "vimco",
    "disarm-bound": "disarm",
    "reinforce-bound": "reinforce",
}
"""Names of estimators of the importance-weighted bound, and their gradients."""


def make_estimator(name: str, particles: int | None, latents: int) -> ELBO:
    """Makes an estimator by its name.

    Args:
        name: A name of :data:`~train.estimators.SITE_ESTIMATORS` or :data:`BOUNDS`, or ``relax``.
        particles: The number of evaluations for each image; what it needs by default if ``None``.
        latents: The number of latents, for the network of ``relax``.

    Raises:
        InputError: If the name is unknown, or the number does not fit.
    """
    known = (*SITE_ESTIMATORS, "relax", *BOUNDS)
    require(name in known, f"--estimator {name} is not known: give {', '.join(known)}")
    options: dict[str, Any] = {} if particles is None else {"num_particles": particles}
    try:
        if name in BOUNDS:
            return MultiSampleELBO(gradient=BOUNDS[name], **options)
        # The width of the network is that of the official implementation.
        site = Relax(MLP(latents, 1, (137,))) if name == "relax" else SITE_ESTIMATORS[name]()
        return DiscreteELBO(site, **options)
    except ValueError as error:
        raise InputError(f"--estimator {name} cannot be made ({error})") from error


class BinaryObjective(ELBOObjective):
    """The negative ELBO of images that are drawn anew from their grey values in each step."""

    def forward(self, batch: Batch, step: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return super().forward((torch.bernoulli(batch[0]),), step)


class BinaryWatch(Watch):
    """Evaluates a binary VAE by its ELBO and bound, and by the variance of its gradient.

    Args:
        objective: Model, guide and estimator.
        train: Training images.
        held_out: Held-out images.
        settings: The settings.
    """

    PANELS: ClassVar = {
        "ELBO (nats)": {"elbo": "training", "held_out_elbo": "held out"},
        "variance of the encoder's gradient": {"gradient_variance": "training batch"},
    }

    def __init__(
        self,
        objective: BinaryObjective,
        train: Images,
        held_out: Images,
        settings: BinaryVAESettings,
    ) -> None:
        self.objective = objective
        self.images = {"train": train.images, "test": held_out.images}
        self.settings = settings

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.objective.parameters()).device

    def binary(self, name: str, number: int | None = None) -> Tensor:
        """Returns binary images, the same each time, of shape (M, C, H, W)."""
        images = as_input(self.images[name][:number])
        return torch.bernoulli(images, generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def bound(self, name: str, samples: int = 1) -> float:
        """Returns the bound with some samples, which is the ELBO with 1, in nats an image."""
        model, guide = self.objective.model, self.objective.guide
        total = 0.0
        for images in self.binary(name).split(max(1, 10_000 // samples)):
            x = images.to(self.device).flatten(1)
            q = Bernoulli(logits=guide.encoder(x))
            z = q.sample((samples,))
            log_w = (
                Bernoulli(logits=model.decoder(z)).log_prob(x).sum(-1)
                + Bernoulli(logits=model.prior_logits).log_prob(z).sum(-1)
                - q.log_prob(z).sum(-1)
            )
            bounds = log_w.double().logsumexp(0) - math.log(samples)
            total += float(bounds.sum())
        return total / len(self.images[name])

    @torch.enable_grad()
    def gradient_variance(self) -> float:
        """Returns the variance of the encoder's gradient on one batch, the mean over its weights.

        The papers' is that of a moving average over steps, in which batches vary too.
        """
        batch = (self.binary("train", self.settings.batch_size).to(self.device),)
        weights = dict(self.objective.guide.named_parameters())
        draws = self.settings.variance_draws
        if draws == 1:
            return 0.0

        def loss() -> Tensor:
            # Not that of the method, which would draw the images anew.
            return ELBOObjective.forward(self.objective, batch, torch.tensor(0))[0]["elbo"]

        variance = moments(loss, weights, draws).variance
        return float(torch.cat([value.flatten() for value in variance.values()]).mean())

    def evaluate(self, step: int) -> dict[str, float]:
        values = {"held_out_elbo": self.bound("test")}
        if self.settings.variance_draws > 1:
            values["gradient_variance"] = self.gradient_variance()
        return values

    def measure(self) -> Measures:
        """Measures ELBO and bound in nats an image, of images drawn once from their grey values."""
        measures = Measures()
        measures.add("train_elbo", lambda: self.bound("train"))
        measures.add("test_elbo", lambda: self.bound("test"))
        measures.add("test_bound", lambda: self.bound("test", self.settings.bound_samples))
        measures.add("gradient_variance", self.gradient_variance)
        return measures


class BinaryVAEMethod(Method):
    """The VAE with binary latents."""

    name = "bvae"
    settings = BinaryVAESettings

    def build(self, settings: BinaryVAESettings, inputs: Mapping[str, Any]) -> BinaryObjective:
        model = BinaryVAE(self.shape(inputs), settings.latents, settings.hidden)
        guide = BinaryGuide(model, settings.hidden)
        estimator = make_estimator(settings.estimator, settings.particles, settings.latents)
        return BinaryObjective(model, guide, estimator)

    def watch(
        self, settings: BinaryVAESettings, data: Split, objective: BinaryObjective
    ) -> BinaryWatch:
        train, held_out = self.sampled(settings, data, stored=True)
        return BinaryWatch(objective, train, held_out, settings)


METHOD = BinaryVAEMethod()

SUMMARY = (
    *("estimator", "evaluations", "runs", "train_elbo", "test_elbo", "test_bound"),
    *("elbo_at_equal_time", "gradient_variance", "milliseconds"),
)
"""The columns of :func:`summary`."""


def run_settings(settings: BinaryBenchSettings, name: str, seed: int) -> BinaryVAESettings:
    """Returns the settings of one run: ``name`` may end in ``@K``."""
    estimator, _, particles = name.partition("@")
    shared = {f.name: getattr(settings, f.name) for f in fields(BinaryVAESettings)}
    chosen = {"estimator": estimator, "particles": int(particles) if particles else None}
    return BinaryVAESettings(**{**shared, **chosen, "seed": seed})


def race(run: Run, settings: BinaryBenchSettings) -> list[dict[str, Any]]:
    """Trains with each estimator and seed, in folders under ``training/``.

    Finished runs are not repeated, and one that was stopped goes on.

    Returns:
        A row for each evaluation: ``estimator``, ``seed``, ``step``, ``seconds`` of training so
        far, ``held_out_elbo`` and ``gradient_variance``. The last row of a run has its results,
        and the others ``None``.
    """
    for name in settings.estimators:
        chosen = run_settings(settings, name, 0)
        # A name that is not known is told before the first run, and not after hours.
        make_estimator(chosen.estimator, chosen.particles, chosen.latents)
    rows: list[dict[str, Any]] = []
    for seed in range(settings.training_seeds):
        for name in settings.estimators:
            chosen = run_settings(settings, name, seed)
            folder = f"training/{name}-{seed}"
            try:
                results = results_of(run, folder, chosen, METHOD.main)
            except InputError as error:
                print(f"{name}, seed {seed}: {error}")
                results = {}
            rows += evaluations(Run(run.directory / folder, METHOD.name), name, seed, results)
    return rows


RESULTS = ("train_elbo", "test_elbo", "test_bound", "train_seconds", "steps")


def evaluations(run: Run, name: str, seed: int, results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the rows of one run: see :func:`race`."""
    history = run.history()
    row = {"estimator": name, "seed": seed} | dict.fromkeys(RESULTS)
    if "held_out_elbo" not in history:
        return [row | {"step": 0, "seconds": 0.0, "held_out_elbo": None, "gradient_variance": None}]
    steps, elbos = history["held_out_elbo"]
    seconds = np.interp(steps, *history["train_seconds"])
    variances = dict(zip(*map(list, history.get("gradient_variance", ((), ()))), strict=True))
    rows = [
        row
        | {"step": int(step), "seconds": float(time), "held_out_elbo": float(elbo)}
        | {"gradient_variance": variances.get(step)}
        for step, time, elbo in zip(steps, seconds, elbos, strict=True)
    ]
    rows[-1] |= {key: results.get(key) for key in RESULTS}
    return rows


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns a row for each estimator, with means and standard errors over its finished runs.

    ``elbo_at_equal_time`` is the held-out ELBO when the fastest estimator was done, interpolated
    between evaluations.
    """
    finished = [row for row in rows if row["test_elbo"] is not None]
    limit = min((row["seconds"] for row in finished), default=0.0)
    table = []
    for name in dict.fromkeys(row["estimator"] for row in rows):
        last = [row for row in finished if row["estimator"] == name]
        values: dict[str, Any] = dict.fromkeys(SUMMARY)
        values |= {"estimator": name, "evaluations": evaluations_of(name), "runs": len(last)}
        for key in ("train_elbo", "test_elbo", "test_bound", "gradient_variance"):
            values[key] = with_error([row[key] for row in last])
        at_limit = []
        for row in last:
            mine = [r for r in rows if (r["estimator"], r["seed"]) == (name, row["seed"])]
            times, elbos = zip(*((r["seconds"], r["held_out_elbo"]) for r in mine), strict=True)
            at_limit.append(float(np.interp(limit, times, elbos)))
        values["elbo_at_equal_time"] = with_error(at_limit)
        steps = [1e3 * row["seconds"] / row["step"] for row in last if row["step"]]
        values["milliseconds"] = round(statistics.fmean(steps), 2) if steps else None
        table.append(values)
    return table


def mean_over_seeds(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns a row for each estimator and step, with means over seeds, for a figure."""
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["estimator"], row["step"]), []).append(row)
    means: list[dict[str, Any]] = []
    for (name, step), group in groups.items():
        mean: dict[str, Any] = {"estimator": name, "seed": 0, "step": step}
        for key in ("seconds", "held_out_elbo", "gradient_variance"):
            values = [r[key] for r in group if r[key] is not None]
            mean[key] = statistics.fmean(values) if values else None
        means.append(mean)
    return means


PANELS = (
    Panel("step", "held_out_elbo", ("steps", "held-out ELBO, nats")),
    Panel("seconds", "held_out_elbo", ("seconds of training", "held-out ELBO, nats"), log_x=True),
    Panel("step", "gradient_variance", ("steps", "variance of the encoder's gradient"), log=True),
)
"""The panels of the figure."""


def evaluations_of(name: str) -> int:
    """Returns how often an estimator evaluates the model for each image."""
    name, _, number = name.partition("@")
    kind = Relax if name == "relax" else SITE_ESTIMATORS.get(name)
    particles = int(number) if number else (kind.particles if kind else 4)
    each = {"muprop": 2, "rebar": 3, "relax": 3}
    return particles * each.get(name, 1)


def with_error(values: Sequence[float | None]) -> str | None:
    """Formats a mean with its standard error over seeds, if there are two or more."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    mean = (
        f"{statistics.fmean(known):.4g}" if abs(known[0]) < 1 else f"{statistics.fmean(known):.2f}"
    )
    if len(known) < 2:
        return mean
    error = statistics.stdev(known) / math.sqrt(len(known))
    return f"{mean} ± {error:.2g}"
