"""What every trained method can do: take images and codes as people have them, and encode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pyro_models.shapes import Shape
from train.arguments import as_codes
from train.data.batches import as_input
from train.data.images import as_images
from train.engine import runtime
from train.engine.saved import SavedRun
from train.errors import InputError
from train.objective import Objective
from train.settings import Settings, flags_to_arguments, restore

if TYPE_CHECKING:
    from train.data.labelled import Images

Array = Any
"""Images of shape :math:`(M, H, W)`, or one of :math:`(H, W)`, which is a batch of one: arrays,
tensors, PIL images or lists, as :func:`train.data.images.as_images` takes them."""

Labels = Any
"""Labels as the data of the run have them, one for each image or one for all: whole numbers or text
for classes, or quantities, of shape :math:`(M)` or :math:`(M, K)`."""


class Record(Protocol):
    """What a trained method asks of its record, a :class:`train.method.Method`."""

    name: str
    settings: type[Settings]

    def shape(self, inputs: Mapping[str, Any]) -> Shape: ...

    def build(self, settings: Any, inputs: Mapping[str, Any]) -> Objective: ...


class TensorFunction(NamedTuple):
    """A function of tensors that can be exported.

    Attributes:
        function: The function.
        inputs: Examples of its arguments, by name, in order.
        outputs: The names of what it returns, in order.
    """

    function: Callable[..., Any]
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]


class Codec(NamedTuple):
    """How a comparison encodes labelled images, and decodes codes.

    Attributes:
        encode: From images to codes, of shape (M, D).
        decode: From codes and the images' labels, as the data have them, to images in [0, 1];
            ``None`` if the method has no decoder.
    """

    encode: Callable[[Images], np.ndarray]
    decode: Callable[[np.ndarray, np.ndarray], Tensor] | None


def clipped(verb: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Clips to [0, 1] the images that a verb returns; a decorator.

    Means of Normal pixels, and sums of objects, may lie outside. Clipped, what a verb returns can
    be given to any verb again.
    """

    @wraps(verb)
    def clipping(self: Trained, *args: Any, **options: Any) -> Tensor:
        return verb(self, *args, **options).clamp(0, 1)

    return clipping


class Trained:
    """A trained method, in evaluation mode: :func:`train.trained.load` returns one.

    What verbs return is on its device, without gradients; images are in [0, 1].

    Args:
        method: The method's record.
        saved: What a run left: its settings, inputs and weights.
        device: Where to put it.

    Attributes:
        method: The method's record.
        settings: The run's settings.
        objective: The networks; of a Pyro pair ``objective.model`` and ``objective.guide``.
        shape: The height and width of its images.
    """

    batch = 1_000
    """How many images a network sees at once."""

    def __init__(self, method: Record, saved: SavedRun, device: torch.device) -> None:
        self.method = method
        self.saved = saved._replace(weights={})
        self.settings: Any = restore(method.settings, saved.settings)
        self.shape: Shape = method.shape(saved.inputs)
        self.check(saved.inputs)
        # Initial weights are drawn before they are replaced: this must not change other draws.
        with torch.random.fork_rng(devices=[]):
            self.objective: Any = method.build(self.settings, saved.inputs)
        # No weights: only the names and shapes of the network's weights are wanted.
        if saved.weights:
            self.objective.load_state_dict(saved.weights)
        self.objective.to(device).eval()

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickle holds settings and weights, not modules, which only this version could read.
        weights = {name: tensor.cpu() for name, tensor in self.objective.state_dict().items()}
        saved = self.saved._replace(weights=weights)
        return type(self), (self.method, saved, torch.device("cpu"))

    def check(self, inputs: Mapping[str, Any]) -> None:
        """Checks settings and inputs before networks are built from them.

        Raises:
            ValueError: If they are not those of a run.
        """

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return next(self.objective.parameters()).device

    def to(self, device: str | torch.device) -> Trained:
        """Moves it to a device, and returns it.

        Raises:
            InputError: If there is no such device.
        """
        self.objective.to(named_device(device))
        return self

    @property
    def code_size(self) -> int:
        """The size :math:`D` of a code."""
        return self.settings.z_dim

    def codes(self, z: Tensor | ArrayLike) -> Tensor:
        r"""Converts codes to what networks take: see :func:`train.arguments.as_codes`."""
        return as_codes(z, self.code_size, self.device)

    def encode(self, images: Array) -> Tensor:
        r"""Encodes images: a code for each, of shape :math:`(M, D)`."""
        raise NotImplementedError

    def functions(self) -> dict[str, TensorFunction]:
        """Returns what :mod:`train.export` writes: ``encoder``, and ``decoder`` if there is one."""
        raise NotImplementedError

    def codec(self, shape: Shape) -> Codec:
        """Returns how :mod:`train.compare` encodes and decodes images.

        Args:
            shape: The images' height and width.

        Raises:
            InputError: If the method cannot take images of that shape.
        """
        decode = getattr(self, "decode", None)
        return Codec(
            lambda images: self.encode(images.images).cpu().numpy(),
            None if decode is None else lambda z, _: decode(torch.from_numpy(z)).cpu(),
        )

    def example(self, *shape: int) -> Tensor:
        """Returns an example of a function's argument: two rows of zeros, of a shape."""
        return torch.zeros(2, *shape, device=self.device)

    def inputs(self, images: Array) -> Tensor:
        r"""Converts images to what networks take: :math:`(M, H, W)` in [0, 1], on the device.

        A warning says what is done with them beyond what they say themselves.

        Raises:
            InputError: If they are of another shape, type or range; see
                :func:`train.data.images.as_images`.
        """
        return as_input(as_images(images, self.shape).to(self.device))

    def in_batches(self, function: Callable[..., Tensor], *rows: Tensor) -> Tensor:
        """Applies a function to rows of tensors in batches, without gradients."""
        # Batches of nearly equal size: a small last one could not make Echo's noise.
        number = max(1, len(rows[0]) // self.batch)
        with torch.no_grad():
            batches = zip(*(tensor.tensor_split(number) for tensor in rows), strict=True)
            return torch.cat([function(*batch) for batch in batches])


def named_device(device: str | torch.device) -> torch.device:
    """Finds a device as :func:`train.engine.runtime.find_device` does, for a caller from Python.

    Raises:
        InputError: If there is no such device; the message names the parameter, not the flag.
    """
    try:
        return runtime.find_device(device)
    except InputError as error:
        raise InputError(flags_to_arguments(str(error), Settings)) from error
