"""Makes the notebooks of the tutorials: ``python docs/notebooks.py [--text] [NAME ...]``.

A tutorial is a text, ``docs/tutorials/NAME.md``, that jupytext reads as a notebook. This runs its
cells at its own settings, and writes ``docs/tutorials/NAME.ipynb``, which the site shows and which
opens in Jupyter and Colab. ``--text`` runs nothing, and keeps the outputs: for a text whose code
does what it did.

Figures have few colours, so that the file is small. Two outputs are left out: progress on standard
error, and what cells with the tag ``live`` show, which needs a kernel.
"""

from __future__ import annotations

import ast
import base64
import io
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jupytext
import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

TUTORIALS = Path(__file__).parent / "tutorials"
SECONDS = 900
"""Most time of a cell."""
COLOURS = 256
"""Colours of a figure."""


def source(name: str) -> NotebookNode:
    """Reads the text of a tutorial as a notebook, without outputs."""
    return jupytext.read(TUTORIALS / f"{name}.md")


def made(name: str) -> NotebookNode:
    """Runs a tutorial in an empty folder; returns its notebook with outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell raises.
    """
    notebook = source(name)
    with tempfile.TemporaryDirectory() as place:
        resources = {"metadata": {"path": place}}
        NotebookClient(
            notebook, timeout=SECONDS, resources=resources, record_timing=False
        ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            live = "live" in cell.metadata.get("tags", ())
            cell.outputs = [] if live else [output for output in cell.outputs if kept(output)]
    return notebook


def kept(output: NotebookNode) -> bool:
    """Says whether an output is kept; its figure is made small."""
    figures = output.get("data", {})
    if "image/png" in figures:
        buffer = io.BytesIO()
        figure = Image.open(io.BytesIO(base64.b64decode(figures["image/png"]))).convert("RGB")
        figure.quantize(COLOURS, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        figures["image/png"] = base64.b64encode(buffer.getvalue()).decode()
    return output.get("name") != "stderr"


def meaning(code: str) -> str:
    """Returns what a cell does, whatever its format and comments."""
    return ast.dump(ast.parse(TransformerManager().transform_cell(code)))


def retold(name: str) -> NotebookNode:
    """Returns a tutorial's notebook with its present text, and the outputs that it has.

    Raises:
        ValueError: If its code has changed: then it has to run.
    """
    notebook, before = source(name), nbformat.read(TUTORIALS / f"{name}.ipynb", as_version=4)
    new, old = (
        [cell for cell in book.cells if cell.cell_type == "code"] for book in (notebook, before)
    )
    if [meaning(cell.source) for cell in new] != [meaning(cell.source) for cell in old]:
        raise ValueError(f"{name}: its code has changed: leave --text out")
    for cell, ran in zip(new, old, strict=True):
        cell.outputs, cell.execution_count = ran.outputs, ran.execution_count
    return notebook


def main(arguments: Sequence[str]) -> None:
    """Makes the notebooks with these names; all if there are none."""
    names = [argument for argument in arguments if argument != "--text"]
    make = made if len(names) == len(arguments) else retold
    for name in names or sorted(path.stem for path in TUTORIALS.glob("*.md")):
        begun = time.monotonic()
        notebook = make(name)
        for number, cell in enumerate(notebook.cells):
            # Random ones would differ each time.
            cell.id = f"{name}-{number}"
        notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"]}
        nbformat.write(notebook, TUTORIALS / f"{name}.ipynb")
        print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
