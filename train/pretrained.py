"""Shares trained models: a folder in the layout of Hugging Face's hub, and reading one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.engine import disk
from train.engine.saved import read_results
from train.errors import InputError, first_line, require
from train.method import Method
from train.tables import markdown
from train.trained import load

FILES = ("config.json", "model.safetensors")
"""What a model is read from."""

CARD = "README.md"
"""The model card."""


def save_pretrained(run_dir: str | Path, folder: str | Path) -> list[Path]:
    """Writes a run as a folder that can be shared: settings, weights, and a model card.

    The card has the run's own measures, and the command that trained it. Nothing else of the run is
    in the folder. ``huggingface_hub.upload_folder`` uploads it.

    Args:
        run_dir: The run folder.
        folder: The folder to write, which is created if needed.

    Returns:
        The paths of the files.

    Raises:
        InputError: If the run cannot be loaded, or files cannot be written.
    """
    run_dir, folder = Path(run_dir), Path(folder)
    # A model that cannot be read is not shared.
    load(run_dir)
    config = json.loads((run_dir / "config.json").read_text())
    results = {}
    if (run_dir / "results.json").exists():
        results = read_results(run_dir)
    with disk.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            shutil.copyfile(run_dir / name, folder / name)
        (folder / CARD).write_text(card(config, results), encoding="utf-8")
    return [folder / name for name in (*FILES, CARD)]


def from_pretrained(
    name: str | Path,
    method: Method | None = None,
    *,
    revision: str | None = None,
    device: str = "cpu",
) -> Any:
    """Loads a shared model from a folder, or from Hugging Face's hub.

    Settings and weights alone are read. Nothing in them is run.

    Args:
        name: A folder, or the name of a repository of the hub, such as ``"me/my-acai"``.
        method: The record of a method of one's own.
        revision: A branch, tag or commit of the repository.
        device: See :func:`train.trained.load`.

    Returns:
        What :func:`train.trained.load` returns.

    Raises:
        InputError: If there is no such folder or repository, or it holds no model.
    """
    if Path(name).is_dir():
        require(revision is None, f"{name} is a folder, which has no revisions: leave it out")
        return load(name, method, device)
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise InputError(
            f"{name} is no folder, and the hub needs huggingface_hub: "
            "pip install 'structured-latents[huggingface]'"
        ) from None
    try:
        folder = snapshot_download(str(name), revision=revision, allow_patterns=list(FILES))
    # The hub's library raises many kinds: no network, no repository, no permission.
    except Exception as error:
        raise InputError(f"{name}: not read from the hub ({first_line(error)})") from error
    return load(folder, method, device)


def card(config: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Returns a model card in Markdown.

    Args:
        config: The run's ``config.json``.
        results: Its ``results.json``; empty if it has none.
    """
    name, settings = config["method"], config["settings"]
    numbers = {
        key: value
        for key, value in results.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    rows = [{"measure": key, "value": f"{value:.5g}"} for key, value in numbers.items()]
    measured = results.get("measured_on", {})
    counts = ", ".join(f"{count:,} of {split}" for split, count in measured.items())
    versions = ", ".join(f"{k} {v}" for k, v in config.get("versions", {}).items())
    chosen = [{"setting": k, "value": f"`{json.dumps(v)}`"} for k, v in sorted(settings.items())]
    lines = [
        "---",
        "library_name: structured-latents",
        "tags:",
        f"- {name}",
        "- pyro",
        "---",
        "",
        f"# {name}",
        "",
        f"A model of `python -m train.{name}`, trained on `{settings.get('data')}` for "
        f"{results.get('steps', settings.get('steps'))} steps with seed {settings.get('seed')}.",
        "",
        "```python",
        "from structured_latents import from_pretrained",
        "",
        'model = from_pretrained("OWNER/NAME")',
        "```",
        "",
        "## Measures",
        "",
        *([f"Measured on {counts}.", ""] if counts else []),
        markdown(rows, ["measure", "value"]) if rows else "The run has not been measured.",
        "",
        "## Settings",
        "",
        markdown(chosen, ["setting", "value"]),
        "",
        *([f"Versions: {versions}.", ""] if versions else []),
    ]
    return "\n".join(lines)
