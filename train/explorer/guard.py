"""What stands before the application: who may ask, and how much.

A page of another site can make a browser send requests to this machine. It does not know the token,
and a name that it made point here (DNS rebinding) is no name of this machine's.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS = ("127.0.0.1", "localhost", "::1")
"""Names of this machine, as a browser calls it; with a tunnel the port may be any."""
MOST_BYTES = 2**20
"""Bytes of a request's body at most."""
MOST_AT_ONCE = 64
"""Requests that are answered at once at most."""
SECONDS = 10.0
"""How long a request's body may take to come."""
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class RefusedError(Exception):
    """A request that is not answered.

    Args:
        status: The HTTP status, from 400.
        reason: What is wrong, and what to do.
    """

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def refusal(status: int, reason: str) -> JSONResponse:
    """Returns the answer to a request that is refused."""
    return JSONResponse({"error": reason}, status)


class Guard:
    """Refuses requests of strangers, and those that are too large, too slow or too many.

    Args:
        app: The application, which sees paths without the token.
        token: The first part of the path of every request.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token
        self.at_once = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        answer = with_headers(send)
        if self.at_once >= MOST_AT_ONCE:
            reason = f"more than {MOST_AT_ONCE} requests at once: ask again"
            return await refusal(HTTPStatus.TOO_MANY_REQUESTS, reason)(scope, receive, answer)
        self.at_once += 1
        try:
            inner = self.checked(scope)
            body = await asyncio.wait_for(whole(Request(scope, receive)), SECONDS)
        except RefusedError as error:
            await refusal(error.status, error.reason)(scope, receive, answer)
        except (asyncio.TimeoutError, TimeoutError):
            reason = f"the request took longer than {SECONDS:g} s to come"
            await refusal(HTTPStatus.REQUEST_TIMEOUT, reason)(scope, receive, answer)
        else:
            await self.app(inner, replayed(body, receive), answer)
        finally:
            self.at_once -= 1

    def checked(self, scope: Scope) -> Scope:
        """Returns the scope of a request without the token.

        Raises:
            RefusedError: If it is a stranger's, or too large.
        """
        headers = Request(scope).headers
        host = headers.get("host", "")
        if hostname(f"//{host}") not in HOSTS:
            reason = f"host {host:.60} is none of {', '.join(HOSTS)}: open the address as printed"
            raise RefusedError(HTTPStatus.MISDIRECTED_REQUEST, reason)
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            raise RefusedError(HTTPStatus.FORBIDDEN, f"a page of {origin:.60} may not ask")
        given, _, path = scope["path"].lstrip("/").partition("/")
        if not hmac.compare_digest(given.encode(errors="replace"), self.token.encode()):
            reason = "the token is missing or wrong: open the address that the command printed"
            raise RefusedError(HTTPStatus.FORBIDDEN, reason)
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or int(length[:20]) > MOST_BYTES:
            raise TOO_LARGE
        inner = f"/{path}"
        return {**scope, "path": inner, "raw_path": inner.encode(errors="replace")}


TOO_LARGE = RefusedError(
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request has at most {MOST_BYTES:,} bytes"
)


def hostname(url: str) -> str | None:
    """Returns the host of a URL, without its port; ``None`` if it has none."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


async def whole(request: Request) -> bytes:
    """Reads the body of a request.

    Raises:
        RefusedError: If it is longer than :data:`MOST_BYTES`.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise TOO_LARGE
    return bytes(body)


def replayed(body: bytes, receive: Receive) -> Receive:
    """Returns a channel that gives a body that has been read, and then goes on as before."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def with_headers(send: Send) -> Callable[[Message], Awaitable[None]]:
    """Returns a channel that adds :data:`HEADERS` to every answer."""
    added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await send(message)

    return answer
