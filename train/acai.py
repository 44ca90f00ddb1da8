"""Trains ACAI, an autoencoder whose codes interpolate: ``python -m train.acai``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pyro_models.shapes import Shape
from train.cli import command
from train.method import Method, sides
from train.settings.acai import ACAISettings

if TYPE_CHECKING:
    from train.data.labelled import Split
    from train.metrics.autoencoding import ACAIWatch
    from train.objective import InterpolationObjective, ReconstructionObjective
    from train.verbs.autoencoder import TrainedAutoencoder


class ACAI(Method):
    """ACAI, or its autoencoder without a critic."""

    name = "acai"
    settings = ACAISettings

    def load_data(self, settings: ACAISettings, data: Any = None) -> Split:
        data = super().load_data(settings, data)
        data.train.require_contrast()
        return data

    def shape(self, inputs: Mapping[str, Any]) -> Shape:
        # Earlier versions kept the shape of padded images, and the padding as frame.
        frame = sides("frame", inputs.get("frame", (0, 0)), least=0)
        padded = super().shape(inputs)
        shape = padded.with_sides(padded.height - frame[0], padded.width - frame[1])
        if min(shape) < 1:
            raise ValueError(f"'frame' leaves nothing of images of {padded}")
        return shape

    def build(
        self, settings: ACAISettings, inputs: Mapping[str, Any]
    ) -> InterpolationObjective | ReconstructionObjective:
        from pyro_models import acai
        from train.objective import InterpolationObjective, ReconstructionObjective

        shape, z_dim = self.shape(inputs), settings.z_dim
        if settings.network == "dense":
            autoencoder, critic = acai.dense(shape, z_dim, settings.hidden, settings.dropout)
        else:
            autoencoder, critic = acai.convolutional(shape, z_dim, settings.depth)
        if not settings.critic:
            return ReconstructionObjective(autoencoder)
        return InterpolationObjective(
            autoencoder,
            critic,
            weight=settings.critic_weight,
            blend=settings.critic_blend,
            reach=settings.mixing,
        )

    def watch(self, settings: ACAISettings, data: Split, objective: Any) -> ACAIWatch:
        from train.metrics.autoencoding import ACAIWatch

        train, held_out = self.sampled(settings, data, stored=True)
        return ACAIWatch(
            objective.autoencoder,
            train,
            held_out,
            lines=settings.data == "lines",
            starts=settings.cluster_starts,
            seed=settings.seed,
        )

    @property
    def trained(self) -> type[TrainedAutoencoder]:
        from train.verbs.autoencoder import TrainedAutoencoder

        return TrainedAutoencoder


METHOD = ACAI()
main = METHOD.main

if __name__ == "__main__":
    command(ACAISettings, main)
