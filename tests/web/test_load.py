"""Many at once, and a server that is killed: nothing is handed out twice, nothing acknowledged is lost or doubled."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import sqlalchemy as sa

from benchmarks.postgres import free_port
from crlhf_ray.feedback.queue import QueueSettings
from crlhf_ray.feedback.store.models import Account, Lease, Mark, Program, Submission
from crlhf_ray.feedback.web.client import AnnotationClient, ServerError
from crlhf_ray.feedback.web.security import create_account
from tests.web.conftest import PASSWORD, judge, work

CLIENTS, PROGRAMS, WANTED = 200, 150, 3


@pytest.fixture
def server(serve, database):
    wanted = QueueSettings(qualification=0, labels_least=WANTED, labels_most=WANTED)
    return serve(database=database, queue=wanted, requests_a_minute=100_000)


def crowd(server, count):
    """So many people; the slow hashing of passwords is done once, because it is not what is tested."""
    with server.desk.database.write() as session:
        first = create_account(session, "p0", PASSWORD, "annotator", checks=0, now=0)
        for n in range(1, count):
            values = {"name": f"p{n}", "annotator_id": f"p-{n}", "password_hash": first.password_hash}
            session.add(Account(**values, role="annotator", source="human", checks_left=0, keys={}, created_at=0))
    with server.desk.database.read() as session:
        people = session.scalars(sa.select(Account).where(Account.role == "annotator")).all()
    return [AnnotationClient(server.url, server.desk.token(person), timeout=300) for person in people]


def test_two_hundred_at_once_get_each_program_as_often_as_wanted_and_lose_no_mark(server):
    server.publish([work(n) for n in range(PROGRAMS)])
    people = crowd(server, CLIENTS)

    def all_day(person):
        done = []
        while (item := judge(person)) is not None:
            done.append(item)
        return done

    with ThreadPoolExecutor(CLIENTS) as pool:
        done = list(pool.map(all_day, people))
    assert all(len(set(mine)) == len(mine) for mine in done)
    assert Counter(item for mine in done for item in mine) == {work(n).item_id: WANTED for n in range(PROGRAMS)}
    with server.desk.database.read() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Lease)) == PROGRAMS * WANTED
        assert session.scalar(sa.select(sa.func.count()).select_from(Submission)) == PROGRAMS * WANTED
        assert session.scalar(sa.select(sa.func.count()).select_from(Mark)) == PROGRAMS * WANTED * len(work(0).judged)
    server.settled()
    with server.desk.database.read() as session:
        states = session.execute(sa.select(Program.state, Program.labels, Program.slots).distinct()).all()
    assert states == [("done", WANTED, 0)]


def test_one_person_asking_many_times_at_once_holds_one_program(server):
    server.publish([work(n) for n in range(20)])
    (person,) = crowd(server, 1)
    with ThreadPoolExecutor(20) as pool:
        tasks = list(pool.map(lambda _: person.next(), range(20)))
    assert len({task.item_id for task in tasks}) == 1


def test_nothing_acknowledged_is_missing_after_kill_9(tmp_path):
    port = free_port()
    command = [sys.executable, "-m", "crlhf_ray.cli", "serve", "--port", str(port), "--set", f"dir={tmp_path / 'desk'}"]
    command += ["--set", "queue.qualification=0", "--set", "queue.labels_most=7"]

    def start():
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/healthz")
                return process
            except httpx.TransportError:
                assert process.poll() is None, "the server ended"
                time.sleep(0.1)

    process = start()
    try:
        lead = AnnotationClient.from_file(f"http://127.0.0.1:{port}", tmp_path / "desk" / "token")
        lead.publish([work(n, tuple(f"    x = {i}" for i in range(50)), tuple(range(50))) for n in range(3)])
        person = lead.join(lead.invite(), "ann", PASSWORD)
        done = judge(person)
        task = person.next()
        acknowledged = dict.fromkeys(task.judged[:20], -1)
        for line in acknowledged:
            person.mark(task.lease_id, {line: -1})
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with pytest.raises(ServerError, match="cannot be reached"):
            person.mark(task.lease_id, {task.judged[20]: -1})
        process = start()
        again = person.next()
        assert (again.lease_id, again.marked) == (task.lease_id, acknowledged)
        table, _ = lead.annotations(0)
        assert set(table["item_id"].to_pylist()) == {done}
        assert table.num_rows == 50
    finally:
        process.kill()
        process.wait()
