"""Trains ICVAE, codes that say nothing about a known factor: ``python -m train.icvae``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from train import processes
from train.cli import command
from train.errors import require
from train.method import ELBOMethod
from train.settings import Count, ELBOSettings, NonNegative, Positive, Whole

if TYPE_CHECKING:
    import torch
    from pyro.infer import ELBO

    from train.data.batches import Batches
    from train.data.conditions import Condition
    from train.data.labelled import Split
    from train.engine.callbacks import Callback
    from train.fitting import Misfit
    from train.metrics.coding import ICVAEWatch
    from train.objective import ELBOObjective
    from train.verbs.conditional import TrainedICVAE


@dataclass(frozen=True)
class ICVAESettings(ELBOSettings):
    """Train ICVAE: a conditional autoencoder whose codes say nothing about the condition."""

    FREE: ClassVar = ELBOSettings.FREE | {"eval_every"}

    steps: Count = 2_500
    batch_size: Count = 256
    learning_rate: Positive = 1e-3
    decay: Literal["none", "cosine"] = "cosine"
    beta: Positive = 0.1
    estimator: str = "meanfield"
    """Estimator of the ELBO: meanfield (exact KL divergences), tracegraph (Pyro's, with sampled KL
    divergences), or your own as module:Class."""
    z_dim: Count = 2
    """Size of the code."""
    condition: Literal["labels", "none"] = "labels"
    """What the decoder is told: the labels, or nothing, which makes it a VAE."""
    invariance: Literal["none", "pairwise", "kt", "direct", "echo"] = "direct"
    """Term that keeps labels out of codes: none (a CVAE), the mean pairwise KL, Kolchinsky and
    Tracey's bound, the information between code and class, or Echo noise with its exact rate."""
    weight: NonNegative = 10.0
    """Weight of that term; with pairwise, kt and echo 1 + weight is the reconstruction's."""
    weight_start: NonNegative | None = None
    """Where it starts when it is annealed over --anneal-steps; None for no annealing."""
    memory: Whole = 2048
    """Codes of earlier batches that the direct term compares a batch with."""
    network: Literal["dense", "conv"] = "dense"
    """Dense layers, or convolutions before (in the decoder after) them."""
    hidden: tuple[Count, ...] = (512, 512)
    """Widths of the dense layers."""
    encoder_sees_labels: bool = False
    """Give the encoder the labels too."""
    likelihood: Literal["normal", "bernoulli"] = "normal"
    """Distribution of a pixel."""
    likelihood_scale: Positive = 0.5**0.5
    """Standard deviation of a Normal pixel; the default is the squared error."""
    echo_terms: Count = 100
    """Other images that make an image's Echo noise; a batch needs more."""
    sweep: tuple[NonNegative, ...] = ()
    """Weights to train with, one run each, beside a VAE and a CVAE; a table and a figure."""

    def __post_init__(self) -> None:
        super().__post_init__()
        bound = self.invariance in ("pairwise", "kt", "direct")
        require(
            not bound or self.local_batch_size > 1,
            f"--batch-size {self.batch_size}: --invariance {self.invariance} compares images of a "
            "process' batch: give more",
        )
        require(
            self.invariance != "echo" or self.local_batch_size > self.echo_terms,
            f"--batch-size {self.batch_size} is too small for --echo-terms {self.echo_terms}: "
            "Echo's noise is made of that many others",
        )
        require(
            self.condition == "labels" or self.invariance == "none",
            f"--condition none: there is nothing for --invariance {self.invariance} to keep out",
        )
        require(bool(self.hidden), "--hidden is empty: give at least one width")
        require(not (self.sweep and self.resume), "--sweep goes on by itself: leave --resume out")


class ICVAE(ELBOMethod):
    """Codes that say nothing about a known factor; also a CVAE and a VAE."""

    name = "icvae"
    settings = ICVAESettings

    def condition(self, settings: ICVAESettings, data: Split) -> Condition:
        """Returns what turns labels into the condition."""
        from train.data.conditions import Condition

        if settings.condition == "none" and data.train.values is None:
            return Condition.none()
        condition = Condition.fit(*data)
        require(
            condition.classes > 0 or settings.invariance != "direct",
            "--invariance direct needs classes, but the labels are quantities: give another one",
        )
        return condition

    def load_data(self, settings: ICVAESettings) -> Split:
        data = super().load_data(settings)
        data.train.require_labels()
        return data

    def misfits(self, settings: ICVAESettings, data: Split) -> list[Misfit | None]:
        from train import fitting

        self.condition(settings, data)
        (batch,) = super().misfits(settings, data)
        if settings.invariance != "echo":
            return [batch]
        local = (batch.fits if batch else settings.batch_size) // processes.size()
        return [batch, fitting.echo_terms(settings.echo_terms, local, len(data.held_out))]

    def inputs(self, settings: ICVAESettings, data: Split) -> dict[str, Any]:
        condition = self.condition(settings, data)
        return super().inputs(settings, data) | {"condition": condition.state()}

    def batches(self, settings: ICVAESettings, data: Split, device: torch.device) -> Batches:
        from train.data.batches import Batches

        c = self.condition(settings, data).of_images(data.train, settings.condition == "labels")
        return Batches((data.train.images, c), settings.batch_size, settings.seed, device)

    def build(self, settings: ICVAESettings, inputs: Mapping[str, Any]) -> ELBOObjective:
        from guides.icvae import EchoGuide, GaussianGuide
        from pyro_models import icvae
        from train import losses
        from train.data.conditions import Condition
        from train.estimators import restored
        from train.objective import ELBOObjective, schedule

        shape, condition = self.shape(inputs), Condition.from_state(inputs["condition"])
        sizes = {"hidden": settings.hidden, "network": settings.network}
        likelihood = {key: getattr(settings, key) for key in ("likelihood", "likelihood_scale")}
        prior = settings.invariance != "echo"
        c_dim = condition.size if settings.condition == "labels" else 0
        model = icvae.ICVAE(shape, c_dim, settings.z_dim, **sizes, **likelihood, prior=prior)
        sizes["sees_c"] = settings.encoder_sees_labels
        if settings.invariance == "echo":
            guide = EchoGuide(model, terms=settings.echo_terms, **sizes)
        else:
            sizes["memory"] = settings.memory if settings.invariance == "direct" else 0
            guide = GaussianGuide(model, losses.INVARIANCES[settings.invariance], **sizes)
        annealed = schedule(settings, "beta", "weight")
        weight = annealed.pop("weight")
        if settings.invariance != "none":
            annealed["invariance"] = weight
        if settings.invariance in ("pairwise", "kt", "echo"):
            annealed["reconstruction"] = lambda step: 1 + weight(step)
        return ELBOObjective(model, guide, self.estimator(settings, restored), annealed=annealed)

    def estimator(self, settings: ICVAESettings, make: Callable[..., ELBO]) -> ELBO:
        from train.estimators import WITHOUT_PRESENCE

        return make(settings.estimator, names=WITHOUT_PRESENCE)

    def watch(self, settings: ICVAESettings, data: Split, objective: ELBOObjective) -> ICVAEWatch:
        from train.metrics.coding import ICVAEWatch

        return ICVAEWatch(
            *(objective.model, objective.guide, data, self.condition(settings, data)),
            conditional=settings.condition == "labels",
            invariance=settings.invariance != "none",
            seed=settings.seed,
        )

    @property
    def trained(self) -> type[TrainedICVAE]:
        from train.verbs.conditional import TrainedICVAE

        return TrainedICVAE

    def main(self, settings: ICVAESettings, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
        if not settings.sweep:
            return super().main(settings, callbacks)
        from train.studies import sweeps

        return sweeps.tradeoff(settings, super().main)


METHOD = ICVAE()
main = METHOD.main

if __name__ == "__main__":
    command(ICVAESettings, main)
