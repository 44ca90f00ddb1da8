"""The one thread that PyTorch works in, and the requests that wait for it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
MOST_CHANNELS = 256
"""Channels whose latest request is known; beyond them the oldest are forgotten."""


class SupersededError(Exception):
    """A later request of the same channel came before this one was begun."""


class Worker:
    """Runs functions one after another in a thread, of each channel only the latest.

    A pointer that moves asks for more images than there is time for. What it asked for before its
    last place is dropped while it waits.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "torch", initializer=_prepare)
        self._latest: OrderedDict[str, int] = OrderedDict()
        self._tickets = 0

    async def run(self, channel: str, function: Callable[[], T]) -> T:
        """Runs a function without gradients, when all earlier ones are done.

        Args:
            channel: What a later call with the same one supersedes; ``""`` is never superseded.
            function: The function.

        Raises:
            SupersededError: If a later call took its place.
        """
        ticket = self._register(channel)

        def work() -> T:
            if channel and self._latest.get(channel, ticket) != ticket:
                raise SupersededError
            with torch.inference_mode():
                return function()

        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _register(self, channel: str) -> int:
        self._tickets += 1
        if channel:
            self._latest[channel] = self._tickets
            self._latest.move_to_end(channel)
            while len(self._latest) > MOST_CHANNELS:
                self._latest.popitem(last=False)
        return self._tickets

    def close(self) -> None:
        """Lets the thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _prepare() -> None:
    # Both are of the thread. Trained weights have denormals, which slow a CPU down; and of a single
    # image each layer is so short that several threads would mostly wait for each other.
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)
