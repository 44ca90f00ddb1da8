"""Shows trained runs in the browser, to move in: ``python -m train.explore RUN...``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from train.cli import command, leaves_no_trace
from train.errors import InputError, require

if TYPE_CHECKING:
    from train.explorer.base import View
    from train.method import Method


@dataclass(frozen=True)
class ExploreSettings:
    """Open a page over trained runs: their codes, images and scenes, to see and to touch.

    The page is for this machine alone: the command prints its address, which has a password in it,
    and serves it until Ctrl-C. Over ssh, forward the port. Needs the extra explore."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run folders of any methods, or of python -m train.estimators."""
    port: int = 0
    """Port to serve on; 0: a free one."""
    images: int = 1_000
    """Number of held-out images that are shown at most."""
    data: str | None = None
    """Path of the runs' data; None: as in each run."""
    data_dir: Path | None = None
    """Folder of downloaded data sets; None: as in each run."""
    labels: Path | None = None
    """Path of the runs' table of labels; None: as in each run."""

    def __post_init__(self) -> None:
        require(bool(self.runs), "give one or more run folders, such as runs/my-ae")
        require(0 <= self.port < 2**16, f"--port {self.port}: give 0 to {2**16 - 1}")
        require(self.images > 0, f"--images {self.images}: give 1 or more")


def opened(path: Path, settings: ExploreSettings, methods: Sequence[Method] = ()) -> View:
    """Returns the view of a run folder.

    Args:
        path: The run folder.
        settings: Where its data are, and how many images are shown.
        methods: The records of methods of one's own.

    Raises:
        InputError: If the run or its data cannot be used, or the method has no view.
    """
    from train.engine.saved import read_config, read_results
    from train.explorer import held_out
    from train.explorer.curves import CurvesView
    from train.trained import load

    name, method = path.resolve().name, read_config(path).method
    if method == "estimators":
        return CurvesView(path, name)
    trained = load(path, {each.name: each for each in methods}.get(method))
    require(
        trained.view is not None,
        f"{path}: there is no view of a {type(trained).__name__}: give that class one, as view",
    )
    given = {name: getattr(settings, name) for name in ("data", "data_dir", "labels")}
    changes = {name: value for name, value in given.items() if value is not None}
    images = held_out.sampled(held_out.reopened(trained, **changes), settings.images)
    results = read_results(path) if (path / "results.json").exists() else {}
    return trained.view(trained, images, name, results)


@leaves_no_trace
def main(settings: ExploreSettings, methods: Sequence[Method] = ()) -> dict[str, Any]:
    """Serves the page until Ctrl-C is pressed.

    Args:
        settings: The runs.
        methods: The records of methods of one's own.

    Raises:
        InputError: If a run cannot be shown, the port is taken, or the extra is missing.
    """
    try:
        from train.explorer.server import serve
    except ModuleNotFoundError as error:
        raise InputError(
            f"{error.name} is not installed: pip install 'structured-latents[explore]'"
        ) from error
    return serve([opened(path, settings, methods) for path in settings.runs], settings.port)


if __name__ == "__main__":
    command(ExploreSettings, main)
