"""What ICVAE's codes tell about conditions, for images and tables alike."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import pyro
import torch
from torch import Tensor

from guides.icvae import Guide
from pyro_models.icvae import ConditionalModel
from train.data.batches import as_input
from train.data.conditions import AnyCondition, Condition
from train.estimators import MeanFieldELBO
from train.metrics.goals import Beats, Goal, Stays
from train.metrics.guarantees import guarantee
from train.metrics.measuring import Measures, Unmeasurable
from train.metrics.references import majority
from train.metrics.watch import Watch

if TYPE_CHECKING:
    from train.metrics.adversaries import Leakage


class Codes(NamedTuple):
    r"""Codes of data, and how well the model explains the data.

    Attributes:
        sampled: One draw from each posterior, of shape :math:`(M, D)`.
        mean: The posterior means, of shape :math:`(M, D)`.
        parameters: The encoder's outputs, of shape :math:`(M, 2 D)`.
        error: The mean error of data decoded from the means.
        elbo: The mean ELBO at beta 1, in nats per datum.
    """

    sampled: Tensor
    mean: Tensor
    parameters: Tensor
    error: float
    elbo: float


@torch.no_grad()
@pyro.get_param_store().scope()
def encode(
    model: ConditionalModel,
    guide: Guide,
    data: Tensor,
    c: Tensor,
    error: Callable[[Tensor, Tensor], Tensor],
    batch: int = 1_000,
) -> Codes:
    r"""Encodes data in batches. With Echo noise, the noise of a code depends on its batch.

    Args:
        model: The model.
        guide: Its guide.
        data: Images, of shape :math:`(M, C, H, W)`, uint8, or rows, of shape :math:`(M, K)`.
        c: The condition, of shape :math:`(M, C)`.
        error: From decoded data and data of a batch to the error of each datum, of shape
            :math:`(B)`.
        batch: The approximate number of data that are encoded at once.
    """
    device = model.zero.device
    elbo = MeanFieldELBO()
    sampled, means, parameters, errors, elbos = [], [], [], 0.0, 0.0
    # Batches of nearly equal size, because Echo noise needs more than a few images in each.
    batches = max(1, len(data) // batch)
    for x, condition in zip(data.tensor_split(batches), c.tensor_split(batches), strict=True):
        x, condition = as_input(x.to(device)), condition.to(device)
        elbo.differentiable_loss(model, guide, x, condition)
        elbos += elbo.terms["elbo"].double().item()
        sampled.append(guide.draw(x, condition).cpu())
        parameters.append(torch.cat(guide.encode(x, condition), dim=-1).cpu())
        mean = guide.mean(x, condition)
        means.append(mean.cpu())
        errors += error(model.decode(mean, condition), x).double().sum().item()
    return Codes(
        torch.cat(sampled),
        torch.cat(means),
        torch.cat(parameters),
        errors / len(data),
        elbos / len(data),
    )


class InvarianceWatch(Watch):
    r"""Evaluates a model and guide by their error, ELBO, and conditions predicted from codes.

    Args:
        model: The model.
        guide: Its guide.
        data: Training data and held-out data.
        condition: Converts labels, or columns, to the condition :math:`c`.
        conditional: Whether model and guide depend on :math:`c`.
        invariance: Whether training penalises information about the condition in codes.
        seed: Seed of the adversaries.
    """

    ERROR: ClassVar[str]
    """The name of the error in the results."""
    HELD_OUT_ERROR: ClassVar[str]
    """Its name in the log."""

    def __init__(
        self,
        model: ConditionalModel,
        guide: Guide,
        data: Sequence[Any],
        condition: AnyCondition,
        *,
        conditional: bool = True,
        invariance: bool = True,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.guide = guide
        self.train, self.held_out = data
        self.condition = condition
        self.conditional = conditional
        self.invariance = invariance
        self.seed = seed
        self.measured: Codes | None = None

    @abstractmethod
    def error(self, decoded: Tensor, data: Tensor) -> Tensor:
        r"""Returns the error of each decoded datum, of shape :math:`(B)`."""

    def c(self, data: Any) -> Tensor:
        r"""Returns the condition of data, of shape :math:`(M, C)`."""
        return self.condition.of_images(data, self.conditional)

    def encode(self, data: Any) -> Codes:
        """Encodes data."""
        return encode(self.model, self.guide, data.images, self.c(data), self.error)

    def evaluate(self, step: int) -> dict[str, float]:
        codes = self.encode(self.held_out)
        return {"held_out_elbo": codes.elbo, self.HELD_OUT_ERROR: codes.error}

    def measure(self) -> Measures:
        """Measures model and guide on held-out data.

        - The error and ``elbo`` are those of :class:`Codes`.
        - ``leakage`` is the score of the best adversary that predicts labels from sampled codes:
          see :func:`~train.metrics.adversaries.leakage`. ``leakage_linear`` is that of the linear
          one, and ``leakage_adversaries`` has the score of each adversary by its name.
          ``leakage_interval`` is a 95% confidence interval of the best one's score. Of classes,
          ``leakage_balanced`` and ``leakage_auc`` are the highest mean recall, and the highest area
          under the ROC curve.
        - ``leakage_mean`` and ``leakage_parameters`` are the best scores from the posterior means
          and from the encoder's outputs. Where codes are finite, these are the codes, and
          ``leakage_bound`` is the score that nobody exceeds, with a confidence of 95%:
          see :mod:`train.metrics.guarantees`.
        - ``chance`` is the score without codes.

        Named conditions have these measures each: ``leakage.NAME``, ``chance.NAME`` and so on.
        """
        measures = Measures()

        @cache
        def codes() -> Codes:
            self.measured = self.encode(self.held_out)
            return self.measured

        @cache
        def train_codes() -> Codes:
            return self.encode(self.train)

        measures.add(self.ERROR, lambda: codes().error)
        self.add_references(measures)
        measures.add("elbo", lambda: codes().elbo)
        for part in self.condition.parts:
            self.add_leakage(measures, part, train_codes, codes)
        self.add_readings(measures, train_codes, codes)
        return measures

    def add_references(self, measures: Measures) -> None:
        """Adds the error of what knows no code."""

    def add_readings(
        self, measures: Measures, train_codes: Callable[[], Codes], codes: Callable[[], Codes]
    ) -> None:
        """Adds how well is read from codes what is no condition."""

    def add_leakage(
        self,
        measures: Measures,
        part: Condition,
        train_codes: Callable[[], Codes],
        codes: Callable[[], Codes],
    ) -> None:
        """Measures how well adversaries predict a condition from codes.

        Args:
            measures: The measures, to which these are added.
            part: The condition. The names of its measures end in its name, if it has one.
            train_codes: Returns codes of the training images.
            codes: Returns codes of the held-out images.
        """
        suffix = "" if part.name is None else f".{part.name}"

        is_finite = self.model.levels is not None

        @cache
        def adversaries(kind: str) -> Leakage:
            from train.metrics.adversaries import leakage

            sets = ((train_codes(), self.train), (codes(), self.held_out))
            train, held_out = (
                (getattr(z, kind).numpy(), part.targets(images)) for z, images in sets
            )
            return leakage(train, held_out, seed=self.seed)

        def sampled() -> dict[str, Any]:
            scores = adversaries("sampled")
            return {
                f"leakage{suffix}": scores.best,
                f"leakage_linear{suffix}": scores.linear,
                f"leakage_adversaries{suffix}": scores.scores,
                f"leakage_interval{suffix}": list(scores.interval),
            }

        def area() -> float:
            if (found := adversaries("sampled").auc) is None:
                raise Unmeasurable("a class is not among the held-out images")
            return found

        def chance() -> float:
            return majority(part.targets(self.held_out)) if part.classes else 0.0

        names = ("leakage", "leakage_linear", "leakage_adversaries", "leakage_interval")
        measures.add([f"{name}{suffix}" for name in names], sampled)
        if part.classes:
            measures.add(f"leakage_balanced{suffix}", lambda: adversaries("sampled").balanced)
            measures.add(f"leakage_auc{suffix}", area)
        # An encoder of finite codes gives nothing but these.
        mean, parameters = ("sampled",) * 2 if is_finite else ("mean", "parameters")
        measures.add(f"leakage_mean{suffix}", lambda: adversaries(mean).best)
        measures.add(f"leakage_parameters{suffix}", lambda: adversaries(parameters).best)
        measures.add(f"chance{suffix}", chance)
        if is_finite:
            targets = part.targets(self.held_out)
            measures.add(
                f"leakage_bound{suffix}",
                lambda: guarantee(codes().sampled.numpy(), targets).bound,
            )

    def goals(self) -> list[Goal]:
        names = [part.name for part in self.condition.parts]
        return goals(self.ERROR, self.invariance, names)


REFERENCES: Mapping[str, tuple[str, str]] = {
    "reconstruction_mse": ("reconstruction_mse_mean_image", "the mean training image's"),
    "reconstruction_error": ("reconstruction_error_usual_row", "that of the usual values"),
}
"""By the name of an error, that of its reference without codes, and the reference in words."""


def goals(error: str, invariance: bool, names: Sequence[str | None] = (None,)) -> list[Goal]:
    """Returns the goals of a model and guide.

    Args:
        error: The name of the error in the results.
        invariance: Whether training penalises information about the condition in codes.
        names: The names of the conditions; None for the labels where they are the only one.
    """
    reconstruction = Beats(
        measure=error,
        reference=REFERENCES[error][0],
        beside=REFERENCES[error][1],
        advice="a lower --learning-rate, more --steps, a lower --beta or --weight, or a larger "
        "--z-dim",
    )
    suffixes = ["" if name is None else f".{name}" for name in names]
    leakages = [
        Stays(
            measure=f"leakage{suffix}",
            reference=f"chance{suffix}",
            beside="chance",
            advice="a larger --weight, --invariance direct, or a smaller --z-dim",
        )
        for suffix in suffixes
    ]
    return [reconstruction, *leakages] if invariance else [reconstruction]
