"""Trains the plain autoencoder: ``python -m train.ae``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from train.settings import Count, NonNegative, Positive, Settings, Whole, command

if TYPE_CHECKING:
    from train.objective import ReconstructionObjective


@dataclass(frozen=True)
class AESettings(Settings):
    """Train an autoencoder: codes that are small and decode back."""

    steps: Count = 5_000
    batch_size: Count = 128
    learning_rate: Positive = 1e-3
    decay: Literal["none", "cosine"] = "cosine"
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


def build(settings: AESettings, shape: tuple[int, int]) -> ReconstructionObjective:
    """Autoencoder and loss of the settings, for images of a height and width."""
    from pyro_models import ae
    from train.objective import ReconstructionObjective

    if settings.network == "conv":
        autoencoder = ae.convolutional(shape, settings.z_dim)
    else:
        autoencoder = ae.dense(shape, settings.z_dim, settings.hidden)
    return ReconstructionObjective(autoencoder, settings.noise)


def main(settings: AESettings) -> dict[str, Any]:
    """Data, objective, loop, measures, figures."""
    from train import figures, fitting, parallel, runtime
    from train.data import digits
    from train.data.batches import Batches
    from train.loop import Best, fit
    from train.metrics.autoencoding import Watch
    from train.runs import Run

    device = runtime.setup(settings)
    train, held_out = digits.load(settings.data, settings.data_dir, settings.evaluate_on)
    digits.require_contrast(train)
    # The checkpoint is chosen on images that are neither trained on nor reported on.
    train, validation = digits.part(train, one_in=12)
    size = fitting.batch(settings.batch_size, len(train), parallel.size())
    settings = fitting.fitted(settings, size)
    batches = Batches((train.images,), settings.batch_size, settings.seed, device)
    objective = build(settings, train.shape).to(device)
    run = Run.create(settings, "ae", shape=train.shape)

    watch = Watch(
        objective.autoencoder, train, held_out, starts=settings.cluster_starts, seed=settings.seed
    )
    best = Best("validation_mse", settings.patience)
    fitted = fit(
        objective,
        batches,
        run,
        settings,
        device,
        evaluate=lambda step: {"validation_mse": watch.error(validation.images)},
        best=best,
    )

    found = watch.measure()
    run.save_figure("reconstructions", figures.gallery(watch.reconstructions()))
    run.save_figure("codes", figures.codes(*watch.codes()))
    run.save_figure("curves", figures.curves(run.history(), watch.PANELS))
    if settings.z_dim == 2:
        run.save_figure("grid", figures.gallery(watch.grid()))
    return run.finish(fitted._asdict() | {"best_step": best.step} | found._asdict())


if __name__ == "__main__":
    command(AESettings, main)
