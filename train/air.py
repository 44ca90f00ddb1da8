"""Trains Attend, Infer, Repeat: ``python -m train.air``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from train import processes
from train.cli import command, leaves_no_trace
from train.settings import Count, EstimatorSettings, Positive, Probability, SceneSettings, Whole

if TYPE_CHECKING:
    from pyro.infer import ELBO

    from train.objective import ELBOObjective


@dataclass(frozen=True)
class AIRSettings(EstimatorSettings, SceneSettings):
    """Train Attend, Infer, Repeat: scenes of several objects, counted and found unsupervised."""

    FREE: ClassVar = EstimatorSettings.FREE | {"eval_every", "iw_particles", "iw_scenes"}

    learning_rate: Positive = 1e-3
    """Adam's step size."""
    decay: Literal["none", "cosine"] = "cosine"
    """How the learning rate falls over the steps: not at all, or as half a cosine down to zero."""
    max_objects: Count = 3
    """Largest number of objects that the model can find."""
    window_size: Count = 24
    """Side of an object's window in pixels."""
    window_scale: tuple[Positive, Positive] = (2.6, 0.1)
    """Prior median and deviation of how many windows fit across the canvas."""
    what_dim: Count = 20
    """Features of an object's appearance."""
    what_hidden: Count = 400
    """Hidden units of the window's encoder and decoder."""
    decoder_bias: float = -3.0
    """Added to the decoder's logits; below 0, windows are mostly empty at first."""
    guide: Literal["residual", "recurrent"] = "residual"
    """Whether a step sees what is left to explain, or the whole image as in the paper."""
    guide_hidden: Count = 256
    """Hidden units and state of the guide."""
    anchors: Whole = 9
    """Side of the grid of places that compete for a step; 0 for none, as in the paper."""
    likelihood_scale: Positive = 0.4
    """Standard deviation of a pixel given the objects."""
    presence_prior: Probability = 0.001
    """Prior probability of one more object."""
    presence_prior_start: Probability | None = 0.3
    """Where that probability starts when it is annealed; None for no annealing."""
    count_prior: Literal["steps", "geometric"] = "steps"
    """Whether it holds at each step, or makes the count geometric up to the largest."""
    iw_particles: Count = 100
    """Draws a scene in the importance-weighted bound."""
    iw_scenes: Count = 1_000
    """Held-out scenes on which that bound is measured, from the first."""


def build(
    settings: AIRSettings, shape: tuple[int, int], estimator: ELBO | None = None
) -> ELBOObjective:
    """Model, guide and estimator of the settings, for scenes of a height and width in pixels.

    Args:
        settings: The settings.
        shape: Height and width.
        estimator: The estimator; the one that the settings name, which is imported, if not given.
    """
    from guides.air import BaselineNetwork, DecayingAverage, RecurrentGuide, ResidualGuide
    from pyro_models.air import AIR
    from train.estimators import make
    from train.objective import ELBOObjective, schedule

    model = AIR(
        shape,
        max_objects=settings.max_objects,
        window_size=settings.window_size,
        what_dim=settings.what_dim,
        hidden=settings.what_hidden,
        decoder_bias=settings.decoder_bias,
        likelihood_scale=settings.likelihood_scale,
        presence_prior=settings.presence_prior,
        count_prior=settings.count_prior,
        where_loc=(settings.window_scale[0], 0.0, 0.0),
        where_scale=(settings.window_scale[1], 1.0, 1.0),
    )
    baseline = None
    if settings.baseline == "average":
        baseline = DecayingAverage(settings.max_objects)
    elif settings.baseline == "network":
        baseline = BaselineNetwork(shape[0] * shape[1], settings.guide_hidden)
    kind = ResidualGuide if settings.guide == "residual" else RecurrentGuide
    sizes = {"hidden": settings.guide_hidden, "encoder_hidden": settings.what_hidden}
    guide = kind(model, **sizes, anchors=settings.anchors, baseline=baseline)
    relaxed = ["temperature"] if settings.estimator == "concrete" else []
    return ELBOObjective(
        model,
        guide,
        make(settings.estimator, settings.particles) if estimator is None else estimator,
        annealed=schedule(settings, "beta", "presence_prior", *relaxed),
        rates=[(baseline, settings.baseline_learning_rate)] if baseline else [],
    )


@leaves_no_trace
def main(settings: AIRSettings) -> dict[str, Any]:
    """Data, objective, loop, measures, figures."""
    # Here and not above: --help and a wrong flag are answered before PyTorch is there.
    from train import figures, fitting, verdict
    from train.data.batches import Batches
    from train.data.fingerprint import fingerprint
    from train.data.scenes import load_scenes
    from train.engine import callbacks, runtime
    from train.engine.loop import fit
    from train.engine.runs import Run
    from train.metrics.counting import Watch, goals, measure
    from train.metrics.measuring import Measures

    device = runtime.setup(settings)
    data = load_scenes(settings)
    data.require_room(settings.max_objects)
    size = fitting.batch(settings.batch_size, len(data.train), processes.size())
    settings = fitting.fitted(settings, size)
    batches = Batches((data.train.images,), settings.batch_size, settings.seed, device)
    objective = build(settings, data.train.shape).to(device)
    model, guide = objective.model, objective.guide
    run = Run.create(settings, "air", shape=data.train.shape, data_hash=fingerprint(*data))

    watch = Watch(model, guide, data, batches, run)
    fitted = fit(
        objective,
        batches,
        run,
        settings,
        device,
        evaluate=watch.evaluate,
        callbacks=callbacks.standard(run, settings),
    )
    if not run.writes:
        return {}

    measures = Measures(run)
    confusion = measure(watch, measures, settings.iw_particles, settings.iw_scenes)
    measures.draw("scenes", lambda: figures.scenes(watch.examples.numpy(), run.stages()))
    measures.draw("curves", lambda: figures.curves(run.history(), watch.PANELS))
    measures.draw("prior", lambda: figures.gallery(watch.draws()))
    if data.held_out.counts is not None:
        measures.draw("counts", lambda: figures.confusion(confusion()))
    bound = {
        "iw_particles": settings.iw_particles,
        "iw_scenes": min(settings.iw_scenes, len(data.held_out)),
    }
    return verdict.finish(run, fitted._asdict() | bound, measures, goals(data.train))


if __name__ == "__main__":
    command(AIRSettings, main)
