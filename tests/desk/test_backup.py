"""A backup holds all that a server keeps; what is restored from it goes on as if nothing had happened."""

import gzip
import json

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from benchmarks.postgres import new_database
from crlhf_ray.cli import app
from crlhf_ray.errors import ConfigError, DataError
from crlhf_ray.feedback.desk.backup import back_up, restore
from crlhf_ray.feedback.desk.queue import QueueSettings
from crlhf_ray.feedback.desk.store.database import Database, migrate
from crlhf_ray.feedback.desk.store.models import Program
from tests.desk.conftest import PASSWORD, review, work

PLAIN = QueueSettings(qualification=0, labels_least=2, honeypots_least=0, honeypots_most=0)


@pytest.fixture
def server(serve):
    server = serve(queue=PLAIN)
    server.publish([work(n) for n in range(3)], honeypots=1)
    ann = server.person("ann")
    review(ann, -1)
    task = ann.next()
    ann.mark(task.lease_id, {0: -1})
    return server


def test_a_restored_server_knows_people_programs_and_marks_and_goes_on(server, serve, tmp_path):
    file = tmp_path / "all.backup"
    assert back_up(server.desk.database, file)["mark"] == 3
    assert file.stat().st_mode & 0o077 == 0
    database = Database(f"sqlite:///{tmp_path / 'again.db'}")
    restore(database, file)
    database.close()
    again = serve(queue=PLAIN, database=f"sqlite:///{tmp_path / 'again.db'}")
    assert again.lead.annotations(0)[0].equals(server.lead.annotations(0)[0])
    ann = again.lead.log_in("ann", PASSWORD)
    assert ann.next().marked == {0: -1}
    assert review(ann) is not None
    assert review(ann) is not None


def test_nobody_else_reads_a_backup_whatever_lay_in_its_place(server, tmp_path):
    (tmp_path / "all.backup.partial").write_text("of one that was cut off")
    (tmp_path / "all.backup.partial").chmod(0o644)
    back_up(server.desk.database, tmp_path / "all.backup")
    assert (tmp_path / "all.backup").stat().st_mode & 0o077 == 0
    assert [file.name for file in tmp_path.glob("all*")] == ["all.backup"]
    with pytest.raises(ConfigError, match="there is no folder"):
        back_up(server.desk.database, tmp_path / "none" / "all.backup")


def test_a_database_of_another_version_is_left_as_it_is(tmp_path):
    url = f"sqlite:///{tmp_path / 'store.db'}"
    Database(url).close()
    database = Database(url, migrated=False)
    with database.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0002'"))
    with pytest.raises(ConfigError, match="of schema 0002, and this version has 0003"):
        back_up(database, tmp_path / "all")
    assert [file.name for file in tmp_path.glob("all*")] == []
    database.close()


def test_a_store_of_the_second_schema_is_brought_up_to_date(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'store.db'}", migrated=False)
    migrate(database.engine, "0002")
    migrate(database.engine)
    with database.read() as session:
        assert session.scalars(sa.select(Program.to_review, Program.verdicts)).all() == []
    database.close()


def test_a_backup_of_sqlite_is_restored_into_postgresql(server, serve, postgres, tmp_path):
    file, url = tmp_path / "all.backup", new_database(postgres)
    back_up(server.desk.database, file)
    database = Database(url)
    counts = restore(database, file)
    back_up(database, tmp_path / "second.backup")
    database.close()
    assert _lines(tmp_path / "second.backup") == _lines(file)
    again = serve(queue=PLAIN, database=url)
    assert review(again.person("bob")) is not None  # new rows get numbers after the old ones
    assert counts["submission"] == 1


def _lines(file):
    with gzip.open(file, "rt") as lines:
        return sorted(lines)


def test_a_file_that_is_no_whole_backup_changes_nothing(server, tmp_path):
    file, cut = tmp_path / "all.backup", tmp_path / "cut.backup"
    back_up(server.desk.database, file)
    with gzip.open(file, "rt") as lines, gzip.open(cut, "wt") as out:
        out.writelines(list(lines)[:-2])
    (tmp_path / "other").write_text("hello")
    with gzip.open(tmp_path / "old", "wt") as out:
        out.write(json.dumps({"kind": "crlhf_ray annotation server", "revision": "0000"}) + "\n")
    database = Database(f"sqlite:///{tmp_path / 'again.db'}")
    for name, problem in (("cut.backup", "cut off after"), ("other", "not a whole backup"), ("old", "of schema 0000")):
        with pytest.raises(DataError, match=problem):
            restore(database, tmp_path / name)
    assert restore(database, file)["account"] == 2
    with pytest.raises(ConfigError, match="the database is not empty"):
        restore(database, file)
    database.close()


def test_by_the_command_line(server, tmp_path):
    file, run = tmp_path / "all.backup", CliRunner()
    here = ["--set", f"dir={server.desk.settings.dir}"]
    done = run.invoke(app, ["review", "backup", str(file), *here], catch_exceptions=False)
    assert "2 accounts, 4 programs, 3 marks" in " ".join(done.output.split())
    with pytest.raises(ConfigError, match="exists: name another file"):
        run.invoke(app, ["review", "backup", str(file), *here], catch_exceptions=False)
    done = run.invoke(app, ["review", "restore", str(file), "--set", f"dir={tmp_path / 'new'}"], catch_exceptions=False)
    assert "2 accounts, 4 programs and 3 marks are back" in " ".join(done.output.split())
    with pytest.raises(ConfigError, match="holds no server's database"):
        run.invoke(app, ["review", "backup", "x", "--set", f"dir={tmp_path / 'none'}"], catch_exceptions=False)
