"""The dashboard's numbers: each is one small query, or comes from the crowd's view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa

from crlhf_ray.feedback.desk.desk import Desk
from crlhf_ray.feedback.desk.store.models import Account, Program, Reliability, Submission

MINUTES = 60
#: Points of an annotator's curve.
CURVE = 40


def stats(desk: Desk) -> dict[str, Any]:
    """What the lead looks at: queue, pace, agreement, people, alerts, cost, rounds."""
    now, crowd = desk.clock(), desk.crowd.view()
    work = Program.honeypot.is_(False)
    minute = sa.func.floor((now - Submission.created_at) / 60)  # a cast rounds on PostgreSQL
    with desk.database.read() as session:
        counts = _pairs(session.execute(sa.select(Program.state, sa.func.count()).where(work).group_by(Program.state)))
        oldest = session.scalar(
            sa.select(Program.created_at).where(work, Program.state == "open").order_by(Program.rank).limit(1)
        )
        pace = _pairs(
            session.execute(
                sa.select(minute, sa.func.sum(Submission.labels))
                .where(Submission.created_at > now - 60 * MINUTES)
                .group_by(minute)
            )
        )
        rounds = _pairs(
            session.execute(
                sa.select(Program.round, sa.func.avg(Program.rate))
                .where(Program.round.is_not(None), Program.rate.is_not(None))
                .group_by(Program.round)
            )
        )
        people = {account.annotator_id: account for account in session.scalars(sa.select(Account))}
    known = {row["annotator_id"] for row in crowd.rates}
    beginners = [
        {"annotator_id": name, "labels": 0}
        for name, account in people.items()
        if account.role == "annotator" and name not in known
    ]
    return {
        "queue": {
            "open": counts.get("open", 0),
            "done": counts.get("done", 0),
            "oldest_seconds": None if oldest is None else round(now - oldest, 1),
        },
        "labels_per_minute": [int(pace.get(m, 0)) for m in reversed(range(MINUTES))],
        "alpha": crowd.alpha,
        "hours": round(crowd.hours, 2),
        "cost_per_line": (
            round(crowd.hours * desk.settings.hourly_pay / crowd.reliable_lines, 4) if crowd.reliable_lines else None
        ),
        "rounds": [{"round": number, "correction_rate": rate} for number, rate in sorted(rounds.items())],
        "annotators": [_person(row, people.get(row["annotator_id"])) for row in [*crowd.rates, *beginners]],
        "alerts": [{**alert, "people": _named(alert["subjects"], people)} for alert in crowd.alerts],
    }


def curve(desk: Desk, annotator_id: str) -> list[dict[str, Any]]:
    """An annotator's rates over time, oldest first: at, and sensitivity and specificity with their intervals."""
    with desk.database.read() as session:
        rows = session.execute(
            sa.select(Reliability.at, Reliability.rates)
            .where(Reliability.annotator_id == annotator_id)
            .order_by(Reliability.id)
        ).all()
    keep = np.unique(np.linspace(0, len(rows) - 1, min(CURVE, len(rows))).astype(int))
    return [{"at": rows[i][0], **rows[i][1]} for i in keep]


def _pairs(result: sa.Result[Any]) -> dict[Any, Any]:
    return dict(map(tuple, result.all()))


def _person(row: dict[str, Any], account: Account | None) -> dict[str, Any]:
    return {
        **{key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()},
        "name": account.name if account else row["annotator_id"],
        "suspended": account is not None and account.suspended,
        "qualified": account is not None and account.checks_left == 0,
    }


def _named(subjects: Sequence[str], people: dict[str, Account]) -> list[dict[str, str]]:
    return [{"annotator_id": name, "name": people[name].name} for name in subjects if name in people]
