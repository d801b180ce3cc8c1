"""Time sheets: a lead's of everybody and each one's own, as a page, JSON and CSV."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from crlhf_ray.feedback.desk.api import NO_NUL, TheDesk
from crlhf_ray.feedback.desk.desk import Desk
from crlhf_ray.feedback.desk.exchange import csv_text
from crlhf_ray.feedback.desk.pages import page
from crlhf_ray.feedback.desk.security import Annotator, Lead, note
from crlhf_ray.feedback.desk.store.models import Account
from crlhf_ray.feedback.desk.store.timesheet import timesheet

router = APIRouter()
COLUMNS = ["day", "annotator_id", "name", "programs", "lines", "hours", "pay"]


class Period(BaseModel):
    """since, until: first and last day (UTC), both counted."""

    model_config = ConfigDict(extra="forbid")
    since: date | None = None
    until: date | None = None
    format: Literal["json", "csv"] = "json"


class Wanted(Period):
    """person: a name, or an annotator's id."""

    person: Annotated[str, Field(min_length=1, max_length=200, pattern=NO_NUL)] | None = None


def rows(desk: Desk, period: Period, *who: sa.ColumnElement[bool]) -> list[dict[str, Any]]:
    """`COLUMNS` of each day, the last first. pay: hours x `hourly_pay`, null where the lead has not set that."""
    rate = desk.settings.hourly_pay if "hourly_pay" in desk.settings.model_fields_set else None
    with desk.database.read() as session:
        found = timesheet(session, since=period.since, until=period.until, who=who)
    return [
        {
            "day": one.day.isoformat(),
            "annotator_id": one.annotator_id,
            "name": one.name,
            "programs": one.programs,
            "lines": one.lines,
            "hours": round(one.milliseconds / 3.6e6, 4),
            "pay": None if rate is None else round(one.milliseconds / 3.6e6 * rate, 2),
        }
        for one in found
    ]


def _answer(found: list[dict[str, Any]], period: Period) -> Any:
    if period.format == "json":
        return found
    headers = {"Content-Disposition": 'attachment; filename="timesheet.csv"'}
    return Response("".join(csv_text(iter([found]), COLUMNS)), media_type="text/csv", headers=headers)


@router.get("/api/v1/timesheet", tags=["lead"], response_model=list[dict[str, Any]])
def everybodys(wanted: Annotated[Wanted, Query()], account: Lead, desk: TheDesk) -> Any:
    """Hours, programs and pay by person and day (UTC). Hours are what the page measured between marks,
    never more than the server's clock did."""
    who = [] if wanted.person is None else [(Account.name == wanted.person) | (Account.annotator_id == wanted.person)]
    if wanted.format == "csv":
        with desk.database.write() as session:
            note(session, account.name, "export", "timesheet, csv", desk.clock())
    return _answer(rows(desk, wanted, *who), wanted)


@router.get("/api/v1/me/timesheet", tags=["annotate"], response_model=list[dict[str, Any]])
def own(wanted: Annotated[Period, Query()], account: Annotator, desk: TheDesk) -> Any:
    """One's own hours, programs and pay by day (UTC)."""
    return _answer(rows(desk, wanted, Account.id == account.id), wanted)


@router.get("/time", include_in_schema=False)
def time_page(request: Request, account: Annotator, desk: TheDesk) -> Response:
    """One's own time sheet; a lead's is everybody's."""
    whose = [Account.id == account.id] if account.role == "annotator" else []
    found = rows(desk, Period(), *whose)
    hours = sum(row["hours"] for row in found)
    return page(request, "time.html", account, rows=found, hours=hours)
