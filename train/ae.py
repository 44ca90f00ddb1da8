"""Trains the plain autoencoder: ``python -m train.ae``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from train import processes
from train.cli import command, leaves_no_trace
from train.settings import Count, NonNegative, Positive, Settings, Whole

if TYPE_CHECKING:
    from train.objective import ReconstructionObjective


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


def build(settings: AESettings, shape: tuple[int, int]) -> ReconstructionObjective:
    """Autoencoder and loss of the settings, for images of a height and width."""
    from pyro_models import ae
    from train.objective import ReconstructionObjective

    if settings.network == "conv":
        autoencoder = ae.convolutional(shape, settings.z_dim)
    else:
        autoencoder = ae.dense(shape, settings.z_dim, settings.hidden)
    return ReconstructionObjective(autoencoder, settings.noise)


@leaves_no_trace
def main(settings: AESettings) -> dict[str, Any]:
    """Data, objective, loop, measures, figures."""
    from train import figures, fitting, verdict
    from train.data import digits
    from train.data.batches import Batches
    from train.data.fingerprint import fingerprint
    from train.engine import callbacks, runtime
    from train.engine.loop import Best, fit
    from train.engine.runs import Run
    from train.metrics.autoencoding import GOAL, Watch
    from train.metrics.measuring import Measures

    device = runtime.setup(settings)
    train, held_out = digits.load(settings.data, settings.data_dir, settings.evaluate_on)
    digits.require_contrast(train)
    # The checkpoint is chosen on images that are neither trained on nor reported on.
    train, validation = digits.part(train, one_in=min(12, len(train)))
    size = fitting.batch(settings.batch_size, len(train), processes.size())
    settings = fitting.fitted(settings, size)
    batches = Batches((train.images,), settings.batch_size, settings.seed, device)
    objective = build(settings, train.shape).to(device)
    data = fingerprint(train, validation, held_out)
    run = Run.create(settings, "ae", shape=train.shape, data_hash=data)

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
        callbacks=callbacks.standard(run, settings),
    )
    if not run.writes:
        return {}

    measures = Measures(run)
    watch.measure(measures)
    measures.draw("reconstructions", lambda: figures.gallery(watch.reconstructions()))
    measures.draw("codes", lambda: figures.codes(*watch.codes()))
    measures.draw("curves", lambda: figures.curves(run.history(), watch.PANELS))
    if settings.z_dim == 2:
        measures.draw("grid", lambda: figures.gallery(watch.grid()))
    values = fitted._asdict() | {"best_step": best.step}
    return verdict.finish(run, values, measures, [GOAL])


if __name__ == "__main__":
    command(AESettings, main)
