"""Trains Attend, Infer, Repeat: ``python -m train.air``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from train.cli import command
from train.method import ELBOMethod
from train.settings.air import AIRSettings

if TYPE_CHECKING:
    from train.data.scenes import ScenesSplit
    from train.metrics.counting import AIRWatch
    from train.objective import ELBOObjective
    from train.verbs.scenes import TrainedAIR


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
            baseline = BaselineNetwork(shape.pixels, settings.guide_hidden)
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
