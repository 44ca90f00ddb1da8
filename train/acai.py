"""Trains ACAI, an autoencoder whose codes interpolate: ``python -m train.acai``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from train import processes
from train.cli import command, leaves_no_trace
from train.errors import InputError, require
from train.settings import Count, NonNegative, Positive, Range, Settings

if TYPE_CHECKING:
    from train.objective import InterpolationObjective, ReconstructionObjective


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


def build(
    settings: ACAISettings, shape: tuple[int, int]
) -> InterpolationObjective | ReconstructionObjective:
    """Autoencoder, critic and losses of the settings, for images of a height and width."""
    from pyro_models import acai
    from train.objective import InterpolationObjective, ReconstructionObjective

    if settings.network == "dense":
        autoencoder, critic = acai.dense(shape, settings.z_dim, settings.hidden, settings.dropout)
    else:
        try:
            autoencoder, critic = acai.convolutional(shape, settings.z_dim, settings.depth)
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


@leaves_no_trace
def main(settings: ACAISettings) -> dict[str, Any]:
    """Data, objective, loop, measures, figures."""
    from pyro_models.acai import halvings
    from train import figures, fitting, verdict
    from train.data import digits, lines
    from train.data.batches import Batches, as_input
    from train.data.fingerprint import fingerprint
    from train.engine import callbacks, runtime
    from train.engine.loop import fit
    from train.engine.runs import Run
    from train.metrics import interpolation
    from train.metrics.autoencoding import GOAL, Watch
    from train.metrics.measuring import Measures

    device = runtime.setup(settings)
    if settings.data == "lines":
        train = held_out = lines.held_out()
        frame = digits.Frame()
        batches = lines.Lines(settings.batch_size, settings.seed, device)
    else:
        train, held_out = digits.load(settings.data, settings.data_dir, settings.evaluate_on)
        digits.require_contrast(train)
        conv = settings.network == "conv"
        multiple = 1 << halvings(train.shape) if conv else 1
        train, frame = digits.pad(train, multiple)
        held_out, _ = digits.pad(held_out, multiple)
        settings = fitting.fitted(
            settings,
            fitting.batch(settings.batch_size, len(train), processes.size()),
            fitting.code(settings.z_dim, train.shape) if conv else None,
        )
        batches = Batches((train.images,), settings.batch_size, settings.seed, device)
    objective = build(settings, train.shape).to(device)
    autoencoder = objective.autoencoder
    inputs = {"shape": train.shape, "frame": frame}
    run = Run.create(settings, "acai", **inputs, data_hash=fingerprint(train, held_out))

    options = {"frame": frame, "starts": settings.cluster_starts, "seed": settings.seed}
    watch = Watch(autoencoder, train, held_out, **options)
    fitted = fit(
        objective,
        batches,
        run,
        settings,
        device,
        evaluate=watch.look,
        callbacks=callbacks.standard(run, settings),
    )
    if not run.writes:
        return {}

    measures = Measures(run)
    watch.measure(measures)
    if settings.data == "lines":
        images = as_input(held_out.images.to(device))
        names = interpolation.Interpolation._fields
        measures.take(names, lambda: interpolation.measure(autoencoder, images)._asdict())
    measures.draw("interpolations", lambda: figures.gallery(watch.interpolations()))
    measures.draw("codes", lambda: figures.codes(*watch.codes()))
    measures.draw("curves", lambda: figures.curves(run.history(), watch.PANELS))
    return verdict.finish(run, fitted._asdict(), measures, [GOAL])


if __name__ == "__main__":
    command(ACAISettings, main)
