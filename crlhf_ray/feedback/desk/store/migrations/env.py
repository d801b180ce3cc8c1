"""Run by Alembic: the connection comes from `crlhf_ray.feedback.desk.store.database.migrate`."""

from alembic import context

from crlhf_ray.feedback.desk.store.models import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()
