"""Trains the plain autoencoder: ``python -m train.ae``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from train.cli import command
from train.method import Method
from train.settings import Count, NonNegative, Positive, Settings, Whole

if TYPE_CHECKING:
    from train.data.labelled import ValidationSplit
    from train.engine.loop import Best
    from train.metrics.autoencoding import AEWatch
    from train.objective import ReconstructionObjective
    from train.verbs.autoencoder import TrainedAutoencoder


@dataclass(frozen=True)
class AESettings(Settings):
    """Train an autoencoder: codes that are small and decode back."""

    FREE: ClassVar = Settings.FREE | {"cluster_starts"}

    steps: Count = 5_000
    batch_size: Count = 128
    learning_rate: Positive = 1e-3
    decay: Literal["none", "cosine"] = "cosine"
    # Of few images the best weights are early ones, and an evaluation takes little.
    eval_every: Count = 250
    z_dim: Count = 10
    """Size of the code."""
    network: Literal["conv", "dense"] = "dense"
    """A small convolutional encoder with a larger decoder, or dense layers."""
    hidden: tuple[Count, ...] = (1000, 500)
    """Widths of the dense encoder's layers; the decoder's are the other way round."""
    noise: NonNegative = 0.0
    """Standard deviation of noise on what the encoder sees; above 0 it is a denoising one."""
    patience: Whole | None = None
    """Evaluations that may pass without a lower error on validation images before training stops;
    None for all steps."""
    cluster_starts: Count = 50
    """How often k-means starts when clusters are measured."""


class AE(Method):
    """The plain autoencoder."""

    name = "ae"
    settings = AESettings

    def load_data(self, settings: AESettings) -> ValidationSplit:
        from train.data.labelled import ValidationSplit

        train, held_out = super().load_data(settings)
        train.require_contrast()
        # The weights are selected on images that are neither trained on nor reported on.
        train, validation = train.hold_out(12)
        return ValidationSplit(train, validation, held_out)

    def build(self, settings: AESettings, inputs: Mapping[str, Any]) -> ReconstructionObjective:
        from pyro_models import ae
        from train.objective import ReconstructionObjective

        shape = self.shape(inputs)
        if settings.network == "conv":
            autoencoder = ae.convolutional(shape, settings.z_dim)
        else:
            autoencoder = ae.dense(shape, settings.z_dim, settings.hidden)
        return ReconstructionObjective(autoencoder, settings.noise)

    def watch(
        self, settings: AESettings, data: ValidationSplit, objective: ReconstructionObjective
    ) -> AEWatch:
        from train.metrics.autoencoding import AEWatch

        images = {"train": data.train, "validation": data.validation, "held_out": data.held_out}
        options = {"starts": settings.cluster_starts, "seed": settings.seed}
        return AEWatch(objective.autoencoder, **images, **options)

    def best(self, settings: AESettings) -> Best:
        from train.engine.loop import Best

        return Best("validation_mse", settings.patience)

    @property
    def trained(self) -> type[TrainedAutoencoder]:
        from train.verbs.autoencoder import TrainedAutoencoder

        return TrainedAutoencoder


METHOD = AE()
main = METHOD.main

if __name__ == "__main__":
    command(AESettings, main)
