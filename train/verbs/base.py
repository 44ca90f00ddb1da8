"""The base class of trained methods: converts images and codes that users pass, and encodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from itertools import pairwise
from mmap import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from numpy.lib.format import MAGIC_PREFIX
from numpy.typing import ArrayLike
from torch import Tensor

from pyro_models.shapes import Shape
from train.arguments import as_codes
from train.data.batches import as_input
from train.data.images import as_images, unlike, without_grey_axis
from train.data.streaming.stored import ArrayImages, StoredImages
from train.engine import runtime
from train.engine.saved import SavedRun
from train.errors import InputError
from train.objective import Objective
from train.settings import Settings, flags_to_arguments, restore

if TYPE_CHECKING:
    from train.data.labelled import Images
    from train.explorer.base import View

Array = Any
"""Grey images of shape :math:`(M, H, W)`, colour images of shape :math:`(M, C, H, W)` or
:math:`(M, H, W, C)`, or one image without the first axis, which is a batch of one. Arrays, tensors,
PIL images or lists of them: see :func:`train.data.images.as_images`. Or the path of an ``.npy``
file, what ``numpy.load(path, mmap_mode="r")`` returns, or
:class:`~train.data.streaming.stored.StoredImages`, which are read a batch at a time."""

Labels = Any
"""Labels as in the data of the run: one for each image, or one for all images. Classes are whole
numbers or text; quantities are of shape :math:`(M)` or :math:`(M, K)`. Several conditions of ICVAE
are given by name, as a mapping or a table."""


LARGE = 2**24
"""Bytes from which a memory-mapped array is read a batch at a time."""
SHOWN = 500
"""Most images in a notebook."""


class Record(Protocol):
    """The attributes of a :class:`train.method.Method` that a trained method depends on."""

    name: ClassVar[str]
    settings: ClassVar[type[Settings]]

    def shape(self, inputs: Mapping[str, Any]) -> Shape: ...

    def build(self, settings: Any, inputs: Mapping[str, Any]) -> Objective: ...


class TensorFunction(NamedTuple):
    """A function of tensors that can be exported.

    Attributes:
        function: The function.
        inputs: Example tensors of its arguments, by name, in order.
        outputs: The names of the tensors that it returns, in order.
    """

    function: Callable[..., Any]
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]


class Codec(NamedTuple):
    """The encoder and decoder that a comparison measures.

    Attributes:
        encode: Encodes images with labels to codes, of shape (M, D).
        decode: Decodes codes (M, D), under the labels and columns of as many images, to images
            (M, C, H, W) in [0, 1]; ``None`` if the method has no decoder.
    """

    encode: Callable[[Images], np.ndarray]
    decode: Callable[[np.ndarray, Images], Tensor] | None


def clipped(verb: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorates a method so that the images it returns are in [0, 1], and grey without channels.

    Means of normally distributed pixels, and sums of objects, may lie outside. Methods that take
    images require this range, so clipped images can be passed to them. A decorated method must not
    call another one, whose images have lost their channels already.
    """

    @wraps(verb)
    def clip(self: Trained, *args: Any, **options: Any) -> Tensor:
        return without_grey_axis(verb(self, *args, **options).clamp(0, 1))

    return clip


class Trained:
    """A trained method in eval mode, as :func:`train.trained.load` returns it.

    Tensors that its methods return are on its device and without gradients. Images are in [0, 1],
    of shape :math:`(M, H, W)` if they are grey, and :math:`(M, C, H, W)` in colour.

    Args:
        method: The method's record.
        saved: The settings, inputs and weights of a run.
        device: The device to put the networks on.

    Attributes:
        method: The method's record.
        settings: The run's settings.
        objective: The networks. A Pyro model and guide are ``objective.model`` and
            ``objective.guide``.
        shape: Channels, height and width of the images.
        view: What shows the method in a browser: see :mod:`train.explore`; ``None`` if nothing
            does.
    """

    view: ClassVar[Callable[..., View] | None] = None

    batch = 1_000
    """Approximate number of images that a network processes at once, to bound memory."""

    def __init__(self, method: Record, saved: SavedRun, device: torch.device) -> None:
        self.method = method
        self.saved = saved._replace(weights={})
        self.settings: Any = restore(method.settings, saved.settings)
        self.shape: Shape = method.shape(saved.inputs)
        self.check(saved.inputs)
        # Building draws initial weights. The RNG is forked, so that other draws do not change.
        with torch.random.fork_rng(devices=[]):
            self.objective: Any = method.build(self.settings, saved.inputs)
        # Without weights, the caller needs only the names and shapes of the network's weights.
        if saved.weights:
            self.objective.load_state_dict(saved.weights)
        self.objective.to(device).eval()
        # Moved in place by `to`: looking for it takes as long as an operation on one image.
        self.first_weight = next(self.objective.parameters())

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickles contain settings and weights, because only this version could read modules.
        weights = {name: tensor.cpu() for name, tensor in self.objective.state_dict().items()}
        saved = self.saved._replace(weights=weights)
        return type(self), (self.method, saved, torch.device("cpu"))

    def check(self, inputs: Mapping[str, Any]) -> None:
        """Checks settings and inputs before networks are built from them.

        Args:
            inputs: The ``inputs`` of ``config.json``.

        Raises:
            ValueError: If no run has such settings and inputs.
        """

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return self.first_weight.device

    def to(self, device: str | torch.device) -> Trained:
        """Moves the networks to a device in place; returns ``self``.

        Raises:
            InputError: If the device does not exist.
        """
        self.objective.to(named_device(device))
        return self

    def resized(self, shape: Any = None, max_objects: int | None = None) -> Trained:
        """Returns the same weights for images of another size, or for more objects.

        Args:
            shape: Height and width of the images, in pixels, after the channels if there are
                several; ``None`` leaves it.
            max_objects: The most objects in a scene; ``None`` leaves it.

        Raises:
            InputError: If the method's networks have the size of its images.
        """
        raise InputError(
            f"{self.method.name} takes images of {self.shape} alone, and has no count of objects: "
            "leave out shape and max_objects"
        )

    @property
    def code_size(self) -> int:
        """The size :math:`D` of a code."""
        return self.settings.z_dim

    def codes(self, z: Tensor | ArrayLike) -> Tensor:
        r"""Converts codes to a tensor on the device: see :func:`train.arguments.as_codes`."""
        return as_codes(z, self.code_size, self.device)

    def encode(self, images: Array) -> Tensor:
        r"""Encodes images to codes, of shape :math:`(M, D)`."""
        raise NotImplementedError

    def functions(self) -> dict[str, TensorFunction]:
        """Returns the functions to export by name: ``encoder``, and ``decoder`` if there is one."""
        raise NotImplementedError

    def explore(self, images: Array | None = None, labels: Labels | None = None) -> Any:
        """Shows the method in a notebook, to see and to touch: see :mod:`train.explore`.

        Args:
            images: The images that are shown; ``None`` opens the run's data, and takes held-out
                ones.
            labels: Their labels, if the method needs or the map shows them.

        Returns:
            An ``anywidget.AnyWidget``, which a notebook shows as the last value of a cell.

        Raises:
            InputError: If the method has no view, its data cannot be opened, or the extra
                ``notebook`` is not installed.
        """
        from train.explorer import held_out, widget

        view = type(self).view
        if view is None:
            raise InputError(f"there is no view of {self.method.name}")
        if images is None:
            shown = held_out.reopened(self)
        else:
            shown = held_out.given(images, self.shape, labels)
        shown = held_out.sampled(shown, SHOWN)
        return widget.widget(view(self, shown, self.method.name, {}))

    def codec(self, shape: Shape) -> Codec:
        """Returns the encoder and decoder that :mod:`train.compare` measures.

        Args:
            shape: Channels, height and width of the images to compare on.

        Raises:
            InputError: If the method does not support images of that shape.
        """
        decode = getattr(self, "decode", None)
        return Codec(
            lambda images: self.encode(images.images).cpu().numpy(),
            None
            if decode is None
            else lambda z, _: self.with_channels(decode(torch.from_numpy(z)).cpu()),
        )

    def example(self, *shape: int) -> Tensor:
        """Returns an example argument for an export: zeros, of shape ``(2, *shape)``."""
        return torch.zeros(2, *shape, device=self.device)

    def with_channels(self, images: Tensor) -> Tensor:
        r"""Returns images of this method as :math:`(*, C, H, W)`, also grey ones without channels.

        It takes and returns images inside of an export, where nothing is checked.
        """
        return images.unsqueeze(-3) if self.shape.channels == 1 else images

    def inputs(self, images: Array) -> Tensor:
        r"""Converts images to a float tensor :math:`(M, C, H, W)` in [0, 1], on the device.

        It holds all of them: :meth:`in_batches` converts those of :meth:`rows` a batch at a time.

        Raises:
            InputError: See :meth:`rows`.
        """
        return as_input(self.rows(images)[:].to(self.device))

    def rows(self, images: Array) -> Tensor | StoredImages:
        r"""Checks images, and leaves them where they are.

        A conversion that is not obvious, such as clipping, is reported in a warning.

        Returns:
            Images of shape :math:`(M, C, H, W)`, wherever they are: uint8, or float32 in [0, 1].

        Raises:
            InputError: If shape, type or range is not supported: see
                :func:`train.data.images.as_images`.
        """
        images = opened(images)
        if not isinstance(images, StoredImages):
            return as_images(images, self.shape)
        if images.image_shape != self.shape:
            raise unlike(self.shape, images.shape, "images")
        return images

    def batches(self, *rows: Tensor | StoredImages) -> Iterator[tuple[Tensor, ...]]:
        r"""Yields batches of rows, float on the device, so that no more is held at once.

        Args:
            rows: Tensors or stored images, all with the same number of rows.
        """
        device = self.device
        # Batches of nearly equal size, because Echo noise needs more than a few images in each.
        number = max(1, len(rows[0]) // self.batch)
        if number == 1:
            yield tuple(as_input(each[:].to(device)) for each in rows)
            return
        size, larger = divmod(len(rows[0]), number)
        ends = [size * i + min(i, larger) for i in range(number + 1)]
        for start, end in pairwise(ends):
            yield tuple(as_input(each[start:end].to(device)) for each in rows)

    def in_batches(self, function: Callable[..., Tensor], *rows: Tensor | StoredImages) -> Tensor:
        """Applies a function to rows in batches, without gradients.

        Args:
            function: Called with a batch of each of ``rows``; returns a tensor with as many rows.
            rows: See :meth:`batches`.
        """
        n, done, result = len(rows[0]), 0, None
        with torch.no_grad():
            for batch in self.batches(*rows):
                part = function(*batch)
                if len(part) == n:
                    return part
                # Of many parts and what they are joined to, there would be two copies.
                result = part.new_empty(n, *part.shape[1:]) if result is None else result
                result[done : done + len(part)] = part
                done += len(part)
        assert result is not None
        return result


def opened(images: Array) -> Array:
    """Opens images that are given as the path of an ``.npy`` file; returns others as they are.

    A memory-mapped file of :data:`LARGE` bytes or more is opened by its path: converted as an array
    it would be in memory as a whole.

    Raises:
        InputError: If the file is none, or damaged, or its images cannot be used.
    """
    if isinstance(images, np.memmap) and images.nbytes >= LARGE and _is_file(images):
        images = images.filename
    return ArrayImages(Path(images)) if isinstance(images, str | Path) else images


def _is_file(images: np.memmap) -> bool:
    """Whether a memory-mapped array is all of an ``.npy`` file."""
    # The base of a part of a map is the map. One that can be written may differ from its file.
    is_whole = isinstance(images.base, mmap) and images.flags.c_contiguous and images.mode == "r"
    if not is_whole or images.filename is None:
        return False
    with open(images.filename, "rb") as file:
        return file.read(len(MAGIC_PREFIX)) == MAGIC_PREFIX


def named_device(device: str | torch.device) -> torch.device:
    """Returns a device: see :func:`train.engine.runtime.find_device`.

    Raises:
        InputError: If the device does not exist. The message names the Python parameter instead of
            the flag.
    """
    try:
        return runtime.find_device(device)
    except InputError as error:
        raise InputError(flags_to_arguments(str(error), Settings)) from error
