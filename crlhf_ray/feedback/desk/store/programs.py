"""A program's way through the queue: published, open, done; and again open. The time is an argument."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session, defer

from crlhf_ray.aggregation.marks import Item
from crlhf_ray.feedback.desk import queue
from crlhf_ray.feedback.desk.queue import QueueSettings
from crlhf_ray.feedback.desk.store import work
from crlhf_ray.feedback.desk.store.models import ROLES, Account, Lease, Program, Submission, text_hash
from crlhf_ray.feedback.desk.store.work import Conflict

#: Before anybody's reliability is known, what a person is held to know: average programmers judging code lines.
CROWD_RATES = (0.77, 0.6)
#: Puts honeypots into an order that nobody can foresee.
DRAW = random.SystemRandom()


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
    later deadline opens a program again that an earlier one closed before it had `labels_least` judgements.

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
        truth = gold.get(item.item_id)
        content = text_hash(item.prompt, item.lines)
        prior = queue.expected_gain(np.full(len(item.judged), 0.5), *CROWD_RATES)
        fresh[item.item_id] = Program(
            item_id=item.item_id, problem_id=item.problem_id, prompt=item.prompt, lines=list(item.lines),
            content=content, judged=list(item.judged), gold=None if truth is None else list(truth),
            honeypot=truth is not None, round=round,
            state="open" if item.judged else "done", labels=0, rate=None, created_at=now,
            slots=settings.labels_least, deadline=deadline, done_at=None if item.judged else now,
            # Honeypots go round: whoever was shown least comes next, equals in an order that nobody can foresee.
            rank=_rank(now, content, prior, settings) if truth is None else DRAW.random(),
        )  # fmt: skip
    session.add_all(fresh.values())
    return len(fresh)


def _rank(came_at: float, content: str, gain: np.ndarray, settings: QueueSettings) -> float:
    """`queue.rank`, and what came together in mixed order: a honeypot amid the samples of one problem would stand out.

    content: the program's `text_hash`.
    """
    return queue.rank(came_at, gain, settings) + int(content[:8], 16) / 2**32


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
        p = np.array([posteriors[program.item_id].get(line, 0.5) for line in program.judged])
        program.rate = float(p.mean()) if len(p) else None
        if program.honeypot or program.state == "retired":
            continue
        gain = queue.expected_gain(p, *CROWD_RATES)
        wanted = queue.labels_wanted(program.labels, gain, settings)
        program.slots = max(wanted - program.labels - held.get(program.item_id, 0), 0)
        program.rank = _rank(program.created_at, program.content, gain, settings)
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


def retire(session: Session, item_id: str) -> None:
    """Show a honeypot to nobody any more. Raises Conflict where it is none."""
    program = session.get(Program, item_id, with_for_update=True)
    if program is None or not program.honeypot:
        raise Conflict(f"{item_id!r} is no honeypot")
    program.state = "retired"
