"""A database of an earlier version, with data, is brought up to date."""

import pytest
import sqlalchemy as sa

from crlhf_ray.feedback.desk.store.database import Database, migrate
from crlhf_ray.feedback.desk.store.models import Lease, Program, text_hash

LINES = {
    "i-1": ["    x = 1", "    return x"],
    "i-2": ["    return 2  # \x00\u2028"],
    "i-3": ["    x = 1", "    return x"],
}


@pytest.fixture
def first(database, tmp_path):
    """The URL of a database as the first version left it: three programs, two with the same text, all in one hand."""
    url = database or f"sqlite:///{tmp_path / 'store.db'}"
    engine = sa.create_engine(url)
    migrate(engine, "0001")
    tables = sa.MetaData()
    tables.reflect(engine)
    with engine.begin() as connection:
        connection.execute(
            tables.tables["account"].insert(),
            {
                "id": 1, "name": "ann", "annotator_id": "p-1", "password_hash": "", "role": "annotator",
                "source": "human", "suspended": False, "epoch": 0, "checks_left": 0, "keys": {}, "created_at": 0.0,
            },
        )  # fmt: skip
        for number, (item_id, lines) in enumerate(LINES.items()):
            connection.execute(
                tables.tables["program"].insert(),
                {
                    "item_id": item_id, "problem_id": "p", "prompt": "def f():\n", "lines": lines, "judged": [0],
                    "honeypot": number == 2, "state": "open", "labels": 0, "slots": 1, "rank": 0.0, "created_at": 0.0,
                },
            )  # fmt: skip
            connection.execute(
                tables.tables["lease"].insert(),
                {
                    "id": number + 1, "item_id": item_id, "account_id": 1, "qualification": False, "issued_at": 0.0,
                    "expires_at": 1e12, "state": "open",
                },
            )  # fmt: skip
    engine.dispose()
    return url


def test_programs_get_the_hash_of_their_text_and_nobody_keeps_two_in_hand(first):
    upgraded = Database(first)
    with upgraded.read() as session:
        programs = {program.item_id: program for program in session.scalars(sa.select(Program))}
        states = session.scalars(sa.select(Lease.state).order_by(Lease.id)).all()
    assert {name: one.content for name, one in programs.items()} == {
        name: text_hash("def f():\n", lines) for name, lines in LINES.items()
    }
    assert states == ["expired", "expired", "open"]
    assert [programs[name].slots for name in LINES] == [2, 2, 1]
    upgraded.close()


def test_a_second_program_in_hand_is_refused_by_the_database(first):
    upgraded = Database(first)
    with pytest.raises(sa.exc.IntegrityError), upgraded.write() as session:
        session.execute(sa.update(Lease).values(state="open"))
    upgraded.close()
