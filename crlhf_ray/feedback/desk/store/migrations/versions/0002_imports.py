"""Programs that a lead brings in: their own name, language and priority."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("program", sa.Column("name", sa.String(length=200), nullable=True))
    op.add_column("program", sa.Column("language", sa.String(length=200), nullable=True))
    op.add_column("program", sa.Column("priority", sa.Double(), nullable=False, server_default="0"))
    op.create_index("program_name", "program", ["name"], unique=False)
