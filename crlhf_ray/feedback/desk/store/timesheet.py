"""Time sheets: what people worked, by person and day (UTC)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from crlhf_ray.feedback.desk.store.models import Account, Lease, Mark, Submission

DAY = 86_400
#: Time that counts for one mark: longer, the person was away, or a script made it up.
LONGEST_MARK_MS = 600_000


@dataclass
class Day:
    """What one person worked on one day. milliseconds: see `worked`; programs: submitted, practice included."""

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

    Time counts as `worked` has it, on the day of each mark, so that no later work changes a day that is over; marks
    that were corrected or taken back, and programs that were skipped, left or are in hand, included. Programs and lines
    count on the day of their submission. Reading without a mark, reviews that were imported, simulated reviewers and
    training's own account count nothing.
    """
    people = (Account.source == "human", Lease.expires_at > Lease.issued_at, *who)  # imported: both are one moment
    days: dict[tuple[int, int], Day] = {}

    def of(number: int, day: float, annotator_id: str, name: str) -> Day:
        found = datetime.fromtimestamp(day * DAY, UTC).date()
        return days.setdefault((number, int(day)), Day(found, annotator_id, name))

    # the mark before the first that counts may be of the day before
    spent = worked(*people, *_between(Mark.created_at, since and since - timedelta(days=1), until))
    day = sa.func.floor(spent.c.at / DAY)
    by_day = session.execute(
        sa.select(Account.id, day, Account.annotator_id, Account.name, sa.func.sum(spent.c.milliseconds))
        .join(Account, Account.id == spent.c.account_id).where(*_between(spent.c.at, since, until))
        .group_by(Account.id, day, Account.annotator_id, Account.name)
    )  # fmt: skip
    for number, at, annotator_id, name, milliseconds in by_day:
        of(number, at, annotator_id, name).milliseconds = int(milliseconds)
    day = sa.func.floor(Submission.created_at / DAY)
    submitted = session.execute(
        sa.select(
            Account.id, day, Account.annotator_id, Account.name, sa.func.count(), sa.func.sum(Submission.labels)
        )
        .join(Account, Account.id == Submission.account_id).join(Lease, Lease.id == Submission.lease_id)
        .where(*people, *_between(Submission.created_at, since, until))
        .group_by(Account.id, day, Account.annotator_id, Account.name)
    )  # fmt: skip
    for number, at, annotator_id, name, programs, lines in submitted:
        row = of(number, at, annotator_id, name)
        row.programs, row.lines = programs, int(lines)
    return sorted(days.values(), key=lambda row: (-row.day.toordinal(), row.name))


def worked(*which: sa.ColumnElement[bool]) -> sa.Subquery:
    """Time that counts as work, by moment at which marks came in: account_id, lease_id, at, milliseconds.

    A mark counts what the page measured, at most ten minutes. All that came in at one moment count no longer than the
    time since the person's marks before, or since the program was handed out: the page is the reviewer's, the clock is
    the server's. Simulated reviewers' time is not the clock's. which: the marks (of `Mark`, `Lease` and `Account`).
    """
    most = sa.literal(LONGEST_MARK_MS)
    claimed = sa.func.sum(sa.case((Mark.milliseconds > most, most), else_=sa.func.coalesce(Mark.milliseconds, 0)))
    came = (
        sa.select(
            Lease.account_id, Mark.lease_id, Mark.created_at.label("at"), Lease.issued_at, Account.source,
            claimed.label("claimed"),
        )
        .join(Lease, Lease.id == Mark.lease_id).join(Account, Account.id == Lease.account_id).where(*which)
        .group_by(Lease.account_id, Mark.lease_id, Mark.created_at, Lease.issued_at, Account.source)
    ).subquery()  # fmt: skip
    before = sa.func.lag(came.c.at).over(partition_by=came.c.account_id, order_by=(came.c.at, came.c.lease_id))
    since = sa.case((before > came.c.issued_at, before), else_=came.c.issued_at)
    passed = sa.func.round((came.c.at - since) * 1000)
    counts = sa.case(
        ((came.c.source == "simulated") | (came.c.claimed <= passed), came.c.claimed), (passed > 0, passed), else_=0
    )
    return sa.select(came.c.account_id, came.c.lease_id, came.c.at, counts.label("milliseconds")).subquery()


def _between(
    moment: sa.ColumnElement[float] | sa.orm.InstrumentedAttribute[float], since: date | None, until: date | None
) -> list[sa.ColumnElement[bool]]:
    return [
        *([] if since is None else [moment >= _start(since)]),
        *([] if until is None else [moment < _start(until) + DAY]),
    ]


def _start(day: date) -> float:
    return datetime.combine(day, time(), UTC).timestamp()
