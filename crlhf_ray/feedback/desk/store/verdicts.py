"""Lines that people disagree on, and what an expert says of them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from crlhf_ray.feedback.desk.store import work
from crlhf_ray.feedback.desk.store.models import Account, Mark, Program, Submission
from crlhf_ray.feedback.desk.store.work import Conflict

#: Programs of a page.
PAGE = 50


def disagreements(session: Session, page: int, round: int | None = None) -> list[tuple[Program, int, dict[str, int]]]:
    """(program, line, label by name) of lines that some reviewers call correct and others wrong, and that no expert has
    decided; of `PAGE` programs, those reviewed last first. Honeypots and retired programs are left out."""
    wanted = [~Program.honeypot, Program.state != "retired", *([] if round is None else [Program.round == round])]
    stands = sa.select(sa.func.max(Mark.seq)).group_by(Mark.lease_id, Mark.line)
    split = (
        sa.select(Submission.item_id, Mark.line, sa.func.max(Submission.seq).label("latest"))
        .join(Mark, Mark.lease_id == Submission.lease_id)
        .join(Program, Program.item_id == Submission.item_id).where(*wanted, Mark.seq.in_(stands))
        .group_by(Submission.item_id, Mark.line)
        .having(sa.func.min(Mark.label) < 0, sa.func.max(Mark.label) > 0)
    ).subquery()  # fmt: skip
    lines = session.execute(
        sa.select(split.c.item_id, split.c.line, Program.verdicts)
        .join(Program, Program.item_id == split.c.item_id).order_by(split.c.latest.desc(), split.c.item_id)
    ).all()  # fmt: skip
    undecided: dict[str, list[int]] = {}
    for item_id, line, decided in lines:
        if str(line) not in (decided or {}):
            undecided.setdefault(item_id, []).append(line)
    chosen = list(undecided)[PAGE * (page - 1) : PAGE * page]
    programs = {p.item_id: p for p in session.scalars(sa.select(Program).where(Program.item_id.in_(chosen)))}
    who = session.execute(
        sa.select(Submission.item_id, Submission.lease_id, Account.name)
        .join(Account, Account.id == Submission.account_id)
        .where(Submission.item_id.in_(chosen)).order_by(Submission.seq)
    ).all()  # fmt: skip
    marks = work.standing(session, [row.lease_id for row in who])
    said: dict[tuple[str, int], dict[str, int]] = {}
    for item_id, lease_id, name in who:
        for line, mark in marks[lease_id].items():
            said.setdefault((item_id, line), {})[name] = int(mark.label or 0)
    return [(programs[one], line, said[one, line]) for one in chosen for line in sorted(undecided[one])]


def known_truth(session: Session) -> list[dict[str, Any]]:
    """Rows of GOLD_SCHEMA: of honeypots each place that is asked about, and what experts decided of work."""
    golden = session.execute(
        sa.select(Program.item_id, Program.to_review, Program.gold).where(Program.honeypot.is_(True))
    ).all()
    decided = session.execute(
        sa.select(Program.item_id, Program.verdicts).where(Program.verdicts.is_not(sa.null()))
    ).all()
    return [
        *({"item_id": i, "line": n, "truth": truth[n]} for i, places, truth in golden for n in places),
        *({"item_id": i, "line": int(n), "truth": z} for i, said in decided for n, z in (said or {}).items()),
    ]


def decide(session: Session, item_id: str, line: int, truth: int) -> bool:
    """Keep an expert's verdict, +1 or -1; returns whether it is new. Raises Conflict for a honeypot, a line that is not
    asked about, and where the verdict was another one before: what was learnt from it is not taken back."""
    program = session.get(Program, item_id, with_for_update=True)
    if program is None or program.honeypot:
        raise Conflict(f"there is no program {item_id!r} to decide about")
    if line not in program.to_review:
        raise Conflict(f"line {line} of this program is not asked about")
    before: dict[str, Any] = program.verdicts or {}
    if before.get(str(line), truth) != truth:
        raise Conflict("an expert said the opposite of this line before, and it was learnt from: a verdict is final")
    program.verdicts = {**before, str(line): truth}
    return str(line) not in before
