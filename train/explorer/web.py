"""The page of a run as static files: its models run in the browser, without Python."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO

from train.engine import disk
from train.errors import require
from train.explorer import pages
from train.explorer.base import View
from train.explorer.conditional import ConditionalView

POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'"
)
BACKEND = "onnx.js"
"""The file of the page that takes the place of ``backend.js``."""


def require_exportable(view: View) -> None:
    """Raises :class:`InputError` if the page cannot do without Python what the view does."""
    echo = isinstance(view, ConditionalView) and view.trained.echo
    require(
        not echo,
        "--web: codes of --invariance echo have noise made of other images, which the page does "
        "not make: leave --web out",
    )


def write(
    folder: Path, view: View, models: Mapping[str, bytes], runtime: Mapping[str, bytes]
) -> list[Path]:
    """Writes the page of a run.

    Args:
        folder: The folder to write to, which is created if needed.
        view: The view of the run.
        models: ``encoder.onnx``, and ``decoder.onnx`` if there is one.
        runtime: The files of onnxruntime-web: see :func:`train.explorer.runtime.files`.

    Returns:
        The paths of the files.

    Raises:
        InputError: If files cannot be written, or the view needs Python.
    """
    require_exportable(view)
    page = pages.files()
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}" />\n    <title>'
    index = page.pop("index.html").replace(b"<title>", policy.encode(), 1)
    page["backend.js"] = page.pop(BACKEND)
    contents = {
        "index.html": index,
        **{f"static/{name}": content for name, content in page.items()},
        **{f"ort/{name}": content for name, content in runtime.items()},
        **{f"models/{name}": content for name, content in models.items()},
        "data/views.json": json.dumps([view.description()], allow_nan=False).encode(),
        "data/images.json": json.dumps(view.answer("images", {})).encode(),
    }
    for name, content in contents.items():
        with disk.writing(folder):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        disk.write_atomically(folder / name, partial(_write, content))
    return [folder / name for name in contents]


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)
