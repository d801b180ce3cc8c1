"""What a lead brought in, stored: programs, and reviews that were made elsewhere. One function, one transaction."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.orm import Session

from crlhf_ray.aggregation.marks import Item
from crlhf_ray.feedback.desk.bring import Brought, Review
from crlhf_ray.feedback.desk.queue import QueueSettings
from crlhf_ray.feedback.desk.store import programs
from crlhf_ray.feedback.desk.store.models import Account, Lease, Mark, Program, Submission
from crlhf_ray.feedback.desk.store.work import Conflict

#: Fits no password: nobody logs in to the account of somebody who reviewed elsewhere.
NO_PASSWORD = "-"  # noqa: S105


def bring_in(
    session: Session, brought: Sequence[Brought], settings: QueueSettings, *, now: float, opaque: Callable[..., str]
) -> tuple[Counter[str], list[Program]]:
    """Put programs into the queue; returns how many are new, changed and known, and the honeypots among the first two.

    opaque: makes the id that reviewers see, which says nothing. A program that has a name may be changed until somebody
    has had it. Raises Conflict after that, and where one import names two programs alike.
    """
    ids = {
        opaque(one.name or "", *(() if one.name else (one.prompt, *one.lines, one.language))): one for one in brought
    }
    names = Counter(one.name for one in brought if one.name)
    if twice := [name for name, count in names.items() if count > 1]:
        raise Conflict(f"two programs have the id {twice[0]!r}: give each its own")
    old = {p.item_id: p for p in session.scalars(sa.select(Program).where(Program.item_id.in_(list(ids))))}
    had = set(session.scalars(sa.select(Lease.item_id).where(Lease.item_id.in_(list(ids)))))
    counts: Counter[str] = Counter(new=0, changed=0, known=0)
    honeypots = []
    for item_id, one in ids.items():
        fresh = programs.waiting(
            Item(item_id, one.problem, one.prompt, one.lines, one.asked), settings, now=now, truth=one.truth,
            priority=one.priority, round=one.round, deadline=one.deadline, language=one.language, name=one.name,
        )  # fmt: skip
        before = old.get(item_id)
        change: Literal["new", "changed", "known"] = "new" if before is None else "changed"
        if before is not None and _told(before) == _told(fresh):
            change = "known"
        elif before is not None:
            if before.honeypot:
                raise Conflict(
                    f"honeypot {one.name!r} has taught what is right: retire it, and give the new one another id"
                )
            if item_id in had:
                raise Conflict(f"program {one.name!r} was given to somebody already: give the new text another id")
            session.delete(before)
            session.flush()
        counts[change] += 1
        if change != "known":
            session.add(fresh)
            honeypots += [fresh] if fresh.honeypot else []
    return counts, honeypots


def _told(program: Program) -> tuple[object, ...]:
    """What the lead said of a program."""
    p = program
    return p.prompt, p.lines, p.to_review, p.gold, p.language, p.problem_id, p.round, p.priority, p.deadline


def take_reviews(session: Session, reviews: Sequence[Review], *, now: float) -> Counter[str]:
    """Store reviews that were made elsewhere, each under the id of its reviewer there; returns how many programs were
    reviewed by them, and how many such reviews are known already. They count as those made here do.

    Raises Conflict for a program or line that is not here, and where a review that came before says something else.
    """
    by_review: dict[tuple[str, str], list[Review]] = defaultdict(list)
    for review in reviews:
        by_review[review.item, review.worker].append(review)
    wanted = list({item for item, _ in by_review})
    found = session.scalars(sa.select(Program).where(Program.item_id.in_(wanted) | Program.name.in_(wanted))).all()
    here = {key: program for program in found for key in (program.item_id, program.name) if key}
    counts: Counter[str] = Counter(reviews=0, known=0)
    for (item, worker), lines in by_review.items():
        program = here.get(item)
        if program is None:
            raise Conflict(f"there is no program {item!r} here: import the programs before their reviews")
        if wrong := [one.line for one in lines if one.line not in program.to_review]:
            raise Conflict(f"line {wrong[0] + 1} of program {item!r} is not asked about")
        account = _reviewer(session, worker, lines[0].source, now)
        lease = session.scalar(sa.select(Lease).where(Lease.item_id == program.item_id, Lease.account_id == account.id))
        if lease is not None:
            counts["known"] += 1
            continue
        counts["reviews"] += 1
        _store(session, program, account, lines)
    return counts


def _reviewer(session: Session, worker: str, source: str, now: float) -> Account:
    plain = re.fullmatch(r"[A-Za-z0-9_.:-]+", worker)
    known_as = worker if plain else f"w-{hashlib.sha256(worker.encode()).hexdigest()[:12]}"
    account = session.scalar(sa.select(Account).where(Account.annotator_id == known_as))
    if account is None:
        if session.scalar(sa.select(Account.id).where(Account.name == worker)) is not None:
            raise Conflict(f"somebody here is called {worker!r}, who may be another person: export ids, not names")
        account = Account(
            name=worker, annotator_id=known_as, password_hash=NO_PASSWORD, role="annotator", source=source,
            suspended=True, checks_left=0, keys={}, created_at=now,
        )  # fmt: skip
        session.add(account)
        session.flush()
    return account


def _store(session: Session, program: Program, account: Account, lines: Sequence[Review]) -> None:
    last = max(one.at for one in lines)
    lease = Lease(
        item_id=program.item_id, account_id=account.id, qualification=False, issued_at=last, expires_at=last,
        state="submitted",
    )  # fmt: skip
    session.add(lease)
    session.flush()
    for one in lines:
        made_up = uuid.uuid5(uuid.NAMESPACE_OID, f"{program.item_id}:{one.line}:{one.worker}").hex
        session.add(
            Mark(
                event_id=one.event_id or made_up, lease_id=lease.id, line=one.line, label=one.label, rest=False,
                milliseconds=one.milliseconds, created_at=one.at,
            )
        )  # fmt: skip
    sure = [one.confidence for one in lines if one.confidence is not None]
    session.add(
        Submission(
            lease_id=lease.id, item_id=program.item_id, account_id=account.id, labels=len(lines),
            confidence=max(1, min(3, round(3 * sum(sure) / len(sure)))) if sure else 2,
            milliseconds=sum(one.milliseconds or 0 for one in lines), created_at=last,
        )
    )  # fmt: skip
    program.labels += 1
    if not program.honeypot and program.state == "open":
        program.slots = max(program.slots - 1, 0)
    session.flush()
