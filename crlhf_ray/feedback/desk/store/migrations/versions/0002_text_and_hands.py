"""The hash of a program's text; and nobody holds two programs."""

import hashlib
import json

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

PROGRAM = sa.table(
    "program",
    sa.column("item_id", sa.String()),
    sa.column("prompt", sa.Text()),
    sa.column("lines", sa.JSON()),
    sa.column("content", sa.String()),
    sa.column("honeypot", sa.Boolean()),
    sa.column("slots", sa.Integer()),
)
LEASE = sa.table(
    "lease",
    sa.column("id", sa.Integer()),
    sa.column("item_id", sa.String()),
    sa.column("account_id", sa.Integer()),
    sa.column("state", sa.String()),
)
AT_A_TIME = 1000


def upgrade() -> None:
    op.add_column("program", sa.Column("content", sa.String(length=64), nullable=False, server_default=""))
    connection, last = op.get_bind(), ""
    some = sa.select(PROGRAM.c.item_id, PROGRAM.c.prompt, PROGRAM.c.lines).order_by(PROGRAM.c.item_id).limit(AT_A_TIME)
    fill = sa.update(PROGRAM).where(PROGRAM.c.item_id == sa.bindparam("id")).values(content=sa.bindparam("hash"))
    while rows := connection.execute(some.where(PROGRAM.c.item_id > last)).all():
        connection.execute(fill, [{"id": row.item_id, "hash": _hash(row.prompt, row.lines)} for row in rows])
        last = rows[-1].item_id
    op.create_index("program_content", "program", ["content"], unique=False)
    # Of several that somebody holds, the latest is in hand; the others are as if left alone for too long.
    later = LEASE.alias()
    held = LEASE.c.state == "open", later.c.state == "open", later.c.account_id == LEASE.c.account_id
    older = sa.select(LEASE.c.id, LEASE.c.item_id).where(*held, later.c.id > LEASE.c.id).distinct()
    for lease_id, item_id in connection.execute(older).all():
        connection.execute(sa.update(LEASE).where(LEASE.c.id == lease_id).values(state="expired"))
        free = sa.update(PROGRAM).where(PROGRAM.c.item_id == item_id, ~PROGRAM.c.honeypot)
        connection.execute(free.values(slots=PROGRAM.c.slots + 1))
    in_hand = sa.text("state = 'open'")
    op.create_index(
        "lease_in_hand", "lease", ["account_id"], unique=True, sqlite_where=in_hand, postgresql_where=in_hand
    )


def _hash(prompt: str, lines: list[str]) -> str:
    return hashlib.sha256(json.dumps([prompt, lines]).encode()).hexdigest()


def downgrade() -> None:
    op.drop_index("lease_in_hand", table_name="lease")
    op.drop_index("program_content", table_name="program")
    op.drop_column("program", "content")
