"""The typed client of the annotation server: what training uses, and what simulated annotators are driven by."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self
from urllib.parse import urlencode

import httpx
import pyarrow as pa

from crlhf_ray.aggregation.marks import ANNOTATION_SCHEMA, GOLD_SCHEMA, Item
from crlhf_ray.errors import ConfigError, CrlhfError

#: Between two attempts, seconds: at first, and at most.
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
#: The server did not answer (0: nothing did, or something else), or what stands before it says so.
ABSENT = (0, 502, 503, 504)


class ServerError(CrlhfError):
    """The annotation server refused, or could not be reached. status: HTTP's, 0 where there was no answer."""

    def __init__(self, message: str, status: int = 0):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Assignment:
    """A program in an annotator's hands. to_review: the lines that want a mark. marked: label by line so far."""

    lease_id: int
    item_id: str
    to_review: tuple[int, ...]
    marked: dict[int, int]


class AnnotationClient:
    """Calls on one server in one account's name.

    url: such as http://127.0.0.1:8000. token: an API token. patience: seconds for which a call is repeated while the
    server, or a proxy before it, does not answer: it may be restarted. Whatever is sent again changes nothing the
    second time. Raises ServerError for whatever goes wrong.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout: float = 60.0, patience: float = 0.0):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.url, self.token, self._patience = url, token, patience
        self._http = httpx.Client(
            base_url=url.rstrip("/") + "/api/v1",
            headers=headers,
            timeout=timeout,
        )

    @classmethod
    def from_file(cls, url: str, token_file: Path, *, patience: float = 0.0) -> Self:
        """A client with the token that `crlhf serve` wrote. Raises ConfigError where there is none."""
        if not token_file.exists():
            raise ConfigError(f"{token_file}: no token there; start `crlhf serve` first, or name its DIR/token")
        return cls(url, token_file.read_text().strip(), patience=patience)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # -- training ------------------------------------------------------------------------------------------------

    def publish(
        self,
        items: Sequence[Item],
        *,
        gold: Mapping[str, Sequence[int]] | None = None,
        round: int | None = None,
        deadline: datetime | None = None,
    ) -> int:
        """Put programs into the queue; returns how many are new. gold: truth of each line, for honeypots."""
        gold, fresh = gold or {}, 0
        for start in range(0, len(items), 500):
            rows = [
                {
                    "item_id": item.item_id,
                    "problem_id": item.problem_id,
                    "prompt": item.prompt,
                    "lines": list(item.lines),
                    "to_review": list(item.to_review),
                    "gold": [int(z) for z in gold[item.item_id]] if item.item_id in gold else None,
                }
                for item in items[start : start + 500]
            ]
            body = {"items": rows, "round": round, "deadline": deadline.timestamp() if deadline else None}
            fresh += self._call("POST", "/items", body)["published"]
        return fresh

    def status(self, item_ids: Sequence[str]) -> dict[str, str]:
        """open, done or retired, by item_id."""
        found: dict[str, str] = {}
        for start in range(0, len(item_ids), 1000):
            found |= self._call("POST", "/items/status", {"item_ids": list(item_ids[start : start + 1000])})
        return found

    def annotations(self, since: int) -> tuple[pa.Table, int]:
        """Reviews submitted after a cursor (ANNOTATION_SCHEMA), and the next cursor; it stays where all is read."""
        answer = self._call("GET", f"/annotations?since={since}")
        rows = [row | {"created_at": datetime.fromtimestamp(row["created_at"], UTC)} for row in answer["annotations"]]
        return pa.Table.from_pylist(rows, schema=ANNOTATION_SCHEMA), answer["cursor"]

    def since(self, cursor: int) -> Iterator[tuple[pa.Table, int]]:
        """All that the server's ledger has after a cursor: page by page, each with the cursor behind it."""
        while True:
            page, after = self.annotations(cursor)
            if after == cursor:
                return
            yield page, after
            cursor = after

    def aggregation(self) -> dict[str, Any]:
        """The settings by which marks become a consensus at the server."""
        found: dict[str, Any] = self._call("GET", "/aggregation")
        return found

    def gold(self) -> pa.Table:
        """Known truth at the server (GOLD_SCHEMA): of honeypots, whoever brought them in, and by experts' verdicts."""
        return pa.Table.from_pylist(self._call("GET", "/gold"), schema=GOLD_SCHEMA)

    def import_files(
        self, files: Sequence[Mapping[str, Any]], language: str | None = None, *, ask_end: bool = False
    ) -> dict[str, int]:
        """Bring in files: name, text and, for source files whatever their name, source; returns counts by name."""
        counts: dict[str, int] = self._call(
            "POST", "/import", {"files": list(files), "language": language, "ask_end": ask_end}
        )
        return counts

    def timesheet(self, **period: Any) -> list[dict[str, Any]]:
        """Hours, programs and pay by person and day. period: since, until (days) and person, as `GET /timesheet`."""
        wanted = urlencode({name: value for name, value in period.items() if value is not None})
        found: list[dict[str, Any]] = self._call("GET", f"/timesheet?{wanted}")
        return found

    def retire(self, ids: Sequence[str]) -> list[str]:
        """Show programs to nobody any more; returns their item ids."""
        retired: list[str] = self._call("POST", "/items/retire", {"ids": list(ids)})["retired"]
        return retired

    def export(self, out: BinaryIO, path: str = "/export", **filters: Any) -> None:
        """Write an export into a file; filters as `GET /export`, or ``path``, takes them."""
        wanted = {name: value for name, value in filters.items() if value is not None}
        try:
            with self._http.stream("GET", path, params=wanted) as response:
                if response.is_error:
                    raise ServerError(f"GET {path}: {response.status_code}: {response.read().decode()[:500]}")
                for part in response.iter_bytes():
                    out.write(part)
        except httpx.HTTPError as error:
            raise ServerError(f"{self.url} cannot be reached ({error}): is `crlhf serve` running there?") from error

    def invite(self, role: str = "annotator") -> str:
        """The secret of an invite link for one account."""
        path: str = self._call("POST", "/invites", {"role": role})["path"]
        return path.removeprefix("/invite/")

    def simulated(self, name: str) -> AnnotationClient:
        """A client in the name of a simulated annotator, who needs no password; made where there is none."""
        return AnnotationClient(self.url, self._call("POST", "/simulated", {"name": name})["token"])

    # -- annotators ----------------------------------------------------------------------------------------------

    def join(self, invite: str, name: str, password: str) -> AnnotationClient:
        """Make an account; returns a client in its name."""
        body = {"invite": invite, "name": name, "password": password}
        return AnnotationClient(self.url, self._call("POST", "/join", body)["token"])

    def log_in(self, name: str, password: str) -> AnnotationClient:
        """A client in an account's name."""
        return AnnotationClient(self.url, self._call("POST", "/token", {"name": name, "password": password})["token"])

    def me(self) -> dict[str, Any]:
        """Name, annotator_id, progress."""
        found: dict[str, Any] = self._call("GET", "/me")
        return found

    def next(self) -> Assignment | None:
        """The next program to review; None when there is none."""
        return _assignment(self._call("POST", "/next", {}))

    def mark(self, lease_id: int, labels: Mapping[int, int], milliseconds: int | None = None) -> None:
        """Save a label for each of these lines."""
        marks = [
            {"event_id": str(uuid.uuid4()), "line": line, "label": label, "milliseconds": milliseconds}
            for line, label in labels.items()
        ]
        self._call("POST", f"/leases/{lease_id}/marks", {"marks": marks})

    def submit(self, lease_id: int, confidence: int = 2) -> Assignment | None:
        """Submit a program whose every line is marked; returns the next one. confidence: 1 to 3."""
        return _assignment(self._call("POST", f"/leases/{lease_id}/submit", {"confidence": confidence})["next"])

    def release(self, lease_id: int) -> None:
        """Skip a program; it does not come again."""
        self._call("POST", f"/leases/{lease_id}/release")

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        until, pause = time.monotonic() + self._patience, FIRST_PAUSE
        while True:
            try:
                return self._call_once(method, path, body)
            except ServerError as error:
                if error.status not in ABSENT or time.monotonic() + pause > until:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _call_once(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        try:
            response = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise ServerError(f"{self.url} cannot be reached ({error}): is `crlhf serve` running there?") from error
        if response.status_code == 204:
            return None
        if response.is_error:
            try:
                detail = response.json()["detail"]
            except (ValueError, KeyError, TypeError):
                detail = response.text[:200]
            raise ServerError(f"{method} {path}: {response.status_code}: {detail}", response.status_code)
        try:
            return response.json()
        except ValueError as error:  # a proxy's page, or a Wi-Fi's: nothing may have arrived
            raise ServerError(f"{method} {path}: what answered is not the annotation server: {self.url}") from error


def _assignment(task: dict[str, Any] | None) -> Assignment | None:
    if task is None:
        return None
    return Assignment(
        task["lease_id"],
        task["item_id"],
        tuple(line["number"] for line in task["lines"] if line["to_review"]),
        {mark["line"]: mark["label"] for mark in task["marks"]},
    )
