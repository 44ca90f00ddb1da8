"""Trains Attend, Infer, Repeat: ``python -m train.air``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from train.cli import command
from train.method import ELBOMethod
from train.settings import Count, EstimatorSettings, Positive, Probability, SceneSettings, Whole

if TYPE_CHECKING:
    from pyro.infer import ELBO

    from train.data.scenes import ScenesSplit
    from train.metrics.counting import AIRWatch
    from train.objective import ELBOObjective
    from train.verbs.scenes import TrainedAIR


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


class AIR(ELBOMethod):
    """Attend, Infer, Repeat."""

    name = "air"
    settings = AIRSettings

    def load_data(self, settings: AIRSettings) -> ScenesSplit:
        from train.data.scenes import load_scenes

        data = load_scenes(settings)
        data.require_room(settings.max_objects)
        return data

    def build(self, settings: AIRSettings, inputs: Mapping[str, Any]) -> ELBOObjective:
        from guides.air import BaselineNetwork, DecayingAverage, RecurrentGuide, ResidualGuide
        from pyro_models import air
        from train.estimators import annealed_names, restored
        from train.objective import ELBOObjective, schedule

        shape = self.shape(inputs)
        model = air.AIR(
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
        estimator = self.estimator(settings, restored)
        return ELBOObjective(
            model,
            guide,
            estimator,
            annealed=schedule(settings, "beta", "presence_prior", *annealed_names(estimator)),
            rates=[(baseline, settings.baseline_learning_rate)] if baseline else [],
        )

    def estimator(self, settings: AIRSettings, make: Callable[..., ELBO]) -> ELBO:
        return make(settings.estimator, settings.particles)

    def watch(self, settings: AIRSettings, data: ScenesSplit, objective: ELBOObjective) -> AIRWatch:
        from train.metrics.counting import AIRWatch

        options = {name: getattr(settings, name) for name in ("iw_particles", "iw_scenes")}
        return AIRWatch(objective.model, objective.guide, data, **options)

    @property
    def trained(self) -> type[TrainedAIR]:
        from train.verbs.scenes import TrainedAIR

        return TrainedAIR


METHOD = AIR()
main = METHOD.main

if __name__ == "__main__":
    command(AIRSettings, main)
