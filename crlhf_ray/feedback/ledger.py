"""Reading a run's marks back, wherever its ledger is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from crlhf_ray.aggregation.marks import ANNOTATION_SCHEMA
from crlhf_ray.feedback.desk.client import AnnotationClient
from crlhf_ray.feedback.desk.known_crowd import as_marks
from crlhf_ray.feedback.desk.store import reviews
from crlhf_ray.feedback.desk.store.database import Database
from crlhf_ray.feedback.log import AnnotationLog
from crlhf_ray.feedback.settings import FeedbackSettings

#: In a run's folder: its own log, and the folder of the annotation server that it starts itself.
LOG, SERVER = "annotations", "annotation"


def read_marks(run_dir: Path, settings: FeedbackSettings) -> pa.Table:
    """All marks of a run as ANNOTATION_SCHEMA: its own log's, then the annotation server's, where it uses one.

    With the source ``web`` the server at work is asked, which may hold marks of other runs too. Raises ServerError
    where it does not answer, ConfigError where its token is missing, DataError for a damaged log.
    """
    own = AnnotationLog(run_dir / LOG).read() if (run_dir / LOG).is_dir() else ANNOTATION_SCHEMA.empty_table()
    match settings.source:
        case "web":
            with AnnotationClient.from_file(settings.web.url, settings.web.token_file) as client:
                return pa.concat_tables([own, *(page for page, _ in client.since(0))])
        case "simulated" if (file := run_dir / SERVER / "store.db").exists():
            return pa.concat_tables([own, *_stored(Database(f"sqlite:///{file.absolute()}"))])
    return own


def _stored(database: Database) -> Iterator[pa.Table]:
    try:
        with database.read() as session:
            cursor, (rows, after) = 0, reviews.events(session, 0)
            while after != cursor:
                yield as_marks(rows)
                cursor, (rows, after) = after, reviews.events(session, after)
    finally:
        database.engine.dispose()
