"""The files of the page."""

from __future__ import annotations

from importlib import resources

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}
"""Types of the files, by their suffix."""


def files() -> dict[str, bytes]:
    """Reads the files of the page, by name; ``index.html`` is the page itself."""
    folder = resources.files("train.explorer") / "static"
    return {
        file.name: file.read_bytes()
        for file in folder.iterdir()
        if file.is_file() and suffix(file.name) in TYPES
    }


def suffix(name: str) -> str:
    """Returns the suffix of a file's name, with its dot."""
    return name[name.rfind(".") :]
