"""Handing programs out and taking them back. One function, one transaction; the time is an argument.

A program is *leased* to a person: theirs until they submit it, or until they left it alone for `lease_seconds`; then it
is theirs again before any other work, while nobody else took it. Nobody holds two at a time, or has a program twice:
constraints in the database, not only this code, keep that. Nobody has the same text under two ids, either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from crlhf_ray.errors import CrlhfError
from crlhf_ray.feedback.desk.queue import QueueSettings
from crlhf_ray.feedback.desk.store.models import (
    WAITING,
    Account,
    Audit,
    Comment,
    Lease,
    Mark,
    Program,
)

#: Another program, as in "with the same text".
SAME = aliased(Program)
#: How many times as long as a lease somebody may read without a mark.
READING = 4
NOT_YOURS = "this program is no longer assigned to you: ask for the next one"
LEFT_ALONE = "this program was left alone for too long and is no longer assigned to you"


class Conflict(CrlhfError):
    """What was asked for does not fit the present state: the lease is gone, the item is known with another text."""


class Said(NamedTuple):
    """A mark as it is stored."""

    lease_id: int
    line: int
    label: int | None
    event_id: str
    rest: bool
    milliseconds: int | None
    created_at: float


@dataclass(frozen=True)
class Task:
    """A program in somebody's hands, with what they have said of it so far: label, event id and rest by line."""

    lease: Lease
    program: Program
    marks: dict[int, Said]
    comments: list[Comment]


def next_task(
    session: Session, account: Account, settings: QueueSettings, *, now: float, honeypot_share: float, draw: float
) -> Task | None:
    """What this person reviews next: the program that they hold, or left alone for too long while it is free, or a new
    one. None when there is nothing to review.

    honeypot_share, draw: see `hand_out`.
    """
    account = session.get_one(Account, account.id, with_for_update=True)  # one request of theirs at a time
    return hand_out(session, account, settings, now=now, honeypot_share=honeypot_share, draw=draw)


def hand_out(
    session: Session, account: Account, settings: QueueSettings, *, now: float, honeypot_share: float, draw: float
) -> Task | None:
    """The same for somebody whose row this transaction has locked.

    honeypot_share: of their work, see `queue.honeypot_share`. draw: a random number from 0 to 1.
    """
    begun = _begun(session, account.id)
    if begun is not None:
        take_up(session, account.id, begun, settings, now)
        return _task(session, begun)
    # The same is asked for and read in any case: how long an answer takes must not tell what it is.
    qualification = account.checks_left > 0
    other = _take(session, account.id)
    honeypot = _take_honeypot(session, account.id, other, practice=qualification)
    if qualification and honeypot is None and other is not None:
        qualification, account.checks_left = False, 0
        ended = "no honeypot is left for them: they work without practice"
        session.add(Audit(at=now, who="server", action="end qualification", subject=f"{account.name}: {ended}"))
    if not qualification and (other is None or honeypot is None or draw >= honeypot_share):
        honeypot = None  # nobody is kept busy with honeypots alone, either: it would tell them what they are
    program = honeypot if honeypot is not None or qualification else other
    if program is None:
        return None
    lease = Lease(
        item_id=program.item_id, account_id=account.id, qualification=qualification, issued_at=now,
        expires_at=now + settings.lease_seconds, state="open",
    )  # fmt: skip
    session.add(lease)
    if program.honeypot:
        program.rank += 1
    else:
        program.slots -= 1
    session.flush()
    return Task(lease, program, {}, [])


def held_task(session: Session, account_id: int, now: float) -> Task | None:
    """The program that this person holds; reads only. None also where it may have expired."""
    lease = session.scalar(sa.select(Lease).where(Lease.account_id == account_id, Lease.state == "open"))
    return None if lease is None or lease.expires_at < now else _task(session, lease)


def _begun(session: Session, account_id: int) -> Lease | None:
    """What this person holds; or else what they left alone for too long and may have again, what has marks first."""
    marked = sa.select(Mark.seq).where(Mark.lease_id == Lease.id).exists()
    free = sa.and_(Program.state == "open", Program.honeypot | (Program.slots > 0))
    return session.scalar(
        sa.select(Lease).join(Program, Program.item_id == Lease.item_id)
        .where(Lease.account_id == account_id, Lease.state.in_(["open", "expired"]), (Lease.state == "open") | free)
        .order_by(Lease.state.desc(), marked.desc(), Lease.expires_at.desc()).limit(1)  # open, then expired
    )  # fmt: skip


def had(account_id: Any = None) -> sa.Select[Any]:
    """Programs (`SAME`) with the text of the enclosing query's Program that this person, or anybody, was given.

    account_id: a number, or a column. By text, not by id: a sample of the policy may equal a honeypot, and one who had
    both would know which is which. Two steps by an index each, whatever the statistics say.
    """
    given = sa.select(Lease.id).where(Lease.item_id == SAME.item_id).correlate_except(Lease)
    if account_id is not None:
        given = given.where(Lease.account_id == account_id)
    return sa.select(SAME.item_id).where(SAME.content == Program.content, given.exists()).correlate_except(SAME)


def _take(session: Session, account_id: int, *rules: sa.ColumnElement[bool], honeypot: bool = False) -> Program | None:
    waits = Program.honeypot.is_(honeypot), WAITING, ~had(account_id).exists()  # honeypots always have slots
    first = sa.select(Program).where(*waits, *rules).order_by(Program.rank).limit(1)
    return session.scalar(first.with_for_update(skip_locked=True, of=Program))


def _take_honeypot(session: Session, account_id: int, other: Program | None, *, practice: bool) -> Program | None:
    """A honeypot of a problem that the work at hand is of, too: one of another problem would be known by its problem.

    other: the work that would be handed out instead. practice: any problem will do, since everybody knows what it is.
    """
    if practice:
        return _take(session, account_id, honeypot=True)
    beside = aliased(Program)
    same_round = beside.round.is_not_distinct_from(other.round if other is not None else None)
    problems = sa.select(beside.problem_id).where(~beside.honeypot, same_round)
    return _take(session, account_id, Program.problem_id.in_(problems), honeypot=True)


def _task(session: Session, lease: Lease) -> Task:
    program = session.get_one(Program, lease.item_id)
    comments = session.scalars(sa.select(Comment).where(Comment.lease_id == lease.id).order_by(Comment.id)).all()
    return Task(lease, program, standing(session, [lease.id])[lease.id], list(comments))


def standing(session: Session, lease_ids: Sequence[int]) -> dict[int, dict[int, Said]]:
    """The marks that stand: by lease, by line. Those taken back are left out."""
    return {lease_id: latest(said) for lease_id, said in said_by(session, lease_ids).items()}


def latest(said: Sequence[Said]) -> dict[int, Said]:
    latest = {mark.line: mark for mark in said}
    return {line: mark for line, mark in latest.items() if mark.label is not None}


def said_by(session: Session, lease_ids: Sequence[int]) -> dict[int, list[Said]]:
    """Every mark, those taken back too, by lease and in order."""
    found: dict[int, list[Said]] = {lease_id: [] for lease_id in lease_ids}
    rows = session.execute(
        sa.select(
            Mark.lease_id, Mark.line, Mark.label, Mark.event_id, Mark.rest, Mark.milliseconds, Mark.created_at
        ).where(Mark.lease_id.in_(lease_ids)).order_by(Mark.seq)
    )  # fmt: skip
    for row in rows:
        found[row.lease_id].append(Said(*row))
    return found


def own_lease(session: Session, account_id: int, lease_id: int, settings: QueueSettings, *, now: float) -> Lease:
    """The person's own lease, open. One that expired is theirs again while nobody else was given the program.

    Raises Conflict otherwise, and where they have begun another program meanwhile.
    """
    lease = session.scalar(sa.select(Lease).where(Lease.id == lease_id).with_for_update())
    if lease is None:
        raise Conflict(NOT_YOURS)
    take_up(session, account_id, lease, settings, now)
    return lease


def still_reading(session: Session, account_id: int, lease_id: int, settings: QueueSettings, *, now: float) -> float:
    """The person's own open lease lasts on, but not beyond `READING` times its length without a mark; seconds left.

    Raises Conflict where it is not open any more.
    """
    lease = session.scalar(sa.select(Lease).where(Lease.id == lease_id).with_for_update())
    if lease is None:
        raise Conflict(NOT_YOURS)
    _refuse_others(account_id, lease)
    if lease.state == "expired":
        raise Conflict(LEFT_ALONE)
    marked = session.scalar(sa.select(sa.func.max(Mark.created_at)).where(Mark.lease_id == lease_id))
    until = max(marked or 0.0, lease.issued_at) + READING * settings.lease_seconds
    lease.expires_at = max(lease.expires_at, min(now + settings.lease_seconds, until))
    return lease.expires_at - now


def _refuse_others(account_id: int, lease: Lease) -> None:
    if lease.account_id != account_id or lease.state == "released":
        raise Conflict(NOT_YOURS)
    if lease.state == "submitted":
        raise Conflict("this program is submitted already")


def take_up(session: Session, account_id: int, lease: Lease, settings: QueueSettings, now: float) -> None:
    _refuse_others(account_id, lease)
    if lease.state == "expired":
        program = session.get_one(Program, lease.item_id, with_for_update=True)
        if program.state != "open" or (program.slots < 1 and not program.honeypot):
            raise Conflict(LEFT_ALONE)
        other = session.scalar(sa.select(Lease).where(Lease.account_id == account_id, Lease.state == "open"))
        if other is not None:
            if session.scalar(sa.select(Mark.seq).where(Mark.lease_id == other.id).limit(1)) is not None:
                raise Conflict(
                    "this program was left alone for too long, and you have begun another one since: submit that one, "
                    "then this one may come again"
                )
            _give_back(session, other, "expired")
        lease.state = "open"
        program.slots -= not program.honeypot
    lease.expires_at = now + settings.lease_seconds


def release(session: Session, account: Account, lease_id: int, settings: QueueSettings, *, now: float) -> str:
    """Skip a program for good; returns its item_id. Raises Conflict where it is not assigned to this person.

    People cannot skip practice programs, or they would see every known answer without being checked, and they can skip
    at most ``settings.skips_a_day`` others. Simulated annotators leave programs of other runs alone, so they may.
    """
    lease = session.scalar(sa.select(Lease).where(Lease.id == lease_id).with_for_update())
    if lease is None or lease.account_id != account.id or lease.state == "submitted":
        raise Conflict(NOT_YOURS)
    if lease.state == "released":
        return lease.item_id  # sent again, as after an answer that was lost
    if account.source == "human":
        if lease.qualification:
            raise Conflict("practice programs cannot be skipped: mark the lines that you cannot tell as unsure")
        mine = Lease.account_id == account.id, Lease.state == "released", Lease.issued_at > now - 86400
        if (session.scalar(sa.select(sa.func.count()).where(*mine)) or 0) >= settings.skips_a_day:
            raise Conflict(
                f"you have skipped {settings.skips_a_day} programs in the last 24 hours, which is the maximum: "
                "mark the lines that you cannot tell as unsure"
            )
    _give_back(session, lease, "released")
    return lease.item_id


def take_back(session: Session, account_id: int) -> None:
    """End what this person holds, at once; it is theirs again later only while nobody else took it."""
    held = sa.select(Lease).where(Lease.account_id == account_id, Lease.state == "open").with_for_update()
    for lease in session.scalars(held):
        _give_back(session, lease, "expired")


def free_slot(session: Session, item_id: str) -> None:
    """A program in hand is so no more; honeypots have no slots to count."""
    session.execute(
        sa.update(Program).where(Program.item_id == item_id, ~Program.honeypot).values(slots=Program.slots + 1)
    )


def _give_back(session: Session, lease: Lease, state: str) -> None:
    if lease.state == "open":
        free_slot(session, lease.item_id)
    lease.state = state
    session.flush()
