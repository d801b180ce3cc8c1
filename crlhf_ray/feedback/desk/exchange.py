"""A lead's files in and out, under /api/v1: programs and reviews are imported, reviews and the consensus exported."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa
from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from crlhf_ray.feedback.desk import bring
from crlhf_ray.feedback.desk.api import NO_NUL, Body, TheDesk
from crlhf_ray.feedback.desk.security import Lead, note
from crlhf_ray.feedback.desk.store import work
from crlhf_ray.feedback.desk.store.models import Account, Comment, Program, Submission

router = APIRouter(prefix="/api/v1", tags=["lead"])

#: Programs of an export that are read at a time.
PAGE = 500
_Short = Annotated[str, Field(min_length=1, max_length=200, pattern=NO_NUL)]


class FileIn(Body):
    """source: a source file, whatever its name."""

    name: _Short
    text: Annotated[str, Field(max_length=64 * 1024**2, pattern=NO_NUL)]
    source: bool = False


class ImportIn(Body):
    """language: of programs that do not say. ask_end: ask also whether something is missing at a program's end."""

    files: Annotated[list[FileIn], Field(min_length=1, max_length=5000)]
    language: _Short | None = None
    ask_end: bool = False


@router.post("/import", responses={400: {"description": "what is wrong with which row of which file"}})
def import_files(body: ImportIn, account: Lead, desk: TheDesk) -> dict[str, int]:
    """Bring in programs (.jsonl, .csv, .tsv, .diff, .patch, source files) or reviews (an export); all or nothing.

    Answers how many programs are new, how many changed before anybody had them, how many are known, how many of the new
    ones are honeypots, and how many reviews came in.
    """
    brought: list[bring.Brought] = []
    reviews: list[bring.Review] = []
    for file in body.files:
        programs, said = bring.read_file(file.name, file.text, body.language, source=file.source, ask_end=body.ask_end)
        brought += programs
        reviews += said
    return desk.bring_in(brought, reviews, account.name)


REVIEWS = pa.schema(
    [
        ("task", pa.string()),
        ("worker", pa.string()),
        ("label", pa.int8()),
        ("weight", pa.float64()),
        ("time", pa.float64()),
        ("source", pa.string()),
        ("id", pa.string()),
        ("problem", pa.string()),
        ("round", pa.int32()),
        ("text", pa.string()),
        ("comment", pa.string()),
        ("p_correct", pa.float64()),
        ("truth", pa.int8()),
        ("event_id", pa.string()),
        ("milliseconds", pa.int64()),
    ]
)
CONSENSUS = pa.schema(
    [
        ("task", pa.string()),
        ("id", pa.string()),
        ("problem", pa.string()),
        ("round", pa.int32()),
        ("state", pa.string()),
        ("reviews", pa.int32()),
        ("text", pa.string()),
        ("p_correct", pa.float64()),
        ("truth", pa.int8()),
    ]
)


class Filters(BaseModel):
    """person: a name or an annotator's id. names: people's names instead of their ids."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["reviews", "consensus"] = "reviews"
    format: Literal["parquet", "jsonl", "csv"] = "csv"
    round: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    person: _Short | None = None
    state: Literal["open", "done", "retired"] | None = None
    names: bool = False

    def programs(self) -> list[sa.ColumnElement[bool]]:
        return [
            *([] if self.round is None else [Program.round == self.round]),
            *([] if self.state is None else [Program.state == self.state]),
        ]


@router.get("/export", response_class=Response)
def export(wanted: Annotated[Filters, Query()], account: Lead, desk: TheDesk) -> Response:
    """Reviews in the long form, one row for each mark that stands: task (item:line, lines from 1), worker, label,
    weight (confidence), time, source; beside them the line's text and comments, its posterior, and its truth where that
    is known. Or the consensus, one row for each line that is asked about.

    In CSV, text that a spreadsheet would run as a formula has an apostrophe before it.
    """
    with desk.database.write() as session:
        note(session, account.name, "export", f"{wanted.kind}, {wanted.format}", desk.clock())
    schema = REVIEWS if wanted.kind == "reviews" else CONSENSUS
    rows = _reviews(desk, wanted) if wanted.kind == "reviews" else _consensus(desk, wanted)
    headers = {"Content-Disposition": f'attachment; filename="{wanted.kind}.{wanted.format}"'}
    if wanted.format == "parquet":
        with tempfile.TemporaryFile() as file:
            with pq.ParquetWriter(file, schema) as writer:
                for page in rows:
                    writer.write_table(pa.Table.from_pylist(page, schema=schema))
            file.seek(0)
            return Response(file.read(), media_type="application/vnd.apache.parquet", headers=headers)
    lines = (
        csv_text(rows, schema.names)
        if wanted.format == "csv"
        else ("".join(json.dumps(r) + "\n" for r in p) for p in rows)
    )
    kind = "text/csv" if wanted.format == "csv" else "application/jsonl"
    return StreamingResponse(lines, media_type=kind, headers=headers)


def _about(program: Program, line: int, p_correct: float | None) -> dict[str, Any]:
    return {
        "task": f"{program.item_id}:{line + 1}",
        "id": program.name,
        "problem": program.problem_id,
        "round": program.round,
        "text": program.lines[line] if line < len(program.lines) else "",
        "p_correct": p_correct,
        "truth": program.gold[line] if program.gold else (program.verdicts or {}).get(str(line)),
    }


def _reviews(desk: TheDesk, wanted: Filters) -> Iterator[list[dict[str, Any]]]:
    cursor = 0
    someone = sa.or_(Account.name == wanted.person, Account.annotator_id == wanted.person)
    who = [] if wanted.person is None else [someone]
    while True:
        with desk.database.read() as session:
            found = session.execute(
                sa.select(Submission, Account, Program).join(Account, Account.id == Submission.account_id)
                .join(Program, Program.item_id == Submission.item_id)
                .where(Submission.seq > cursor, *who, *wanted.programs()).order_by(Submission.seq).limit(PAGE)
            ).all()  # fmt: skip
            leases = [submission.lease_id for submission, _, _ in found]
            marks = work.standing(session, leases)
            said: dict[tuple[int, int | None], list[str]] = {}
            for comment in session.scalars(sa.select(Comment).where(Comment.lease_id.in_(leases)).order_by(Comment.id)):
                said.setdefault((comment.lease_id, comment.line), []).append(comment.text)
        if not found:
            return
        cursor = found[-1][0].seq
        posteriors = desk.crowd.posteriors(list({program.item_id for _, _, program in found}))
        page = []
        for submission, account, program in found:
            for line, mark in sorted(marks[submission.lease_id].items()):
                p = posteriors.get(program.item_id, {}).get(line)
                whole = said.get((submission.lease_id, None), []) if line == program.to_review[0] else []
                words = [*said.get((submission.lease_id, line), []), *(f"(whole program) {text}" for text in whole)]
                page.append(
                    _about(program, line, p)
                    | {
                        "worker": account.name if wanted.names else account.annotator_id,
                        "label": mark.label,
                        "weight": submission.confidence / 3 if mark.label else None,
                        "time": mark.created_at,
                        "source": account.source,
                        "comment": "\n".join(words) or None,
                        "event_id": mark.event_id,
                        "milliseconds": mark.milliseconds,
                    }
                )
        yield page


def _consensus(desk: TheDesk, wanted: Filters) -> Iterator[list[dict[str, Any]]]:
    after = ""
    reviewed = sa.select(Submission.item_id).join(Account, Account.id == Submission.account_id).where(
        sa.or_(Account.name == wanted.person, Account.annotator_id == wanted.person)
    )  # fmt: skip
    who = [] if wanted.person is None else [Program.item_id.in_(reviewed)]
    while True:
        with desk.database.read() as session:
            found = session.scalars(
                sa.select(Program).where(Program.item_id > after, *who, *wanted.programs())
                .order_by(Program.item_id).limit(PAGE)
            ).all()  # fmt: skip
        if not found:
            return
        after = found[-1].item_id
        posteriors = desk.crowd.posteriors([program.item_id for program in found])
        yield [
            _about(program, line, posteriors.get(program.item_id, {}).get(line))
            | {"state": program.state, "reviews": program.labels}
            for program in found
            for line in program.to_review
        ]


def csv_text(pages: Iterator[list[dict[str, Any]]], names: list[str]) -> Iterator[str]:
    """Pages of rows as CSV, with a header; an apostrophe before text that a spreadsheet would run as a formula."""
    out = io.StringIO()
    writer = csv.DictWriter(out, names)
    writer.writeheader()
    for page in pages:
        writer.writerows({name: _plain(value) for name, value in row.items()} for row in page)
        yield out.getvalue()
        out.seek(0)
        out.truncate()
    yield out.getvalue()


def _plain(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
