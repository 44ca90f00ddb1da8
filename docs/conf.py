"""The documentation site: ``python -m sphinx -W docs build/site``."""

from __future__ import annotations

import re
import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "Structured latents in Pyro"
author = "The authors of structured-latents"
copyright = "2026, " + author
version = release = installed("structured-latents")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "settings_pages",
]
exclude_patterns = ["_build"]

# Pages are Markdown that GitHub shows as well.
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4
# Headings of a page may begin anywhere, fences have names for the tests, and several classes have
# an attribute of one name.
suppress_warnings = ["myst.header", "misc.highlighting_failure", "ref.python"]

napoleon_google_docstring = True
napoleon_numpy_docstring = False
# Attributes as fields of the class, since named tuples have members of the same names.
napoleon_use_ivar = True
napoleon_custom_sections = ["Shape"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}

html_theme = "furo"
html_title = project
html_theme_options = {"source_repository": "", "source_directory": "docs/"}
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True


def stars_in_shapes(app, what, name, obj, options, lines: list[str]) -> None:
    """Escapes the star of a shape such as (*, H, W) outside of formulas: it means emphasis."""
    for i, line in enumerate(lines):
        parts = re.split(r"(:math:`[^`]*`|``[^`]*``)", line)
        parts[::2] = [re.sub(r"(?<=[(, ])\*(?=[,)])", r"\\*", part) for part in parts[::2]]
        lines[i] = "".join(parts)


def skip_fields(app, what, name, obj, skip, options) -> bool | None:
    """Skips the fields of named tuples, which the docstring of the class describes."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app) -> None:
    """Connects what is changed in docstrings, and what is left out."""
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("autodoc-process-docstring", stars_in_shapes)
