"""Settings of the annotation server."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from crlhf_ray.feedback.desk.queue import QueueSettings
from crlhf_ray.settings import Settings


class WebSettings(Settings):
    """Where the server keeps things, and what it allows."""

    dir: Path = Path("annotation")
    """Folder of the server: the SQLite database, what is known of annotators, and its log.
    It is made private: nobody but the user that runs the server can read it."""
    database: str | None = None
    """SQLAlchemy URL, such as postgresql+psycopg://user@host/name. None: SQLite in the folder."""
    queue: QueueSettings = QueueSettings()
    """How programs are handed out."""
    secure_cookies: bool = False
    """Send cookies over HTTPS only. Set it wherever the server is reached over HTTPS."""
    session_seconds: int = Field(default=12 * 3600, gt=0)
    """After so long one has to log in again."""
    invite_hours: float = Field(default=72.0, gt=0)
    """How long an invite link works."""
    requests_a_minute: int = Field(default=1200, gt=0)
    """Most requests of one person; keyboards are quick, scripts that run wild are quicker."""
    logins_a_minute: int = Field(default=10, gt=0)
    """Most log-in attempts from one address; to one account three times as many, whatever their addresses."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses of the reverse proxies in front of the server, such as 127.0.0.1. X-Forwarded-For is believed from
    them only; without any, the address is that of the connection."""
    hourly_pay: float = Field(default=20.0, ge=0)
    """What an hour of annotation costs, in any currency: for the cost of a reliably reviewed line, and for the pay on
    time sheets, which have none where this is left at its default."""
    sure: float = Field(default=0.95, gt=0.5, lt=1)
    """A line counts as reliably reviewed where its posterior is this far to one side."""
    webhooks: tuple[str, ...] = ()
    """URLs that are told of programs done and of alerts, signed as Standard Webhooks say."""
    webhook_secret: str | None = None
    """Their shared secret, ``whsec_`` and base64. Needed where there are webhooks."""
