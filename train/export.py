"""Exports the networks of a run for use without this project: ``python -m train.export RUN``."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import tyro

from train.cli import command
from train.errors import require

if TYPE_CHECKING:
    from train.verbs.base import TensorFunction, Trained

SIZES = (1, 2, 7, 64)
"""Batch sizes at which an export is compared with the function that it was made from."""


PT2, ONNX, INT8 = ".pt2", ".onnx", ".int8.onnx"
"""The kinds of exports, by the suffixes of their files."""


@dataclass(frozen=True)
class ExportSettings:
    """Export the encoder and decoder of a run as PyTorch programs, and check them against the run.

    The programs are read with torch.export.load. They take batches of any size, of float images in
    [0, 1]. docs/trained.md lists their inputs and outputs."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    out: Path | None = None
    """Folder that the programs are written to; None: the folder export in the run folder."""
    onnx: bool = False
    """Export to ONNX too. Needs the extra onnx."""
    int8: bool = False
    """Export to ONNX with dense layers of int8 too, which are smaller and faster on a CPU, and
    less exact: see docs/trained.md. Needs the extra onnx."""
    web: Path | None = None
    """Folder that the page of train.explore is written to instead, as static files that any web
    server shows: the models, which run in the browser, and held-out images. Needs the extra
    onnx."""
    ort: Path | None = None
    """With --web: folder of the npm package onnxruntime-web; None: fetched with npm."""
    images: int = 300
    """With --web: number of held-out images at most."""
    data: str | None = None
    """With --web: path of the run's data; None: as in the run."""


def export(trained: Trained, folder: Path, *, onnx: bool = False, int8: bool = False) -> list[Path]:
    """Exports the functions of a trained method to ``encoder.pt2`` and ``decoder.pt2``.

    Args:
        trained: The trained method: see :func:`train.trained.load`.
        folder: The folder to write to, which is created if needed.
        onnx: Whether to write ``encoder.onnx`` and ``decoder.onnx`` too.
        int8: Whether to write ``encoder.int8.onnx`` and ``decoder.int8.onnx`` too: see
            :func:`train.quantising.int8`.

    Returns:
        The paths of the files.

    Raises:
        InputError: If files cannot be written, or ONNX is not installed.
        AssertionError: If an export and the function it was made from differ in their outputs.
    """
    from train.engine import disk

    require_onnx(onnx, int8)
    with disk.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    files = []
    kinds = [PT2, *[ONNX] * onnx, *[INT8] * int8]
    for name, data in contents(trained, kinds):
        files.append(folder / name)
        disk.write_atomically(files[-1], partial(_write, data))
    return files


def require_onnx(onnx: bool, int8: bool = False, flag: str = "") -> None:
    """Checks that the extra ``onnx`` is installed, if a flag needs it.

    Args:
        onnx: Whether there is ``--onnx``, or ``flag``.
        int8: Whether there is ``--int8``.
        flag: Another flag that needs it.
    """
    flag = flag or ("--onnx" if onnx else "--int8")
    require(
        not (onnx or int8) or find_spec("onnxscript") is not None,
        f"{flag} needs ONNX: pip install 'structured-latents[onnx]', or leave {flag} out",
    )


def _write(data: bytes, file: BinaryIO) -> None:
    file.write(data)


def contents(trained: Trained, kinds: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Exports the functions of a trained method, and checks the exports.

    Args:
        trained: The trained method.
        kinds: The suffixes of the files, of :data:`PT2`, :data:`ONNX` and :data:`INT8`.

    Yields:
        The name of a file and its content.

    Raises:
        AssertionError: If an export and the function it was made from differ in their outputs.
    """
    import pyro
    import torch

    from train import quantising

    # Tracing has no values for Pyro's validation to check.
    with torch.no_grad(), pyro.validation_enabled(False):
        for name, function in trained.functions().items():
            program = exported(trained, function)
            compare(program.module(), function, trained.device)
            if PT2 in kinds:
                buffer = io.BytesIO()
                torch.export.save(program, buffer)
                yield f"{name}{PT2}", buffer.getvalue()
            if ONNX not in kinds and INT8 not in kinds:
                continue
            floats = _onnx(program, function)
            if ONNX in kinds:
                yield f"{name}{ONNX}", floats
            if INT8 in kinds:
                yield f"{name}{INT8}", quantising.int8(floats, name)


def export_page(settings: ExportSettings, folder: Path) -> list[Path]:
    """Exports the page of :mod:`train.explore` over one run, as static files.

    Args:
        settings: The run, and what the page has of it.
        folder: The folder to write to, which is created if needed.

    Returns:
        The paths of the files.

    Raises:
        InputError: If the run or its data cannot be used, its method has no view or needs Python,
            onnxruntime-web cannot be had, or files cannot be written.
    """
    from train.explore import ExploreSettings, opened
    from train.explorer import runtime, web
    from train.trained import load

    require_onnx(True, flag="--web")
    shown = ExploreSettings((settings.run,), images=settings.images, data=settings.data)
    trained, view = load(settings.run), opened(settings.run, shown)
    web.require_exportable(view)
    files = runtime.files(settings.ort)
    return web.write(folder, view, dict(contents(trained, (ONNX,))), files)


def exported(trained: Trained, tensor_function: TensorFunction) -> Any:
    """Exports a function as a program with a dynamic batch size.

    Args:
        trained: The trained method that the function belongs to.
        tensor_function: The function; the inputs of the program have the names of its arguments.

    Returns:
        A :class:`torch.export.ExportedProgram`.
    """
    import torch
    from torch import nn

    function, examples, _ = tensor_function

    class Module(nn.Module):
        """The function as a module with the weights of the objective."""

        def __init__(self) -> None:
            super().__init__()
            self.objective = trained.objective

        def forward(self, *inputs: torch.Tensor) -> Any:
            return function(*inputs)

    # The program's inputs are named by the signature.
    names = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in ("self", *examples)]
    forward: Any = Module.forward
    forward.__signature__ = Signature(names)
    batch = torch.export.Dim("batch", min=1)
    shapes = {name: {0: batch} for name in examples}
    inputs = tuple(examples.values())
    return torch.export.export(Module(), inputs, dynamic_shapes=shapes, strict=False)


def compare(program: Any, function: TensorFunction, device: Any) -> None:
    """Raises :class:`AssertionError` unless a program and its function have equal outputs."""
    import torch

    for size in SIZES:
        inputs = []
        for example in function.inputs.values():
            values = torch.rand(size, *example.shape[1:], device=device)
            inputs.append(values if example.is_floating_point() else (3 * values).to(example.dtype))
        torch.testing.assert_close(program(*inputs), function.function(*inputs))


def _onnx(program: Any, function: TensorFunction) -> bytes:
    import torch

    buffer = io.BytesIO()
    exported: Any = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        input_names=list(function.inputs),
        output_names=list(function.outputs),
    )
    exported.save(buffer)
    return buffer.getvalue()


def main(settings: ExportSettings) -> dict[str, Any]:
    """Exports the functions of a run.

    Returns:
        The paths of the files, by file name.

    Raises:
        InputError: If the run cannot be loaded or files cannot be written.
    """
    if settings.web is not None:
        return {path.name: path for path in export_page(settings, settings.web)[:1]}
    # Before what takes seconds: to load the run.
    require_onnx(settings.onnx, settings.int8)
    from train.trained import load

    folder = settings.out or settings.run / "export"
    files = export(load(settings.run), folder, onnx=settings.onnx, int8=settings.int8)
    return {path.name: path for path in files}


if __name__ == "__main__":
    command(ExportSettings, main)
