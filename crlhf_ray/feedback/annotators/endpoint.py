"""An OpenAI-compatible endpoint: chat completions over HTTP, with retries, a rate limit, and a key that nobody sees.

The key is read from the environment when a request is made. It is in no setting, file, log or error message: where a
server sends it back, it is cut out.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from crlhf_ray.errors import ConfigError
from crlhf_ray.feedback.annotators.settings import LlmSettings

#: The first wait before a request is made again, doubled each time, in seconds.
_FIRST_WAIT = 0.5
_AGAIN = {408, 409, 425, 429}


class Failed(Exception):
    """No usable answer came. The message may be shown: it has no key in it."""


class Refused(Failed):
    """The endpoint answers, and does not take this request."""


@dataclass(frozen=True)
class Answer:
    """text: what the model said. tokens_in, tokens_out: as the server counts them. cut: it ended at max_tokens."""

    text: str
    tokens_in: int
    tokens_out: int
    cut: bool = False


class Endpoint:
    """Thread-safe. clock, sleep: seconds; other ones are for tests."""

    def __init__(
        self,
        settings: LlmSettings,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.settings, self._clock, self._sleep = settings, clock, sleep
        self._client = httpx.Client(base_url=settings.base_url, timeout=settings.seconds, follow_redirects=False)
        self._host = urlsplit(settings.base_url).netloc
        self._lock = threading.Lock()
        self._next = 0.0
        key = settings.key_variable
        if key is not None and not os.environ.get(key):
            raise ConfigError(
                f"feedback.annotators: key_variable names {key}, which is not set where the run is started: "
                f"export {key}=..., for `ray job submit` on the head node before `ray start` (what --runtime-env-json "
                f"holds, Ray writes into its logs)"
            )

    def close(self) -> None:
        self._client.close()

    def ask(self, system: str, text: str, schema: dict[str, Any], seed: int) -> Answer:
        """One answer.

        Raises `Failed` after `settings.attempts`, `Refused` for a request that the endpoint does not take, and
        ConfigError where no request would be taken.
        """
        settings = self.settings
        body: dict[str, Any] = {
            "model": settings.model,
            "messages": [{"role": "system", "content": system}, {"role": "user", "content": text}],
            "temperature": settings.temperature,
            "max_tokens": settings.max_tokens,
            "seed": seed,
        }
        if settings.structured == "json_schema":
            form = {"name": "review", "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        elif settings.structured == "json_object":
            body["response_format"] = {"type": "json_object"}
        trouble, wait = "", 0.0
        for attempt in range(settings.attempts):
            if attempt:
                self._sleep(min(settings.longest_wait, wait or _FIRST_WAIT * 2 ** (attempt - 1)))
            self._take_turn()
            wait = 0.0
            try:
                response = self._client.post("chat/completions", json=body, headers=self._headers())
            except httpx.TransportError as error:
                trouble = f"{type(error).__name__}: {error}"
                continue
            if response.status_code == 200:
                try:
                    return self._read(response)
                except (ValueError, LookupError, TypeError) as error:
                    trouble = f"its answer is not a chat completion ({error})"
                    continue
            trouble = f"status {response.status_code}: {self._said(response)}"
            if response.status_code in (401, 403, 404):
                raise ConfigError(self._refusal(response.status_code, trouble))
            if response.status_code not in _AGAIN and response.status_code < 500:
                raise Refused(
                    f"{self._host} refuses the request: {trouble} (is the program with "
                    f"max_tokens={settings.max_tokens} longer than the model's context, or is "
                    f"structured={settings.structured} not supported?)"
                )
            wait = _seconds(response.headers.get("retry-after", ""))
        raise Failed(self._plain(f"{self._host} did not answer: {trouble}"))

    def _refusal(self, status: int, trouble: str) -> str:
        if status == 404:
            return (
                f"feedback.annotators: {self.settings.base_url} knows no model {self.settings.model!r}, or base_url "
                f"lacks its /v1 ({trouble})"
            )
        where = f"the one in ${self.settings.key_variable}" if self.settings.key_variable else "none: set key_variable"
        return f"feedback.annotators: {self.settings.base_url} does not accept the key, {where} ({trouble})"

    def _headers(self) -> dict[str, str]:
        variable = self.settings.key_variable
        return {} if variable is None else {"Authorization": f"Bearer {os.environ.get(variable, '')}"}

    def _read(self, response: httpx.Response) -> Answer:
        body = response.json()
        choice = body["choices"][0]
        text = choice["message"]["content"]
        if not isinstance(text, str):
            raise ValueError("no text")
        usage = body.get("usage") or {}
        return Answer(
            self._plain(text),
            int(usage.get("prompt_tokens") or 0),
            int(usage.get("completion_tokens") or 0),
            cut=choice.get("finish_reason") == "length",
        )

    def _said(self, response: httpx.Response) -> str:
        """The error's message, where it has the usual form. A key is cut out first: half of one is not recognised."""
        text = response.text
        with suppress(ValueError, LookupError, TypeError):
            text = str(response.json()["error"]["message"])
        return self._plain(text)[:300]

    def _plain(self, text: str) -> str:
        key = os.environ.get(self.settings.key_variable or "", "")
        return text.replace(key, "[key]") if key else text

    def _take_turn(self) -> None:
        """Wait until another request may be made."""
        if self.settings.requests_a_minute is None:
            return
        with self._lock:
            now = self._clock()
            start = max(now, self._next)
            self._next = start + 60.0 / self.settings.requests_a_minute
        if start > now:
            self._sleep(start - now)


def _seconds(text: str) -> float:
    try:
        return max(0.0, float(text))
    except ValueError:  # a date, or nothing
        return 0.0
