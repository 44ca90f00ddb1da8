"""Records the explorer as it is used: GIFs of AIR and ICVAE, and a picture of other methods.

python -m benchmarks.recordings runs/my-air runs/my-icvae runs/my-ae --out docs
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from PIL import Image

from tests.browser import Page, started
from train.explore import ExploreSettings, opened
from train.explorer.server import serving

MOST_BYTES = 1_000_000
COLOURS = 160
POINTER = """() => {
  const dot = document.createElement("div");
  dot.id = "pointer";
  Object.assign(dot.style, {
    position: "fixed", width: "16px", height: "16px", borderRadius: "50%", zIndex: 9,
    background: "#d55e00", border: "2px solid #ffffff", pointerEvents: "none", margin: "-8px",
  });
  document.body.append(dot);
  addEventListener("pointermove", (event) => {
    dot.style.left = `${event.clientX}px`;
    dot.style.top = `${event.clientY}px`;
  }, true);
}"""
"""A headless browser shows no pointer."""


Place = tuple[float, float]
"""Shares of the sides of an element."""


@dataclass(frozen=True)
class Recordings:
    """Record each run."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders."""
    out: Path = Path("docs")
    """Folder of the GIFs and pictures, explorer-METHOD.gif or .png."""
    width: int = 1240
    """Width of the page, in pixels."""
    height: int = 640
    """Height of the page, in pixels."""
    scale: float = 0.62
    """Size of the GIF over that of the page."""
    milliseconds: int = 90
    """How long a frame is shown."""


class Film:
    """Frames of a page, taken as its pointer moves."""

    def __init__(self, page: Page, scale: float) -> None:
        self.page, self.scale = page, scale
        self.frames: list[Image.Image] = []

    def take(self, times: int = 1) -> None:
        """Takes the page as it is; the frame is shown so many times."""
        self.page.idle()
        # Bars move for 60 ms.
        self.page.page.wait_for_timeout(70)
        picture = Image.open(io.BytesIO(self.page.page.screenshot())).convert("RGB")
        size = [round(side * self.scale) for side in picture.size]
        self.frames += [picture.resize(size, Image.Resampling.LANCZOS)] * times

    def path(self, locator: Any, places: list[Place], *, press: bool = False) -> None:
        """Moves the pointer over an element, and takes a frame at each place."""
        box = locator.bounding_box()
        mouse = self.page.page.mouse
        for i, (u, v) in enumerate(places):
            mouse.move(box["x"] + u * box["width"], box["y"] + v * box["height"])
            if press and i == 0:
                mouse.down()
            self.take()
        if press:
            mouse.up()

    def save(self, path: Path, milliseconds: int) -> None:
        """Writes the GIF, whose frames have one palette."""
        width, height = self.frames[0].size
        # Colours of the beginning, the middle and the end.
        some = self.frames[:: max(1, len(self.frames) // 4)]
        sheet = Image.new("RGB", (width, height * len(some)))
        for i, frame in enumerate(some):
            sheet.paste(frame, (0, i * height))
        palette = sheet.quantize(COLOURS)
        plain = {"palette": palette, "dither": Image.Dither.NONE}
        frames = [frame.quantize(**plain) for frame in self.frames]
        options = {"append_images": frames[1:], "duration": milliseconds, "loop": 0}
        frames[0].save(path, save_all=True, optimize=True, **options)


def arc(centre: Place, radius: Place, turns: tuple[float, float], n: int) -> list[Place]:
    """Places on an ellipse, from one share of a turn to another."""
    (x, y), (a, b), (begin, end) = centre, radius, turns
    angles = [2 * math.pi * (begin + (end - begin) * i / (n - 1)) for i in range(n)]
    return [(x + a * math.sin(angle), y - b * math.cos(angle)) for angle in angles]


def line(*places: Place, n: int = 6) -> list[Place]:
    """Places on lines between places."""
    found = []
    for (x0, y0), (x1, y1) in itertools.pairwise(places):
        found += [(x0 + (x1 - x0) * i / n, y0 + (y1 - y0) * i / n) for i in range(n)]
    return [*found, places[-1]]


def film_scenes(film: Film) -> None:
    """Draws a nought and a seven, and drags one of the model's objects away."""
    page = film.page
    page.click("Clear")
    film.take(4)
    scene = page.canvas("scene")
    film.path(scene, arc((0.3, 0.32), (0.09, 0.14), (0, 1.02), 12), press=True)
    film.take(3)
    film.path(scene, line((0.55, 0.55), (0.74, 0.55), (0.62, 0.86), n=5), press=True)
    film.take(8)
    handles = page.canvas("handles")
    film.path(handles, line((0.3, 0.32), (0.7, 0.24), n=10), press=True)
    film.take(10)


def film_conditional(film: Film) -> None:
    """Moves over the map, and chooses classes."""
    page = film.page
    above = page.page.locator(".map .touch")
    film.take(3)
    film.path(above, arc((0.48, 0.5), (0.22, 0.3), (0, 1), 30))
    film.take(4)
    for name in (3, 4, 8):
        page.page.get_by_role("radio", name=str(name), exact=True).click()
        film.take(6)
    film.path(above, line((0.48, 0.2), (0.3, 0.6), (0.6, 0.45), n=8))
    film.take(6)


FILMS: dict[str, Callable[[Film], None]] = {
    "scenes": film_scenes,
    "conditional": film_conditional,
}


def record(page: Page, view: Any, recordings: Recordings) -> Path:
    """Records a page, and returns the path of the file."""
    about = view.description()
    target = recordings.out / f"explorer-{about['method']}"
    if about["kind"] not in FILMS:
        target = target.with_suffix(".png")
        page.page.set_viewport_size({"width": recordings.width, "height": recordings.height + 200})
        page.page.wait_for_timeout(200)
        page.idle()
        picture = Image.open(io.BytesIO(page.page.screenshot())).convert("RGB")
        picture.quantize(256).save(target, optimize=True)
        return target
    page.page.evaluate(POINTER)
    # The head of the page is not what is shown.
    page.page.evaluate("document.querySelector('header').remove(); scrollTo(0, 0)")
    film = Film(page, recordings.scale)
    FILMS[about["kind"]](film)
    target = target.with_suffix(".gif")
    film.save(target, recordings.milliseconds)
    return target


def main(recordings: Recordings) -> None:
    """Records each run, and prints the sizes of the files."""
    size = {"width": recordings.width, "height": recordings.height}
    with started() as chromium:
        for path in recordings.runs:
            view = opened(path, ExploreSettings((path,)))
            with serving([view]) as address, chromium.new_page(viewport=size) as tab:
                target = record(Page(tab, address), view, recordings)
            print(f"{target}: {target.stat().st_size:,} bytes")
            if target.stat().st_size > MOST_BYTES:
                raise SystemExit(f"{target} has more than {MOST_BYTES:,} bytes: lower --scale")


if __name__ == "__main__":
    main(tyro.cli(Recordings))
