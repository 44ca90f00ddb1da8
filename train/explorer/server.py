"""The server: the page, and the verbs of its views as JSON, on this machine alone."""

from __future__ import annotations

import json
import math
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from train.engine import disk
from train.errors import InputError, first_line
from train.explorer import pages
from train.explorer.base import View
from train.explorer.guard import Guard, refusal
from train.explorer.worker import SupersededError, Worker

BACKLOG = 256
"""Connections that wait to be accepted at most."""
MOST_CHANNEL = 80
"""Characters of a channel's name."""


def application(views: Sequence[View], token: str) -> Guard:
    """Makes the ASGI application.

    ``GET /TOKEN/`` is the page. ``GET /TOKEN/views`` describes the views, in their order.
    ``POST /TOKEN/views/INDEX/VERB`` has a JSON object answered by a verb of a view; of requests
    with the same header ``x-channel``, only the latest is answered. Errors are JSON, ``error``
    and the reason, with a status from 400.

    Args:
        views: The runs that are shown.
        token: What every path begins with.
    """
    worker, files = Worker(), pages.files()
    descriptions = json.dumps([view.description() for view in views], allow_nan=False).encode()

    async def page(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in files:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"there is no file {name:.60}")
        return Response(files[name], media_type=pages.TYPES[pages.suffix(name)])

    async def describe(request: Request) -> Response:
        return Response(descriptions, media_type="application/json")

    async def ask(request: Request) -> Response:
        index, verb = request.path_params["index"], request.path_params["verb"]
        if index >= len(views):
            raise HTTPException(HTTPStatus.NOT_FOUND, f"there is no view {index}")
        view, fields = views[index], object_of(request, await request.body())
        channel = request.headers.get("x-channel", "")[:MOST_CHANNEL]
        if verb not in view.verbs:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"this view has no verb {verb:.40}")
        answer = await worker.run(channel, lambda: json.dumps(view.answer(verb, fields)))
        return Response(answer, media_type="application/json")

    app = Starlette(
        routes=[
            Route("/", page),
            Route("/views", describe),
            Route("/views/{index:int}/{verb}", ask, methods=["POST"]),
            Route("/static/{name}", page),
        ],
        exception_handlers={
            HTTPException: lambda _, error: refusal(error.status_code, error.detail),
            InputError: lambda _, error: refusal(HTTPStatus.BAD_REQUEST, str(error)),
            SupersededError: lambda *_: refusal(HTTPStatus.CONFLICT, "a later request came"),
            # Values that no check foresaw.
            **dict.fromkeys(disk.MALFORMED, unforeseen),
        },
    )
    return Guard(app, token)


def unforeseen(request: Request, error: Exception) -> JSONResponse:
    """Answers a request whose values a verb could not use."""
    return refusal(HTTPStatus.BAD_REQUEST, f"the request cannot be answered: {first_line(error)}")


def object_of(request: Request, body: bytes) -> dict[str, Any]:
    """Returns the JSON object of a request.

    Raises:
        HTTPException: If it is another type, or no object.
        InputError: If it has a number that is not finite.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind != "application/json":
        raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "give JSON: application/json")
    try:
        fields = json.loads(body, parse_constant=not_finite, parse_float=finite)
    # A RecursionError is of deeply nested brackets.
    except (ValueError, RecursionError) as error:
        reason = f"the request is no JSON ({first_line(error)})"
        raise HTTPException(HTTPStatus.BAD_REQUEST, reason) from error
    if not isinstance(fields, dict):
        raise HTTPException(HTTPStatus.BAD_REQUEST, "the request is no JSON object")
    return fields


def finite(text: str) -> float:
    """Reads a number, which must be finite."""
    number = float(text)
    return number if math.isfinite(number) else not_finite(text)


def not_finite(text: str) -> Any:
    """Refuses a number."""
    raise InputError(f"{text:.20} is no finite number")


def listen(port: int) -> socket.socket:
    """Opens a port of this machine, to itself alone.

    Args:
        port: The port; 0 takes a free one.

    Raises:
        InputError: If the port cannot be opened.
    """
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    # An answer is two writes: without this the second waits 40 ms for the first to be received.
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind(("127.0.0.1", port))
        # Before it listens, another process may take the port too.
        opened.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        opened.close()
        raise InputError(
            f"--port {port} cannot be opened ({first_line(error)}): give another, or 0 for a free "
            "one"
        ) from error
    return opened


def announce(address: str) -> None:
    """Prints the address, at once: the command goes on."""
    print(f"{address} (Ctrl-C ends it)", flush=True)


def server(views: Sequence[View], token: str) -> uvicorn.Server:
    """Makes the server of :func:`application`."""
    config = uvicorn.Config(
        application(views, token),
        log_level="error",
        lifespan="off",
        ws="none",
        server_header=False,
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)


def address(opened: socket.socket, token: str) -> str:
    """Returns the address of the page."""
    return f"http://127.0.0.1:{opened.getsockname()[1]}/{token}/"


def serve(
    views: Sequence[View], port: int = 0, started: Callable[[str], None] = announce
) -> dict[str, Any]:
    """Serves views until Ctrl-C is pressed.

    Args:
        views: The views.
        port: See :func:`listen`.
        started: Called with the address once the port is open.

    Raises:
        InputError: If the port cannot be opened.
    """
    token = secrets.token_urlsafe(24)
    with listen(port) as opened:
        made = server(views, token)
        started(address(opened, token))
        # It ends in order, and then raises the signal again.
        with suppress(KeyboardInterrupt):
            made.run([opened])
    return {}


@contextmanager
def serving(views: Sequence[View]) -> Iterator[str]:
    """Serves views in a thread of this process, for the time of a block.

    Args:
        views: The views.

    Yields:
        The address of the page.
    """
    token = secrets.token_urlsafe(24)
    with listen(0) as opened:
        made = server(views, token)
        thread = threading.Thread(target=made.run, args=([opened],))
        thread.start()
        try:
            while not made.started and thread.is_alive():
                time.sleep(0.005)
            yield address(opened, token)
        finally:
            made.should_exit = True
            thread.join()
