"""The system's browser, headless: Chromium, driven by Playwright, which downloads nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
READ = """canvas => {
  const {width, height} = canvas;
  const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
  return {width, height, pixels: Array.from(pixels)};
}"""


def path() -> str | None:
    """Where the browser is; ``None`` if there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def started() -> Iterator[Any]:
    """Starts the browser for the time of a block; skips the test, with a reason, without one."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed: pip install -e '.[test]'"
    )
    executable = path()
    if executable is None:
        pytest.skip(f"there is no browser ({', '.join(NAMES)}): apt-get install chromium")
    with playwright.sync_playwright() as driver:
        # Containers have no sandbox of their own for it, and little shared memory.
        options = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = driver.chromium.launch(executable_path=executable, args=options)
        yield browser
        browser.close()


class Page:
    """A page of the explorer, and what a person sees on it.

    Args:
        page: Playwright's page.
        address: The address of the explorer.
    """

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address = page, address
        self.problems: list[str] = []
        self.requests: list[str] = []
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", self._console)
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(address)
        self.ready()

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self.problems.append(message.text)

    def ready(self) -> None:
        """Waits until everything that was asked has been drawn."""
        self.page.wait_for_selector("main[data-ready=true]", timeout=20_000)
        self.idle()

    def idle(self) -> None:
        """Waits until no request is under way."""
        self.page.wait_for_selector("body:not([data-busy=true])", timeout=20_000)

    def drawn(self, name: str, run: int = 0, channels: int = 1) -> np.ndarray:
        """Returns what a canvas shows, of shape (C, H, W), uint8."""
        canvas = self.canvas(name, run)
        found = canvas.evaluate(READ)
        pixels = np.array(found["pixels"], dtype=np.uint8)
        pixels = pixels.reshape(found["height"], found["width"], 4).transpose(2, 0, 1)
        assert (pixels[3] == 255).all(), f"{name} is not drawn"
        return pixels[:channels]

    def canvas(self, name: str, run: int = 0) -> Any:
        """Returns a canvas by its name."""
        return self.page.locator(f"#run-{run}").locator("../..").locator(f"[data-name='{name}']")

    def view(self, expression: str, run: int = 0) -> Any:
        """Returns the value of an expression of a run's ``view``."""
        return self.page.evaluate(
            f"() => {{ const view = document.querySelectorAll('.run')[{run}].view;"
            f" return {expression}; }}"
        )

    def move(self, locator: Any, *places: tuple[float, float], press: bool = False) -> None:
        """Moves the pointer over an element, from place to place, as shares of its sides."""
        locator.scroll_into_view_if_needed()
        box = locator.bounding_box()
        for i, (u, v) in enumerate(places):
            self.page.mouse.move(box["x"] + u * box["width"], box["y"] + v * box["height"])
            if press and i == 0:
                self.page.mouse.down()
        if press:
            self.page.mouse.up()
        self.idle()

    def click(self, name: str) -> None:
        """Clicks a button by its name."""
        self.page.get_by_role("button", name=name, exact=True).first.click()
        self.idle()
