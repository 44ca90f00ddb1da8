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

    def load_data(self, settings: AIRSettings, data: Any = None) -> ScenesSplit:
        from train.data.scenes import ScenesSplit, load_scenes

        if data is None:
            data = load_scenes(settings)
        elif not isinstance(data, ScenesSplit):
            data = ScenesSplit.of(*super().load_data(settings, data))
        data.require_room(settings.max_objects)
        return data

    def resolved(self, settings: AIRSettings, data: ScenesSplit) -> AIRSettings:
        from train.backgrounds import with_background
        from train.windows import with_windows

        # Transformers give images, which do not know the sizes of objects.
        size = getattr(data.train, "usual_size", None)
        settings = with_windows(settings, data.train.shape, size)
        return with_background(settings, data.train.images, size)

    def inputs(self, settings: AIRSettings, data: ScenesSplit) -> dict[str, Any]:
        height, width = data.train.shape.sides
        # Earlier versions had windows of the canvas' aspect, and do not say so.
        windows = {} if height == width else {"square_windows": True}
        return super().inputs(settings, data) | windows

    def build(self, settings: AIRSettings, inputs: Mapping[str, Any]) -> ELBOObjective:
        from guides.air import model_and_guide
        from train.backgrounds import with_background
        from train.estimators import annealed_names, restored
        from train.objective import ELBOObjective, schedule
        from train.windows import with_windows

        shape = self.shape(inputs)
        settings = with_background(with_windows(settings, shape))
        options = settings.select(
            *("max_objects", "window_size", "window_scale", "place_scale", "what_dim"),
            *("what_hidden", "decoder_bias", "likelihood_scale", "presence_prior", "count_prior"),
            *("guide", "guide_hidden", "guide_channels", "guide_sizes", "anchors", "baseline"),
            *("background", "composition", "texture", "mask_scale", "repulsion"),
        )
        square = bool(inputs.get("square_windows", False))
        model, guide = model_and_guide(shape, square_windows=square, **options)
        estimator = self.estimator(settings, restored)
        baseline, rate = guide.baseline, settings.baseline_learning_rate
        return ELBOObjective(
            model,
            guide,
            estimator,
            annealed=schedule(settings, "beta", "presence_prior", *annealed_names(estimator)),
            groups=[(baseline, {"lr": rate})] if baseline is not None else [],
            begin=model.background.start,
        )

    def watch(self, settings: AIRSettings, data: ScenesSplit, objective: ELBOObjective) -> AIRWatch:
        from train.metrics.counting import AIRWatch

        options = settings.select("iw_particles", "iw_scenes")
        data = self.sampled(settings, data)
        return AIRWatch(objective.model, objective.guide, data, **options)

    @property
    def trained(self) -> type[TrainedAIR]:
        from train.verbs.scenes import TrainedAIR

        return TrainedAIR


METHOD = AIR()
main = METHOD.main

if __name__ == "__main__":
    command(AIRSettings, main)
