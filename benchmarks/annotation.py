"""The annotation server under load, on SQLite and on PostgreSQL; and beside it Label Studio.

Open loop. Every simulated annotator has a timetable that no answer delays: mark a program's lines one by one (a request
each, as the page does) and submit it, which brings the next one. The pauses are drawn from people's (`duration_s` of
faultloc in CRLHF_DATA; without it, the log-normal distribution that fits them), scaled so that marks come at --rate. A
request's latency counts from the time at which it was due, so whoever waits in a queue is seen to wait. One more
client watches the live dashboard all the while. In the end every acknowledged mark must be in the database, none twice,
and no program twice in one person's hands.

Label Studio. Closed loop, the same number of clients on both servers in turn: fetch a program, review it, submit. Here
that is next, marks of all lines in one request, submit; there next task, one annotation with a choice for each line.
Install it into an environment of its own:

    uv venv /tmp/label-studio && uv pip install --python /tmp/label-studio/bin/python label-studio

    python benchmarks/annotation.py                                       both databases, 3 windows of 20 s each
    python benchmarks/annotation.py --database sqlite --rate 800          how much more does it take?
    python benchmarks/annotation.py --label-studio /tmp/label-studio      also that comparison
    python benchmarks/annotation.py --seconds 0 --label-studio /tmp/label-studio    nothing but it

The servers are processes of their own and share the machine with this one, whose share is printed. Run it on a quiet
machine; stores of millions of marks are in annotation_store.py.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import signal
import statistics
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import numpy as np
import pandas as pd
import psutil
import sqlalchemy as sa
from postgres import free_port, new_database, own_server, tools
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from crlhf_ray.aggregation.marks import Item
from crlhf_ray.feedback.desk.queue import QueueSettings
from crlhf_ray.feedback.desk.security import Signer, create_account, server_secret
from crlhf_ray.feedback.desk.store.database import Database
from crlhf_ray.feedback.desk.store.models import Account, Lease, Mark, Program, Submission
from crlhf_ray.feedback.desk.store.programs import publish
from crlhf_ray.feedback.honeypots import make_item, opaque_id
from crlhf_ray.problems.load import load_problems

KINDS = ("next", "mark", "submit")
HONEYPOTS = 600
WARM_SECONDS = 8.0
WINDOW = 10.0
"""Seconds of a window of the closed loop."""
KEEP_SECONDS = 3.0
"""A connection that was idle for longer is not used again: uvicorn closes them after 5 s."""
PATIENT = aiohttp.ClientTimeout(total=60)
console = Console()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotators", type=int, default=200, help="people at work at the same time (200)")
    parser.add_argument("--rate", type=float, default=500, help="marks a second that they offer together (500)")
    parser.add_argument("--seconds", type=float, default=20, help="length of a window (20); 0: no open loop")
    parser.add_argument("--windows", type=int, default=3, help="windows of each measurement, for the spread (3)")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], help="only this one (default: both)")
    parser.add_argument("--postgres", metavar="URL", help="server to make databases on (default: start an own one)")
    parser.add_argument("--label-studio", type=Path, metavar="VENV", help="environment that Label Studio is in")
    parser.add_argument("--clients", type=int, default=8, help="clients of the comparison with it (8)")
    parser.add_argument("--folder", type=Path, help="where the databases go (default: a temporary folder)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that the servers end too
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="annotation", dir=options.folder)))
        databases = dict(databases_for(options, stack))
        progress = stack.enter_context(Progress(console=console, transient=True))
        loads = [open_loop(options, name, url, folder, progress) for name, url in databases.items() if options.seconds]
        rates = None
        if options.label_studio:
            rates = closed_loops(options, None, folder, progress)
    if loads:
        console.print(load_table(loads, options))
    for load in loads:
        shares = ", ".join(f"{who} {cores:.2f}" for who, cores in load.cores.items())
        said = (
            f"{len(load.acknowledged)} marks acknowledged and {len(load.submitted)} programs submitted; "
            f"cores: {shares}; {load.milliseconds_a_mark:.2f} ms of the server's CPU for each mark"
        )
        console.print(f"{load.database}: {said}; " + ("; ".join(load.problems) or "no error, none lost, none twice"))
    if rates:
        console.print(peer_table(rates, options))
    sys.exit(any(load.problems for load in loads))


def databases_for(options: argparse.Namespace, stack: contextlib.ExitStack) -> Iterator[tuple[str, str | None]]:
    """Names and URLs; SQLite's is None, which is a file in the server's folder."""
    if options.database != "postgresql":
        yield "sqlite", None
    if options.database != "sqlite":
        programs = tools()
        if not options.postgres and programs is None:
            console.print("PostgreSQL is not installed (apt-get install postgresql) and no --postgres given: left out")
            return
        yield "postgresql", new_database(options.postgres or stack.enter_context(own_server(programs)))


# -- our server -------------------------------------------------------------------------------------------------------


class Server:
    """`crlhf serve` as a process of its own, with people, programs and honeypots in its store.

    qualification: programs of the qualification round.
    """

    def __init__(self, folder: Path, database: str | None, *, people: int, programs: list[Item], qualification: int):
        self.folder, self.port = folder, free_port()
        folder.mkdir(parents=True)
        self.store = Database(database or f"sqlite:///{folder / 'store.db'}")
        queue, now = QueueSettings(qualification=qualification), time.time()
        honeypots = programs[:HONEYPOTS] if qualification else []
        gold = {item.item_id: [1] * len(item.lines) for item in honeypots}
        with self.store.write() as session:
            for start in range(0, len(programs), 500):
                publish(session, programs[start : start + 500], queue, now=now, gold=gold, round=0)
            first = create_account(session, "p0", "long enough", "annotator", checks=qualification, now=now)
            lead = create_account(session, "lead", "long enough", "lead", checks=0, now=now)
            others = [
                Account(name=f"p{n}", annotator_id=f"p-{n}", password_hash=first.password_hash, role="annotator",
                        source="human", checks_left=qualification, keys={}, created_at=now)
                for n in range(1, people)
            ]  # fmt: skip
            session.add_all(others)
            session.flush()
            ids, lead_id = [first.id, *(account.id for account in others)], lead.id
        signer = Signer(server_secret(self.store))
        self.tokens = [signer.sign("token", [account, 0]) for account in ids]
        self.lead_token = signer.sign("token", [lead_id, 0])
        changes = [f"dir={folder}", f"queue.qualification={qualification}", "requests_a_minute=100000"]
        changes += [f"database={database}"] if database else []
        command = [sys.executable, "-m", "crlhf_ray.cli", "serve", "--port", str(self.port)]
        self.log, self.refused = (folder / "log").open("w"), Counter[str]()
        self.process = psutil.Popen(
            [*command, *(part for change in changes for part in ("--set", change))], stdout=self.log, stderr=self.log
        )
        self.url = f"http://127.0.0.1:{self.port}"
        wait_until_up(self.url + "/healthz", self.process, folder / "log")

    async def cycle(self, http: aiohttp.ClientSession, number: int) -> None:
        """One program, by the client of this number: next, marks of all lines, submit."""
        url, headers = f"{self.url}/api/v1", {"Authorization": f"Bearer {self.tokens[number]}"}

        async def ask(path: str, body: dict[str, Any]) -> Any:
            async with http.post(f"{url}/{path}", json=body, headers=headers) as answer:
                answer.raise_for_status()
                return await answer.json()

        task = await ask("next", {})
        marks = [
            {"event_id": str(uuid.uuid4()), "line": line["number"], "label": 1, "milliseconds": 400}
            for line in task["lines"]
            if line["to_review"]
        ]
        await ask(f"leases/{task['lease_id']}/marks", {"marks": marks})
        await ask(f"leases/{task['lease_id']}/submit", {"confidence": 2})

    def close(self) -> None:
        end(self.process)
        self.log.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self.store.close()


def wait_until_up(url: str, process: psutil.Popen, log: Path) -> None:
    while True:
        try:
            if httpx.get(url).status_code < 500:
                return
        except httpx.TransportError:
            pass
        if process.poll() is not None:
            sys.exit(f"the server ended; the end of its log:\n{log.read_text()[-3000:]}")
        time.sleep(0.1)


def end(process: psutil.Popen) -> None:
    """Stop it; harmless when called twice."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(60)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait()


def programs_to_review(count: int) -> list[Item]:
    """HumanEval's reference solutions in turn, each as a program of its own: no two share their text."""
    problems = load_problems("humaneval")
    items = []
    for n in range(count):
        problem = problems[n % len(problems)]
        item = make_item(problem, problem.references[0], opaque_id(0, n))
        items.append(Item(item.item_id, item.problem_id, f"# {n}\n{item.prompt}", item.lines, item.to_review))
    return items


# -- open loop --------------------------------------------------------------------------------------------------------


@dataclass
class Load:
    """What was measured on one database. Times by time.perf_counter; latencies: (due, kind, ms) within the windows."""

    database: str
    begun: float
    ends: float
    latencies: list[tuple[float, str, float]] = field(default_factory=list)
    sent: set[str] = field(default_factory=set)
    acknowledged: set[str] = field(default_factory=set)
    submitted: list[int] = field(default_factory=list)
    handed_out: list[tuple[int, int, str]] = field(default_factory=list)
    """Person, lease and program of every answer to next."""
    last_due: float = 0.0
    done: float = 0.0
    """When the last request was due, and when all were answered."""
    errors: Counter[str] = field(default_factory=Counter)
    cores: dict[str, float] = field(default_factory=dict)
    milliseconds_a_mark: float = 0.0
    """CPU time of the server for each mark, with its share of next and submit."""
    problems: list[str] = field(default_factory=list)


def pauses() -> np.ndarray:
    """How long people took for a line of code, divided by their mean. Who took over an hour had left their desk."""
    file = Path(os.environ.get("CRLHF_DATA", "/nowhere")) / "crowd" / "faultloc" / "labels.csv"
    if file.exists():
        seconds = pd.read_csv(file)["duration_s"].to_numpy()
    else:
        console.print("CRLHF_DATA has no faultloc: pauses are drawn from the log-normal distribution that fits them")
        seconds = np.random.default_rng(0).lognormal(5.216, 1.171, 20_000)
    seconds = seconds[(seconds > 0) & (seconds < 3600)]
    return seconds / seconds.mean()


def open_loop(options: argparse.Namespace, name: str, database: str | None, folder: Path, progress: Progress) -> Load:
    total = WARM_SECONDS + options.seconds * options.windows
    items = programs_to_review(HONEYPOTS + options.annotators + int(total * options.rate / 6))
    with Server(folder / name, database, people=options.annotators, programs=items, qualification=3) as server:
        load = asyncio.run(_open_loop(options, name, server, items, progress))
        server.close()
        load.problems += list(problems(load, server.store))
        if "Traceback" in (log := (server.folder / "log").read_text()):
            load.problems.append(f"the server's log ends with {log[-1500:]}")
    return load


async def _open_loop(
    options: argparse.Namespace, name: str, server: Server, items: list[Item], progress: Progress
) -> Load:
    # Whoever reviews a program pauses once for each line, once before submitting it and once before the next one.
    lines = statistics.mean(len(item.to_review) for item in items)
    drawn = pauses() * options.annotators / options.rate * lines / (lines + 2)
    begin = time.perf_counter() + 1.0
    load = Load(name, begin + WARM_SECONDS, begin + WARM_SECONDS + options.seconds * options.windows)
    processes = {"generator": psutil.Process(), "server": server.process}
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_SECONDS), timeout=PATIENT
    ) as http:
        watcher = asyncio.create_task(watch(http, server))
        people = [
            asyncio.create_task(
                Annotator(http, server.url, token, n, load, drawn, np.random.default_rng([options.seed, n])).work(begin)
            )
            for n, token in enumerate(server.tokens)
        ]
        task, spent = progress.add_task(name, total=load.ends - begin), {}
        while (now := time.perf_counter()) < load.ends:
            if now >= load.begun and not spent:
                since, marks, spent = (
                    now,
                    len(load.acknowledged),
                    {who: cpu_seconds(process) for who, process in processes.items()},
                )
            said = f"{name}: {len(load.acknowledged)} marks, {load.errors.total()} errors"
            progress.update(task, completed=now - begin, description=said)
            await asyncio.sleep(0.25)
        load.cores = {who: (cpu_seconds(p) - spent[who]) / (now - since) for who, p in processes.items()}
        marks = max(1, len(load.acknowledged) - marks)
        load.milliseconds_a_mark = 1000 * load.cores["server"] * (now - since) / marks
        progress.remove_task(task)
        await asyncio.gather(*people)
        load.done = time.perf_counter()
        watcher.cancel()
    return load


@dataclass
class Annotator:
    """A person with a timetable. A request that is due while an earlier one is under way is sent all the same."""

    http: aiohttp.ClientSession
    url: str
    token: str
    number: int
    load: Load
    pauses: np.ndarray
    random: np.random.Generator

    async def work(self, due: float) -> None:
        due += float(self.random.uniform(0, 1.0))  # they don't come in step
        task = await self.ask("next", due, "next", {})
        while task is not None and due < self.load.ends > time.perf_counter():
            self.load.handed_out.append((self.number, task["lease_id"], task["item_id"]))
            sent = []
            for line in task["lines"]:
                if line["to_review"]:
                    due += self.pause()
                    sent.append(asyncio.create_task(self.mark(due, task["lease_id"], line["number"])))
            due += self.pause()
            await asyncio.gather(*sent)
            done = await self.ask("submit", due, f"leases/{task['lease_id']}/submit", {"confidence": 2})
            if done is None:
                return
            self.load.submitted.append(task["lease_id"])
            task = done["next"]
            due += self.pause()

    def pause(self) -> float:
        return float(self.random.choice(self.pauses))

    async def mark(self, due: float, lease: int, line: int) -> None:
        mark = {"event_id": str(uuid.uuid4()), "line": line, "label": 1 if self.random.random() < 0.8 else -1}
        await asyncio.sleep(due - time.perf_counter())
        self.load.sent.add(mark["event_id"])
        body = {"marks": [mark | {"milliseconds": 400}]}
        if await self.ask("mark", due, f"leases/{lease}/marks", body) is not None:
            self.load.acknowledged.add(mark["event_id"])

    async def ask(self, kind: str, due: float, path: str, body: dict[str, Any]) -> Any:
        self.load.last_due = max(self.load.last_due, due)
        await asyncio.sleep(due - time.perf_counter())
        headers = {"Authorization": f"Bearer {self.token}"}
        try:
            async with self.http.post(f"{self.url}/api/v1/{path}", json=body, headers=headers) as answer:
                content = await answer.read()
                if answer.status >= 300:
                    self.load.errors[f"{kind}: {answer.status} {content[:100]!r}"] += 1
                    return None
        except (aiohttp.ClientError, TimeoutError) as error:
            self.load.errors[f"{kind}: {error!r}"] += 1
            return None
        if self.load.begun <= due < self.load.ends:
            self.load.latencies.append((due, kind, 1000 * (time.perf_counter() - due)))
        return True if kind == "mark" else json.loads(content)


async def watch(http: aiohttp.ClientSession, server: Server) -> None:
    """The dashboard of a lead, open all the while."""
    headers = {"Authorization": f"Bearer {server.lead_token}"}
    forever = aiohttp.ClientTimeout(total=None)
    async with http.get(f"{server.url}/api/v1/events", headers=headers, timeout=forever) as answer:
        async for _ in answer.content.iter_any():
            pass


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def problems(load: Load, store: Database) -> Iterator[str]:
    """What must not be: errors, marks or submissions that are missing or too many, programs handed out twice."""
    if (behind := load.done - load.last_due) > 10:
        yield f"the server fell behind: it was done {behind:.0f} s after the last request was due"
    yield from (f"{count} times {error}" for error, count in load.errors.most_common(5))
    with store.read() as session:
        stored = session.scalars(sa.select(Mark.event_id)).all()
        submitted = set(session.scalars(sa.select(Submission.lease_id)))
        held = Counter(session.scalars(sa.select(Lease.item_id)))
        work = set(session.scalars(sa.select(Program.item_id).where(Program.honeypot.is_(False))))
        overdrawn = session.scalar(sa.select(sa.func.count()).where(Program.slots < 0, Program.honeypot.is_(False)))
    if lost := len(load.acknowledged.difference(stored)):
        yield f"{lost} acknowledged marks are not stored"
    if strange := len(stored) - len(load.sent.intersection(stored)):
        yield f"{strange} marks are stored that nobody sent, or twice"
    if lost := len(set(load.submitted) - submitted):
        yield f"{lost} acknowledged submissions are not stored"
    if twice := len(set(load.handed_out)) - len({(person, item) for person, _, item in load.handed_out}):
        yield f"{twice} programs came to one person again"
    if shared := len({(lease, person) for person, lease, _ in load.handed_out}) - len(
        {lease for _, lease, _ in load.handed_out}
    ):
        yield f"{shared} leases are in two hands"
    if crowded := sum(count > QueueSettings().labels_most for item, count in held.items() if item in work) + (
        overdrawn or 0
    ):
        yield f"{crowded} programs went to more people than wanted"


def load_table(loads: list[Load], options: argparse.Namespace) -> Table:
    table = Table(
        title=f"{options.annotators} annotators, {options.rate:g} marks/s offered, {options.windows} windows of "
        f"{options.seconds:g} s: median of the windows (lowest to highest)"
    )
    for column in ("database", "request", "a second", "p50 ms", "p95 ms", "p99 ms"):
        table.add_column(column, justify="left" if column in ("database", "request") else "right")
    for load in loads:
        for kind in KINDS:
            found: list[list[float]] = [[] for _ in range(options.windows)]
            for due, what, milliseconds in load.latencies:
                if what == kind:
                    found[int((due - load.begun) / options.seconds)].append(milliseconds)
            rows = [[len(part) / options.seconds, *np.percentile(part, [50, 95, 99])] for part in found if part]
            table.add_row(load.database, kind, *(spread(column) for column in zip(*rows, strict=True)))
        table.add_section()
    return table


def spread(values: Sequence[float], digits: int = 1) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


# -- Label Studio -----------------------------------------------------------------------------------------------------


def closed_loops(
    options: argparse.Namespace, database: str | None, folder: Path, progress: Progress
) -> dict[str, list[float]]:
    """Cycles a second of both, by window; both servers stand all the while, and only one is asked at a time."""
    items = programs_to_review(int(60 * options.windows * (WINDOW + 5)))
    with (
        Server(folder / "ours", database, people=options.clients, programs=items, qualification=0) as server,
        LabelStudio(options.label_studio, folder / "label-studio", items[:2000]) as peer,
    ):
        rates: dict[str, list[float]] = {"crlhf serve": [], "Label Studio": []}
        steps = list(itertools.product(range(-1, options.windows), (server, peer)))  # the first round warms up
        for window, who in progress.track(steps, description="closed loop"):
            rate = asyncio.run(closed_loop(who, options.clients, 5.0 if window < 0 else WINDOW))
            if window >= 0:
                rates["crlhf serve" if who is server else "Label Studio"].append(rate)
        for name, who in (("crlhf serve", server), ("Label Studio", peer)):
            if who.refused:
                console.print(f"{name} answered with errors, not counted as reviewed: {dict(who.refused)}")
    return rates


async def closed_loop(server: Server | LabelStudio, clients: int, seconds: float) -> float:
    """Programs reviewed a second by clients that never pause."""
    ends = time.perf_counter() + seconds
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_SECONDS), timeout=PATIENT
    ) as http:

        async def client(number: int) -> int:
            done = 0
            while time.perf_counter() < ends:
                try:
                    await server.cycle(http, number)
                except aiohttp.ClientResponseError as error:  # Label Studio's SQLite: database is locked
                    server.refused[f"{error.status} {error.message}"] += 1
                    continue
                done += 1
            return done

        begun = time.perf_counter()
        done = await asyncio.gather(*(client(n) for n in range(clients)))
        return sum(done) / (time.perf_counter() - begun)


class LabelStudio:
    """Label Studio as it starts by itself (SQLite), with a project of the same programs: a choice for each line."""

    TOKEN = "0123456789abcdef0123456789abcdef01234567"

    def __init__(self, environment: Path, folder: Path, items: list[Item]):
        port = free_port()
        folder.mkdir()
        self.url, self.headers = f"http://127.0.0.1:{port}", {"Authorization": f"Token {self.TOKEN}"}
        self.log, self.refused = (folder / "log").open("w"), Counter[str]()
        command = [environment / "bin" / "label-studio", "start", "--no-browser", "--port", port, "--data-dir", folder]
        command += ["--username", "a@example.org", "--password", "long enough", "--user-token", self.TOKEN]
        command += ["--enable-legacy-api-token", "--log-level", "ERROR"]
        quiet = {"COLLECT_ANALYTICS": "false", "SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": ""}
        self.process = psutil.Popen(
            [str(part) for part in command], stdout=self.log, stderr=self.log, env=os.environ | quiet
        )
        wait_until_up(self.url + "/health", self.process, folder / "log")
        most = max(len(item.to_review) for item in items)
        choices = '<Choice value="correct"/><Choice value="wrong"/><Choice value="unsure"/>'
        lines = "".join(f'<Choices name="l{n}" toName="code">{choices}</Choices>' for n in range(most))
        config = f'<View><Text name="code" value="$code"/>{lines}</View>'
        with httpx.Client(base_url=self.url, headers=self.headers, timeout=600) as http:
            body = {"title": "programs", "label_config": config}
            self.project = http.post("/api/projects", json=body).raise_for_status().json()["id"]
            tasks = [{"code": item.prompt + "\n".join(item.lines), "to_review": len(item.to_review)} for item in items]
            http.post(f"/api/projects/{self.project}/import", json=tasks).raise_for_status()

    async def cycle(self, http: aiohttp.ClientSession, number: int) -> None:
        async with http.get(f"{self.url}/api/projects/{self.project}/next", headers=self.headers) as answer:
            answer.raise_for_status()
            task = await answer.json()
        result = [
            {"from_name": f"l{n}", "to_name": "code", "type": "choices", "value": {"choices": ["correct"]}}
            for n in range(task["data"]["to_review"])
        ]
        body = {"result": result, "lead_time": 10.0}
        async with http.post(
            f"{self.url}/api/tasks/{task['id']}/annotations/", json=body, headers=self.headers
        ) as answer:
            answer.raise_for_status()
            await answer.read()

    def __enter__(self) -> LabelStudio:
        return self

    def __exit__(self, *_: object) -> None:
        end(self.process)
        self.log.close()


def peer_table(rates: dict[str, list[float]], options: argparse.Namespace) -> Table:
    table = Table(
        title=f"{options.clients} clients that never pause: programs reviewed a second, {options.windows} windows"
    )
    for column in ("server", "programs/s: median (lowest to highest)"):
        table.add_column(column)
    for who, found in rates.items():
        table.add_row(who, spread(found))
    table.add_row("ratio", spread([ours / theirs for ours, theirs in zip(*rates.values(), strict=True)]))
    return table


if __name__ == "__main__":
    main()
