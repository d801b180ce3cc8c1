"""A program's way through the queue: published, open, done; and again open. The time is an argument."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session, defer

from crlhf_ray.aggregation.marks import Item
from crlhf_ray.feedback.desk import queue
from crlhf_ray.feedback.desk.queue import QueueSettings
from crlhf_ray.feedback.desk.store import work
from crlhf_ray.feedback.desk.store.models import ROLES, Account, Lease, Program, Submission, text_hash
from crlhf_ray.feedback.desk.store.work import Conflict

#: Before anybody's reliability is known, what a person is held to know: average programmers reviewing code lines.
CROWD_RATES = (0.77, 0.6)
#: Puts honeypots into an order that nobody can foresee.
DRAW = random.SystemRandom()
DAY = 86400.0


def publish(
    session: Session,
    items: Iterable[Item],
    settings: QueueSettings,
    *,
    now: float,
    gold: Mapping[str, Sequence[int]] | None = None,
    round: int | None = None,
    deadline: float | None = None,
) -> int:
    """Put programs into the queue; returns how many are new. Publishing the same again changes nothing, except that a
    later deadline opens a program again that an earlier one closed before it had `labels_least` reviews.

    gold: by item_id, +1 or -1 for each line: such items are honeypots.
    Raises Conflict where an item_id comes with other lines than before.
    """
    items, gold = list(items), gold or {}
    known = {
        p.item_id: p
        for p in session.scalars(sa.select(Program).where(Program.item_id.in_([item.item_id for item in items])))
    }
    fresh: dict[str, Program] = {}
    for item in items:
        old = known.get(item.item_id) or fresh.get(item.item_id)
        if old is not None:
            if tuple(old.lines) != item.lines:
                raise Conflict(
                    f"item {item.item_id!r} was published with other lines: give the new text an id of its own"
                )
            if deadline is not None and old.deadline is not None and old.deadline < deadline:
                old.deadline = deadline
                if old.state == "done" and old.labels < settings.labels_least:
                    old.state, old.done_at = "open", None
            continue
        fresh[item.item_id] = waiting(
            item, settings, now=now, truth=gold.get(item.item_id), round=round, deadline=deadline
        )
    session.add_all(fresh.values())
    return len(fresh)


def waiting(
    item: Item, settings: QueueSettings, *, now: float, truth: Sequence[int] | None = None, priority: float = 0.0,
    **more: Any,
) -> Program:  # fmt: skip
    """A program that nobody had yet. truth: of every place of a honeypot. more: other columns."""
    content = text_hash(item.prompt, item.lines)
    prior = queue.expected_gain(np.full(len(item.to_review), 0.5), *CROWD_RATES)
    return Program(
        item_id=item.item_id, problem_id=item.problem_id, prompt=item.prompt, lines=list(item.lines),
        content=content, to_review=list(item.to_review), gold=None if truth is None else list(truth),
        honeypot=truth is not None, state="open" if item.to_review else "done", labels=0, rate=None, created_at=now,
        slots=settings.labels_least, done_at=None if item.to_review else now, priority=priority,
        # Honeypots go round: whoever was shown least comes next, equals in an order that nobody can foresee.
        rank=_rank(now, priority, content, prior, settings) if truth is None else DRAW.random(), **more,
    )  # fmt: skip


def _rank(came_at: float, priority: float, content: str, gain: np.ndarray, settings: QueueSettings) -> float:
    """`queue.rank`, and what came together in mixed order: a honeypot amid the samples of one problem would stand out.

    priority: days. content: the program's `text_hash`.
    """
    return queue.rank(came_at - DAY * priority, gain, settings) + int(content[:8], 16) / 2**32


def expire(session: Session, now: float) -> list[str]:
    """Take back the programs that were left alone for too long, and close those whose deadline is over; returns which.

    Rows that somebody else has locked are left for the next time: whoever waited for several could wait in a circle.
    """
    due = sa.select(Program.item_id).where(Program.state == "open", Program.deadline < now)
    over = list(session.scalars(due.with_for_update(skip_locked=True)))
    if over:
        session.execute(
            sa.update(Program).where(Program.item_id.in_(over)).values(state="done", done_at=Program.deadline)
        )
    late = session.execute(
        sa.select(Lease.id, Lease.item_id)
        .where(Lease.state == "open", Lease.expires_at < now)
        .with_for_update(skip_locked=True)
    ).all()
    if late:
        session.execute(sa.update(Lease).where(Lease.id.in_([row.id for row in late])).values(state="expired"))
    for item_id in sorted(row.item_id for row in late):
        work.free_slot(session, item_id)
    return over


def close_exhausted(
    session: Session, item_ids: Sequence[str] | None, settings: QueueSettings, *, now: float, present_seconds: float
) -> list[str]:
    """Close those of these programs, or of all, for which nobody is left (`_exhausted`); returns which."""
    chosen = sa.true() if item_ids is None else Program.item_id.in_(item_ids)
    closed = session.scalars(
        sa.update(Program)
        .where(chosen, *_exhausted(settings, now - present_seconds))
        .values(state="done", done_at=now)
        .returning(Program.item_id)
        .execution_options(synchronize_session=False)
    )
    return list(closed)


def waiting_for_nobody(session: Session, settings: QueueSettings, *, now: float) -> int:
    """How many open programs everybody who is at work has had."""
    waiting = sa.select(sa.func.count()).select_from(Program)
    return session.scalar(waiting.where(*_exhausted(settings, now - settings.present_seconds))) or 0


def _exhausted(settings: QueueSettings, since: float) -> tuple[sa.ColumnElement[bool], ...]:
    """Rules of a program that has `labels_least` reviews, and that everybody at work has had already. Where its text
    came under another id, too, fewer are enough. At work is who joined or submitted since.
    """
    submitted = sa.select(Submission.seq).where(Submission.account_id == Account.id, Submission.created_at > since)
    joined = sa.and_(Account.role == ROLES[0], Account.created_at > since)
    of_program = sa.select(Lease.id).where(Lease.item_id == Program.item_id)
    at_work = sa.select(Account.id).where(~Account.suspended, joined | submitted.exists())
    free = at_work.where(~work.had(Account.id).exists())
    again = work.had().where(work.SAME.item_id != Program.item_id)
    return (
        Program.state == "open",
        ~Program.honeypot,
        (Program.labels >= settings.labels_least) | (again.exists() & at_work.exists()),
        ~of_program.where(Lease.state == "open").exists(),
        ~free.exists(),
    )


def settle(
    session: Session, posteriors: Mapping[str, Mapping[int, float]], settings: QueueSettings, *, now: float
) -> list[str]:
    """Decide by what is known of programs whether they are done; returns those that became so. Honeypots never are.

    posteriors: by item_id, by line.
    """
    ids, done = list(posteriors), []
    programs = session.scalars(
        sa.select(Program).where(Program.item_id.in_(ids)).order_by(Program.item_id).with_for_update()
        .options(defer(Program.prompt), defer(Program.lines), defer(Program.gold))
    ).all()  # fmt: skip
    held = dict(
        session.execute(
            sa.select(Lease.item_id, sa.func.count()).where(Lease.item_id.in_(ids), Lease.state == "open")
            .group_by(Lease.item_id)
        ).tuples().all()
    )  # fmt: skip
    for program in programs:
        p = np.array([posteriors[program.item_id].get(line, 0.5) for line in program.to_review])
        program.rate = float(p.mean()) if len(p) else None
        if program.honeypot or program.state == "retired":
            continue
        gain = queue.expected_gain(p, *CROWD_RATES)
        wanted = queue.labels_wanted(program.labels, gain, settings)
        program.slots = max(wanted - program.labels - held.get(program.item_id, 0), 0)
        program.rank = _rank(program.created_at, program.priority, program.content, gain, settings)
        late = program.deadline is not None and program.deadline < now  # nobody waits for more
        over = late or wanted <= program.labels
        if not over:
            program.state, program.done_at = "open", None
        elif program.state != "done":
            done.append(program.item_id)
            program.state, program.done_at = "done", now
    return done


def reopen(session: Session, item_id: str, *, now: float) -> None:
    """Ask one more person about a program, also after its deadline. Raises Conflict for honeypots and unknown items."""
    program = session.get(Program, item_id, with_for_update=True)
    if program is None or program.honeypot:
        raise Conflict(f"there is no program {item_id!r} to open again")
    program.state, program.slots, program.done_at = "open", program.slots + 1, None
    if program.deadline is not None and program.deadline <= now:
        program.deadline = None  # or it would close the program again at once


def retire(session: Session, names: Sequence[str]) -> list[str]:
    """Show programs to nobody any more, who has one in hand included; returns their ids. Reviews of them stay.

    names: item ids, or what their lead called them. Raises Conflict for the first that there is not.
    """
    found = session.scalars(
        sa.select(Program).where(Program.item_id.in_(names) | Program.name.in_(names)).order_by(Program.item_id)
        .with_for_update()
    ).all()  # fmt: skip
    known = {name for program in found for name in (program.item_id, program.name)}
    if unknown := [name for name in names if name not in known]:
        raise Conflict(f"there is no program {unknown[0]!r}; none was retired")
    held = sa.select(Lease).where(Lease.item_id.in_([program.item_id for program in found]), Lease.state == "open")
    for lease in session.scalars(held.with_for_update()):
        lease.state = "expired"
    for program in found:
        program.state, program.done_at = "retired", None
    return [program.item_id for program in found]
