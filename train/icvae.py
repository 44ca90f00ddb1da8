"""Trains ICVAE, codes that say nothing about a known factor: ``python -m train.icvae``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from train import processes
from train.cli import command, leaves_no_trace
from train.errors import require
from train.settings import Count, ELBOSettings, NonNegative, Positive, Whole

if TYPE_CHECKING:
    from train.data.conditions import Condition
    from train.objective import ELBOObjective


@dataclass(frozen=True)
class ICVAESettings(ELBOSettings):
    """Train ICVAE: a conditional autoencoder whose codes say nothing about the condition."""

    FREE: ClassVar = ELBOSettings.FREE | {"eval_every"}

    steps: Count = 2_500
    batch_size: Count = 256
    learning_rate: Positive = 1e-3
    decay: Literal["none", "cosine"] = "cosine"
    beta: Positive = 0.1
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


def require_classes(settings: ICVAESettings, condition: Condition) -> None:
    """Raises :class:`InputError` if the term for invariance needs classes and there are none."""
    require(
        condition.classes > 0 or settings.invariance != "direct",
        "--invariance direct needs classes, but the labels are quantities: give another one",
    )


def build(settings: ICVAESettings, shape: tuple[int, int], condition: Condition) -> ELBOObjective:
    """Model, guide and loss of the settings, for images of a height and width."""
    from guides.icvae import EchoGuide, GaussianGuide
    from pyro_models.icvae import ICVAE
    from train import losses
    from train.estimators import MeanFieldELBO
    from train.objective import ELBOObjective, schedule

    sizes = {"hidden": settings.hidden, "network": settings.network}
    likelihood = {key: getattr(settings, key) for key in ("likelihood", "likelihood_scale")}
    require_classes(settings, condition)
    prior = settings.invariance != "echo"
    c_dim = condition.size if settings.condition == "labels" else 0
    model = ICVAE(shape, c_dim, settings.z_dim, **sizes, **likelihood, prior=prior)
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
    return ELBOObjective(model, guide, MeanFieldELBO(), annealed=annealed)


@leaves_no_trace
def main(settings: ICVAESettings) -> dict[str, Any]:
    """Data, objective, loop, measures, figures."""
    from train import figures, fitting, verdict
    from train.data import digits
    from train.data.batches import Batches
    from train.data.conditions import Condition
    from train.data.fingerprint import fingerprint
    from train.engine import callbacks, runtime
    from train.engine.loop import fit
    from train.engine.runs import Run
    from train.metrics.coding import Watch, goals, measure
    from train.metrics.measuring import Measures
    from train.studies import sweeps

    if settings.sweep:
        return sweeps.icvae(settings, main)
    device = runtime.setup(settings)
    data = digits.load(settings.data, settings.data_dir, settings.evaluate_on)
    condition = Condition.of(*data)
    require_classes(settings, condition)
    size = fitting.batch(settings.batch_size, len(data.train), processes.size())
    terms = None
    if settings.invariance == "echo":
        share = (size.fits if size else settings.batch_size) // processes.size()
        terms = fitting.echo_terms(settings.echo_terms, share, len(data.held_out))
    settings = fitting.fitted(settings, size, terms)
    told = condition.told(data.train, settings.condition == "labels")
    objective = build(settings, data.train.shape, condition).to(device)
    batches = Batches((data.train.images, told), settings.batch_size, settings.seed, device)
    inputs = {"shape": data.train.shape, "condition": condition.state()}
    run = Run.create(settings, "icvae", **inputs, data_hash=fingerprint(*data))

    model, guide = objective.model, objective.guide
    watch = Watch(model, guide, data.held_out, condition, settings.condition == "labels")
    fitted = fit(
        objective,
        batches,
        run,
        settings,
        device,
        evaluate=watch.evaluate,
        callbacks=callbacks.standard(run, settings),
    )
    if not run.writes:
        return {}

    measures = Measures(run)
    measure(watch, measures, data.train, settings.seed)
    measures.draw("reconstructions", lambda: figures.gallery(watch.reconstructions()))
    if condition.classes and settings.condition == "labels":
        measures.draw("swaps", lambda: figures.gallery(watch.swaps()))
    measures.draw("codes", lambda: figures.codes(*watch.codes()))
    measures.draw("curves", lambda: figures.curves(run.history(), watch.PANELS))
    wanted = goals(invariance=settings.invariance != "none")
    return verdict.finish(run, fitted._asdict(), measures, wanted)


if __name__ == "__main__":
    command(ICVAESettings, main)
