"""The methods as scikit-learn transformers: ``fit`` trains, ``transform`` encodes."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import Field, asdict, fields, replace
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from train import fitting
from train.data.conditions import LABELS, named_columns
from train.data.images import CHANNELS, channels_first
from train.data.labelled import Images, Split
from train.data.labels import as_labels
from train.engine import runtime
from train.engine.loop import fit
from train.engine.runs import Run
from train.engine.saved import SavedRun
from train.errors import InputError, Interrupted, require
from train.fitting import Misfit
from train.method import Method
from train.methods import METHODS
from train.settings import DataSettings, flags_to_arguments

COMMAND_LINE_ONLY = (*DataSettings.DATA, "resume", "run_dir", "sweep", "tensorboard")
"""Settings of the command line that are not parameters of a transformer."""

SIZES = ("batch_size", "stack_size", "other_stack_size", "echo_terms")
"""Settings that are reduced to fit small data, even if the user has set them."""


class Transformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    r"""A method as a transformer: ``fit`` trains it, and ``transform`` encodes images.

    ``X`` are images, of shape :math:`(M, H, W)`, :math:`(M, C, H, W)` or :math:`(M, H, W, C)`, or
    flattened to rows. uint8 images are levels from 0 to 255. Other numbers are scaled so that the
    minimum and the maximum of the images in ``fit`` are 0 and 1, and clipped to this range.

    ``fit`` restores the global state of the process: see :func:`train.engine.runtime.preserved`.

    Args:
        image_shape: The shape of flattened images: ``(H, W)``, ``(C, H, W)`` or ``(H, W, C)``.
            ``None`` for square grey images, or for images of one row if the number of pixels is not
            a square.
        settings: The settings of the command by name: ``steps``, ``z_dim``, ``seed`` and so on.
            NumPy numbers and lists are accepted too, for searches over parameters.

    Attributes:
        trained_: The trained method: see :func:`train.trained.load`.

    Raises:
        ValueError: If ``X``, ``y`` or a setting is not valid.
        KeyboardInterrupt: If Ctrl-C is pressed during ``fit``, which then has no result.

    Example:
        >>> images = np.random.default_rng(0).random((50, 12, 12))
        >>> AETransformer(z_dim=3, steps=2).fit_transform(images).shape
        (50, 3)
    """

    method: ClassVar[Method]
    """The record of the method, which a subclass defines; it may be user-defined."""
    labelled: ClassVar[bool] = False
    """Whether the method needs ``y``."""
    DEFAULTS: ClassVar[Mapping[str, Any]] = {}
    """Defaults that differ from the command line's."""
    trained_: Any
    OPTIONS: ClassVar[Mapping[str, Any]] = {"image_shape": None}
    """Parameters that are not settings, with their defaults."""

    def __init_subclass__(cls) -> None:
        # scikit-learn reads parameters off the constructor's signature, which has to list them.
        options = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=default)
            for name, default in cls._defaults().items()
        ]

        def __init__(self: Transformer, **settings: Any) -> None:
            bound = signature.bind(self, **settings)
            bound.apply_defaults()
            for name, value in list(bound.arguments.items())[1:]:
                setattr(self, name, value)

        signature = Signature([Parameter("self", Parameter.POSITIONAL_OR_KEYWORD), *options])
        constructor: Any = __init__
        constructor.__signature__ = signature
        cls.__init__ = constructor  # type: ignore[method-assign]

    @classmethod
    def _fields(cls) -> list[Field]:
        """Returns the settings that are parameters."""
        method = getattr(cls, "method", None)
        settings = fields(method.settings) if method else ()
        return [field for field in settings if field.name not in COMMAND_LINE_ONLY]

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        """Returns the default of each parameter."""
        settings = {field.name: field.default for field in cls._fields()}
        return {**cls.OPTIONS, **settings, **cls.DEFAULTS}

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        # Codes are float32, whatever the type of the images.
        tags.transformer_tags.preserves_dtype = []
        return tags

    def fit(self, X: Any, y: Any = None) -> Transformer:
        """Trains the method on images.

        Args:
            X: Images.
            y: A label for each image, if the method needs labels: the labels that ICVAE's codes are
                invariant to, or the sets of ABC. Or columns with names, as a mapping, a data frame
                or a structured array: ``condition`` and ``set_column`` name some of them.
        """
        images = self._images(X, fitting=True)
        with self._value_errors(), self._training() as folder:
            self._train(images, y, folder)
        return self

    def transform(self, X: Any) -> np.ndarray:
        r"""Encodes images to codes, of shape (M, D), float32."""
        check_is_fitted(self)
        images = self._images(X)
        with self._value_errors():
            return self._encode(images).cpu().numpy()

    def _encode(self, images: Tensor) -> Tensor:
        """Encodes images (M, C, H, W) in [0, 1]."""
        return self.trained_.encode(images)

    @property
    def _n_features_out(self) -> int:
        """The number of columns of ``transform``, from which scikit-learn makes their names."""
        return self.trained_.code_size

    @contextmanager
    def _value_errors(self) -> Iterator[None]:
        """Converts :class:`InputError` to :class:`ValueError`, with parameters for flags."""
        try:
            yield
        except InputError as error:
            message = flags_to_arguments(str(error), self.method.settings, data="the data")
            raise ValueError(message) from error

    @contextmanager
    def _training(self) -> Iterator[Path]:
        """Gives training a temporary run folder, and leaves process-wide settings as they were."""
        with runtime.preserved(), tempfile.TemporaryDirectory() as folder:
            try:
                yield Path(folder) / "run"
            except Interrupted:
                # Its message names a temporary run folder, and scikit-learn expects this exception.
                raise KeyboardInterrupt from None

    def _needs_labels(self, settings: Any) -> bool:
        """Returns whether the method needs ``y`` with these settings."""
        return self.labelled

    def _train(self, images: Tensor, y: Any, folder: Path) -> None:
        """Trains on images (M, C, H, W) in [0, 1], with a temporary run folder."""
        names = [field.name for field in self._fields()]
        values = {name: getattr(self, name) for name in names}
        settings = self.method.settings(**values, run_dir=folder)
        data = Images(images, None)
        if self._needs_labels(settings):
            data = labelled(images, y)
            settings = self._with_columns(settings, data)
        split = Split(data, data)
        self._learn(self.method.resolved(settings, split), split)

    def _learn(self, settings: Any, split: Any) -> None:
        """Trains with settings, whose run folder is temporary, on a split of all data twice."""
        settings = self._adapted(settings, self.method.misfits(settings, split))
        device = runtime.setup(settings)
        if settings.compile == "auto" and device.type == "cpu":
            # It depends on time and on earlier runs, and a transformer fits the same twice.
            settings = replace(settings, compile="off")
        objective, batches, inputs = self.method.prepare(settings, split, device)
        run = Run.create(settings, self.method.name, **inputs)
        result = fit(objective, batches, run, settings, device)
        # Weights are not read from the folder, because only rank 0 writes it.
        weights = objective.state_dict()
        saved = SavedRun(self.method.name, asdict(settings), inputs, weights, result.steps)
        self.trained_ = self.method.trained(self.method, saved, device)

    def _with_columns(self, settings: Any, data: Images) -> Any:
        """Returns the settings with values for those that the names of columns decide."""
        return settings

    def _adapted(self, settings: Any, misfits: Sequence[Misfit | None]) -> Any:
        """Adapts settings to the size of the data.

        :data:`SIZES` and settings with their default value are changed without a message, because
        searches and cross-validation fit to subsets of the data.

        Args:
            settings: The settings.
            misfits: The settings that do not fit the data: see :mod:`train.fitting`.

        Raises:
            InputError: If another setting does not fit the data.
        """
        present = [misfit for misfit in misfits if misfit is not None]
        defaults = self._defaults()
        for misfit in present:
            is_default = getattr(settings, misfit.setting) == defaults[misfit.setting]
            require(misfit.setting in SIZES or is_default, f"{misfit.problem}: {misfit.remedy}")
        return replace(settings, **fitting.changes(*present))

    def _images(self, X: Any, *, fitting: bool = False) -> Tensor:
        """Converts ``X`` to images (M, C, H, W) in [0, 1]; if ``fitting``, stores their layout."""
        array = X if hasattr(X, "ndim") else np.asarray(X)
        sides = self.image_shape
        if array.ndim > 2:
            sides, array = tuple(array.shape[1:]), np.asarray(array).reshape(len(array), -1)
        flat = validate_data(self, array, reset=fitting, ensure_min_samples=1 + fitting)
        if fitting:
            self.layout_ = _layout(sides, flat.shape[1])
            # The range of uint8 does not depend on the values that occur.
            is_uint8 = flat.dtype == np.uint8
            self.range_ = (0.0, 255.0) if is_uint8 else (float(flat.min()), float(flat.max()))
        low, high = self.range_
        scaled = (flat.astype(np.float64) - low) / ((high - low) or 1.0)
        images = torch.from_numpy(scaled.clip(0, 1)).float().unflatten(1, self.layout_.sides)
        return self.layout_.with_channels(images)


class Layout(NamedTuple):
    """The order of an image's values in a row of ``X``.

    Attributes:
        sides: ``(H, W)``, ``(C, H, W)`` or ``(H, W, C)``.
        channels_last: Whether the last of three axes has the channels.
    """

    sides: tuple[int, ...]
    channels_last: bool

    def with_channels(self, images: Tensor) -> Tensor:
        """Returns images ``(M, *sides)`` as (M, C, H, W)."""
        if len(self.sides) == 2:
            return images.unsqueeze(1)
        return channels_first(images) if self.channels_last else images

    def flattened(self, images: Tensor) -> Tensor:
        """Returns images (M, C, H, W) as rows: the inverse of :meth:`with_channels`."""
        return (images.movedim(1, 3) if self.channels_last else images).flatten(1)


def _layout(sides: Sequence[int] | None, features: int) -> Layout:
    """Returns the layout of images of some sides, or else of square grey images.

    Raises:
        ValueError: If there are other than ``features`` values, or neither 1 nor 3 channels.
    """
    if sides is None:
        side = math.isqrt(features)
        sides = (side, side) if side**2 == features else (1, features)
    given, sides = sides, tuple(int(side) for side in sides)
    if math.prod(sides) != features:
        raise ValueError(f"image_shape is {given}, but X has {features} features")
    if len(sides) == 2:
        return Layout(sides, channels_last=False)
    if len(sides) != 3 or not {sides[0], sides[2]} & set(CHANNELS):
        raise ValueError(
            f"images have shape {given}: give (H, W), or (C, H, W) or (H, W, C) with C of 1 or 3"
        )
    return Layout(sides, channels_last=sides[0] not in CHANNELS)


class DecodingTransformer(Transformer):
    """A transformer whose method decodes codes to images."""

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Decodes codes (M, D) to flat images, in the range and the layout of those of ``fit``."""
        check_is_fitted(self)
        low, high = self.range_
        with self._value_errors():
            images = self.trained_.with_channels(self.trained_.decode(X))
        return low + (high - low) * self.layout_.flattened(images).cpu().numpy()


class AETransformer(DecodingTransformer):
    """Transforms images by the plain autoencoder."""

    method = METHODS["ae"]


class ACAITransformer(DecodingTransformer):
    """Transforms images by the autoencoder of ACAI."""

    method = METHODS["acai"]


class ABCTransformer(Transformer):
    """Transforms images by the embedder of ABC. ``y`` are their sets; none of them is withheld."""

    method = METHODS["abc"]
    labelled = True
    DEFAULTS: ClassVar = {"withheld": ()}


class ICVAETransformer(Transformer):
    """Transforms images by ICVAE, to codes that are invariant to ``y``: classes or quantities.

    If ``y`` has columns with names, these are the conditions, or ``condition`` names some of them.
    ``trained_`` then takes labels by name.

    Args:
        sample: Whether ``transform`` draws codes with ``seed``, or returns posterior means. Means
            may reveal more about labels: see :class:`train.verbs.conditional.TrainedICVAE`.
        image_shape: See :class:`Transformer`.
        settings: See :class:`Transformer`.
    """

    method = METHODS["icvae"]
    OPTIONS: ClassVar = {**Transformer.OPTIONS, "sample": False}

    def fit(self, X: Any, y: Any = None) -> Transformer:
        if self.image_shape is None:
            _refuse_tables(X)
        return super().fit(X, y)

    def _encode(self, images: Tensor) -> Tensor:
        return self.trained_.encode(images, sample=self.sample, seed=self.seed)

    def _needs_labels(self, settings: Any) -> bool:
        require(not settings.encoder_sees_labels, "encoder_sees_labels: transform has no labels")
        # A VAE has no condition.
        return settings.conditional

    def _with_columns(self, settings: Any, data: Images) -> Any:
        if settings.condition != LABELS or not data.columns:
            return settings
        return replace(settings, condition=tuple(data.columns))


def _refuse_tables(X: Any) -> None:
    """Raises :class:`ValueError` if ``X`` is a data frame whose columns are no pixels.

    Pixels have one range. Columns of a table have ranges of their own, and scaled by one range
    those with small numbers would be lost.
    """
    if not isinstance(X, pd.DataFrame):
        return
    is_numeric = all(pd.api.types.is_numeric_dtype(kind) for kind in X.dtypes)
    if not is_numeric or math.isqrt(X.shape[1]) ** 2 != X.shape[1]:
        raise ValueError(
            f"X is a data frame of {X.shape[1]} columns, which are not the pixels of a square "
            "image: train.table_transformer.TableTransformer takes tables, and image_shape says "
            "that the columns are pixels"
        )


class AIRTransformer(Transformer):
    """Transforms scenes by AIR, to presence, position and appearance of each object."""

    method = METHODS["air"]


def labelled(images: Tensor, y: Any) -> Images:
    """Combines images with ``y``, whose columns may have names.

    Raises:
        InputError: If labels are missing, not valid, or not as many as images.
    """
    columns = named_columns(y)
    if columns is None:
        return Images.labelled(images, require_labels(y, images))
    require(bool(columns), "y has no columns: give one or more, with a value for each image")
    return Images.of_columns(
        images,
        {str(name): require_labels(column, images, name) for name, column in columns.items()},
    )


def require_labels(y: Any, images: Tensor, name: str | None = None) -> np.ndarray:
    """Converts ``y`` to a label for each image: see :func:`train.data.labels.as_labels`.

    Args:
        y: The labels.
        images: The images.
        name: The name of the column that the labels are, if it has one.

    Raises:
        InputError: If labels are missing, not valid, or not as many as images.
    """
    require(y is not None, "y is missing: this method needs a label for each image")
    what = "y" if name is None else f"y, column {name},"
    labels = as_labels(y, what)
    require(
        name is None or labels.ndim == 1,
        f"{what} has shape {labels.shape}: give one value for each image",
    )
    count = f"there are {len(labels)} labels for {len(images)} images"
    require(len(labels) == len(images), count if name is None else f"{what} is wrong: {count}")
    return labels
