"""What the server knows of its crowd: learnt from what is submitted, in order, and watched for what goes wrong."""

from __future__ import annotations

import logging
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.orm import Session

from crlhf_ray.aggregation.marks import ANNOTATION_SCHEMA, GOLD_SCHEMA
from crlhf_ray.aggregation.monitors import Alert, honeypot_shortage, label_shortage
from crlhf_ray.feedback.desk.engine import Engine, MakeEngine
from crlhf_ray.feedback.desk.settings import WebSettings
from crlhf_ray.feedback.desk.skips import skip_alerts
from crlhf_ray.feedback.desk.store import programs, reviews
from crlhf_ray.feedback.desk.store.database import Database
from crlhf_ray.feedback.desk.store.models import Account, Lease, Program, Reliability, Setting, Submission
from crlhf_ray.feedback.desk.store.verdicts import known_truth
from crlhf_ray.feedback.desk.webhooks import Webhooks

#: How long a view of the whole crowd is kept before it is worked out again.
FRESH_SECONDS = 2.0
#: How long a request waits for a newer view before it takes the one that there is.
PATIENCE_SECONDS = 0.03
#: Between two times of learning: what is submitted meanwhile is learnt from together.
LEARN_PAUSE_SECONDS = 0.5
#: Between two looks for deadlines and alerts where nobody asks, as at night.
LOOK_SECONDS = 10.0
#: Marks after which what is known is written down, so that a start need not learn it again.
SNAPSHOT_MARKS = 50_000
#: Submissions taken in at a time when everything is learnt again, and otherwise; programs settled at a time.
FIRST_BATCH, BATCH = 3000, 500
#: The lead is told of whoever has fewer honeypots left.
FEW_HONEYPOTS = 5
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CrowdView:
    """The crowd as a whole. rates: as `Engine.reliability`, a dict each; alpha: Krippendorff's; at: when, took: s.

    reliable_lines: lines of work (not of honeypots) whose posterior is sure; hours: of annotation, in all.
    """

    rates: list[dict[str, Any]] = field(default_factory=list)
    alerts: list[dict[str, Any]] = field(default_factory=list)
    alpha: float | None = None
    reliable_lines: int = 0
    hours: float = 0.0
    at: float = float("-inf")
    took: float = 0.0


class KnownCrowd:
    """Learns in a thread of its own, once started. widths: by annotator, see `queue.honeypot_share`.

    What it knows is a fold over the submissions, with snapshots in the folder ``crowd``; of a database that it was not
    learnt from, it is learnt again.
    """

    def __init__(
        self,
        database: Database,
        settings: WebSettings,
        engine: MakeEngine,
        webhooks: Webhooks,
        clock: Callable[[], float],
    ):
        self._database, self._settings, self._webhooks, self._clock = database, settings, webhooks, clock
        self.engine = self._opened(engine, settings.dir / "crowd")
        #: Whose marks were folded in and not acted on yet: programs in order of submission, and people.
        self._unsettled: dict[str, None] = {}
        self._heard: set[str] = set()
        self._since_snapshot = 0
        self._learning = threading.Lock()
        self.widths: dict[str, float] = {}
        self._remembered: dict[str, int] = {}
        self._view = CrowdView()
        self._background = ThreadPoolExecutor(1)
        self._learn_all()
        self._viewing = self._background.submit(self._work_out)
        self._submitted, self._closing = threading.Event(), threading.Event()
        self._learner: threading.Thread | None = None

    def start(self, tidy: Callable[[], None]) -> None:
        """Begin to learn. tidy: called now and then, also when nobody asks for anything."""
        self._learner = threading.Thread(target=self._keep_learning, args=(tidy,), daemon=True)
        self._learner.start()

    def close(self) -> None:
        """Wait for what is being learnt, write it down, and let go of the folder. Harmless when called twice."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._submitted.set()
        if self._learner is not None:
            self._learner.join()
        self._background.shutdown()
        with self._learning:
            if not self._unsettled:
                self.engine.snapshot()
            self.engine.close()

    # -- learning ------------------------------------------------------------------------------------------------

    def submitted(self) -> None:
        """Something was: learn from it soon."""
        self._submitted.set()

    def add_gold(self, rows: Sequence[dict[str, Any]]) -> None:
        """Take in known truth, rows of GOLD_SCHEMA."""
        with self._learning:
            self.engine.add_gold(pa.Table.from_pylist(list(rows), schema=GOLD_SCHEMA))

    def settle(self, items: Sequence[str]) -> None:
        """Decide again whether these programs are done."""
        with self._learning:
            self._unsettled |= dict.fromkeys(items)
            self._act()

    def learn(self) -> None:
        """Take what was submitted into the crowd's state, and settle the programs concerned."""
        with self._learning:
            while self._learn_some():
                pass

    def _keep_learning(self, tidy: Callable[[], None]) -> None:
        """One thread learns for all submissions; those that come while it does are learnt from together."""
        while not self._closing.wait(LEARN_PAUSE_SECONDS):
            self._submitted.wait(LOOK_SECONDS)
            self._submitted.clear()
            try:
                tidy()
                self.learn()
                if self._clock() - self._view.at >= LOOK_SECONDS:
                    self.view()  # alerts are sent also while nobody looks
            except Exception:  # whatever it is: the next time brings the next attempt
                _log.exception("what was submitted could not be learnt from")

    def _learn_all(self) -> None:
        """What came while the server was away, or everything. First all is taken in, then what is open is settled: by a
        part of what is known, programs that are done would open again."""
        with self._database.read() as session:
            known = known_truth(session)
        self.add_gold(known)
        with self._learning:
            while self._take_in(FIRST_BATCH):
                pass
            with self._database.read() as session:
                waiting = session.scalars(sa.select(Program.item_id).where(Program.state == "open")).all()
            self._unsettled = {item: None for item in waiting if item in self._unsettled}
            self._act()

    def _learn_some(self) -> bool:
        found = self._take_in(BATCH)
        if found or self._unsettled:  # there is something left from last time where acting on it failed
            self._act()
        return found

    def _take_in(self, most: int) -> bool:
        """Fold in what was submitted next; whether there was anything."""
        before = self.engine.position()
        with self._database.read() as session:
            rows, after = reviews.events(session, before, most)
        if after == before:
            return False
        self._unsettled |= {row["item_id"]: None for row in rows}
        self._heard |= {row["annotator_id"] for row in rows}
        self._since_snapshot += len(rows)
        self.engine.fold(as_marks(rows), before, after)
        return True

    def _act(self) -> None:
        """Settle the programs concerned. Only then may a snapshot say that their marks were learnt from."""
        items = list(self._unsettled)
        for start in range(0, max(len(items), 1), BATCH):
            self._settle(items[start : start + BATCH], self._heard)
        self._unsettled, self._heard = {}, set()
        if self._since_snapshot >= SNAPSHOT_MARKS:
            self.engine.snapshot()
            self._since_snapshot = 0

    def _settle(self, items: Sequence[str], people: Collection[str]) -> None:
        known, now = self._posteriors(items), self._clock()
        with self._database.write() as session:
            posteriors = {item: known.get(item, {}) for item in items}
            done = programs.settle(session, posteriors, self._settings.queue, now=now)
            self._remember(session, people, now)
        self._send_done(done, known)

    def _remember(self, session: Session, people: Collection[str], now: float) -> None:
        for rates in self.engine.reliability().to_pylist():
            name = rates.pop("annotator_id")
            self.widths[name] = max(
                rates["sensitivity_high"] - rates["sensitivity_low"],
                rates["specificity_high"] - rates["specificity_low"],
            )
            # A point of the curve for every twentieth part more labels: a few hundred in a working life.
            if name in people and rates["labels"] >= 1.05 * self._remembered.get(name, 0):
                self._remembered[name] = rates["labels"]
                session.add(Reliability(annotator_id=name, at=now, rates=rates))

    def _opened(self, engine: MakeEngine, folder: Path) -> Engine:
        """The engine with what it knows of this database; knowing nothing where that is of another database, or of one
        that an older copy replaced since."""
        database_id, name = _database_id(self._database), folder / "database"
        with self._database.read() as session:
            last = session.scalar(sa.select(sa.func.max(Submission.seq))) or 0
        with suppress(OSError, ValueError):
            if name.read_text() == database_id:
                known = engine(folder)
                if known.position() <= last:
                    return known
                known.close()
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
        name.write_text(database_id)
        return engine(folder)

    # -- telling -------------------------------------------------------------------------------------------------

    def tell_done(self, item_ids: Sequence[str]) -> None:
        """Tell others, soon, that these programs are done."""
        if item_ids and self._settings.webhooks:
            self._background.submit(lambda: self._send_done(item_ids, self.posteriors(item_ids)))

    def _send_done(self, item_ids: Sequence[str], posteriors: dict[str, dict[int, float]]) -> None:
        for item_id in item_ids:
            self._webhooks.send("item.done", {"item_id": item_id, "posterior": posteriors.get(item_id, {})})

    def posteriors(self, item_ids: Sequence[str]) -> dict[str, dict[int, float]]:
        """P(line is correct) by item and line, as the crowd knows it now; lines nobody reviewed are left out."""
        with self._learning:
            return self._posteriors(item_ids)

    def _posteriors(self, item_ids: Sequence[str]) -> dict[str, dict[int, float]]:
        found: dict[str, dict[int, float]] = {}
        for row in self.engine.consensus(item_ids).to_pylist():
            found.setdefault(row["item_id"], {})[row["line"]] = row["p_correct"]
        return found

    # -- watching ------------------------------------------------------------------------------------------------

    def view(self) -> CrowdView:
        """The crowd as a whole, worked out beside the requests: seconds old where there are millions of marks."""
        if self._clock() - self._view.at > max(FRESH_SECONDS, 20 * self._view.took) and self._viewing.done():
            self._viewing = self._background.submit(self._work_out)
        with suppress(TimeoutError):
            self._viewing.result(PATIENCE_SECONDS)
        return self._view

    def pairs(self) -> list[dict[str, Any]]:
        """How far each two reviewers agree; see `Engine.pairs`."""
        with self._learning:
            crowd = self.engine.frozen()
        found: list[dict[str, Any]] = crowd.pairs().to_pylist()
        return found

    def _work_out(self) -> None:
        begun = time.perf_counter()
        with self._database.read() as session:
            milliseconds = session.scalar(sa.select(sa.func.sum(Submission.milliseconds))) or 0
            short = self._too_few_labels(session) + self._too_few_honeypots(session) + _skips(session)
            nobody = programs.waiting_for_nobody(session, self._settings.queue, now=self._clock())
        short += nobody_left(nobody)
        with self._learning:  # for as long as a copy takes: learning and drill-down go on meanwhile
            crowd = self.engine.frozen()
        alpha, reliable_lines = crowd.agreement(self._settings.sure)
        alerts = [asdict(alert) for alert in [*crowd.alerts(labels_wanted=0), *short]]
        view = CrowdView(
            rates=crowd.reliability().to_pylist(),
            alerts=alerts,
            alpha=alpha,
            reliable_lines=reliable_lines,
            hours=milliseconds / 3.6e6,
            at=self._clock(),
            took=time.perf_counter() - begun,
        )
        known = {(alert["kind"], *alert["subjects"]) for alert in self._view.alerts}
        self._view = view
        for alert in alerts:
            if (alert["kind"], *alert["subjects"]) not in known:
                self._webhooks.send("alert", alert)

    def _too_few_labels(self, session: Session) -> list[Alert]:
        # programs still in the queue are on their way: only of those that are done can it be told
        done = sa.select(Program.labels, sa.func.count()).where(
            Program.honeypot.is_(False), Program.state == "done", Program.done_at > Program.created_at
        )
        labels, count = np.array(session.execute(done.group_by(Program.labels)).all(), int).reshape(-1, 2).T
        return label_shortage(
            np.repeat(labels, count), wanted=self._settings.queue.labels_least, what="programs", of="reviews"
        )

    def _too_few_honeypots(self, session: Session) -> list[Alert]:
        """Of people who have reviewed something, where silent honeypots are sent."""
        if self._settings.queue.honeypots_most == 0:
            return []
        usable = Program.honeypot.is_(True), Program.state == "open"
        total = session.scalar(sa.select(sa.func.count()).select_from(Program).where(*usable)) or 0
        had = sa.select(Lease.account_id, sa.func.count()).join(Program, Program.item_id == Lease.item_id)
        seen = dict(session.execute(had.where(*usable).group_by(Lease.account_id)).tuples().all())
        worked = sa.select(Submission.seq).where(Submission.account_id == Account.id)
        people = session.execute(
            sa.select(Account.id, Account.annotator_id).where(~Account.suspended, worked.exists())
        ).all()
        return honeypot_shortage({name: total - seen.get(number, 0) for number, name in people}, wanted=FEW_HONEYPOTS)


def nobody_left(count: int) -> list[Alert]:
    """Open programs that everybody at work has had."""
    if not count:
        return []
    what = "1 program is" if count == 1 else f"{count} programs are"
    return [
        Alert(
            "nobody left",
            f"{what} still unsure, and everybody at work has reviewed or skipped them",
            "invite somebody else, or let them close after queue.absent_seconds",
        )
    ]


def _skips(session: Session) -> list[Alert]:
    handed_out = (
        sa.select(Account.annotator_id, Lease.state == "released", Program.to_review)
        .join(Lease, Lease.account_id == Account.id)
        .join(Program, Program.item_id == Lease.item_id)
        .where(Account.source == "human", ~Account.suspended, Lease.state.in_(["released", "submitted"]))
    )
    if session.scalar(sa.select(sa.func.count()).select_from(Lease).where(Lease.state == "released")) == 0:
        return []
    latest = handed_out.order_by(Lease.id.desc()).limit(20_000)
    return skip_alerts((name, bool(was), len(lines)) for name, was, lines in session.execute(latest))


def _database_id(database: Database) -> str:
    """A random name of the database; made once and kept in it."""
    with database.write() as session:
        kept = session.get(Setting, "database")
        if kept is None:
            kept = Setting(name="database", value=secrets.token_hex(16))
            session.add(kept)
        return kept.value


def as_marks(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """What `reviews.events` found, as ANNOTATION_SCHEMA."""
    columns = {
        name: pa.array([row[name] for row in rows], ANNOTATION_SCHEMA.field(name).type)
        for name in ANNOTATION_SCHEMA.names
        if name != "created_at"
    }
    at = pa.array([round(1e6 * row["created_at"]) for row in rows], pa.int64())
    return pa.table({**columns, "created_at": at}).select(ANNOTATION_SCHEMA.names).cast(ANNOTATION_SCHEMA)
