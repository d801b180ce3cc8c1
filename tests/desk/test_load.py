"""Many at once, and a server that is killed: nothing is handed out twice, nothing acknowledged is lost or doubled."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime

import httpx
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from benchmarks.postgres import free_port
from crlhf_ray.feedback.desk.client import AnnotationClient, ServerError
from crlhf_ray.feedback.desk.queue import QueueSettings
from crlhf_ray.feedback.desk.security import create_account
from crlhf_ray.feedback.desk.store.models import Account, Base, Lease, Mark, Program, Submission
from crlhf_ray.feedback.desk.store.reviews import Marking, NewMark
from crlhf_ray.feedback.desk.store.work import Conflict
from tests.desk.conftest import PASSWORD, review, work

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
        while (item := review(person)) is not None:
            done.append(item)
        return done

    with ThreadPoolExecutor(CLIENTS) as pool:
        done = list(pool.map(all_day, people))
    assert all(len(set(mine)) == len(mine) for mine in done)
    assert Counter(item for mine in done for item in mine) == {work(n).item_id: WANTED for n in range(PROGRAMS)}
    with server.desk.database.read() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Lease)) == PROGRAMS * WANTED
        assert session.scalar(sa.select(sa.func.count()).select_from(Submission)) == PROGRAMS * WANTED
        assert session.scalar(sa.select(sa.func.count()).select_from(Mark)) == PROGRAMS * WANTED * len(
            work(0).to_review
        )
    server.settled()
    with server.desk.database.read() as session:
        states = session.execute(sa.select(Program.state, Program.labels, Program.slots).distinct()).all()
    assert states == [("done", WANTED, 0)]


def test_deadlines_expiry_marks_submissions_and_learning_at_once_neither_lock_each_other_out_nor_fail(server):
    """On PostgreSQL rows locked in different orders end in a deadlock, which would be an error here."""
    server.publish([work(n) for n in range(60)])
    server.lead.publish([work(n) for n in range(60, 90)], deadline=datetime.fromtimestamp(server.now + 20, UTC))
    people = crowd(server, 40)

    def some_leave(person):
        for n in range(6):
            task = person.next()
            if task is None:
                return
            with suppress_conflicts():
                person.mark(task.lease_id, dict.fromkeys(task.to_review, 1))
                if n % 3:
                    person.submit(task.lease_id)
            server.now += 2 if n % 3 else server.desk.settings.queue.lease_seconds / 10
            server.lead.status([work(0).item_id])

    with ThreadPoolExecutor(len(people)) as pool:
        list(pool.map(some_leave, people))
    server.settled()
    with server.desk.database.read() as session:
        held = sa.select(sa.func.count()).where(Lease.item_id == Program.item_id, Lease.state == "open")
        rows = session.execute(
            sa.select(Program.labels, Program.slots, held.scalar_subquery()).where(Program.state == "open")
        ).all()
        submitted = session.scalar(sa.select(sa.func.count()).select_from(Submission))
        labels = session.scalar(sa.select(sa.func.sum(Program.labels)))
    assert submitted == labels
    assert all(labels + slots + held == WANTED for labels, slots, held in rows)


@contextmanager
def suppress_conflicts():
    """A program that was left alone for too long may be gone."""
    try:
        yield
    except ServerError as error:
        if error.status != 409:
            raise


def test_marks_that_come_together_are_stored_and_the_refused_one_harms_no_other(server):
    server.publish([work(n) for n in range(10)])
    people = crowd(server, 8)
    tasks = [person.next() for person in people]
    good = [
        server.desk.save_marks(Marking(account_id(server, n), task.lease_id, [NewMark(f"event-{n}", 0, 1)]))
        for n, task in enumerate(tasks)
    ]
    bad = server.desk.save_marks(Marking(account_id(server, 0), tasks[1].lease_id, [NewMark("event-bad", 0, 1)]))
    again = server.desk.save_marks(Marking(account_id(server, 0), tasks[0].lease_id, [NewMark("event-0", 0, 1)]))
    other = server.desk.save_marks(Marking(account_id(server, 0), tasks[0].lease_id, [NewMark("event-0", 0, -1)]))
    for future in (*good, again):
        future.result(30)
    with pytest.raises(Conflict, match="no longer assigned to you"):
        bad.result(30)
    with pytest.raises(Conflict, match="stored with another content"):
        other.result(30)
    with server.desk.database.read() as session:
        stored = session.execute(sa.select(Mark.event_id, Mark.label).order_by(Mark.event_id)).tuples().all()
    assert stored == [(f"event-{n}", 1) for n in range(8)]


def account_id(server, number):
    """Account id of the person of this number."""
    with server.desk.database.read() as session:
        return session.scalar(sa.select(Account.id).where(Account.name == f"p{number}"))


def test_a_suspended_person_is_refused_at_once(server):
    (person,) = crowd(server, 1)
    assert person.next() is None
    server.lead._call("POST", f"/annotators/{person.me()['annotator_id']}/suspend")
    with pytest.raises(ServerError, match="log in first"):
        person.next()


def test_migrations_make_the_tables_of_the_models(server):
    with server.desk.database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


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
        done = review(person)
        task = person.next()
        acknowledged = dict.fromkeys(task.to_review[:20], -1)
        for line in acknowledged:
            person.mark(task.lease_id, {line: -1})
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with pytest.raises(ServerError, match="cannot be reached"):
            person.mark(task.lease_id, {task.to_review[20]: -1})
        process = start()
        again = person.next()
        assert (again.lease_id, again.marked) == (task.lease_id, acknowledged)
        table, _ = lead.annotations(0)
        assert set(table["item_id"].to_pylist()) == {done}
        assert table.num_rows == 50
    finally:
        process.kill()
        process.wait()
