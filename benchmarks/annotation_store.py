"""The annotation server on a large store: 100,000 programs and 5 million marks, on SQLite and on PostgreSQL.

    python benchmarks/annotation_store.py                       both databases; about 5 minutes each
    python benchmarks/annotation_store.py --programs 10000      a tenth of it

The rows are put straight into the tables: nine programs in ten are done, reviewed by five annotators, ten lines each;
every tenth waits for its fifth review. `crlhf serve` is then started three times: it learns everything anew (its own
folder is empty), it finds what it had learnt, and again after `kill -9`. Each request is timed by one client, one after
the other, while nothing else happens: everybody asks in turn, and each one has reviewed thousands.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import sqlalchemy as sa
from annotation import console, databases_for, end, free_port, wait_until_up
from rich.progress import Progress
from rich.table import Table

from crlhf_ray.feedback.desk.security import Signer, server_secret
from crlhf_ray.feedback.desk.store.database import Database
from crlhf_ray.feedback.desk.store.models import Account, Lease, Program, Submission

LINES, VOTES, HONEYPOTS = 10, 5, 1000
MONTH = 30 * 86400.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=102_100, help="each with 49 marks on average (102100)")
    parser.add_argument("--annotators", type=int, default=200, help="people who gave them (200)")
    parser.add_argument("--requests", type=int, default=200, help="timed requests of each kind (200)")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], help="only this one (default: both)")
    parser.add_argument("--postgres", metavar="URL", help="server to make databases on (default: start an own one)")
    parser.add_argument("--folder", type=Path, help="where the databases go; 3 GB (default: a temporary folder)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that the servers end too
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="annotation", dir=options.folder)))
        for name, database in databases_for(options, stack):
            with Progress(console=console, transient=True) as progress:
                measured = measure(options, name, database, folder / name, progress)
            console.print(measured)


def measure(options: argparse.Namespace, name: str, database: str | None, folder: Path, progress: Progress) -> Table:
    folder.mkdir()
    store = Database(database or f"sqlite:///{folder / 'store.db'}")
    task = progress.add_task(f"{name}: filling", total=6)
    begun = time.monotonic()
    people, lead = fill(store, options, lambda: progress.advance(task))
    table = Table(
        title=f"{name}: {options.programs:,} programs, {sum(map(votes, range(options.programs))) * LINES:,} marks "
        f"(filled in {time.monotonic() - begun:.0f} s)"
    )
    for column in ("what", "p50 ms", "p95 ms", "highest ms"):
        table.add_column(column, justify="left" if column == "what" else "right")
    starts: list[tuple[str, float, int]] = []
    for what in ("everything is learnt anew", "ended and started", "killed and started"):
        progress.update(task, description=f"{name}: {what}")
        process, url, seconds = start(folder, database)
        starts.append((what, seconds, process.memory_info().rss >> 20))
        try:
            if what == "ended and started":
                for request, times in requests(url, people, lead, options, progress):
                    table.add_row(request, *(f"{1000 * t:.1f}" for t in (*np.percentile(times, [50, 95]), max(times))))
                process.kill()
                process.wait()
        finally:
            end(process)
    store.close()
    for what, seconds, memory in starts:
        table.add_row(f"start until it answers, {what}: {seconds:.1f} s, {memory} MiB")
    return table


def start(folder: Path, database: str | None) -> tuple[psutil.Popen, str, float]:
    """The server, its URL, and the seconds until it answered."""
    port = free_port()
    changes = [
        f"dir={folder}",
        "requests_a_minute=100000",
        f"queue.labels_most={VOTES}",
        *([f"database={database}"] if database else []),
    ]
    command = [sys.executable, "-m", "crlhf_ray.cli", "serve", "--port", str(port)]
    command += [part for change in changes for part in ("--set", change)]
    begun = time.monotonic()
    with (folder / "log").open("w") as log:
        process = psutil.Popen(command, stdout=log, stderr=log, env=os.environ)
    wait_until_up(f"http://127.0.0.1:{port}/healthz", process, folder / "log")
    return process, f"http://127.0.0.1:{port}/api/v1", time.monotonic() - begun


def votes(n: int) -> int:
    """How many have reviewed the program of this number."""
    return VOTES - (n % 10 == 0)


# -- filling ----------------------------------------------------------------------------------------------------------


def fill(store: Database, options: argparse.Namespace, advance: Callable[[], None]) -> tuple[list[str], str]:
    """Put everything into the tables; returns the tokens of the annotators, and the lead's."""
    now, people = time.time(), options.annotators
    signer = Signer(server_secret(store))

    def account(n: int, role: str) -> dict[str, Any]:
        return {
            "id": n, "name": f"p{n}", "annotator_id": f"p-{n}", "password_hash": "", "role": role, "source": "human",
            "suspended": False, "epoch": 0, "checks_left": 0, "keys": {}, "created_at": now - MONTH,
        }  # fmt: skip

    def program(n: int, honeypot: bool) -> dict[str, Any]:
        done = n % 10 != 0 and not honeypot
        return {
            "item_id": f"i-{n * 0x9E3779B97F4A7C15 % 2**64:016x}", "problem_id": f"p/{n % 500}",
            "prompt": f"def function_{n}(x):\n    '''Return what is asked for, number {n}.'''\n",
            "lines": [f"    x_{i} = x + {i} * {n}" for i in range(LINES)], "to_review": list(range(LINES)),
            "gold": [1] * LINES if honeypot else sa.null(), "honeypot": honeypot, "round": n // 2000,
            "state": "done" if done else "open", "labels": votes(n), "slots": 0 if done else 1,
            "rank": now - MONTH + MONTH * n / options.programs, "rate": 0.8,
            "created_at": now - MONTH + MONTH * n / options.programs, "deadline": None,
            "done_at": now if done else None,
        }  # fmt: skip

    def reviewed(model: type[Lease] | type[Submission]) -> Iterator[dict[str, Any]]:
        ids = count(1)
        for n in range(options.programs):
            item_id, at = f"i-{n * 0x9E3779B97F4A7C15 % 2**64:016x}", now - MONTH + MONTH * n / options.programs
            for vote in range(votes(n)):
                row: dict[str, Any] = {
                    "item_id": item_id,
                    "account_id": 1 + (n * 7 + vote * (people // VOTES)) % people,
                }
                lease = next(ids)
                if model is Lease:
                    row |= {
                        "id": lease,
                        "qualification": False,
                        "issued_at": at,
                        "expires_at": at,
                        "state": "submitted",
                    }
                else:
                    row |= {
                        "lease_id": lease,
                        "confidence": 2,
                        "labels": LINES,
                        "milliseconds": 40_000,
                        "created_at": at,
                    }
                yield row

    programs = (program(n, n >= options.programs) for n in range(options.programs + HONEYPOTS))
    accounts = [account(n, "annotator") for n in range(1, people + 1)] + [account(people + 1, "lead")]
    with store.engine.begin() as connection:
        connection.execution_options(writes=True)
        for model, rows in (
            (Account, accounts), (Program, programs), (Lease, reviewed(Lease)), (Submission, reviewed(Submission))
        ):  # fmt: skip
            for chunk in chunks(rows, 5000):
                connection.execute(sa.insert(model), chunk)
            advance()
        random, identity = ("abs(random()) % 10 < 8", "lower(hex(randomblob(16)))")
        if not store.sqlite:
            random, identity = "random() < 0.8", "gen_random_uuid()::text"
        connection.execute(
            sa.text(
                "WITH RECURSIVE line(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM line WHERE n + 1 < :lines) "
                "INSERT INTO mark (event_id, lease_id, line, label, rest, milliseconds, created_at) "
                f"SELECT {identity}, lease.id, line.n, CASE WHEN {random} THEN 1 ELSE -1 END, "
                "false, 4000, lease.issued_at FROM lease CROSS JOIN line ORDER BY lease.id, line.n"
            ),
            {"lines": LINES},
        )
        advance()
        if not store.sqlite:  # ids were given, so the sequences must be told
            for name in ("account", "lease"):
                connection.execute(sa.text(f"SELECT setval('{name}_id_seq', (SELECT max(id) FROM {name}))"))
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE")
    advance()
    tokens = [signer.sign("token", [n, 0]) for n in range(1, people + 2)]
    return tokens[:-1], tokens[-1]


def chunks(rows: Any, size: int) -> Iterator[list[dict[str, Any]]]:
    source = iter(rows)
    return iter(lambda: list(islice(source, size)), [])


# -- asking -----------------------------------------------------------------------------------------------------------


def requests(
    url: str, people: Sequence[str], lead: str, options: argparse.Namespace, progress: Progress
) -> Iterator[tuple[str, list[float]]]:
    """Kinds of requests, and how long each one took."""
    with httpx.Client(base_url=url, timeout=600) as http:

        def timed(method: str, path: str, token: str, body: Any = None) -> tuple[float, Any]:
            begun = time.perf_counter()
            answer = http.request(method, path, json=body, headers={"Authorization": f"Bearer {token}"})
            took = time.perf_counter() - begun
            answer.raise_for_status()
            return took, answer.json() if answer.content else None

        def asked(kind: str, path: Callable[[int], str], token: Callable[[int], str]) -> tuple[str, list[float]]:
            steps = progress.track(range(options.requests), description=kind)
            return kind, [timed("GET", path(n), token(n))[0] for n in steps]

        def person(n: int) -> str:
            return people[n % len(people)]

        pages = max(1, options.programs * 9 // 10 // 50)
        ids = [row["item_id"] for row in timed("GET", f"/items?state=done&page={pages // 2}", lead)[1]]
        names = [row["annotator_id"] for row in timed("GET", "/stats", lead)[1]["annotators"]] or ["p-1"]
        new, held, submit = [], [], []
        for n in progress.track(range(options.requests), description="next"):
            took, task = timed("POST", "/next", person(n), {})
            new.append(took)
            held.append(timed("POST", "/next", person(n), {})[0])
            marks = [{"event_id": f"{n:08d}-{line}", "line": line, "label": 1} for line in range(LINES)]
            timed("POST", f"/leases/{task['lease_id']}/marks", person(n), {"marks": marks})
            took, answer = timed("POST", f"/leases/{task['lease_id']}/submit", person(n), {"confidence": 2})
            submit.append(took)
            timed("POST", f"/leases/{answer['next']['lease_id']}/release", person(n))
        yield "next: a new program", new
        yield "next: the one in hand", held
        yield "submit, with the next one", submit
        yield asked("stats: the dashboard", lambda n: "/stats", lambda n: lead)
        yield asked("programs, first page", lambda n: "/items", lambda n: lead)
        yield asked(
            "programs, any page of those done", lambda n: f"/items?state=done&page={1 + n * 37 % pages}", lambda n: lead
        )
        yield asked("a program, every vote", lambda n: f"/items/{ids[n % len(ids)]}", lambda n: lead)
        yield asked("an annotator's curve", lambda n: f"/annotators/{names[n % len(names)]}", lambda n: lead)
        yield asked("me", lambda n: "/me", person)


if __name__ == "__main__":
    main()
