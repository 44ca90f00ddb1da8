"""Trains ACAI, an autoencoder whose codes interpolate: ``python -m train.acai``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pyro_models.shapes import Shape
from train.cli import command
from train.errors import InputError, require
from train.method import Method, sides
from train.settings import Count, NonNegative, Positive, Range, Settings

if TYPE_CHECKING:
    from train.data.labelled import Split
    from train.fitting import Misfit
    from train.metrics.autoencoding import ACAIWatch
    from train.objective import InterpolationObjective, ReconstructionObjective
    from train.verbs.autoencoder import TrainedAutoencoder


@dataclass(frozen=True)
class ACAISettings(Settings):
    """Train ACAI: an autoencoder, and a critic that finds mixes of codes by what they decode to.

    --data lines is the benchmark of interpolation: lines at any angle, made as they are needed."""

    FREE: ClassVar = Settings.FREE | {"cluster_starts", "eval_every"}

    steps: Count = 1_500
    learning_rate: Positive = 5e-4
    decay: Literal["none", "cosine"] = "cosine"
    z_dim: Count = 32
    """Size of the code; of convolutional networks a multiple of its places, 16 of 28x28 images."""
    network: Literal["conv", "dense"] = "conv"
    """The paper's convolutions, or dense layers."""
    depth: Count = 16
    """Channels of the first convolutions; twice as many after each halving."""
    hidden: tuple[Count, ...] = (1000, 1000)
    """Widths of the dense encoder's and critic's layers; the decoder's are the other way round."""
    dropout: Annotated[float, Range(0, 0.95)] = 0.0
    """Share of the dense layers' units that a step leaves out."""
    critic: bool = True
    """Train with a critic; without, it is the same autoencoder alone."""
    critic_weight: NonNegative = 0.5
    """Weight of what the critic finds, beside the autoencoder's squared error a pixel; 0.125 in
    the paper."""
    critic_blend: Annotated[float, Range(0, 1)] = 0.2
    """How much of the image is in the reconstructions that the critic is to call unmixed."""
    mixing: Annotated[float, Range(0, 0.5)] = 0.5
    """Largest share of the lesser code in a mix."""
    cluster_starts: Count = 50
    """How often k-means starts when clusters are measured."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            not self.critic or self.local_batch_size > 1,
            f"--batch-size {self.batch_size}: mixing needs a partner: give 2 or more a process, "
            "or --no-critic",
        )


class ACAI(Method):
    """ACAI, or its autoencoder without a critic."""

    name = "acai"
    settings = ACAISettings

    def load_data(self, settings: ACAISettings) -> Split:
        data = super().load_data(settings)
        data.train.require_contrast()
        return data

    def misfits(self, settings: ACAISettings, data: Split) -> list[Misfit | None]:
        from train import fitting

        code = fitting.code(settings.z_dim, data.train.shape)
        return [*super().misfits(settings, data), code if settings.network == "conv" else None]

    def shape(self, inputs: Mapping[str, Any]) -> Shape:
        # Earlier versions kept the shape of padded images, and the padding as frame.
        frame = sides("frame", inputs.get("frame", (0, 0)), least=0)
        padded = super().shape(inputs)
        shape = Shape(padded.height - frame.height, padded.width - frame.width)
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
            try:
                autoencoder, critic = acai.convolutional(shape, z_dim, settings.depth)
            except ValueError as error:
                raise InputError(f"--network conv: {error}; or give --network dense") from None
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

        options = {"starts": settings.cluster_starts, "seed": settings.seed}
        return ACAIWatch(objective.autoencoder, *data, lines=settings.data == "lines", **options)

    @property
    def trained(self) -> type[TrainedAutoencoder]:
        from train.verbs.autoencoder import TrainedAutoencoder

        return TrainedAutoencoder


METHOD = ACAI()
main = METHOD.main

if __name__ == "__main__":
    command(ACAISettings, main)
