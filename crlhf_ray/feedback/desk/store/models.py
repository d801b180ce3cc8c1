"""The tables. Times are seconds since 1970, UTC. Marks and the audit log are only ever added to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence as Lines
from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, Double, ForeignKey, Index, Integer, String, Text, UniqueConstraint, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

ROLES = ("annotator", "lead", "admin")  # each may do what those before it may

#: SQLite numbers rows by itself only where the column is INTEGER.
Sequence = BigInteger().with_variant(Integer, "sqlite")

#: Programs that somebody may be given. SQLite uses an index of some rows only where it sees the very same words.
WAITING = text("program.state = 'open' AND program.slots > 0")
_WAITING = text("state = 'open' AND slots > 0")
_IN_HAND = text("state = 'open'")


class Base(DeclarativeBase):
    type_annotation_map: ClassVar[dict[Any, Any]] = {float: Double, dict[str, Any]: JSON, list[Any]: JSON}


def text_hash(prompt: str, lines: Lines[str]) -> str:
    """Equal for programs that a reader cannot tell apart."""
    return hashlib.sha256(json.dumps([prompt, list(lines)]).encode()).hexdigest()


def _text_hash(context: Any) -> str:
    row = context.get_current_parameters()
    return text_hash(row["prompt"], row["lines"])


class Account(Base):
    """A person. qualified_at: null until the qualification round is over. epoch: raised to end all their sessions."""

    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    annotator_id: Mapped[str] = mapped_column(String(64), unique=True)
    password_hash: Mapped[str] = mapped_column(Text)
    role: Mapped[str] = mapped_column(String(16))
    source: Mapped[str] = mapped_column(String(16))  # as in ANNOTATION_SCHEMA: human or simulated
    suspended: Mapped[bool] = mapped_column(default=False)
    epoch: Mapped[int] = mapped_column(default=0)
    checks_left: Mapped[int] = mapped_column(default=0)
    keys: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[float]


class Program(Base):
    """An item in the queue. slots: how many more people it may be handed to now. rank: see feedback/desk/queue.py."""

    __tablename__ = "program"
    item_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    problem_id: Mapped[str] = mapped_column(String(200))
    prompt: Mapped[str] = mapped_column(Text)
    lines: Mapped[list[Any]]
    name: Mapped[str | None] = mapped_column(String(200))
    """What the lead who brought it in calls it. Reviewers never see it."""
    language: Mapped[str | None] = mapped_column(String(200))
    """At Pygments, where the prompt is prose; null where the program is Python that the prompt begins."""
    priority: Mapped[float] = mapped_column(default=0.0, server_default="0")
    """Days by which it goes before its turn."""
    content: Mapped[str] = mapped_column(String(64), default=_text_hash, server_default="")
    """Hash of prompt and lines: nobody is given the same text twice, whatever its id."""
    to_review: Mapped[list[Any]]
    gold: Mapped[list[Any] | None]
    """Truth of every line, +1 or -1, of a honeypot; null for work. Never leaves the server."""
    verdicts: Mapped[dict[str, Any] | None]
    """Truth of single lines of work, by line number, that an expert gave; it counts as gold."""
    honeypot: Mapped[bool]
    round: Mapped[int | None]
    state: Mapped[str] = mapped_column(String(8))  # open, done or retired
    labels: Mapped[int] = mapped_column(default=0)
    slots: Mapped[int]
    rank: Mapped[float]
    rate: Mapped[float | None]
    """Its correction rate: the mean posterior of its reviewed lines."""
    created_at: Mapped[float]
    deadline: Mapped[float | None]
    done_at: Mapped[float | None]
    __table_args__ = (
        Index("program_waiting", "honeypot", "state", "rank", sqlite_where=_WAITING, postgresql_where=_WAITING),
        Index("program_queue", "honeypot", "state", "rank"),
        Index("program_deadline", "state", "deadline"),
        Index("program_round", "round", "rate"),
        Index("program_content", "content"),
        Index("program_name", "name"),
    )


class Lease(Base):
    """A program in somebody's hands, or reviewed by them. Nobody has the same program twice, or two at a time.

    state: expired ones may be their owner's again, released ones not."""

    __tablename__ = "lease"
    id: Mapped[int] = mapped_column(primary_key=True)
    item_id: Mapped[str] = mapped_column(ForeignKey("program.item_id"))
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"))
    qualification: Mapped[bool]
    issued_at: Mapped[float]
    expires_at: Mapped[float]
    state: Mapped[str] = mapped_column(String(9))  # open, expired, released or submitted
    __table_args__ = (
        UniqueConstraint("item_id", "account_id"),
        Index("lease_of_account", "account_id", "state"),
        Index("lease_expiry", "state", "expires_at"),
        Index("lease_in_hand", "account_id", unique=True, sqlite_where=_IN_HAND, postgresql_where=_IN_HAND),
    )


class Mark(Base):
    """One answer about one line. label: +1, -1, 0 (unsure) or null (taken back). The latest of a line stands."""

    __tablename__ = "mark"
    seq: Mapped[int] = mapped_column(Sequence, primary_key=True)
    event_id: Mapped[str] = mapped_column(String(64), unique=True)
    lease_id: Mapped[int] = mapped_column(ForeignKey("lease.id"), index=True)
    line: Mapped[int]
    label: Mapped[int | None]
    rest: Mapped[bool]
    milliseconds: Mapped[int | None]
    created_at: Mapped[float]


class Comment(Base):
    """What somebody wrote about a line, or about the whole program (line is null)."""

    __tablename__ = "comment"
    id: Mapped[int] = mapped_column(Sequence, primary_key=True)
    lease_id: Mapped[int] = mapped_column(ForeignKey("lease.id"), index=True)
    line: Mapped[int | None]
    text: Mapped[str] = mapped_column(Text)
    created_at: Mapped[float]


class Submission(Base):
    """A reviewed program. seq grows in the order in which submissions became visible: a cursor for readers."""

    __tablename__ = "submission"
    seq: Mapped[int] = mapped_column(Sequence, primary_key=True)
    lease_id: Mapped[int] = mapped_column(ForeignKey("lease.id"), unique=True)
    item_id: Mapped[str] = mapped_column(ForeignKey("program.item_id"), index=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"))
    confidence: Mapped[int]  # 1 to 3
    labels: Mapped[int]
    milliseconds: Mapped[int]
    created_at: Mapped[float]
    __table_args__ = (
        Index("submission_time", "created_at", "labels"),
        Index("submission_of_account", "account_id", "created_at"),
    )


class Reliability(Base):
    """An annotator's rates as they stood at a time, each with its 95% interval, for the dashboard's curves."""

    __tablename__ = "reliability"
    id: Mapped[int] = mapped_column(Sequence, primary_key=True)
    annotator_id: Mapped[str] = mapped_column(String(64), index=True)
    at: Mapped[float]
    rates: Mapped[dict[str, Any]]


class Audit(Base):
    """Who did what: log-ins, invites, suspensions, re-opened items, exports."""

    __tablename__ = "audit"
    id: Mapped[int] = mapped_column(Sequence, primary_key=True)
    at: Mapped[float]
    who: Mapped[str] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(32))
    subject: Mapped[str] = mapped_column(String(200))


class Setting(Base):
    """What the server keeps for itself: its secret key, the lock that puts submissions in order, and the
    sessions that were logged out of."""

    __tablename__ = "setting"
    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    value: Mapped[str] = mapped_column(Text)
