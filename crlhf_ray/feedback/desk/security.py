"""Who is asking, and may they: passwords (argon2), signed sessions, invites and tokens, CSRF, roles, rate limits.

Sessions and tokens are signed, not stored; raising `Account.epoch` ends all of a person's, and `LoggedOut` remembers
single sessions that were ended. A browser sends its session by cookie and must repeat its CSRF token in a header or
form field with whatever changes something; programs send ``Authorization: Bearer TOKEN`` instead, which no other site
can make a browser send.
"""

from __future__ import annotations

import hmac
import json
import secrets
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from fastapi import Depends, HTTPException, Request
from itsdangerous import BadSignature, URLSafeTimedSerializer
from sqlalchemy.orm import Session

from crlhf_ray.errors import ConfigError
from crlhf_ray.feedback.desk import names
from crlhf_ray.feedback.desk.store.database import Database
from crlhf_ray.feedback.desk.store.models import ROLES, Account, Audit, Setting

COOKIE = "crlhf_session"
SHORTEST_PASSWORD = 10
#: Addresses and people that the rate limits count at a time, before those that were quiet for a minute are forgotten.
MOST_COUNTED = 10_000
_LOGGED_OUT = "logged out "
TOKEN_SECONDS = 365 * 24 * 3600
_HASHER = PasswordHasher()
#: Checked where there is no such account, so that a wrong name takes as long as a wrong password.
_NOBODY = _HASHER.hash(secrets.token_hex())


class Signer:
    """Signs and reads sessions, CSRF tokens, invites and API tokens with the server's secret."""

    def __init__(self, secret: str):
        self._secret = secret

    def sign(self, kind: str, payload: Any) -> str:
        return URLSafeTimedSerializer(self._secret, salt=kind).dumps(payload)

    def opaque(self, *parts: str) -> str:
        """An id that says nothing to those who do not know the secret; equal parts give equal ids."""
        return "i-" + hmac.new(self._secret.encode(), json.dumps(parts).encode(), "sha256").hexdigest()[:16]

    def read(self, kind: str, text: str, seconds: float) -> Any:
        """The payload; None where it is forged or older than so many seconds."""
        try:
            return URLSafeTimedSerializer(self._secret, salt=kind).loads(text, max_age=int(seconds))
        except BadSignature:
            return None


class LoggedOut:
    """Sessions that somebody logged out of: a signed cookie is good until it expires, also for who copied it.

    Kept in the database for as long as they would have been good, and in this process for a quick answer.
    """

    def __init__(self, database: Database, session_seconds: float):
        self._database, self._seconds = database, session_seconds
        with database.read() as session:
            rows = session.scalars(sa.select(Setting).where(Setting.name.startswith(_LOGGED_OUT)))
            self._nonces = {row.name.removeprefix(_LOGGED_OUT) for row in rows}

    def add(self, nonce: str) -> None:
        now = time.time()  # as in the cookies' signatures
        with self._database.write() as session:
            old = sa.select(Setting).where(Setting.name.startswith(_LOGGED_OUT))
            for row in session.scalars(old):
                if float(row.value) < now - self._seconds:
                    session.delete(row)
            session.merge(Setting(name=_LOGGED_OUT + nonce, value=str(now)))
        self._nonces.add(nonce)

    def __contains__(self, nonce: str | None) -> bool:
        return nonce in self._nonces


class Limiter:
    """At most so many requests in any minute, counted in this process."""

    def __init__(self) -> None:
        self._hits: dict[tuple[str, str], deque[float]] = {}
        self._lock = threading.Lock()

    def check(self, kind: str, who: str, a_minute: int) -> None:
        now = time.monotonic()
        with self._lock:
            if len(self._hits) > MOST_COUNTED:
                self._hits = {key: hits for key, hits in self._hits.items() if hits[-1] > now - 60}
            hits = self._hits.setdefault((kind, who), deque())
            while hits and hits[0] <= now - 60:
                hits.popleft()
            if len(hits) < a_minute:
                hits.append(now)
                return
        raise HTTPException(429, f"too many requests: at most {a_minute} a minute", headers={"Retry-After": "60"})


def private_folder(folder: Path) -> None:
    """Make the folder, or make it so that this user alone can enter it. Raises ConfigError where it is another's.

    The signing key, gold and the password hashes lie there: whoever can read them is an admin.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_mode & 0o077:
        try:
            folder.chmod(0o700)
        except PermissionError as error:
            raise ConfigError(
                f"dir={folder}: others can read it, and it is not yours to change: chmod 700 it, or name another"
            ) from error


def server_secret(database: Database) -> str:
    """The signing key; made once and kept in the database."""
    with database.write() as session:
        if session.get(Setting, "submissions") is None:
            session.add(Setting(name="submissions", value=""))
        kept = session.get(Setting, "secret")
        if kept is None:
            kept = Setting(name="secret", value=secrets.token_urlsafe(48))
            session.add(kept)
        return kept.value


def one_at_a_time(session: Session) -> None:
    """Have those who make accounts wait for each other until their transactions end."""
    session.execute(sa.select(Setting).where(Setting.name == "secret").with_for_update())


def hashed(password: str) -> str:
    """The password's argon2 hash. Raises ConfigError where it is too short."""
    if len(password) < SHORTEST_PASSWORD:
        raise ConfigError(f"choose a password of at least {SHORTEST_PASSWORD} characters")
    return _HASHER.hash(password)


def create_account(
    session: Session, name: str, password: str, role: str, *, checks: int, now: float, source: str = "human"
) -> Account:
    """A new account. Raises ConfigError for a name that is taken, or looks like one that is, and a short password."""
    name = names.normalised(name)
    if (other := names.taken(name, session.scalars(sa.select(Account.name)))) is not None:
        like = "is taken" if other == name else f"looks like {other!r}, which is taken"
        raise ConfigError(f"the name {name!r} {like}: choose another")
    account = Account(
        name=name, annotator_id=f"p-{secrets.token_hex(6)}", password_hash=hashed(password), role=role,
        source=source, checks_left=checks if role == "annotator" else 0, keys={}, created_at=now,
    )  # fmt: skip
    session.add(account)
    session.flush()
    return account


def verify_password(session: Session, name: str, password: str) -> Account | None:
    """The account where name and password are right and it is not suspended."""
    account = None
    with suppress(ConfigError):
        account = session.scalar(sa.select(Account).where(Account.name == names.normalised(name)))
    try:
        _HASHER.verify(account.password_hash if account else _NOBODY, password)
    except (VerificationError, InvalidHashError):
        return None
    return account if account and not account.suspended else None


def note(session: Session, who: str, action: str, subject: str, now: float) -> None:
    """Add a line to the audit log."""
    session.add(Audit(at=now, who=who, action=action, subject=subject[:200]))


def session_cookie(signer: Signer, account: Account) -> str:
    return signer.sign("session", [account.id, account.epoch, secrets.token_urlsafe(12)])


def csrf_token(request: Request) -> str:
    """The token that this session's forms and scripts send back."""
    return str(request.app.state.desk.signer.sign("csrf", request.state.nonce))


def identify(request: Request) -> Account | None:
    """Whose request it is, as things stand now. None where the session or token is ended, expired or forged."""
    desk = request.app.state.desk
    bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
    if bearer:
        payload = desk.signer.read("token", bearer, TOKEN_SECONDS)
    else:
        payload = desk.signer.read("session", request.cookies.get(COOKIE, ""), desk.settings.session_seconds)
    if payload is None:
        return None
    account: Account | None = desk.database.account(payload[0])
    nonce = None if bearer else payload[2]
    if account is None or account.suspended or account.epoch != payload[1] or nonce in request.app.state.logged_out:
        return None
    request.state.nonce = nonce
    return account


async def _sent_csrf(request: Request) -> str:
    header = request.headers.get("x-csrf-token")
    return header if header is not None else str((await request.form()).get("csrf_token", ""))


async def same_origin(request: Request) -> None:
    """Refuse a form that another site had a browser send: it could log somebody in to an account that is not theirs."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        ours = site in ("same-origin", "none")
    else:  # older browsers, and plain HTTP
        ours = origin is None or urlsplit(origin).netloc == request.headers.get("host")
    if not ours:
        raise HTTPException(403, "this form was sent from another site: open the page itself and try again")


class Needs:
    """A dependency: the account that asks, if its role is at least this one."""

    def __init__(self, role: str):
        self.role = role

    async def __call__(self, request: Request) -> Account:
        desk = request.app.state.desk
        account = identify(request)
        if account is None:
            raise HTTPException(401, "log in first, or send a valid token as Authorization: Bearer")
        if ROLES.index(account.role) < ROLES.index(self.role):
            raise HTTPException(403, f"this needs the role {self.role}; yours is {account.role}")
        if account.source == "human":
            desk.limiter.check("account", str(account.id), desk.settings.requests_a_minute)
        if request.method not in ("GET", "HEAD") and request.state.nonce is not None:
            sent = desk.signer.read("csrf", await _sent_csrf(request), desk.settings.session_seconds)
            if sent != request.state.nonce:
                raise HTTPException(403, "the page is out of date: reload it and try again")
        return account


Annotator = Annotated[Account, Depends(Needs("annotator"))]
Lead = Annotated[Account, Depends(Needs("lead"))]
Admin = Annotated[Account, Depends(Needs("admin"))]
