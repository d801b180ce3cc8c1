"""The REST API for annotators, under /api/v1. What leaves here is the same for a honeypot as for any other program."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Depends, HTTPException, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from crlhf_ray.errors import ConfigError
from crlhf_ray.feedback.desk.desk import Desk
from crlhf_ray.feedback.desk.highlight import highlighted
from crlhf_ray.feedback.desk.keys import check_keys, key_table
from crlhf_ray.feedback.desk.names import normalised
from crlhf_ray.feedback.desk.security import Annotator, note, verify_password
from crlhf_ray.feedback.desk.store import reviews, work
from crlhf_ray.feedback.desk.store.models import Account, Comment, Lease, Program, Submission

router = APIRouter(prefix="/api/v1", tags=["annotate"])

#: Numbers that a database column takes.
RowId = Annotated[int, Field(ge=1, le=2**31 - 1)]
LineNumber = Annotated[int, Field(ge=0, le=2**31 - 1)]
#: Work of less than this, milliseconds, shows no pace.
PACE_MS = 10 * 60_000
#: PostgreSQL's text has no place for the character 0.
NO_NUL = r"^[^\x00]*$"
Text = Annotated[str, Field(max_length=2000, pattern=NO_NUL)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class MarkIn(Body):
    """One answer about one line. label: 1 correct, -1 wrong, 0 unsure, null taken back."""

    event_id: Annotated[str, Field(min_length=8, max_length=64, pattern=r"^[A-Za-z0-9-]+$")]
    line: LineNumber
    label: Literal[1, -1, 0] | None
    rest: bool = False
    milliseconds: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None


class MarksIn(Body):
    marks: Annotated[list[MarkIn], Field(min_length=1, max_length=20_000)]


class CommentIn(Body):
    line: LineNumber | None = None
    text: Annotated[Text, Field(min_length=1)]


class SubmitIn(Body):
    """confidence: 1 (a guess) to 3 (sure)."""

    confidence: Literal[1, 2, 3]


class SkipIn(Body):
    """reason: why the program cannot be reviewed."""

    reason: Annotated[str, Field(min_length=1, max_length=500, pattern=NO_NUL)] | None = None


class KeysIn(Body):
    keys: dict[str, list[Annotated[str, Field(min_length=1, max_length=20)]]]


async def the_desk(request: Request) -> Desk:  # async, or each request would wait for a thread to get it
    desk: Desk = request.app.state.desk
    return desk


TheDesk = Annotated[Desk, Depends(the_desk)]


def task_out(desk: Desk, account: Account, task: work.Task | None) -> dict[str, Any] | None:
    """A task as the page gets it."""
    if task is None:
        return None
    program = task.program
    prompt, lines = highlighted(program.prompt, "\n".join(program.lines), program.language)
    return {
        "lease_id": task.lease.id,
        "item_id": program.item_id,
        "seconds_left": max(task.lease.expires_at - desk.clock(), 0.0),
        "phase": "qualification" if task.lease.qualification else "work",
        "language": program.language or "python",
        "prompt": {"text": program.prompt, "html": list(prompt)},
        "lines": [
            {"number": number, "html": html, "to_review": number in program.to_review, "end": number == len(lines)}
            for number, html in enumerate([*lines, *end_of(program)])
        ],
        "marks": [
            {"line": line, "label": mark.label, "event_id": mark.event_id, "rest": mark.rest}
            for line, mark in sorted(task.marks.items())
        ],
        "comments": [{"line": comment.line, "text": comment.text} for comment in task.comments],
        "progress": progress(desk, account),
    }


def end_of(program: Program) -> list[str]:
    """The place after the last line, which has no text, where it is asked whether something is missing there."""
    return [""] if len(program.lines) in program.to_review else []


def progress(desk: Desk, account: Account) -> dict[str, Any]:
    """How much this person did: programs in all and in the last day, and programs an hour of the last day's work."""
    now = desk.clock()
    mine = Submission.account_id == account.id
    all_of_it = sa.select(sa.func.count()).select_from(Submission).where(mine).scalar_subquery()
    with desk.database.read() as session:
        done, today, milliseconds = session.execute(
            sa.select(all_of_it, sa.func.count(), sa.func.coalesce(sa.func.sum(Submission.milliseconds), 0)).where(
                mine, Submission.created_at > now - 86400
            )
        ).one()
    pace = round(3.6e6 * today / milliseconds) if milliseconds >= PACE_MS else None
    return {"done": done, "today": today, "per_hour": pace}


class JoinIn(Body):
    """invite: the part of an invite link after /invite/."""

    invite: Annotated[str, Field(max_length=1000)]
    name: Annotated[Text, Field(min_length=1)]
    password: Annotated[Text, Field(min_length=1)]


class LogInIn(Body):
    name: Annotated[Text, Field(min_length=1)]
    password: Annotated[Text, Field(min_length=1)]


@router.post("/join", status_code=201)
def join(body: JoinIn, request: Request, desk: TheDesk) -> dict[str, str]:
    """Make an account by an invite; answers with its API token."""
    desk.limiter.check("login", address(request), desk.settings.logins_a_minute)
    return {"token": desk.token(desk.accept_invite(body.invite, body.name, body.password))}


@router.post("/token", responses={401: {"description": "name and password do not fit"}})
def token(body: LogInIn, request: Request, desk: TheDesk) -> dict[str, str]:
    """An API token by name and password."""
    account = log_in(desk, body.name, body.password, address(request))
    if account is None:
        raise HTTPException(401, "name and password do not fit, or the account is suspended")
    return {"token": desk.token(account)}


def address(request: Request) -> str:
    """Where a request came from."""
    return request.client.host if request.client else "unknown"


def log_in(desk: Desk, name: str, password: str, where: str) -> Account | None:
    """The account, if name and password fit; audited either way. Attempts are limited by address, and by account.

    Where somebody has logged in to an account before, it stays open to them: or anybody could lock others out.
    """
    desk.limiter.check("login", where, desk.settings.logins_a_minute)
    with suppress(ConfigError):
        name = normalised(name)  # or other spellings of one name would be limited apart
    if (name, where) not in desk.logged_in_from:
        desk.limiter.check("login to account", name, 3 * desk.settings.logins_a_minute)
    with desk.database.read() as session:
        account = verify_password(session, name, password)
    if account is not None:
        desk.logged_in_from.add((name, where))
    with desk.database.write() as session:
        note(session, name[:64], "log in" if account else "log in refused", where, desk.clock())
    return account


@router.post("/next", responses={204: {"description": "no program to review"}})
def next_task(account: Annotator, desk: TheDesk) -> Any:
    """The next program to review, or the one in hand with the marks saved so far."""
    task = desk.next_task(account)
    return Response(status_code=204) if task is None else task_out(desk, account, task)


@router.post("/leases/{lease_id}/marks")
async def save_marks(lease_id: RowId, body: MarksIn, account: Annotator, desk: TheDesk) -> dict[str, Any]:
    """Save marks. When this answers they are on the disk; sending them again changes nothing."""
    latest = {mark.event_id: reviews.NewMark(**dict(mark)) for mark in body.marks}
    await asyncio.wrap_future(desk.save_marks(reviews.Marking(account.id, lease_id, list(latest.values()))))
    return {"saved": list(latest)}


@router.post("/leases/{lease_id}/comments", status_code=201)
def comment(lease_id: RowId, body: CommentIn, account: Annotator, desk: TheDesk) -> dict[str, Any]:
    """Add a comment on a line, or on the whole program (line null). The same words again change nothing."""
    with desk.database.write() as session:
        lease = work.own_lease(session, account.id, lease_id, desk.settings.queue, now=desk.clock())
        program = session.get_one(Program, lease.item_id)
        if body.line is not None and body.line >= len([*program.lines, *end_of(program)]):
            raise work.Conflict(f"this program has no line {body.line}")
        same = sa.select(Comment.id).where(
            Comment.lease_id == lease_id, Comment.line.is_not_distinct_from(body.line), Comment.text == body.text
        )
        if session.scalar(same) is None:
            session.add(Comment(lease_id=lease_id, line=body.line, text=body.text, created_at=desk.clock()))
    return {"line": body.line, "text": body.text}


@router.post("/leases/{lease_id}/submit", responses={409: {"description": "lines without a mark, or no lease"}})
def submit(lease_id: RowId, body: SubmitIn, account: Annotator, desk: TheDesk) -> dict[str, Any]:
    """Submit a program whose every line is reviewed; answers with the next one. Truth is told in qualification only.

    Submitting again, as after an answer that was lost, changes nothing and is answered alike.
    """
    try:
        done, task = desk.submit(reviews.Submitting(account.id, lease_id, body.confidence))
    except work.Conflict:
        with desk.database.read() as session:
            before = reviews.submitted(session, account, lease_id)
        if before is None:
            raise
        done, task = before, desk.next_task(account)
    feedback = None
    if done.truth is not None:
        feedback = [
            {"line": line, "truth": truth, "label": done.marks[line].label} for line, truth in done.truth.items()
        ]
    return {"feedback": feedback, "next": task_out(desk, account, task)}


@router.post("/leases/{lease_id}/alive")
def alive(lease_id: RowId, account: Annotator, desk: TheDesk) -> dict[str, float]:
    """The program is still being read: it stays theirs. Answers for how many seconds."""
    with desk.database.write() as session:
        return {"seconds": work.still_reading(session, account.id, lease_id, desk.settings.queue, now=desk.clock())}


@router.post("/leases/{lease_id}/release")
def release(lease_id: RowId, account: Annotator, desk: TheDesk, body: SkipIn | None = None) -> dict[str, Any]:
    """Skip a program, for good. Practice programs cannot be skipped, others only so many a day; the lead sees why."""
    now, reason = desk.clock(), body.reason if body else None
    with desk.database.write() as session:
        account = session.get_one(Account, account.id, with_for_update=True)  # one request of theirs at a time
        item_id = work.release(session, account, lease_id, desk.settings.queue, now=now)
        if reason:
            session.add(Comment(lease_id=lease_id, line=None, text=f"Skipped: {reason}", created_at=now))
        if account.source == "human":
            note(session, account.name, "skip", f"{item_id}: {reason or 'no reason given'}", now)
    return {"released": lease_id}


@router.get("/me")
def me(account: Annotator, desk: TheDesk) -> dict[str, Any]:
    """Who one is, one's progress, and how the qualification round went (never how later work did)."""
    right = total = 0
    with desk.database.read() as session:
        rounds = session.execute(
            sa.select(Lease.id, Program)
            .join(Program, Program.item_id == Lease.item_id)
            .where(Lease.account_id == account.id, Lease.qualification, Lease.state == "submitted")
        ).all()
        marks = work.standing(session, [lease_id for lease_id, _ in rounds])
    for lease_id, program in rounds:
        for line, mark in marks[lease_id].items():
            total += 1
            right += program.gold is not None and mark.label == program.gold[line]
    return {
        "name": account.name,
        "role": account.role,
        "annotator_id": account.annotator_id,
        "qualification": {"right": right, "lines": total, "left": account.checks_left},
        "progress": progress(desk, account),
    }


@router.get("/me/keys")
def keys(account: Annotator) -> list[dict[str, Any]]:
    """The keys of one's page."""
    return key_table(account.keys)


@router.put("/me/keys")
def set_keys(body: KeysIn, account: Annotator, desk: TheDesk) -> list[dict[str, Any]]:
    """Change keys; an empty list switches an action's keys off."""
    try:
        check_keys(body.keys)
    except ConfigError as error:
        raise HTTPException(400, str(error)) from error
    with desk.database.write() as session:
        session.get_one(Account, account.id).keys = body.keys
    return key_table(body.keys)
