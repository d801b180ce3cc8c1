"""Taking reviews in, and reading them. One function, one transaction; the time is an argument.

Marks are events: the latest about a line stands, and sending one twice stores it once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from crlhf_ray.feedback.desk.queue import QueueSettings
from crlhf_ray.feedback.desk.store.models import Account, Lease, Mark, Program, Setting, Submission
from crlhf_ray.feedback.desk.store.timesheet import worked
from crlhf_ray.feedback.desk.store.work import NOT_YOURS, Conflict, Said, latest, own_lease, said_by, standing, take_up

#: Time that counts for one program.
LONGEST_WORK_MS = 24 * 3_600_000


class Unmarked(Conflict):
    """Lines that have no mark yet. lines: their numbers, in order."""

    def __init__(self, lines: Sequence[int]):
        super().__init__(f"lines {', '.join(map(str, lines))} have no mark yet: mark each correct, wrong or unsure")
        self.lines = tuple(lines)


@dataclass(frozen=True)
class NewMark:
    """An answer as it comes in. label: +1, -1, 0 (unsure), None (taken back). rest: by "the rest is correct".

    milliseconds: since the mark before, or since the program was shown; marks of one key share it.
    """

    event_id: str
    line: int
    label: int | None
    rest: bool = False
    milliseconds: int | None = None


@dataclass(frozen=True)
class Marking:
    """A request to save marks: whose, on which lease. No two of the marks have the same event id."""

    account_id: int
    lease_id: int
    marks: Sequence[NewMark]


@dataclass(frozen=True)
class Submitting:
    """A request to end a lease. confidence: 1 to 3."""

    account_id: int
    lease_id: int
    confidence: int


@dataclass(frozen=True)
class Submitted:
    """truth: by reviewed line, in the qualification round only."""

    account: Account
    item_id: str
    truth: dict[int, int] | None
    marks: dict[int, Said]


def save_marks(session: Session, requests: Sequence[Marking], settings: QueueSettings, *, now: float) -> None:
    """Store the marks of several requests; ones that are stored already are left as they are.

    Raises Conflict where a lease is gone, a line is not to be reviewed, or an event id comes with another content.
    """
    locked = session.execute(
        sa.select(Lease.id, Lease.account_id, Lease.state, Program.to_review)
        .join(Program, Program.item_id == Lease.item_id)
        .where(Lease.id.in_(sorted({request.lease_id for request in requests})))
        .order_by(Lease.id)
        .with_for_update(of=Lease)
    )
    leases = {row.id: row for row in locked}
    for request in requests:
        lease = leases.get(request.lease_id)
        if lease is None or (lease.account_id, lease.state) != (request.account_id, "open"):
            # it may have expired and still be theirs
            own_lease(session, request.account_id, request.lease_id, settings, now=now)
            session.flush()
        if lease is not None and (wrong := sorted({mark.line for mark in request.marks} - set(lease.to_review))):
            raise Conflict(f"lines {wrong} of this program are not to be reviewed: they hold no code")
    session.execute(sa.update(Lease).where(Lease.id.in_(list(leases))).values(expires_at=now + settings.lease_seconds))
    rows = [
        {
            "event_id": mark.event_id, "lease_id": request.lease_id, "line": mark.line, "label": mark.label,
            "rest": mark.rest, "milliseconds": mark.milliseconds, "created_at": now,
        }
        for request in requests
        for mark in request.marks
    ]  # fmt: skip
    table = Mark.__table__
    assert isinstance(table, sa.Table)
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    statement = dialect.insert(table).on_conflict_do_nothing(index_elements=["event_id"]).returning(table.c.event_id)
    fresh = set(session.scalars(statement, rows))
    if len(fresh) == len(rows):
        return
    said = {(row["event_id"], row["lease_id"], row["line"], row["label"]) for row in rows}
    known = session.execute(
        sa.select(Mark.event_id, Mark.lease_id, Mark.line, Mark.label).where(
            Mark.event_id.in_([row["event_id"] for row in rows])
        )
    )
    for event_id, *_ in said - set(known.tuples()):
        raise Conflict(f"event {event_id!r} was stored with another content: give a correction an id of its own")


def submit(session: Session, requests: Sequence[Submitting], settings: QueueSettings, *, now: float) -> list[Submitted]:
    """End leases, each with a mark on every line. Raises Unmarked (lines without a mark) or Conflict."""
    ids = [request.lease_id for request in requests]
    locked = session.execute(
        sa.select(Account, Lease, Program).where(Lease.id.in_(ids))
        .join(Lease, Lease.account_id == Account.id).join(Program, Program.item_id == Lease.item_id)
        .order_by(Lease.id).with_for_update()
    )  # fmt: skip
    held = {row.Lease.id: row.tuple() for row in locked}
    said = said_by(session, ids)
    time = worked(Lease.id.in_(ids))
    by_lease = sa.select(time.c.lease_id, sa.func.sum(time.c.milliseconds)).group_by(time.c.lease_id)
    spent = {lease_id: int(milliseconds) for lease_id, milliseconds in session.execute(by_lease)}
    # Sequence numbers may become visible out of order; who holds this row is alone in drawing one.
    session.execute(sa.select(Setting).where(Setting.name == "submissions").with_for_update())
    done = []
    for request in requests:
        if request.lease_id not in held:
            raise Conflict(NOT_YOURS)
        account, lease, program = held[request.lease_id]
        take_up(session, request.account_id, lease, settings, now)
        marks = latest(said[lease.id])
        if missing := [line for line in program.to_review if line not in marks]:
            raise Unmarked(missing)
        session.add(
            Submission(
                lease_id=lease.id, item_id=program.item_id, account_id=account.id, confidence=request.confidence,
                labels=len(marks), milliseconds=min(spent.get(lease.id, 0), LONGEST_WORK_MS), created_at=now,
            )
        )  # fmt: skip
        lease.state = "submitted"
        program.labels += 1
        if lease.qualification:
            account.checks_left = max(account.checks_left - 1, 0)  # ended meanwhile, it stays ended
        done.append(Submitted(account, program.item_id, _told(lease, program), marks))
    return done


def submitted(session: Session, account: Account, lease_id: int) -> Submitted | None:
    """What this person submitted by the lease before; None where they did not."""
    lease = session.get(Lease, lease_id)
    if lease is None or (lease.account_id, lease.state) != (account.id, "submitted"):
        return None
    program = session.get_one(Program, lease.item_id)
    return Submitted(account, program.item_id, _told(lease, program), standing(session, [lease_id])[lease_id])


def _told(lease: Lease, program: Program) -> dict[int, int] | None:
    """The truth that is told after a submission: in the qualification round."""
    return {n: program.gold[n] for n in program.to_review} if lease.qualification and program.gold else None


def events(session: Session, after: int, limit: int = 500) -> tuple[list[dict[str, Any]], int]:
    """What was submitted after a cursor (0: from the start), as rows of ANNOTATION_SCHEMA, and the next cursor."""
    submissions = session.execute(
        sa.select(Submission, Account).join(Account, Account.id == Submission.account_id)
        .where(Submission.seq > after).order_by(Submission.seq).limit(limit)
    ).all()  # fmt: skip
    marks = standing(session, [submission.lease_id for submission, _ in submissions])
    rows = [
        {
            "event_id": mark.event_id,
            "item_id": submission.item_id,
            "line": line,
            "annotator_id": account.annotator_id,
            "label": mark.label,
            "confidence": submission.confidence / 3 if mark.label else None,
            "milliseconds": mark.milliseconds,
            "created_at": mark.created_at,
            "source": account.source,
        }
        for submission, account in submissions
        for line, mark in sorted(marks[submission.lease_id].items())
    ]
    return rows, submissions[-1][0].seq if submissions else after
