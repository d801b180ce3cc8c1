"""The REST API for leads and for training: publish programs, read reviews, watch and steer the crowd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import Field
from sqlalchemy.orm import Session

from crlhf_ray.aggregation.marks import Item
from crlhf_ray.feedback.desk import stats
from crlhf_ray.feedback.desk.api import NO_NUL, Body, LineNumber, TheDesk, end_of
from crlhf_ray.feedback.desk.highlight import highlighted
from crlhf_ray.feedback.desk.security import Admin, Lead, identify, note
from crlhf_ray.feedback.desk.store import programs, verdicts, work
from crlhf_ray.feedback.desk.store.erasure import erase
from crlhf_ray.feedback.desk.store.imports import NO_PASSWORD
from crlhf_ray.feedback.desk.store.models import ROLES, Account, Audit, Comment, Lease, Program
from crlhf_ray.feedback.desk.store.reviews import events

router = APIRouter(prefix="/api/v1", tags=["lead"])

Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.:-]+$")]
Code = Annotated[str, Field(max_length=100_000, pattern=NO_NUL)]
#: Seconds between two looks of the live dashboard.
LIVE_SECONDS = 2.0


class ItemIn(Body):
    """A program: its lines as they stand, and the numbers of those that carry code; that of a line after the last asks
    whether something is missing at the end. gold: for a honeypot, of each line, and of the end if it is asked about.
    """

    item_id: Name
    problem_id: Annotated[str, Field(min_length=1, max_length=200, pattern=NO_NUL)]
    prompt: Code
    lines: Annotated[list[Annotated[str, Field(max_length=100_000, pattern=r"^[^\n]*$")]], Field(max_length=20_000)]
    to_review: Annotated[list[LineNumber], Field(max_length=20_000)]
    gold: Annotated[list[Literal[1, -1]], Field(max_length=20_000)] | None = None


class ItemsIn(Body):
    """round: of the training run. deadline: seconds since 1970 after which nobody waits for answers."""

    items: Annotated[list[ItemIn], Field(min_length=1, max_length=5000)]
    round: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    deadline: Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)] | None = None


class StatusIn(Body):
    item_ids: Annotated[list[Name], Field(min_length=1, max_length=5000)]


class RetireIn(Body):
    """ids: item ids, or what the programs were called when they were imported."""

    ids: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=200, pattern=NO_NUL)]], Field(min_length=1, max_length=5000)
    ]


class VerdictIn(Body):
    """truth: 1 correct, -1 wrong."""

    line: LineNumber
    truth: Literal[1, -1]


class InviteIn(Body):
    role: Literal["annotator", "lead", "admin"] = "annotator"
    hours: Annotated[float, Field(gt=0, le=8760, allow_inf_nan=False)] | None = None


class SimulatedIn(Body):
    name: Name


@router.post("/items", status_code=201)
def publish(body: ItemsIn, account: Lead, desk: TheDesk) -> dict[str, int]:
    """Put programs into the queue. Publishing the same again changes nothing."""
    items: list[Item] = []
    gold: dict[str, list[int]] = {}
    for number, item in enumerate(body.items):
        one = Item(item.item_id, item.problem_id, item.prompt, tuple(item.lines), tuple(sorted(set(item.to_review))))
        if wrong := [n for n in one.to_review if n > len(one.lines)]:
            raise HTTPException(400, f"items[{number}].to_review: there are {len(one.lines)} lines, so no {wrong[0]}")
        if item.gold is not None and len(item.gold) != one.places:
            raise HTTPException(400, f"items[{number}].gold: give one truth for each of {one.places} lines and ends")
        if item.gold is not None:
            gold[item.item_id] = list(item.gold)
        items.append(one)
    return {"published": desk.publish(items, gold, body.round, body.deadline, account.name)}


@router.post("/items/status")
def status(body: StatusIn, account: Lead, desk: TheDesk) -> dict[str, str]:
    """How far programs are, by item_id: open, done or retired. Unknown ones are left out.

    Those that everybody at work has had are closed first: whoever asks is waiting for them.
    """
    return desk.status(body.item_ids)


@router.get("/items")
def items(
    account: Lead,
    desk: TheDesk,
    state: Literal["open", "done", "retired"] = "open",
    honeypots: bool = False,
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
    round: Annotated[int | None, Query(ge=0, le=2**31 - 1)] = None,
) -> list[dict[str, Any]]:
    """Programs, fifty a page, in the order of the queue."""
    with desk.database.read() as session:
        found = session.scalars(
            sa.select(Program)
            .where(
                Program.honeypot.is_(honeypots),
                Program.state == state,
                *([] if round is None else [Program.round == round]),
            )
            .order_by(Program.rank)
            .offset(50 * (page - 1))
            .limit(50)
        )
        return [
            {
                "item_id": p.item_id,
                "name": p.name,
                "problem_id": p.problem_id,
                "round": p.round,
                "state": p.state,
                "labels": p.labels,
                "correction_rate": p.rate,
            }
            for p in found
        ]


@router.get("/items/{item_id}")
def item(item_id: Name, account: Lead, desk: TheDesk) -> dict[str, Any]:
    """A program with every vote, comment and posterior."""
    with desk.database.read() as session:
        program = session.get(Program, item_id)
        if program is None:
            raise HTTPException(404, f"there is no program {item_id!r}")
        leases = session.execute(
            sa.select(Lease, Account.name).join(Account, Account.id == Lease.account_id)
            .where(Lease.item_id == item_id).order_by(Lease.id)
        ).all()  # fmt: skip
        marks = work.standing(session, [lease.id for lease, _ in leases])
        said = session.scalars(
            sa.select(Comment).where(Comment.lease_id.in_([lease.id for lease, _ in leases])).order_by(Comment.id)
        ).all()
    posterior = desk.crowd.posteriors([item_id]).get(item_id, {})
    names = {lease.id: name for lease, name in leases}
    prompt, lines = highlighted(program.prompt, "\n".join(program.lines), program.language)
    return {
        "item_id": item_id,
        "name": program.name,
        "problem_id": program.problem_id,
        "round": program.round,
        "state": program.state,
        "labels": program.labels,
        "honeypot": program.honeypot,
        "prompt": program.prompt,
        "prompt_html": list(prompt),
        "lines": [
            {
                "number": n,
                "end": n == len(lines),
                "html": html,
                "to_review": n in program.to_review,
                "p_correct": posterior.get(n),
                "verdict": (program.verdicts or {}).get(str(n)),
                "votes": [
                    {"name": name, "label": marks[lease.id][n].label, "rest": marks[lease.id][n].rest}
                    for lease, name in leases
                    if n in marks[lease.id]
                ],
            }
            for n, html in enumerate([*lines, *end_of(program)])
        ],
        "people": [{"name": name, "state": lease.state} for lease, name in leases],
        "comments": [{"name": names[c.lease_id], "line": c.line, "text": c.text} for c in said],
    }


@router.post("/items/{item_id}/reopen")
def reopen(item_id: Name, account: Lead, desk: TheDesk) -> dict[str, str]:
    """Ask one more person about a program."""
    with desk.database.write() as session:
        programs.reopen(session, item_id, now=desk.clock())
        note(session, account.name, "reopen", item_id, desk.clock())
    return {"item_id": item_id, "state": "open"}


@router.get("/disagreements")
def disagreements(
    account: Lead,
    desk: TheDesk,
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
    round: Annotated[int | None, Query(ge=0, le=2**31 - 1)] = None,
) -> list[dict[str, Any]]:
    """Lines that some reviewers call correct and others wrong, and that nobody has decided."""
    with desk.database.read() as session:
        found = verdicts.disagreements(session, page, round)
    posteriors = desk.crowd.posteriors(list({program.item_id for program, _, _ in found}))
    rows = []
    for program, line, labels in found:
        _, lines = highlighted(program.prompt, "\n".join(program.lines), program.language)
        rows.append(
            {
                "item_id": program.item_id,
                "name": program.name,
                "line": line,
                "end": line == len(lines),
                "html": lines[line] if line < len(lines) else "",
                "p_correct": posteriors.get(program.item_id, {}).get(line),
                "votes": [{"name": name, "label": label} for name, label in labels.items()],
            }
        )
    return rows


@router.post("/items/{item_id}/verdict", status_code=201)
def verdict(item_id: Name, body: VerdictIn, account: Lead, desk: TheDesk) -> dict[str, int]:
    """Decide what a line is: known truth from now on, for the consensus and for everybody's reliability."""
    desk.decide(item_id, body.line, body.truth, account.name)
    return {"line": body.line, "truth": body.truth}


@router.post("/items/retire")
def retire(body: RetireIn, account: Lead, desk: TheDesk) -> dict[str, list[str]]:
    """Show programs, or honeypots, to nobody any more. Reviews that were made of them stay."""
    with desk.database.write() as session:
        retired = programs.retire(session, body.ids)
        for item_id in retired:
            note(session, account.name, "retire", item_id, desk.clock())
    return {"retired": retired}


@router.get("/annotators/{annotator_id}")
def annotator(annotator_id: Name, account: Lead, desk: TheDesk) -> dict[str, Any]:
    """One annotator's rates over time."""
    with desk.database.read() as session:
        name = session.scalar(sa.select(Account.name).where(Account.annotator_id == annotator_id))
    if name is None:
        raise HTTPException(404, f"there is no annotator {annotator_id!r}")
    return {"annotator_id": annotator_id, "name": name, "curve": stats.curve(desk, annotator_id)}


@router.post("/annotators/{annotator_id}/password", status_code=201)
def password_link(annotator_id: Name, account: Lead, desk: TheDesk) -> dict[str, str]:
    """A link by which somebody who forgot their password chooses a new one, once."""
    with desk.database.read() as session:
        person = _led(session, annotator_id, account)
    if person.password_hash == NO_PASSWORD:
        raise HTTPException(409, "nobody can log in to this account: invite the person again")
    return {"path": f"/password/{desk.password_link(person, account.name)}"}


@router.post("/annotators/{annotator_id}/{action}")
def steer(
    annotator_id: Name, action: Literal["suspend", "reinstate", "requalify", "erase"], account: Lead, desk: TheDesk
) -> dict[str, str]:
    """Suspend somebody (ends sessions, takes back their program), let them back in, or have them qualify again.

    An admin may erase them: name, password, comments and addresses go, marks stay under their id.
    """
    with desk.database.write() as session:
        person = _led(session, annotator_id, account)
        if action == "erase":
            if account.role != "admin":
                raise HTTPException(403, f"this needs the role admin; yours is {account.role}")
            erase(session, person)
        elif action == "reinstate" and person.password_hash == NO_PASSWORD:
            raise HTTPException(409, "nobody can log in to this account: invite the person again")
        elif action == "requalify":
            person.checks_left = desk.settings.queue.qualification
        else:
            person.suspended = action == "suspend"
            person.epoch += 1
            if person.suspended:
                work.take_back(session, person.id)
        note(session, account.name, action, person.name, desk.clock())
    return {"annotator_id": annotator_id, "action": action}


def _led(session: Session, annotator_id: str, lead: Account) -> Account:
    """The person, if this lead may steer them: annotators, and whoever has less rights than they."""
    person = session.scalar(sa.select(Account).where(Account.annotator_id == annotator_id).with_for_update())
    if person is None:
        raise HTTPException(404, f"there is no annotator {annotator_id!r}")
    if person.role != "annotator" and ROLES.index(person.role) >= ROLES.index(lead.role):
        raise HTTPException(403, f"{person.name} is {person.role}: ask somebody with more rights than {lead.role}")
    return person


@router.post("/invites", status_code=201)
def invite(body: InviteIn, account: Lead, desk: TheDesk) -> dict[str, str]:
    """A link that makes one account; nobody can invite to more rights than their own."""
    if ROLES.index(body.role) > ROLES.index(account.role):
        raise HTTPException(403, f"you are {account.role}: you cannot invite a {body.role}")
    hours = body.hours if body.hours is not None else desk.settings.invite_hours
    return {"path": f"/invite/{desk.invite(body.role, hours, account.name)}"}


@router.post("/simulated", status_code=201)
def simulated(body: SimulatedIn, account: Admin, desk: TheDesk) -> dict[str, str]:
    """The API token of a simulated annotator, made where there is none. It has no password, and no pace limit."""
    return {"token": desk.simulated(body.name, account.name)}


@router.get("/annotations")
def reviews(
    account: Lead,
    desk: TheDesk,
    since: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 500,
) -> dict[str, Any]:
    """Reviews of the programs submitted after a cursor, at most `limit` programs, and the next cursor."""
    with desk.database.read() as session:
        rows, cursor = events(session, since, limit)
    return {"annotations": rows, "cursor": cursor}


@router.get("/stats")
def numbers(account: Lead, desk: TheDesk) -> dict[str, Any]:
    """What the dashboard shows."""
    return stats.stats(desk)


@router.get("/aggregation")
def aggregation(account: Lead, desk: TheDesk) -> dict[str, Any]:
    """The settings by which marks become a consensus here; a training run must have the same."""
    return desk.crowd.engine.described()


@router.get("/agreement")
def agreement(account: Lead, desk: TheDesk) -> list[dict[str, Any]]:
    """Cohen's kappa of each two reviewers on the lines that both marked (unsure marks left out), least first; null
    where both said the same of every line, so that nothing is left for chance to be told from."""
    pairs = desk.crowd.pairs()
    with desk.database.read() as session:
        names = dict(session.execute(sa.select(Account.annotator_id, Account.name)).tuples().all())
    rows = [
        {**pair, **{f"{side}_name": names.get(pair[side], pair[side]) for side in ("first", "second")}}
        for pair in pairs
    ]
    return sorted(rows, key=lambda row: (row["kappa"] is None, row["kappa"], -row["lines"]))


@router.get("/gold")
def gold(account: Lead, desk: TheDesk) -> list[dict[str, Any]]:
    """Known truth, +1 or -1 a line, of honeypots and by experts' verdicts: for training, which folds the marks too."""
    with desk.database.read() as session:
        return verdicts.known_truth(session)


@router.get("/alerts")
def alerts(account: Lead, desk: TheDesk) -> list[dict[str, Any]]:
    """What is wrong with the crowd as it stands, and what to do."""
    return desk.crowd.view().alerts


@router.get("/events", response_class=EventSourceResponse)
async def live(request: Request, account: Lead, desk: TheDesk) -> AsyncIterator[ServerSentEvent]:
    """The dashboard's numbers as server-sent events, whenever they change; until the session ends."""
    before, ending = None, request.app.state.ending
    while not ending.is_set():
        if await run_in_threadpool(identify, request) is None:
            return
        now = await run_in_threadpool(stats.stats, desk)
        if now != before:
            before = now
            yield ServerSentEvent(data=now, event="stats")
        with suppress(TimeoutError):
            await asyncio.wait_for(ending.wait(), LIVE_SECONDS)


@router.get("/audit")
def audit(account: Lead, desk: TheDesk, limit: Annotated[int, Query(ge=1, le=1000)] = 200) -> list[dict[str, Any]]:
    """Who did what, the latest first."""
    with desk.database.read() as session:
        rows = session.scalars(sa.select(Audit).order_by(Audit.id.desc()).limit(limit))
        return [{"at": row.at, "who": row.who, "action": row.action, "subject": row.subject} for row in rows]
