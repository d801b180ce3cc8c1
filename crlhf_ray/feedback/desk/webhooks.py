"""Telling other systems: signed as Standard Webhooks say, kept on disk until delivered, retried with growing pauses."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from standardwebhooks import Webhook
from standardwebhooks.webhooks import EmptyWebhookSecretError

from crlhf_ray.errors import ConfigError

#: Pauses between attempts, seconds; after the last one a message is given up, and the log says so.
PAUSES = (5.0, 60.0, 600.0, 3600.0, 6 * 3600.0)
ANSWER_SECONDS = 10.0
_log = logging.getLogger(__name__)


class Webhooks:
    """Sends events to every URL from a thread of its own. A message is a file until it is delivered or given up.

    Raises ConfigError where a URL is none, or there are URLs but no usable secret.
    """

    def __init__(self, urls: Sequence[str], secret: str | None, folder: Path):
        self._urls, self._folder = urls, folder
        self._wake, self._closing = threading.Event(), False
        self._thread: threading.Thread | None = None
        if not urls:
            return
        if wrong := [url for url in urls if not _usable(url)]:
            raise ConfigError(f"webhooks: {wrong[0]!r} is no URL: give http:// or https:// and the rest of it")
        try:
            self._signer = Webhook(secret or "whsec_")
        except (EmptyWebhookSecretError, ValueError) as error:
            raise ConfigError(f"webhook_secret: give whsec_ and base64 text ({error})") from error
        folder.mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def send(self, kind: str, data: dict[str, Any]) -> None:
        """Queue an event for every URL; returns once it is on the disk."""
        for url in self._urls:
            name = f"msg_{uuid.uuid4().hex}"
            body = json.dumps({"type": kind, "timestamp": datetime.now(UTC).isoformat(), "data": data})
            file = self._folder / f"{time.time():.6f}-{name}.json"
            _keep(file, {"id": name, "url": url, "body": body, "attempts": 0, "next": 0.0})
        self._wake.set()

    def close(self) -> None:
        self._closing = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(ANSWER_SECONDS + 1)

    def _run(self) -> None:
        with httpx.Client(timeout=ANSWER_SECONDS) as client:
            while not self._closing:
                self._wake.clear()
                waits = [self._attempt(client, file) for file in sorted(self._folder.glob("*.json"))]
                self._wake.wait(min(waits, default=3600.0))

    def _attempt(self, client: httpx.Client, file: Path) -> float:
        """Try a message that is due; returns after how many seconds it wants to be looked at again."""
        message = json.loads(file.read_text())
        now = time.time()
        if self._closing or message["next"] > now:
            return max(message["next"] - now, 0.1)
        moment = datetime.now(UTC)
        headers = {
            "webhook-id": message["id"],
            "webhook-timestamp": str(int(moment.timestamp())),
            "webhook-signature": self._signer.sign(message["id"], moment, message["body"]),
            "content-type": "application/json",
        }
        try:
            client.post(message["url"], content=message["body"], headers=headers).raise_for_status()
        except httpx.HTTPError as error:
            if message["attempts"] == len(PAUSES):
                _log.error("webhook %s to %s is given up: %s", message["id"], message["url"], error)
                file.unlink()
                return 3600.0
            pause = PAUSES[message["attempts"]]
            message |= {"attempts": message["attempts"] + 1, "next": now + pause}
            _keep(file, message)
            return pause
        file.unlink()
        return 3600.0


def _keep(file: Path, message: dict[str, Any]) -> None:
    temporary = file.with_suffix(".tmp")
    with open(temporary, "w") as out:
        json.dump(message, out)
        out.flush()
        os.fsync(out.fileno())  # or a power cut leaves an empty file, which stops all the others
    os.replace(temporary, file)


def _usable(url: str) -> bool:
    try:
        return httpx.URL(url).scheme in ("http", "https")
    except httpx.InvalidURL:
        return False
