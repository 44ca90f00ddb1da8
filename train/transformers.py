"""The methods as scikit-learn transformers: ``fit`` trains one, ``transform`` gives its codes."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import Field, asdict, fields, replace
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from train import fitting
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
from train.settings import flags_to_arguments

COMMAND_LINE_ONLY = ("data", "data_dir", "evaluate_on", "resume", "run_dir", "sweep", "tensorboard")
"""Settings that are no parameters of a transformer."""

SIZES = ("batch_size", "stack_size", "other_stack_size", "echo_terms")
"""Settings that are made to fit small data, whoever chose them."""


class Transformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    r"""A method that is trained by ``fit`` and encodes by ``transform``.

    ``X`` are images, of shape :math:`(M, H, W)`, or flat, of shape :math:`(M, H W)`. Bytes are
    grey levels; other numbers are scaled so that the least and the greatest that ``fit`` saw are 0
    and 1, and clipped beyond.

    Args:
        image_shape: Height and width of flat images; if not given they are square, or, where that
            cannot be, of one row.
        settings: Those of the command line, by name: ``steps``, ``z_dim``, ``seed`` and so on.
            Numbers of NumPy's and lists will do, so that they can be searched.

    Attributes:
        trained_: The method, as :func:`train.trained.load` gives it.

    Raises:
        ValueError: If ``X``, ``y`` or a setting cannot be used.
        KeyboardInterrupt: If Ctrl-C was pressed; nothing is kept of a fit that was not finished.

    ``fit`` leaves the process as it was: see :func:`train.engine.runtime.preserved`.

    Example:
        >>> images = np.random.default_rng(0).random((50, 12, 12))
        >>> AETransformer(z_dim=3, steps=2).fit_transform(images).shape
        (50, 3)
    """

    method: ClassVar[Method]
    """The method's record: a subclass gives it, and may be of a method of one's own."""
    labelled: ClassVar[bool] = False
    """Whether the method needs ``y``."""
    DEFAULTS: ClassVar[Mapping[str, Any]] = {}
    """Defaults that differ from those of the command line."""
    OPTIONS: ClassVar[Mapping[str, Any]] = {"image_shape": None}
    """Parameters beside the settings, with their defaults."""

    def __init_subclass__(cls) -> None:
        # scikit-learn reads a constructor's parameters, and so do people: they are the settings.
        named = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=default)
            for name, default in cls._defaults().items()
        ]

        def __init__(self: Transformer, **settings: Any) -> None:
            bound = signature.bind(self, **settings)
            bound.apply_defaults()
            for name, value in list(bound.arguments.items())[1:]:
                setattr(self, name, value)

        signature = Signature([Parameter("self", Parameter.POSITIONAL_OR_KEYWORD), *named])
        __init__.__signature__ = signature
        cls.__init__ = __init__

    @classmethod
    def _fields(cls) -> list[Field]:
        """Returns the settings that are parameters."""
        method = getattr(cls, "method", None)
        every = fields(method.settings) if method else ()
        return [field for field in every if field.name not in COMMAND_LINE_ONLY]

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        """Returns the default of each parameter."""
        settings = {field.name: field.default for field in cls._fields()}
        return {**cls.OPTIONS, **settings, **cls.DEFAULTS}

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        # Codes are of single precision, whatever images are.
        tags.transformer_tags.preserves_dtype = []
        return tags

    def fit(self, X: Any, y: Any = None) -> Transformer:
        """Trains on images.

        Args:
            X: Images.
            y: Labels: what ICVAE's codes are to say nothing of, or the sets of ABC's images.
        """
        images = self._images(X, fitting=True)
        with self._refusals(), runtime.preserved(), tempfile.TemporaryDirectory() as folder:
            try:
                self._train(images, y, Path(folder) / "run")
            except Interrupted:
                # What its message says to go on with is gone, and others look out for this one.
                raise KeyboardInterrupt from None
        return self

    def transform(self, X: Any) -> np.ndarray:
        r"""Codes of images, of shape (M, D)."""
        check_is_fitted(self)
        images = self._images(X)
        with self._refusals():
            return self._encode(images).cpu().numpy()

    def _encode(self, images: Tensor) -> Tensor:
        """Codes of images in [0, 1]."""
        return self.trained_.encode(images)

    @property
    def _n_features_out(self) -> int:
        """How many columns ``transform`` has; scikit-learn names them before and after it."""
        return self.trained_.code_size

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Raises what is refused as scikit-learn expects it, in the words of its users."""
        try:
            yield
        except InputError as error:
            message = flags_to_arguments(str(error), self.method.settings, data="the data")
            raise ValueError(message) from error

    def _labelled(self, settings: Any) -> bool:
        """Returns whether ``y`` is needed under some settings."""
        return self.labelled

    def _train(self, images: Tensor, y: Any, folder: Path) -> None:
        names = [field.name for field in self._fields()]
        values = {name: getattr(self, name) for name in names}
        settings = self.method.settings(**values, run_dir=folder)
        labels = labels_of(y, images) if self._labelled(settings) else None
        data = Images.labelled(images, labels)
        split = Split(data, data)
        settings = self._fitted(settings, self.method.misfits(settings, split))
        device = runtime.setup(settings)
        objective, batches, inputs = self.method.prepare(settings, split, device)
        run = Run.create(settings, self.method.name, **inputs)
        result = fit(objective, batches, run, settings, device)
        # Not from the folder, which only the first of several processes writes.
        weights = objective.state_dict()
        saved = SavedRun(self.method.name, asdict(settings), inputs, weights, result.steps)
        self.trained_ = self.method.trained(self.method, saved, device)

    def _fitted(self, settings: Any, misfits: Sequence[Misfit | None]) -> Any:
        """Fits settings to the data.

        Sizes of batches, and whatever has its default, are changed without a word: a search or a
        cross-validation fits to parts of the data. Anything else is refused.

        Raises:
            InputError: If a setting does not fit that somebody has chosen.
        """
        wrong = [misfit for misfit in misfits if misfit is not None]
        defaults = self._defaults()
        for misfit in wrong:
            default = getattr(settings, misfit.setting) == defaults[misfit.setting]
            require(misfit.setting in SIZES or default, f"{misfit.problem}: {misfit.remedy}")
        return replace(settings, **fitting.changes(*wrong))

    def _images(self, X: Any, *, fitting: bool = False) -> Tensor:
        """Images in [0, 1], of shape (M, H, W)."""
        given = X if hasattr(X, "ndim") else np.asarray(X)
        shape = self.image_shape
        if given.ndim == 3:
            shape, given = tuple(given.shape[1:]), np.asarray(given).reshape(len(given), -1)
        flat = validate_data(self, given, reset=fitting, ensure_min_samples=1 + fitting)
        if fitting:
            side = math.isqrt(flat.shape[1])
            square = (side, side) if side**2 == flat.shape[1] else (1, flat.shape[1])
            self.shape_ = tuple(int(side) for side in (square if shape is None else shape))
            if math.prod(self.shape_) != flat.shape[1]:
                raise ValueError(f"image_shape is {shape}, but X has {flat.shape[1]} features")
            # Bytes are grey levels, whatever is among them.
            byte = flat.dtype == np.uint8
            self.range_ = (0.0, 255.0) if byte else (float(flat.min()), float(flat.max()))
        low, high = self.range_
        scaled = (flat.astype(np.float64) - low) / ((high - low) or 1.0)
        return torch.from_numpy(scaled.clip(0, 1)).float().unflatten(1, self.shape_)


class DecodingTransformer(Transformer):
    """A transformer whose codes decode to images."""

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Flat images of codes, in the range that ``fit`` saw."""
        check_is_fitted(self)
        low, high = self.range_
        with self._refusals():
            images = self.trained_.decode(X)
        return low + (high - low) * images.flatten(1).cpu().numpy()


class AETransformer(DecodingTransformer):
    """The plain autoencoder."""

    method = METHODS["ae"]


class ACAITransformer(DecodingTransformer):
    """ACAI."""

    method = METHODS["acai"]


class ABCTransformer(Transformer):
    """ABC: ``y`` are the sets of the images, all of which it is trained on."""

    method = METHODS["abc"]
    labelled = True
    DEFAULTS: ClassVar = {"withheld": ()}


class ICVAETransformer(Transformer):
    """ICVAE: its codes are to say nothing of ``y``, classes or quantities.

    Args:
        sample: Whether ``transform`` draws codes, from ``seed``, or returns their means. Labels are
            kept out of draws; from means more of them can be read: see
            :class:`train.verbs.conditional.TrainedICVAE`.
        image_shape: See :class:`Transformer`.
        settings: See :class:`Transformer`.
    """

    method = METHODS["icvae"]
    OPTIONS: ClassVar = {**Transformer.OPTIONS, "sample": False}

    def _encode(self, images: Tensor) -> Tensor:
        return self.trained_.encode(images, sample=self.sample, seed=self.seed)

    def _labelled(self, settings: Any) -> bool:
        require(not settings.encoder_sees_labels, "encoder_sees_labels: transform has no labels")
        # A VAE has no condition.
        return settings.condition == "labels"


class AIRTransformer(Transformer):
    """AIR: presence, place and code of each object."""

    method = METHODS["air"]


def labels_of(y: Any, images: Tensor) -> np.ndarray:
    """Converts labels: see :func:`train.data.labels.as_labels`."""
    require(y is not None, "y is missing: this method needs a label for each image")
    labels = as_labels(y, "y")
    require(len(labels) == len(images), f"there are {len(labels)} labels for {len(images)} images")
    return labels
