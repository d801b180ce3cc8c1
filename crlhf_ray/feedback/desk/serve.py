"""Starting the server: plain uvicorn on one machine, or as a Ray Serve deployment on a cluster."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI
from rich.console import Console

from crlhf_ray.errors import ConfigError
from crlhf_ray.feedback.desk.app import create_app
from crlhf_ray.feedback.desk.desk import Desk
from crlhf_ray.feedback.desk.engine import MakeEngine
from crlhf_ray.feedback.desk.security import create_account
from crlhf_ray.feedback.desk.settings import WebSettings
from crlhf_ray.feedback.desk.store.models import Account

#: How long a server that is told to stop waits for answers that it is giving.
STOP_SECONDS = 5
TOKEN_FILE = "token"  # noqa: S105  a file name


def serve(
    settings: WebSettings, engine: MakeEngine, host: str, port: int, console: Console, *, on_ray: bool = False
) -> None:
    """Serve until interrupted. As long as there is no admin, the start prints a link that makes one.

    on_ray: on Ray Serve, on the cluster of RAY_ADDRESS or a local one; `settings.dir` must be a folder that its nodes
    see. Raises ConfigError where the settings cannot work.
    """
    desk = Desk(settings, engine)
    _welcome(desk, f"http://{host}:{port}", console)
    if not on_ray:
        app = create_app(desk)
        _Uvicorn(app, host=host, port=port, log_level="warning", access_log=False).run()
        return
    desk.close()
    application = deployment(settings, engine)
    from ray import serve as ray_serve

    from crlhf_ray.cluster import connect

    with connect():
        ray_serve.start(http_options={"host": host, "port": port}, logging_config={"enable_access_log": False})
        try:
            ray_serve.run(application, name="annotation", blocking=True)
        finally:
            ray_serve.shutdown()


class _Uvicorn(uvicorn.Server):
    """Ends the streams of live dashboards when it is told to stop: it waits for open answers, and theirs never end."""

    def __init__(self, app: FastAPI, **options: Any):
        proxies = list(app.state.desk.settings.trusted_proxies)
        super().__init__(
            uvicorn.Config(
                app, timeout_graceful_shutdown=STOP_SECONDS, proxy_headers=bool(proxies), forwarded_allow_ips=proxies,
                **options,
            )
        )  # fmt: skip
        self._ending: asyncio.Event = app.state.ending

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._ending.set()
        await super().shutdown(sockets)


def _welcome(desk: Desk, url: str, console: Console) -> None:
    token_file = service_token(desk)
    console.print(f"Review code at [bold]{url}[/bold]; everything is kept in {desk.settings.dir.absolute()}")
    console.print(f"Training reads its token from {token_file}: crlhf train --feedback web")
    with desk.database.read() as session:
        admins = session.scalar(sa.select(sa.func.count()).where(Account.role == "admin", Account.name != SERVICE))
    if not admins:
        path = f"/invite/{desk.invite('admin', desk.settings.invite_hours, 'the first start')}"
        console.print(f"Make yourself the admin: {url}{path}", soft_wrap=True)


class BackgroundServer:
    """The server in a thread of this process, for this machine alone: for simulated annotators, and for tests.

    port: 0 for any free one. The desk is closed with it. Attributes: url, token_file. Raises ConfigError where it does
    not start.
    """

    def __init__(self, desk: Desk, port: int = 0):
        self.desk, self.token_file = desk, service_token(desk)
        listener = socket.socket()
        listener.bind(("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        # Without a log configuration: uvicorn's would close the log files of everything else in this process.
        self._server = _Uvicorn(create_app(desk), log_level="error", log_config=None, lifespan="on")
        self._thread = threading.Thread(target=self._server.run, args=([listener],), daemon=True)
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise ConfigError("the annotation server did not start in this process")
            time.sleep(0.01)

    def close(self) -> None:
        """Harmless when called twice."""
        self._server.should_exit = True
        self._thread.join(20)


#: The account in whose name training publishes and reads. Its password is known to nobody.
SERVICE = "training"


def service_token(desk: Desk) -> Path:
    """The file that holds training's API token, readable by its owner alone; made where it is missing."""
    file = desk.settings.dir / TOKEN_FILE
    with desk.database.write() as session:
        account = session.scalar(sa.select(Account).where(Account.name == SERVICE))
        if account is None:
            account = create_account(
                session, SERVICE, secrets.token_urlsafe(32), "admin", checks=0, now=desk.clock(), source="service"
            )
    if not file.exists() or desk.signer.read("token", file.read_text().strip(), 1e9) is None:
        with open(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as out:
            out.write(desk.token(account) + "\n")
    return file


def deployment(settings: WebSettings, engine: MakeEngine) -> Any:
    """The same application on Ray Serve: ``serve.run(deployment(settings, engine))``.

    One replica, which alone learns from what comes in; Ray starts it again where it dies, and it goes on from its
    folder and database. Raises ConfigError where ray[serve] is not installed.
    """
    try:
        from ray import serve as ray_serve
    except ImportError as error:
        raise ConfigError("Ray Serve is missing: pip install 'ray[serve]'") from error
    settings = settings.model_copy(update={"dir": settings.dir.absolute()})

    def build() -> FastAPI:
        desk = Desk(settings, engine)
        service_token(desk)
        return create_app(desk)

    class Annotation:
        pass

    ingress = ray_serve.ingress(build)(Annotation)
    replica = ray_serve.deployment(
        num_replicas=1, max_ongoing_requests=200, graceful_shutdown_timeout_s=STOP_SECONDS
    )  # fmt: skip
    return replica(ingress).bind()
