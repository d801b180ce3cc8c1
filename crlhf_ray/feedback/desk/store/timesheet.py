"""Time sheets: what people worked, by person and day (UTC)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time

import sqlalchemy as sa
from sqlalchemy.orm import Session

from crlhf_ray.feedback.desk.store.models import Account, Lease, Mark, Submission
from crlhf_ray.feedback.desk.store.reviews import LONGEST_MARK_MS, LONGEST_WORK_MS

DAY = 86_400


@dataclass
class Day:
    """What one person worked on one day. milliseconds: see `timesheet`; programs: submitted, practice included."""

    day: date
    annotator_id: str
    name: str
    programs: int = 0
    lines: int = 0
    milliseconds: int = 0


def timesheet(
    session: Session,
    *,
    since: date | None = None,
    until: date | None = None,
    who: Sequence[sa.ColumnElement[bool]] = (),
) -> list[Day]:
    """Days on which people worked, the last first, then by name. since, until: first and last day. who: of accounts.

    Counted is the time that the page measured for each mark: since the mark before, or since the program came. A mark
    counts ten minutes at most and a program a day at most, corrected marks and those taken back included. A submitted
    program counts on the day of its submission; one that was skipped, left or is in hand on the days of its marks.
    Reading without a mark, simulated reviewers and training's own account count nothing.
    """
    people = (Account.source == "human", *who)
    days: dict[tuple[int, int], Day] = {}

    def of(number: int, day: float, annotator_id: str, name: str) -> Day:
        found = datetime.fromtimestamp(day * DAY, UTC).date()
        return days.setdefault((number, int(day)), Day(found, annotator_id, name))

    day = sa.func.floor(Submission.created_at / DAY)
    submitted = session.execute(
        sa.select(
            Account.id, day, Account.annotator_id, Account.name, sa.func.count(), sa.func.sum(Submission.labels),
            sa.func.sum(Submission.milliseconds),
        )
        .join(Account, Account.id == Submission.account_id)
        .where(*people, *_between(Submission.created_at, since, until))
        .group_by(Account.id, day, Account.annotator_id, Account.name)
    )  # fmt: skip
    for number, at, annotator_id, name, programs, lines, milliseconds in submitted:
        row = of(number, at, annotator_id, name)
        row.programs, row.lines, row.milliseconds = programs, int(lines), int(milliseconds)
    day, most = sa.func.floor(Mark.created_at / DAY), sa.literal(LONGEST_MARK_MS)
    counted = sa.case((Mark.milliseconds > most, most), else_=sa.func.coalesce(Mark.milliseconds, 0))
    unfinished = session.execute(
        sa.select(Account.id, day, Account.annotator_id, Account.name, Lease.id, sa.func.sum(counted))
        .join(Lease, Lease.id == Mark.lease_id).join(Account, Account.id == Lease.account_id)
        .where(*people, Lease.state != "submitted", *_between(Mark.created_at, since, until))
        .group_by(Account.id, day, Account.annotator_id, Account.name, Lease.id)
    )  # fmt: skip
    left: dict[int, int] = defaultdict(lambda: LONGEST_WORK_MS)
    for number, at, annotator_id, name, lease_id, milliseconds in unfinished:
        spent = min(int(milliseconds), left[lease_id])
        left[lease_id] -= spent
        of(number, at, annotator_id, name).milliseconds += spent
    return sorted(days.values(), key=lambda row: (-row.day.toordinal(), row.name))


def _between(
    moment: sa.ColumnElement[float] | sa.orm.InstrumentedAttribute[float], since: date | None, until: date | None
) -> list[sa.ColumnElement[bool]]:
    return [
        *([] if since is None else [moment >= _start(since)]),
        *([] if until is None else [moment < _start(until) + DAY]),
    ]


def _start(day: date) -> float:
    return datetime.combine(day, time(), UTC).timestamp()
