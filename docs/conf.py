"""The documentation site: ``python -m sphinx -W docs build/site``."""

from __future__ import annotations

import re
import sys
from importlib.metadata import version as installed
from pathlib import Path

from docutils import nodes
from sphinx import addnodes

sys.path.insert(0, str(Path(__file__).parent))

project = "Structured latents in Pyro"
author = "The authors of structured-latents"
copyright = "2026, " + author
version = release = installed("structured-latents")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "settings_pages",
]
# Tutorials are shown as docs/notebooks.py has made them; their texts are its sources.
exclude_patterns = ["_build", "tutorials/*.md"]
nb_execution_mode = "off"

EXTRA = Path(__file__).parents[1] / "build" / "extra"
"""What .ci/docs adds to the site: the folder ``explorer``, of ``python -m train.export --web``."""
html_extra_path = [str(EXTRA)] if EXTRA.exists() else []
EMBEDDED = '<iframe src="../explorer/index.html" style="width: 100%; height: 45rem"></iframe>'

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
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"source_repository": "", "source_directory": "docs/"}
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True


def stars_in_shapes(app, what, name, obj, options, lines: list[str]) -> None:
    """Escapes the star of a shape such as (*, H, W) outside of formulas: it means emphasis."""
    for i, line in enumerate(lines):
        parts = re.split(r"(:math:`[^`]*`|``[^`]*``)", line)
        parts[::2] = [re.sub(r"(?<=[(, ])\*(?=[,)])", r"\\*", part) for part in parts[::2]]
        lines[i] = "".join(parts)


def offer_notebook(app, doctree) -> None:
    """Puts a link to its notebook below the title of a tutorial."""
    name = app.env.docname
    if name.startswith("tutorials/"):
        link = addnodes.download_reference("", "notebook", reftarget=f"/{name}.ipynb", refdoc=name)
        line = nodes.paragraph("", "This page is a ")
        line += [link, nodes.Text(": open it in Jupyter, or upload it to Colab.")]
        doctree[0].insert(1, line)


def embed_explorer(app, doctree) -> None:
    """Shows the exported page of the explorer where a tutorial has its widget, if there is one."""
    if app.env.docname == "tutorials/autoencoder" and (EXTRA / "explorer").exists():
        (section,) = (
            node for node in doctree.findall(nodes.section) if "the-sliders" in node["ids"]
        )
        section += [
            nodes.paragraph("", "Here it is, of a run with these settings:"),
            nodes.raw("", EMBEDDED, format="html"),
        ]


def skip_fields(app, what, name, obj, skip, options) -> bool | None:
    """Skips the fields of named tuples, which the docstring of the class describes."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app) -> None:
    """Connects what is changed in docstrings and tutorials, and what is left out."""
    # Before what collects downloads.
    app.connect("doctree-read", offer_notebook, priority=400)
    app.connect("doctree-read", embed_explorer)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("autodoc-process-docstring", stars_in_shapes)
