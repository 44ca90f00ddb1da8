"""The methods as scikit-learn transformers: ``fit`` trains one, ``transform`` gives its codes."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
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

from pyro_models.acai import halvings
from train import abc, fitting, icvae
from train.data import digits
from train.data.batches import Batches
from train.data.conditions import Condition
from train.data.digits import Images
from train.data.labels import as_labels
from train.data.stacks import sets_of
from train.engine import runtime
from train.engine.loop import fit
from train.engine.runs import Run, SavedRun
from train.errors import InputError, Interrupted, require
from train.objective import Batch, Objective
from train.settings import flags_to_arguments
from train.trained import METHODS

OWN = ("data", "data_dir", "evaluate_on", "resume", "run_dir", "sweep", "tensorboard")
"""Settings of the command line that a transformer has no use for."""


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

    method: ClassVar[str]
    DEFAULTS: ClassVar[Mapping[str, Any]] = {}
    """Where they are not those of the command line."""
    OPTIONS: ClassVar[Mapping[str, Any]] = {"image_shape": None}
    """What there is beside settings, with its defaults."""

    def __init_subclass__(cls) -> None:
        # scikit-learn reads a constructor's parameters, and so do people: they are the settings.
        known = {**cls.OPTIONS, **{field.name: field.default for field in cls._fields()}}
        named = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=cls.DEFAULTS.get(name, default))
            for name, default in known.items()
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
        method = getattr(cls, "method", None)
        every = fields(METHODS[method].door[0]) if method else ()
        return [field for field in every if field.name not in OWN]

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
            settings = METHODS[self.method].door[0]
            raise ValueError(flags_to_arguments(str(error), settings, data="the data")) from error

    def _train(self, images: Tensor, y: Any, folder: Path) -> None:
        names = [field.name for field in self._fields()]
        values = {name: getattr(self, name) for name in names} | {"run_dir": folder}
        settings = METHODS[self.method].door[0](**values)
        # In Python's own types from here on.
        values = {name: getattr(settings, name) for name in values}
        settings = replace(settings, **self._fitting(values, images, y))
        device = runtime.setup(settings)
        objective, batches, inputs = self._prepare(settings, images, y, device)
        inputs = {"shape": tuple(images.shape[1:])} | inputs
        run = Run.create(settings, self.method, **inputs)
        fitted = fit(objective.to(device), batches, run, settings, device, progress=False)
        # Not from the folder, which only the first of several processes writes.
        weights = objective.state_dict()
        saved = SavedRun(self.method, asdict(settings), inputs, weights, fitted.steps)
        self.trained_ = METHODS[self.method](saved, device)

    def _fitting(self, values: Mapping[str, Any], images: Tensor, y: Any) -> dict[str, Any]:
        """Settings that few images make smaller."""
        return fitting.changes(fitting.batch(values["batch_size"], len(images)))

    def _prepare(
        self, settings: Any, images: Tensor, y: Any, device: torch.device
    ) -> tuple[Objective, Callable[[int], Batch], dict[str, Any]]:
        """Objective, batches, and what else the method must know of its data."""
        _, build = METHODS[self.method].door
        batches = Batches((images,), settings.batch_size, settings.seed, device)
        return build(settings, tuple(images.shape[1:])), batches, {}

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


class Invertible(Transformer):
    """A transformer whose codes decode to images."""

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Flat images of codes, in the range that ``fit`` saw."""
        check_is_fitted(self)
        low, high = self.range_
        with self._refusals():
            images = self.trained_.decode(X)
        return low + (high - low) * images.flatten(1).cpu().numpy()


class AETransformer(Invertible):
    """The plain autoencoder."""

    method = "ae"


class ACAITransformer(Invertible):
    """ACAI."""

    method = "acai"

    def _fitting(self, values: Mapping[str, Any], images: Tensor, y: Any) -> dict[str, Any]:
        fits = super()._fitting(values, images, y)
        default = {field.name: field.default for field in self._fields()}["z_dim"]
        if values["network"] == "conv" and values["z_dim"] == default:
            padded, _ = digits.pad(Images(images, None), 1 << halvings(self.shape_))
            fits |= fitting.changes(fitting.code(default, padded.shape))
        return fits

    def _prepare(
        self, settings: Any, images: Tensor, y: Any, device: torch.device
    ) -> tuple[Objective, Callable[[int], Batch], dict[str, Any]]:
        multiple = 1 << halvings(self.shape_) if settings.network == "conv" else 1
        padded, frame = digits.pad(Images(images, None), multiple)
        prepared = super()._prepare(settings, padded.images, y, device)
        return *prepared[:2], {"frame": frame, "shape": padded.shape}


class ABCTransformer(Transformer):
    """ABC: ``y`` are the sets of the images, all of which it is trained on."""

    method = "abc"
    DEFAULTS: ClassVar = {"withheld": ()}

    def _fitting(self, values: Mapping[str, Any], images: Tensor, y: Any) -> dict[str, Any]:
        # A stack is of one set, and the batch is of pairs of stacks.
        if values["replacement"]:
            return {}
        sets = sets_of(Images.labelled(images, labels_of(y, images)))
        sizes = {name: values[name] for name in ("stack_size", "other_stack_size")}
        return fitting.changes(*fitting.stacks(sizes, sets.counts(values["withheld"])))

    def _prepare(
        self, settings: Any, images: Tensor, y: Any, device: torch.device
    ) -> tuple[Objective, Callable[[int], Batch], dict[str, Any]]:
        sets = sets_of(Images.labelled(images, labels_of(y, images)))
        names = {"withheld": sets.find(settings.withheld), "names": sets.classes.values}
        batches = abc.stacks(settings, images, sets.numbers[0], device, **names)
        inputs = {"sets": sets.classes.values}
        return abc.build(settings, tuple(images.shape[1:])), batches, inputs


class ICVAETransformer(Transformer):
    """ICVAE: its codes are to say nothing of ``y``, classes or quantities.

    Args:
        sample: Whether ``transform`` draws codes, from ``seed``, or gives their means. Labels were
            kept out of draws, and from means more of them can be read: see
            :class:`train.trained.TrainedICVAE`.
        image_shape: See :class:`Transformer`.
        settings: See :class:`Transformer`.
    """

    method = "icvae"
    OPTIONS: ClassVar = {**Transformer.OPTIONS, "sample": False}

    def _encode(self, images: Tensor) -> Tensor:
        return self.trained_.encode(images, sample=self.sample, seed=self.seed)

    def _fitting(self, values: Mapping[str, Any], images: Tensor, y: Any) -> dict[str, Any]:
        fits = super()._fitting(values, images, y)
        if values["invariance"] != "echo":
            return fits
        share = (values | fits)["batch_size"]
        return fits | fitting.changes(fitting.echo_terms(values["echo_terms"], share))

    def _prepare(
        self, settings: Any, images: Tensor, y: Any, device: torch.device
    ) -> tuple[Objective, Callable[[int], Batch], dict[str, Any]]:
        require(not settings.encoder_sees_labels, "encoder_sees_labels: transform has no labels")
        if settings.condition == "none":
            # A VAE is told nothing, and needs no labels.
            condition, told = (
                Condition(0, torch.zeros(1), torch.ones(1)),
                images.new_zeros(len(images), 0),
            )
        else:
            known = Images.labelled(images, labels_of(y, images))
            condition = Condition.of(known, known)
            told = condition.told(known)
        batches = Batches((images, told), settings.batch_size, settings.seed, device)
        objective = icvae.build(settings, tuple(images.shape[1:]), condition)
        return objective, batches, {"condition": condition.state()}


class AIRTransformer(Transformer):
    """AIR: of each object whether it is there, its place and its code."""

    method = "air"


def labels_of(y: Any, images: Tensor) -> np.ndarray:
    """Labels as data have them: see :func:`train.data.labels.as_labels`."""
    require(y is not None, "y is missing: this method needs a label for each image")
    labels = as_labels(y, "y")
    require(len(labels) == len(images), f"there are {len(labels)} labels for {len(images)} images")
    return labels
