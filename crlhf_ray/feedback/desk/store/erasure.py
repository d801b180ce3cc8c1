"""A person is forgotten: name, password, comments and addresses go; marks stay under the id that they always had."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from crlhf_ray.feedback.desk.store import work
from crlhf_ray.feedback.desk.store.imports import NO_PASSWORD
from crlhf_ray.feedback.desk.store.models import Account, Audit, Comment, Lease

#: What the subject of an audit line about these says of somebody: an address, or their own words after the program.
_ADDRESSES = ("log in", "log in refused")
_WORDS = "skip"


def erase(session: Session, person: Account) -> None:
    """Forget who somebody is. Every line of the audit log stays, with the id in the place of the name."""
    old, new = person.name, f"erased {person.annotator_id}"
    person.name, person.password_hash, person.keys = new, NO_PASSWORD, {}
    person.suspended, person.epoch = True, person.epoch + 1
    work.take_back(session, person.id)
    mine = sa.select(Lease.id).where(Lease.account_id == person.id)
    session.execute(sa.delete(Comment).where(Comment.lease_id.in_(mine)))
    for line in session.scalars(
        sa.select(Audit).where((Audit.who == old) | Audit.subject.startswith(old, autoescape=True))
    ):
        if line.who == old:
            line.who = new
            if line.action in _ADDRESSES:
                line.subject = ""
            elif line.action == _WORDS:
                line.subject = line.subject.partition(":")[0]
        if line.subject == old or line.subject.startswith(f"{old}:"):
            line.subject = new + line.subject.removeprefix(old)
