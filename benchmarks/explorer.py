"""Times the explorer in a browser: the first paint, and from the mouse to the image.

python -m benchmarks.explorer runs/my-ae runs/my-air
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from tests.browser import Page, started
from train.explore import ExploreSettings, opened
from train.explorer.server import serving
from train.tables import markdown

WATCH = """([channel, name]) => {
  window.samples = [];
  let moved = 0;
  let asked = 0;
  for (const name of ["pointermove", "pointerrawupdate"]) {
    addEventListener(name, (event) => { moved = event.timeStamp; }, true);
  }
  const fetched = window.fetch;
  window.fetch = (url, options) => {
    if (options?.headers?.["x-channel"]?.endsWith(channel)) asked = moved;
    return fetched(url, options);
  };
  const put = CanvasRenderingContext2D.prototype.putImageData;
  CanvasRenderingContext2D.prototype.putImageData = function (...given) {
    put.apply(this, given);
    if (this.canvas.dataset.name === name) window.samples.push(performance.now() - asked);
  };
}"""
"""Times each image from the movement that asked for it: later ones may be under way by then."""
PAINT = 'performance.getEntriesByName("first-contentful-paint")[0].startTime'


@dataclass(frozen=True)
class Benchmark:
    """Move over the maps, and draw on the scenes, of runs."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders."""
    moves: int = 300
    """Number of movements of the mouse."""
    hertz: float = 60.0
    """Movements in a second."""


def timed(page: Page, kind: str, moves: int, hertz: float) -> np.ndarray:
    """Moves the mouse, and returns the milliseconds from a movement to its image."""
    scenes = kind == "scenes"
    watched = (":scene", "model") if scenes else (":map", "decoded")
    page.page.evaluate(WATCH, list(watched))
    target = page.canvas("scene") if scenes else page.page.locator(".map .touch")
    target.scroll_into_view_if_needed()
    box = target.bounding_box()
    angles = np.linspace(0, 6 * np.pi, moves)
    for i, angle in enumerate(angles):
        # A spiral, and on scenes a stroke along it.
        radius = 0.1 + 0.3 * i / moves
        x = box["x"] + box["width"] * (0.5 + radius * np.cos(angle))
        y = box["y"] + box["height"] * (0.5 + radius * np.sin(angle))
        page.page.mouse.move(x, y)
        if scenes and i == 0:
            page.page.mouse.down()
        time.sleep(1 / hertz)
    page.idle()
    return np.array(page.page.evaluate("window.samples"))


def measure(chromium: Any, path: Path, benchmark: Benchmark) -> dict[str, Any]:
    """Opens a run, and returns its row of the table."""
    view = opened(path, ExploreSettings((path,)))
    kind = view.description()["kind"]
    with serving([view]) as address, chromium.new_page() as tab:
        page = Page(tab, address)
        row: dict[str, Any] = {"run": path.name, "first paint, ms": round(tab.evaluate(PAINT))}
        samples = timed(page, kind, benchmark.moves, benchmark.hertz)
    for share in (50, 95):
        row[f"{share}%, ms"] = round(float(np.percentile(samples, share)), 1)
    return row | {"images": len(samples)}


def main(benchmark: Benchmark) -> None:
    """Times each run and prints a Markdown table."""
    with started() as chromium:
        rows = [measure(chromium, path, benchmark) for path in benchmark.runs]
    print(markdown(rows, list(rows[0])))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
