"""The application: routes, headers that keep hostile text harmless, and errors that say what to do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crlhf_ray.errors import ConfigError, DataError
from crlhf_ray.feedback.desk import api, exchange, lead, pages, timesheets
from crlhf_ray.feedback.desk.desk import Desk
from crlhf_ray.feedback.desk.limits import BodyLimit
from crlhf_ray.feedback.desk.security import LoggedOut
from crlhf_ray.feedback.desk.store.reviews import Unmarked
from crlhf_ray.feedback.desk.store.work import Conflict

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class SafeHeaders:
    """Adds `HEADERS` to every answer."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        await self.app(scope, receive, with_headers)


def create_app(desk: Desk) -> FastAPI:
    """The annotation server as an ASGI application. The desk is closed with it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        desk.close()

    app = FastAPI(
        title="crlhf_ray annotation", version="1", lifespan=lifespan, docs_url=None, redoc_url=None,
        description="Line-by-line reviews of programs. Send Authorization: Bearer TOKEN.",
    )  # fmt: skip
    app.state.desk = desk
    app.state.logged_out = LoggedOut(desk.database, desk.settings.session_seconds)
    #: Set when the server stops: what streams without an end ends by it.
    app.state.ending = asyncio.Event()
    app.add_middleware(BodyLimit)
    app.add_middleware(SafeHeaders)  # around the other: its answers carry them, too
    for router in (api.router, lead.router, exchange.router, timesheets.router, pages.router):
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))
    app.add_exception_handler(Conflict, _conflict)
    app.add_exception_handler(ConfigError, _unusable)
    app.add_exception_handler(DataError, _unusable)
    app.add_exception_handler(StarletteHTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)

    @app.get("/healthz", include_in_schema=False)
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    return app


def _conflict(request: Request, error: Exception) -> Response:
    extra = {"unmarked": error.lines} if isinstance(error, Unmarked) else {}
    return JSONResponse({"detail": str(error), **extra}, 409)


def _unusable(request: Request, error: Exception) -> Response:
    return JSONResponse({"detail": str(error)}, 400)


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    wrong = [{"loc": one["loc"], "msg": one["msg"], "type": one["type"]} for one in error.errors()]
    # In ASCII, and without what was sent, which may be what no answer can hold: half a character, or not a number.
    return Response(json.dumps({"detail": wrong}), 422, media_type="application/json")


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    if not request.url.path.startswith("/api/"):
        if error.status_code == 401:
            return RedirectResponse("/login", 303)
        if "text/html" in request.headers.get("accept", ""):
            return pages.problem_page(request, error.status_code, str(error.detail))
    return await http_exception_handler(request, error)
