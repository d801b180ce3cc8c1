"""What one annotation server owns: the database, what is known of the crowd, and the order in which it learns.

A request that hands work out or takes it in is one transaction. What follows from a submission (the crowd's posterior,
whether the program is done, webhooks) is worked out after the answer was sent, by `learn`, so that a honeypot takes no
longer or shorter to answer than other work.
"""

from __future__ import annotations

import copy
import logging
import random
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from scipy.special import expit
from sqlalchemy.orm import Session

from crlhf_ray.aggregation.actor import Aggregator
from crlhf_ray.aggregation.monitors import label_shortage
from crlhf_ray.aggregation.quality import krippendorff_alpha
from crlhf_ray.errors import ConfigError
from crlhf_ray.feedback import queue
from crlhf_ray.feedback.schema import ANNOTATION_SCHEMA, GOLD_SCHEMA, Item
from crlhf_ray.feedback.store import programs, work
from crlhf_ray.feedback.store.database import Database
from crlhf_ray.feedback.store.models import Account, Audit, Program, Reliability, Submission
from crlhf_ray.feedback.store.together import Together
from crlhf_ray.feedback.web.security import (
    Limiter,
    Signer,
    create_account,
    hashed,
    note,
    one_at_a_time,
    server_secret,
)
from crlhf_ray.feedback.web.settings import WebSettings
from crlhf_ray.feedback.web.webhooks import Webhooks

#: How long a view of the whole crowd is kept before it is worked out anew.
FRESH_SECONDS = 2.0
#: How long a request waits for a newer view before it takes the one that there is.
PATIENCE_SECONDS = 0.03
#: Between two looks for programs that were left alone or whose deadline is over.
EXPIRE_SECONDS = 1.0
#: Between two times of learning: what is submitted meanwhile is learnt from together.
LEARN_PAUSE_SECONDS = 0.5
#: Submissions taken in at a time when everything is learnt anew.
FIRST_BATCH = 3000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CrowdView:
    """The crowd as a whole. rates: as `Aggregator.reliability`, a dict each; alpha: Krippendorff's; at: when, took: s.

    reliable_lines: lines of work (not of honeypots) whose posterior is sure; hours: of annotation, in all.
    """

    rates: list[dict[str, Any]] = field(default_factory=list)
    alerts: list[dict[str, Any]] = field(default_factory=list)
    alpha: float | None = None
    reliable_lines: int = 0
    hours: float = 0.0
    at: float = float("-inf")
    took: float = 0.0


class Desk:
    """Everything behind the routes. clock: seconds since 1970. Raises ConfigError where the settings cannot work."""

    def __init__(self, settings: WebSettings, clock: Callable[[], float] = time.time):
        self.settings, self.clock = settings, clock
        settings.dir.mkdir(parents=True, exist_ok=True)
        self.database = Database(settings.database or f"sqlite:///{settings.dir.absolute() / 'store.db'}")
        self.signer, self.limiter = Signer(server_secret(self.database)), Limiter()
        self.webhooks = Webhooks(settings.webhooks, settings.webhook_secret, settings.dir / "webhooks")
        self._crowd_dir = settings.dir / "crowd"
        self._crowd_dir.mkdir(exist_ok=True)
        self.crowd = Aggregator(str(self._crowd_dir), settings.aggregation)
        self._learning = threading.Lock()
        #: Shares names with the crowd; its state is a copy, and it remembers what alerts compare with.
        self._watched = copy.copy(self.crowd)
        self._widths: dict[str, float] = {}
        self._remembered: dict[str, int] = {}
        self._view = CrowdView()
        self._background = ThreadPoolExecutor(1)
        self._random = random.SystemRandom()
        self._expired_at = float("-inf")
        self._storing = Together(self._store)
        self._learn_all()
        self._viewing = self._background.submit(self._work_out)
        self._submitted, self._closing = threading.Event(), threading.Event()
        self._learner = threading.Thread(target=self._keep_learning, daemon=True)
        self._learner.start()

    def close(self) -> None:
        """Wait for what is being learnt, and let go of the folder. Harmless when called twice."""
        self._closing.set()
        self._submitted.set()
        self._learner.join()
        self._storing.close()
        self._background.shutdown()
        self.webhooks.close()
        with self._learning:
            self.crowd.close()
        self.database.close()

    # -- handing out and taking in -------------------------------------------------------------------------------

    def next_task(self, account: Account) -> work.Task | None:
        """The account's next program, or the one that it holds; see `work.next_task`."""
        with self.database.read() as session:
            task = work.held_task(session, account.id, self.clock())
        if task is not None:
            return task
        self._expire()
        with self.database.write() as session:
            return work.next_task(session, account, self.settings.queue, **self._chance(account))

    def _expire(self) -> None:
        """In a transaction of its own: it locks several rows, so it must hold nothing that others wait for."""
        now = self.clock()
        if abs(now - self._expired_at) >= EXPIRE_SECONDS:
            self._expired_at = now
            with self.database.write() as session:
                programs.expire(session, now)

    def _chance(self, account: Account) -> dict[str, float]:
        """The time, and how it is decided whether somebody's next program is a honeypot; see `work.hand_out`."""
        share = queue.honeypot_share(self._widths.get(account.annotator_id, 1.0), self.settings.queue)
        return {"now": self.clock(), "honeypot_share": share, "draw": self._random.random()}

    def save_marks(self, request: work.Marking) -> Future[Any]:
        """Store marks; the future is done when they are on the disk, or has what `work.save_marks` raised."""
        return self._storing(request)

    def submit(self, request: work.Submitting) -> tuple[work.Submitted, work.Task | None]:
        """End a lease, and hand out the next program in the same transaction; see `work.submit`."""
        self._expire()
        done: tuple[work.Submitted, work.Task | None] = self._storing(request).result()
        self._submitted.set()
        return done

    def _store(self, requests: Sequence[work.Marking | work.Submitting]) -> list[Any]:
        """Do what came at the same time in one transaction; the answers to submissions, None for marks."""
        marking = [request for request in requests if isinstance(request, work.Marking)]
        submitting = [request for request in requests if isinstance(request, work.Submitting)]
        with self.database.write() as session:
            if marking:
                work.save_marks(session, marking, self.settings.queue, now=self.clock())
            submitted = work.submit(session, submitting, self.settings.queue, now=self.clock()) if submitting else []
            tasks = [
                work.hand_out(session, done.account, self.settings.queue, **self._chance(done.account))
                for done in submitted
            ]
        answers = iter(zip(submitted, tasks, strict=True))
        return [next(answers) if isinstance(request, work.Submitting) else None for request in requests]

    def publish(
        self,
        items: Sequence[Item],
        gold: dict[str, list[int]],
        round: int | None,
        deadline: float | None,
        who: str,
    ) -> int:
        """Put programs into the queue; returns how many are new. Idempotent."""
        now = self.clock()
        with self.database.write() as session:
            fresh = programs.publish(
                session, items, self.settings.queue, now=now, gold=gold, round=round, deadline=deadline
            )
            note(session, who, "publish", f"{fresh} new of {len(items)} programs, {len(gold)} with known answers", now)
        rows = [
            {"item_id": item.item_id, "line": line, "truth": gold[item.item_id][line]}
            for item in items
            if item.item_id in gold
            for line in item.judged
        ]
        with self._learning:
            self.crowd.add_gold(pa.Table.from_pylist(rows, schema=GOLD_SCHEMA))
        return fresh

    # -- learning ------------------------------------------------------------------------------------------------

    def learn(self) -> None:
        """Take what was submitted into the crowd's state, and settle the programs concerned."""
        with self._learning:
            while self._learn_some():
                pass

    def _keep_learning(self) -> None:
        """One thread learns for all submissions; those that come while it does are learnt from together."""
        while not self._closing.wait(LEARN_PAUSE_SECONDS):
            self._submitted.wait()
            self._submitted.clear()
            try:
                self.learn()
            except Exception:  # whatever it is: the next submission brings the next attempt
                _log.exception("what was submitted could not be learnt from")

    def _learn_all(self) -> None:
        with self.database.read() as session:
            golden = session.execute(
                sa.select(Program.item_id, Program.judged, Program.gold).where(Program.honeypot.is_(True))
            ).all()
        rows = [{"item_id": i, "line": n, "truth": truth[n]} for i, judged, truth in golden for n in judged]
        self.crowd.add_gold(pa.Table.from_pylist(rows, schema=GOLD_SCHEMA))
        with self._learning:
            while self._learn_some(FIRST_BATCH):
                pass

    def _learn_some(self, most: int = 500) -> bool:
        cursor_file = self._crowd_dir / "cursor"
        cursor = int(cursor_file.read_text()) if cursor_file.exists() else 0
        with self.database.read() as session:
            rows, after = work.events(session, cursor, most)
        if after == cursor:
            return False
        self.crowd.ingest(_annotations(rows))
        items = list(dict.fromkeys(row["item_id"] for row in rows))
        posteriors = self._posteriors(items)
        now = self.clock()
        with self.database.write() as session:
            done = programs.settle(
                session, {item: posteriors.get(item, {}) for item in items}, self.settings.queue, now=now
            )
            self._remember(session, {row["annotator_id"] for row in rows}, now)
        cursor_file.write_text(str(after))  # after the settling: an interrupted one is done again, and changes nothing
        for item_id in done:
            self.webhooks.send("item.done", {"item_id": item_id, "posterior": posteriors.get(item_id, {})})
        return True

    def _remember(self, session: Session, annotators: set[str], now: float) -> None:
        for rates in self.crowd.reliability().to_pylist():
            name = rates.pop("annotator_id")
            self._widths[name] = max(
                rates["sensitivity_high"] - rates["sensitivity_low"],
                rates["specificity_high"] - rates["specificity_low"],
            )
            # A point of the curve for every twentieth part more labels: a few hundred in a working life.
            if name in annotators and rates["labels"] >= 1.05 * self._remembered.get(name, 0):
                self._remembered[name] = rates["labels"]
                session.add(Reliability(annotator_id=name, at=now, rates=rates))

    def posteriors(self, item_ids: Sequence[str]) -> dict[str, dict[int, float]]:
        """P(line is correct) by item and line, as the crowd knows it now; lines nobody judged are left out."""
        with self._learning:
            return self._posteriors(item_ids)

    def _posteriors(self, item_ids: Sequence[str]) -> dict[str, dict[int, float]]:
        found: dict[str, dict[int, float]] = {}
        for row in self.crowd.consensus(item_ids).to_pylist():
            found.setdefault(row["item_id"], {})[row["line"]] = row["p_correct"]
        return found

    def crowd_view(self) -> CrowdView:
        """The crowd as a whole, worked out beside the requests: seconds old where there are millions of marks."""
        if self.clock() - self._view.at > max(FRESH_SECONDS, 20 * self._view.took) and self._viewing.done():
            self._viewing = self._background.submit(self._work_out)
        with suppress(TimeoutError):
            self._viewing.result(PATIENCE_SECONDS)
        return self._view

    def _work_out(self) -> None:
        begun = time.perf_counter()
        with self.database.read() as session:
            milliseconds = session.scalar(sa.select(sa.func.sum(Submission.milliseconds))) or 0
            done = sa.select(Program.labels, sa.func.count()).where(
                Program.honeypot.is_(False), Program.state == "done", Program.done_at > Program.created_at
            )
            labels, count = np.array(session.execute(done.group_by(Program.labels)).all(), int).reshape(-1, 2).T
        with self._learning:  # for as long as a copy takes: learning and drill-down go on meanwhile
            self._watched.state = copy.deepcopy(self.crowd.state)
        state = self._watched.state
        votes = state.votes()
        up = np.bincount(votes.task[votes.label > 0], minlength=state.n_tasks)
        down = np.bincount(votes.task[votes.label < 0], minlength=state.n_tasks)
        p = expit(state.log_odds(np.flatnonzero(state.task_gold[: state.n_tasks] == 0)))
        rates = self._watched.reliability().to_pylist()
        # programs still in the queue are on their way: only of those that are done can it be told
        short = label_shortage(np.repeat(labels, count), wanted=self.settings.queue.labels_least, what="programs")
        alerts = [asdict(alert) for alert in [*self._watched.alerts(labels_wanted=0), *short]]
        sure = self.settings.sure
        view = CrowdView(
            rates=rates,
            alerts=alerts,
            alpha=krippendorff_alpha(np.stack([up, down], axis=1)),
            reliable_lines=int(((p > sure) | (p < 1 - sure)).sum()),
            hours=milliseconds / 3.6e6,
            at=self.clock(),
            took=time.perf_counter() - begun,
        )
        known = {(alert["kind"], *alert["subjects"]) for alert in self._view.alerts}
        self._view = view
        for alert in alerts:
            if (alert["kind"], *alert["subjects"]) not in known:
                self.webhooks.send("alert", alert)

    # -- people --------------------------------------------------------------------------------------------------

    def invite(self, role: str, hours: float, who: str) -> str:
        """The secret part of an invite link, good for one account of this role."""
        token = self.signer.sign("invite", [role, hours, self._random.getrandbits(64)])
        with self.database.write() as session:
            note(session, who, "invite", role, self.clock())
        return token

    def accept_invite(self, token: str, name: str, password: str) -> Account:
        """Make the account of an invite. Raises ConfigError where it is spent, too old, or forged."""
        payload = self.signer.read("invite", token, 10 * 365 * 24 * 3600)
        if payload is None or self.signer.read("invite", token, payload[1] * 3600) is None:
            raise ConfigError("this invite is not valid, or too old: ask for a new one")
        spent = f"invite {payload[2]:x}"
        with self.database.write() as session:
            one_at_a_time(session)
            if session.scalar(sa.select(Audit.id).where(Audit.action == "join", Audit.subject == spent)):
                raise ConfigError("this invite was used already: log in, or ask for a new one")
            account = create_account(
                session,
                name,
                password,
                payload[0],
                checks=self.settings.queue.qualification,
                now=self.clock(),
            )
            note(session, account.name, "join", spent, self.clock())
        return account

    def simulated(self, name: str, who: str) -> str:
        """The token of a simulated annotator's account. Raises ConfigError where the name is a person's."""
        with self.database.write() as session:
            one_at_a_time(session)
            account = session.scalar(sa.select(Account).where(Account.name == name))
            if account is None:
                password, checks = secrets.token_urlsafe(32), self.settings.queue.qualification
                account = create_account(
                    session, name, password, "annotator", checks=checks, now=self.clock(), source="simulated"
                )
                note(session, who, "simulate", name, self.clock())
        if account.source != "simulated":
            raise ConfigError(f"{name!r} is a person's account: give the simulated annotator another name")
        return self.token(account)

    def password_link(self, account: Account, who: str) -> str:
        """The secret part of a link by which somebody chooses a new password, once."""
        with self.database.write() as session:
            note(session, who, "password link", account.name, self.clock())
        return self.signer.sign("password", [account.id, account.epoch])

    def choose_password(self, token: str, password: str) -> Account:
        """Set the password of a link, and end that person's sessions. Raises ConfigError where the link is spent, too
        old, or forged, or the password is too short."""
        payload = self.signer.read("password", token, self.settings.invite_hours * 3600)
        with self.database.write() as session:
            account = session.get(Account, payload[0], with_for_update=True) if payload else None
            if account is None or account.epoch != payload[1]:
                raise ConfigError("this link is not valid, was used, or is too old: ask for a new one")
            account.password_hash = hashed(password)
            account.epoch += 1  # which spends the link, too
            note(session, account.name, "new password", account.name, self.clock())
        return account

    def token(self, account: Account) -> str:
        """An API token of the account's, good for a year or until its sessions are ended."""
        return self.signer.sign("token", [account.id, account.epoch])


def _annotations(rows: Sequence[dict[str, Any]]) -> pa.Table:
    columns = {name: [row[name] for row in rows] for name in ANNOTATION_SCHEMA.names}
    columns["created_at"] = [round(1e6 * at) for at in columns["created_at"]]
    return pa.table(
        {
            name: pa.array(values, pa.int64()).cast(ANNOTATION_SCHEMA.field(name).type)
            if name == "created_at"
            else pa.array(values, ANNOTATION_SCHEMA.field(name).type)
            for name, values in columns.items()
        },
        schema=ANNOTATION_SCHEMA,
    )
