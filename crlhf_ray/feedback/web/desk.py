"""What one annotation server owns: the database, what is known of the crowd, and the order in which it learns.

A request that hands work out or takes it in is one transaction. What follows from a submission (the crowd's posterior,
whether the program is done, webhooks) is worked out after the answer was sent, by `learn`, so that a honeypot takes no
longer or shorter to answer than other work.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from scipy.special import expit

from crlhf_ray.aggregation.actor import Aggregator
from crlhf_ray.aggregation.quality import krippendorff_alpha
from crlhf_ray.errors import ConfigError
from crlhf_ray.feedback import queue
from crlhf_ray.feedback.schema import ANNOTATION_SCHEMA, GOLD_SCHEMA, Item
from crlhf_ray.feedback.store import work
from crlhf_ray.feedback.store.database import Database
from crlhf_ray.feedback.store.models import Account, Audit, Program, Reliability, Submission
from crlhf_ray.feedback.web.security import Limiter, Signer, create_account, note, server_secret
from crlhf_ray.feedback.web.settings import WebSettings
from crlhf_ray.feedback.web.webhooks import Webhooks

#: How long a view of the whole crowd is kept before it is worked out anew.
FRESH_SECONDS = 2.0
#: How long a request waits for a newer view before it takes the one that there is.
PATIENCE_SECONDS = 0.03


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
        self._widths: dict[str, float] = {}
        self._view = CrowdView()
        self._background = ThreadPoolExecutor(1)
        self._random = random.SystemRandom()
        self._learn_all()
        self._viewing = self._background.submit(self._work_out)

    def close(self) -> None:
        """Wait for what is being learnt, and let go of the folder. Harmless when called twice."""
        self._background.shutdown()
        self.webhooks.close()
        with self._learning:
            self.crowd.close()
        self.database.close()

    # -- handing out and taking in -------------------------------------------------------------------------------

    def next_task(self, account: Account) -> work.Task | None:
        """The account's next program; see `work.next_task`."""
        share = queue.honeypot_share(self._widths.get(account.annotator_id, 1.0), self.settings.queue)
        with self.database.write() as session:
            return work.next_task(
                session,
                account,
                self.settings.queue,
                now=self.clock(),
                honeypot_share=share,
                draw=self._random.random(),
            )

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
            fresh = work.publish(
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

    def _learn_all(self) -> None:
        with self.database.read() as session:
            golden = session.execute(
                sa.select(Program.item_id, Program.judged, Program.gold).where(Program.honeypot.is_(True))
            ).all()
        rows = [{"item_id": i, "line": n, "truth": truth[n]} for i, judged, truth in golden for n in judged]
        self.crowd.add_gold(pa.Table.from_pylist(rows, schema=GOLD_SCHEMA))
        self.learn()

    def _learn_some(self) -> bool:
        cursor_file = self._crowd_dir / "cursor"
        cursor = int(cursor_file.read_text()) if cursor_file.exists() else 0
        with self.database.read() as session:
            rows, after = work.events(session, cursor)
        if after == cursor:
            return False
        self.crowd.ingest(pa.Table.from_pylist([_timed(row) for row in rows], schema=ANNOTATION_SCHEMA))
        items = list(dict.fromkeys(row["item_id"] for row in rows))
        posteriors = self.posteriors(items)
        now, done = self.clock(), []
        with self.database.write() as session:
            for item_id in items:
                if work.settle(session, item_id, posteriors.get(item_id, {}), self.settings.queue, now=now):
                    done.append(item_id)
            self._remember(session, {row["annotator_id"] for row in rows}, now)
        cursor_file.write_text(str(after))  # after the settling: an interrupted one is done again, and changes nothing
        for item_id in done:
            self.webhooks.send("item.done", {"item_id": item_id, "posterior": posteriors.get(item_id, {})})
        return True

    def _remember(self, session: Any, annotators: set[str], now: float) -> None:
        for rates in self.crowd.reliability().to_pylist():
            name = rates.pop("annotator_id")
            self._widths[name] = max(
                rates["sensitivity_high"] - rates["sensitivity_low"],
                rates["specificity_high"] - rates["specificity_low"],
            )
            if name in annotators:
                session.add(Reliability(annotator_id=name, at=now, rates=rates))

    def posteriors(self, item_ids: Sequence[str]) -> dict[str, dict[int, float]]:
        """P(line is correct) by item and line, as the crowd knows it now; lines nobody judged are left out."""
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
        with self._learning:
            state = self.crowd.state
            votes = state.votes()
            up = np.bincount(votes.task[votes.label > 0], minlength=state.n_tasks)
            down = np.bincount(votes.task[votes.label < 0], minlength=state.n_tasks)
            p = expit(state.log_odds(np.flatnonzero(state.task_gold[: state.n_tasks] == 0)))
            rates = self.crowd.reliability().to_pylist()
            alerts = [asdict(alert) for alert in self.crowd.alerts()]
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

    def invite(self, role: str, hours: float, who: str, source: str = "human") -> str:
        """The secret part of an invite link, good for one account of this role."""
        token = self.signer.sign("invite", [role, hours, self._random.getrandbits(64), source])
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
            if session.scalar(sa.select(Audit.id).where(Audit.action == "join", Audit.subject == spent)):
                raise ConfigError("this invite was used already: log in, or ask for a new one")
            account = create_account(
                session,
                name,
                password,
                payload[0],
                checks=self.settings.queue.qualification,
                now=self.clock(),
                source=payload[3],
            )
            note(session, account.name, "join", spent, self.clock())
        return account

    def token(self, account: Account) -> str:
        """An API token of the account's, good for a year or until its sessions are ended."""
        return self.signer.sign("token", [account.id, account.epoch])


def _timed(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"created_at": datetime.fromtimestamp(row["created_at"], UTC)}
