"""Writes a page for each command from its settings, when the site is built."""

from __future__ import annotations

import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

from train.methods import METHODS
from train.settings.flags import field_helps

FOLDER = "commands"
"""The folder of the pages, below that of the documentation."""


def page(name: str, settings: type) -> str:
    """Returns a page in Markdown: a heading, what the command does, and a row for each flag."""
    helps = field_helps(settings)
    lines = [f"# python -m train.{name}", "", settings.__doc__.strip(), ""]
    lines += ["| flag | default | meaning |", "| --- | --- | --- |"]
    for field in fields(settings):
        flag = "--" + field.name.replace("_", "-")
        text = " ".join(helps.get(field.name, "").split()).replace("|", "\\|")
        lines.append(f"| `{flag}` | `{field.default!r}` | {text} |")
    return "\n".join(lines) + "\n"


def write(app: Any) -> None:
    """Writes the pages, and removes them when the site is built."""
    folder = Path(app.srcdir) / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, method in METHODS.items():
        (folder / f"{name}.md").write_text(page(name, method.settings))


def remove(app: Any, exception: Exception | None) -> None:
    """Removes the pages."""
    shutil.rmtree(Path(app.srcdir) / FOLDER, ignore_errors=True)


def setup(app: Any) -> dict[str, bool]:
    """Connects the pages to the build."""
    app.connect("builder-inited", write)
    app.connect("build-finished", remove)
    return {"parallel_read_safe": True}
