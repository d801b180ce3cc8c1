"""What an expert said of lines that people disagree on; the lines to review are called so."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("program", sa.Column("verdicts", sa.JSON(), nullable=True))
    op.execute("ALTER TABLE program RENAME COLUMN judged TO to_review")
