"""A person is forgotten: name, password, comments and addresses go; marks stay under the id that they always had."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from crlhf_ray.feedback.desk.names import skeleton
from crlhf_ray.feedback.desk.store import work
from crlhf_ray.feedback.desk.store.imports import NO_PASSWORD
from crlhf_ray.feedback.desk.store.models import Account, Audit, Comment, Lease

#: What the subject of an audit line about these says of somebody: an address, or their own words after the program.
REFUSED = "log in refused"
_ADDRESSES = ("log in", REFUSED)
_WORDS = "skip"


def erase(session: Session, person: Account) -> None:
    """Forget who somebody is. Every line of the audit log stays, with the id in the place of the name."""
    old, new = person.name, f"erased {person.annotator_id}"[:64]
    person.name, person.password_hash, person.keys = new, NO_PASSWORD, {}
    person.suspended, person.epoch = True, person.epoch + 1
    work.take_back(session, person.id)
    mine = sa.select(Lease.id).where(Lease.account_id == person.id)
    session.execute(sa.delete(Comment).where(Comment.lease_id.in_(mine)))
    tried = sa.select(Audit.who).where(Audit.action == REFUSED).distinct()
    spelt = [name for name in session.scalars(tried) if skeleton(name) == skeleton(old)]
    of_them = Audit.who.in_([old, *spelt])
    about = Audit.subject.startswith(old, autoescape=True) & (Audit.action != "invite")  # whose subject is a role
    for line in session.scalars(sa.select(Audit).where(of_them | about)):
        if line.who == old or line.who in spelt:
            line.who = new
            if line.action in _ADDRESSES:
                line.subject = ""
            elif line.action == _WORDS:
                line.subject = line.subject.partition(":")[0]
        if line.action != "invite" and (line.subject == old or line.subject.startswith(f"{old}:")):
            line.subject = new + line.subject.removeprefix(old)
