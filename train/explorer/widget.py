"""The view of a run in a notebook, as an anywidget: ``load(run).explore()``."""

from __future__ import annotations

from typing import Any

import torch

from train.engine import disk
from train.errors import InputError, first_line
from train.explorer import pages
from train.explorer.base import View

KERNEL, ENTRY = "kernel.js", "widget.js"
"""The files of the page that take the place of ``backend.js``, and that a notebook begins with."""


def widget(view: View) -> Any:
    """Makes a widget that shows a view, and answers for it.

    Args:
        view: The view.

    Returns:
        An ``anywidget.AnyWidget``; a notebook shows it as the last value of a cell.

    Raises:
        InputError: If anywidget is not installed.
    """
    try:
        import anywidget
        import traitlets
    except ModuleNotFoundError as error:
        raise InputError(
            f"{error.name} is not installed: pip install 'structured-latents[notebook]'"
        ) from error

    page = {name: content.decode() for name, content in pages.files().items()}
    page["backend.js"] = page.pop(KERNEL)
    entry = page.pop(ENTRY)

    class Explorer(anywidget.AnyWidget):
        """A view; ``about`` describes it."""

        _esm = entry
        about = traitlets.Dict(view.description()).tag(sync=True)
        sources = traitlets.Dict(
            {name: text for name, text in page.items() if name.endswith(".js")}
        ).tag(sync=True)
        style = traitlets.Unicode(scoped(page["style.css"])).tag(sync=True)

    explorer = Explorer()
    explorer.on_msg(lambda _, message, __: explorer.send(answer(view, message)))
    return explorer


def answer(view: View, message: Any) -> dict[str, Any]:
    """Answers a message of the page: ``id``, ``verb`` and ``fields``.

    Returns:
        The ``id`` with the ``answer``, or with the ``error``.
    """
    try:
        with torch.inference_mode():
            found = view.answer(message["verb"], message["fields"])
        return {"id": message["id"], "answer": found}
    except InputError as error:
        return {"id": message["id"], "error": str(error)}
    except disk.MALFORMED as error:
        number = message.get("id") if isinstance(message, dict) else None
        return {"id": number, "error": f"the request cannot be answered: {first_line(error)}"}


def scoped(style: str) -> str:
    """Returns the style sheet for a root of its own, whose host takes the page's place."""
    for page, host in (
        (':root:not([data-theme="light"])', ':host(:not([data-theme="light"]))'),
        (':root[data-theme="dark"]', ':host([data-theme="dark"])'),
        (":root", ":host"),
    ):
        style = style.replace(page, host)
    return style
