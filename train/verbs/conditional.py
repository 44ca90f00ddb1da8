"""A trained ICVAE: encode, decode, transfer to other labels, interpolate, sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pyro_models.shapes import Shape
from train.arguments import require_pairs, whole
from train.data.conditions import named_columns, restored
from train.data.images import without_grey_axis
from train.data.labelled import Images
from train.engine import runtime
from train.errors import brief, require
from train.explorer.base import View
from train.explorer.conditional import ConditionalView
from train.metrics.interpolation import mixes
from train.settings import LARGEST
from train.verbs.base import Array, Codec, Labels, TensorFunction, Trained, clipped


class TrainedICVAE(Trained):
    r"""A trained conditional autoencoder, of ``train.icvae``.

    Labels are as in the data of the run: see :data:`~train.verbs.base.Labels`. A model that was
    told several conditions takes them by name, ``{"ink": "red", "paper": ["blue", "green"]}``, or
    as rows in the order of ``--condition``: see
    :meth:`train.data.conditions.JointCondition.of_labels`.

    Training reduces what *sampled* codes reveal about labels; ``encode(images, sample=True)`` draws
    them. By default, :meth:`encode` returns posterior means, which may reveal more: compare
    ``leakage`` and ``leakage_mean`` in ``results.json``.

    With ``levels``, codes are the cells of a grid, and nothing is drawn: ``leakage_bound`` is what
    anybody can read in them at most.

    With ``invariance`` ``echo``, the noise of a code is made of the other images in its batch, so a
    batch must have more than ``echo_terms`` images. The noise is drawn again in each call, also for
    means.
    """

    view: ClassVar[Callable[..., View] | None] = ConditionalView

    def check(self, inputs: Mapping[str, Any]) -> None:
        if self.echo:
            self.batch = max(self.batch, self.settings.echo_terms + 1)
        self.condition = restored(_checked(inputs["condition"]))
        names = self.settings.condition
        named = [part.name for part in self.condition.parts]
        if names not in ("labels", "none") and named != list(
            (names,) if isinstance(names, str) else names
        ):
            raise ValueError(f"'condition' is of {brief(named)}, and the settings name others")

    @property
    def echo(self) -> bool:
        """Whether codes have Echo noise, and therefore no prior."""
        return self.settings.invariance == "echo"

    @property
    def encoder_outputs(self) -> tuple[str, ...]:
        """The names of what the encoder gives."""
        if self.settings.levels is not None:
            return ("z",)
        return ("signal", "gain") if self.echo else ("mean", "log_variance")

    def conditions(self, labels: Labels | None, n: int) -> Tensor:
        r"""Converts labels to the condition :math:`c` of model and guide.

        Args:
            labels: Labels of ``n`` images; ``None`` if the model was trained without a condition.
            n: The number of images.

        Returns:
            Of shape :math:`(n, C)`, on the device.

        Raises:
            InputError: If labels are missing, of another number, or of an unknown class.
        """
        if not self.settings.conditional:
            require(labels is None, "this model has no condition (condition none): give no labels")
            return torch.zeros(n, 0, device=self.device)
        require(labels is not None, "labels are missing: this model's codes need them to decode")
        return self.condition.of_labels(labels, n).to(self.device)

    def labels_of(self, images: Images) -> Labels | None:
        """Returns the labels of images of the data, as the methods take them.

        Raises:
            InputError: If the images do not have a column that is a condition.
        """
        if not self.settings.conditional:
            return None
        parts = self.condition.parts
        if parts[0].name is None:
            return images.values
        return {part.name: part.column(images) for part in parts}

    def functions(self) -> dict[str, TensorFunction]:
        model, guide = self.objective.model, self.objective.guide
        return self.exported(
            {"image": self.example(*self.shape.outside)},
            lambda x, c: guide.encode(self.with_channels(x), c),
            "reconstruction",
            lambda z, c: without_grey_axis(model.decode(z, c)),
        )

    def exported(
        self,
        example: dict[str, Tensor],
        encode: Callable[[Tensor, Tensor], Any],
        output: str,
        decode: Callable[[Tensor, Tensor], Tensor],
    ) -> dict[str, TensorFunction]:
        """Makes encoder and decoder, which take the condition where it is needed.

        Args:
            example: A datum, by the name of the encoder's input.
            encode: From data and conditions to what the encoder gives.
            output: The name of the decoder's output.
            decode: From codes and conditions to data.
        """
        c_dim = self.objective.model.c_dim
        label = {"label": self.example(c_dim)} if c_dim else {}
        seen = label if self.settings.encoder_sees_labels else {}

        def condition(rows: Tensor, labels: tuple[Tensor, ...]) -> Tensor:
            return labels[0] if labels else rows.new_zeros(rows.shape[0], 0)

        return {
            "encoder": TensorFunction(
                lambda x, *c: encode(x, condition(x, c)), example | seen, self.encoder_outputs
            ),
            "decoder": TensorFunction(
                lambda z, *c: decode(z, condition(z, c)),
                {"z": self.example(self.settings.z_dim)} | label,
                (output,),
            ),
        }

    def encode(
        self,
        images: Array,
        labels: Labels | None = None,
        *,
        sample: bool = False,
        seed: int | None = None,
    ) -> Tensor:
        r"""Encodes images to codes, of shape :math:`(M, D)`.

        Args:
            images: Images.
            labels: Their labels; needed only with the setting ``encoder_sees_labels``.
            sample: Whether to draw codes, or to return posterior means: see :class:`TrainedICVAE`.
            seed: Seed of the draws; ``None`` draws from PyTorch's global generators.

        Raises:
            InputError: If labels are missing, or there are too few images for Echo noise.
        """
        x = self.rows(images)
        terms = self.settings.echo_terms
        require(
            not self.echo or len(x) > terms,
            f"there are {len(x)} images, and the Echo noise of one is made of {terms} others: "
            f"encode {terms + 1} or more together",
        )
        c = torch.zeros(len(x), 0, device=self.device)
        if self.settings.encoder_sees_labels:
            c = self.conditions(labels, len(x))
        guide = self.objective.guide
        with runtime.seeded(None if seed is None else whole("seed", seed, 0), self.device):
            return self.in_batches(guide.draw if sample else guide.mean, x, c)

    @clipped
    def decode(self, z: Tensor | ArrayLike, labels: Labels | None = None) -> Tensor:
        r"""Decodes codes under labels to images, in [0, 1]."""
        z = self.codes(z)
        return self.in_batches(self.objective.model.decode, z, self.conditions(labels, len(z)))

    def reconstruct(self, images: Array, labels: Labels | None = None) -> Tensor:
        """Encodes images and decodes their codes; returns images in [0, 1]."""
        return self.decode(self.encode(images, labels), labels)

    def transfer(self, images: Array, c: Labels, labels: Labels | None = None) -> Tensor:
        """Encodes images, and decodes their codes under other labels.

        Args:
            images: Images.
            c: The labels to decode under. If both ``c`` and ``labels`` have names, conditions that
                ``c`` does not name are those in ``labels``.
            labels: The labels of the images; needed only with the setting ``encoder_sees_labels``,
                or if ``c`` names some of the conditions.

        Returns:
            Images, in [0, 1].

        Raises:
            InputError: If the model was trained without a condition.
        """
        require(
            self.settings.conditional,
            "this model has no condition (condition none): there are no labels to transfer to",
        )
        if isinstance(c, Mapping) and (others := named_columns(labels)) is not None:
            c = others | dict(c)
        return self.decode(self.encode(images, labels), c)

    @clipped
    def interpolate(
        self, one: Array, other: Array, n: int = 11, labels: Labels | None = None
    ) -> Tensor:
        r"""Decodes equidistant points on the straight line between the codes of two images.

        Args:
            one: :math:`M` images to begin at.
            other: :math:`M` images to end at.
            n: The number of points, including both ends; 2 or more.
            labels: The labels to encode and decode under, one for each pair or one for all.

        Returns:
            Images, of shape :math:`(M, n, H, W)` or, in colour, :math:`(M, n, C, H, W)`, in [0, 1].

        Raises:
            InputError: If the numbers of images differ, or ``n`` or labels are not valid.
        """
        n = whole("n", n, least=2)
        first, last = (self.encode(images, labels) for images in (one, other))
        require_pairs(first, last)
        z = mixes(first, last, n)
        c = self.conditions(labels, len(z)).unsqueeze(1).expand(-1, n, -1)
        images = self.in_batches(self.objective.model.decode, z.flatten(0, 1), c.flatten(0, 1))
        return images.unflatten(0, (len(z), n))

    @clipped
    def sample(self, n: int, labels: Labels | None = None) -> Tensor:
        r"""Decodes codes drawn from the prior.

        Args:
            n: The number of images.
            labels: The labels to decode under, one for each image or one for all.

        Returns:
            Mean images without pixel noise, in [0, 1].

        Raises:
            InputError: If the model has no prior because of Echo noise.
        """
        require(
            not self.echo,
            "codes with Echo noise have no prior to draw from: decode those of images, "
            "encode(images, sample=True)",
        )
        n = whole("n", n)
        return self.in_batches(self.objective.model.sample, self.conditions(labels, n))

    def codec(self, shape: Shape) -> Codec:
        return Codec(
            lambda images: self.encode(images.images, self.labels_of(images)).cpu().numpy(),
            lambda z, images: self.with_channels(
                self.decode(torch.from_numpy(z), self.labels_of(images))
            ).cpu(),
        )


def _checked(state: Any) -> Any:
    """Returns the state of a condition from a file: see :func:`train.data.conditions.restored`.

    Raises:
        ValueError: If the value is no such state.
    """
    for part in state if isinstance(state, list) else [state]:
        _check_part(part)
    return state


def _check_part(condition: Any) -> None:
    """Raises :class:`ValueError` unless a value is the state of a condition of one column."""
    classes, loc, scale = (condition[name] for name in ("classes", "loc", "scale"))
    if (
        type(classes) is not int
        or not 0 <= classes < LARGEST
        or not all(isinstance(values, list) for values in (loc, scale))
        or not all(type(value) in (int, float) for value in (*loc, *scale))
        or len(loc) != len(scale)
        or min(scale, default=1) <= 0
        or not (classes or loc)
        or (condition.get("circular", False) and len(loc) != 2)
    ):
        raise ValueError(f"'condition' is {brief(condition)}, neither classes nor quantities")
