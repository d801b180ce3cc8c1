"""What one annotation server owns: the database, and what is known of the crowd.

A request that hands work out or takes it in is one transaction. What follows from a submission (the crowd's posterior,
whether the program is done, webhooks) is worked out after the answer was sent, by `KnownCrowd`, so that a honeypot
takes no longer or shorter to answer than other work.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import sqlalchemy as sa

from crlhf_ray.aggregation.marks import Item
from crlhf_ray.errors import ConfigError
from crlhf_ray.feedback.desk import queue
from crlhf_ray.feedback.desk.bring import Brought, Review
from crlhf_ray.feedback.desk.engine import MakeEngine
from crlhf_ray.feedback.desk.known_crowd import KnownCrowd
from crlhf_ray.feedback.desk.security import (
    Limiter,
    Signer,
    create_account,
    hashed,
    note,
    one_at_a_time,
    private_folder,
    server_secret,
)
from crlhf_ray.feedback.desk.settings import WebSettings
from crlhf_ray.feedback.desk.store import imports, programs, reviews, verdicts, work
from crlhf_ray.feedback.desk.store.database import Database
from crlhf_ray.feedback.desk.store.group_commit import Together
from crlhf_ray.feedback.desk.store.models import Account, Audit, Program
from crlhf_ray.feedback.desk.webhooks import Webhooks

#: Between two looks for programs that were left alone or whose deadline is over.
EXPIRE_SECONDS = 1.0
#: Between two looks for programs that wait for nobody.
TIDY_SECONDS = 60.0


def store_url(settings: WebSettings) -> str:
    """The database's URL: SQLite in the server's folder where none is named."""
    return settings.database or f"sqlite:///{settings.dir.absolute() / 'store.db'}"


class Desk:
    """Everything behind the routes. engine: makes the one that knows the crowd. clock: seconds since 1970.

    Raises ConfigError where the settings cannot work.
    """

    def __init__(self, settings: WebSettings, engine: MakeEngine, clock: Callable[[], float] = time.time):
        self.settings, self.clock = settings, clock
        private_folder(settings.dir)
        self.database = Database(store_url(settings))
        self.signer, self.limiter = Signer(server_secret(self.database)), Limiter()
        self.webhooks = Webhooks(settings.webhooks, settings.webhook_secret, settings.dir / "webhooks")
        self.logged_in_from: set[tuple[str, str]] = set()  # (name, address)
        self._random = random.SystemRandom()
        self._expired_at = self._tidied_at = float("-inf")
        self._marking, self._submitting = Together(self._store_marks), Together(self._submit)
        self.crowd = KnownCrowd(self.database, settings, engine, self.webhooks, clock)
        self.crowd.start(self._tidy)

    def close(self) -> None:
        """Wait for what is being learnt, and let go of the folder. Harmless when called twice."""
        self._marking.close()
        self._submitting.close()
        self.crowd.close()
        self.webhooks.close()
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
                over = programs.expire(session, now)
            self.crowd.tell_done(over)

    def _tidy(self) -> None:
        """What has to happen though nobody asks: deadlines, and programs for which nobody is left."""
        self._expire()
        now, settings = self.clock(), self.settings.queue
        if abs(now - self._tidied_at) >= TIDY_SECONDS:
            self._tidied_at = now
            with self.database.write() as session:
                over = programs.close_exhausted(
                    session, None, settings, now=now, present_seconds=settings.absent_seconds
                )
            self.crowd.tell_done(over)

    def _chance(self, account: Account) -> dict[str, float]:
        """The time, and how it is decided whether somebody's next program is a honeypot; see `work.hand_out`."""
        share = queue.honeypot_share(self.crowd.widths.get(account.annotator_id, 1.0), self.settings.queue)
        return {"now": self.clock(), "honeypot_share": share, "draw": self._random.random()}

    def save_marks(self, request: reviews.Marking) -> Future[None]:
        """Store marks; the future is done when they are on the disk, or has what `reviews.save_marks` raised."""
        return self._marking(request)

    def _store_marks(self, requests: Sequence[reviews.Marking]) -> list[None]:
        with self.database.write() as session:
            reviews.save_marks(session, requests, self.settings.queue, now=self.clock())
        return [None] * len(requests)

    def submit(self, request: reviews.Submitting) -> tuple[reviews.Submitted, work.Task | None]:
        """End a lease, and hand out the next program in the same transaction; see `reviews.submit`."""
        self._expire()
        done = self._submitting(request).result()
        self.crowd.submitted()
        return done

    def _submit(self, requests: Sequence[reviews.Submitting]) -> list[tuple[reviews.Submitted, work.Task | None]]:
        settings = self.settings.queue
        with self.database.write() as session:
            return [
                (done, work.hand_out(session, done.account, settings, **self._chance(done.account)))
                for done in reviews.submit(session, requests, settings, now=self.clock())
            ]

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
            for line in item.to_review
        ]
        self.crowd.add_gold(rows)
        return fresh

    def bring_in(self, brought: Sequence[Brought], reviews: Sequence[Review], who: str) -> dict[str, int]:
        """Store what a lead's files hold, all or nothing; returns counts by name."""
        now = self.clock()
        with self.database.write() as session:
            counts, honeypots = imports.bring_in(
                session, brought, self.settings.queue, now=now, opaque=self.signer.opaque
            )
            taken = imports.take_reviews(session, reviews, now=now)
            note(session, who, "import", f"{dict(counts)}, {dict(taken)}", now)
        self.crowd.add_gold(
            [{"item_id": p.item_id, "line": n, "truth": p.gold[n]} for p in honeypots for n in p.to_review if p.gold]
        )
        self.crowd.submitted()
        return {"programs": counts["new"], "changed": counts["changed"], "honeypots": len(honeypots)} | {
            "known": counts["known"] + taken["known"], "reviews": taken["reviews"]
        }  # fmt: skip

    def decide(self, item_id: str, line: int, truth: int, who: str) -> None:
        """Take in an expert's verdict on a line: it counts as known truth from now on."""
        now = self.clock()
        with self.database.write() as session:
            if not verdicts.decide(session, item_id, line, truth):
                return
            said = "correct" if truth > 0 else "wrong"
            note(session, who, "verdict", f"{item_id}, line {line + 1}: {said}", now)
        self.crowd.add_gold([{"item_id": item_id, "line": line, "truth": truth}])
        self.crowd.settle([item_id])

    def status(self, item_ids: Sequence[str]) -> dict[str, str]:
        """How far these programs are, by item_id. Those that nobody at work can review any more are closed first."""
        now = self.clock()
        with self.database.write() as session:
            over = programs.expire(session, now)
            queue_ = self.settings.queue
            over += programs.close_exhausted(session, item_ids, queue_, now=now, present_seconds=queue_.present_seconds)
            rows = session.execute(sa.select(Program.item_id, Program.state).where(Program.item_id.in_(item_ids)))
            states = dict(rows.tuples().all())
        self.crowd.tell_done(over)
        return states

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
