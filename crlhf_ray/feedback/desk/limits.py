"""What a request may weigh, and how slowly it may come, decided before anything of it is parsed."""

from __future__ import annotations

import asyncio

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crlhf_ray.feedback.desk.security import identify

#: Most bytes of a body: of somebody who is not logged in, of an annotator (all marks of a long program), of a lead.
STRANGERS, ANNOTATORS, LEADS = 64 * 1024, 4 * 1024**2, 64 * 1024**2
#: Within so many seconds the whole body must be there.
BODY_SECONDS = 60.0


class BodyLimit:
    """Reads each body, up to what its sender may send, and hands it on as a whole."""

    def __init__(self, app: ASGIApp, seconds: float = BODY_SECONDS):
        self.app, self.seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            return await self.app(scope, receive, send)
        request = Request(scope)
        account = identify(request)
        most = STRANGERS if account is None else ANNOTATORS if account.role == "annotator" else LEADS
        told = request.headers.get("content-length", "0")
        status, detail = 413, f"the request is too large: the maximum is {most} bytes"
        if not told.isdigit() or int(told) <= most:
            try:
                async with asyncio.timeout(self.seconds):
                    read = await _read(receive, most)
                if read is not None:
                    return await self.app(scope, _replay(read, receive), send)
            except TimeoutError:
                status, detail = 408, f"the request did not arrive within {self.seconds:g} seconds"
            except ConnectionError:
                return None  # nobody is there to be answered
        await JSONResponse({"detail": detail}, status, {"Connection": "close"})(scope, receive, send)


async def _read(receive: Receive, most: int) -> bytes | None:
    """The whole body; None where it is longer. Raises ConnectionError where the client went away."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A channel that gives the body, and then whatever comes."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return left.pop() if left else await receive()

    return again
