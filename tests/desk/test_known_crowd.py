"""What the server learns of its crowd, when it learns anew, and what it tells without being asked."""

import json
import shutil
import time
from datetime import UTC, datetime

import pytest

from crlhf_ray.aggregation.actor import Aggregator
from crlhf_ray.feedback.desk import known_crowd as crowd
from crlhf_ray.feedback.desk.desk import Desk
from crlhf_ray.feedback.desk.queue import QueueSettings
from crlhf_ray.feedback.desk.settings import WebSettings
from tests.desk.conftest import review, work
from tests.desk.test_webhooks import SECRET, receiver, wait_for

__all__ = ["receiver"]

NO_CHECKS = QueueSettings(qualification=0, labels_least=1, labels_most=1, honeypots_least=0, honeypots_most=0)


def reviewed(serve, count, **settings):
    """A server, closed, at which so many programs were reviewed; its settings."""
    server = serve(queue=NO_CHECKS, **settings)
    server.publish([work(n) for n in range(count)], honeypots=2)
    person = server.person("ann")
    for _ in range(count):
        review(person)
    server.settled()
    server.close()
    return server.desk.settings


def learnt(settings):
    """What a server with these settings knows once it has started."""
    desk = Desk(settings, Aggregator)
    digest = desk.crowd.engine.digest()
    desk.close()
    return digest


@pytest.mark.parametrize("left", [None, "somebody-elses", b"\xff\xfe"])
def test_a_folder_that_may_be_of_another_database_is_learnt_again(serve, tmp_path, left):
    settings = reviewed(serve, 3)
    file = settings.dir / "crowd" / "database"
    name = file.read_bytes()
    file.unlink() if left is None else file.write_bytes(left if isinstance(left, bytes) else left.encode())
    fresh = WebSettings(dir=tmp_path / "fresh", database=f"sqlite:///{settings.dir / 'store.db'}", queue=NO_CHECKS)
    assert learnt(settings) == learnt(fresh)
    assert file.read_bytes() == name


def test_a_folder_that_knows_more_than_its_database_is_learnt_again(serve, tmp_path):
    settings = reviewed(serve, 3)
    shutil.copytree(settings.dir, tmp_path / "older")
    server = serve(queue=NO_CHECKS, database=f"sqlite:///{settings.dir / 'store.db'}")
    server.publish([work(3)])
    review(server.person("bob"))
    server.settled()
    server.close()
    older = WebSettings(dir=tmp_path / "older", queue=NO_CHECKS)
    shutil.rmtree(older.dir / "crowd")
    shutil.copytree(server.desk.settings.dir / "crowd", older.dir / "crowd")
    fresh = WebSettings(dir=tmp_path / "fresh", database=f"sqlite:///{older.dir / 'store.db'}", queue=NO_CHECKS)
    assert learnt(older) == learnt(fresh)


def test_what_a_killed_server_had_not_written_down_is_learnt_from_its_database(serve, tmp_path):
    server = serve(queue=NO_CHECKS)
    server.publish([work(n) for n in range(4)], honeypots=2)
    person = server.person("ann")
    for _ in range(4):
        review(person)
    server.settled()
    shutil.copytree(server.desk.settings.dir, tmp_path / "killed")  # what the disk has before it closes
    killed = Desk(WebSettings(dir=tmp_path / "killed", queue=NO_CHECKS), Aggregator)
    assert killed.crowd.engine.position() == server.desk.crowd.engine.position() == 4
    assert killed.crowd.engine.stats() == server.desk.crowd.engine.stats()
    killed.close()


def test_a_program_that_could_not_be_settled_is_settled_with_the_next_learning(serve, monkeypatch):
    server = serve(queue=NO_CHECKS)
    server.publish([work(1)])
    with monkeypatch.context() as broken:
        broken.setattr(crowd.programs, "settle", lambda *_, **__: 1 / 0)
        review(server.person("ann"))
        with pytest.raises(ZeroDivisionError):
            server.settled()
    server.settled()
    assert server.lead.status([work(1).item_id]) == {work(1).item_id: "done"}


def test_a_folder_beside_another_database_forgets_the_first_one(serve, tmp_path):
    a, b = reviewed(serve, 3), reviewed(serve, 5)
    other = {"database": f"sqlite:///{b.dir / 'store.db'}", "queue": NO_CHECKS}
    assert learnt(WebSettings(dir=a.dir, **other)) == learnt(WebSettings(dir=tmp_path / "fresh", **other))


def test_learning_anew_opens_no_program_again(serve, monkeypatch):
    settings = reviewed(serve, 6)
    (settings.dir / "crowd" / "database").unlink()
    monkeypatch.setattr(crowd, "FIRST_BATCH", 2)
    server = serve(queue=NO_CHECKS, database=f"sqlite:///{settings.dir / 'store.db'}")
    assert set(server.lead.status([work(n).item_id for n in range(6)]).values()) == {"done"}


def test_who_has_seen_nearly_all_honeypots_is_named_to_the_lead(serve):
    server = serve(queue=QueueSettings(qualification=1, honeypots_least=1, honeypots_most=1))
    server.publish([work(1)], honeypots=crowd.FEW_HONEYPOTS + 2)
    person = server.person("ann")

    def alerts():
        server.now += 1000
        server.desk.crowd.view()
        server.desk.crowd._viewing.result()
        return {alert["kind"]: list(alert["subjects"]) for alert in server.desk.crowd.view().alerts}

    review(person)  # and the next one is in their hands
    server.settled()
    assert "honeypot shortage" not in alerts()
    review(person)
    server.settled()
    assert alerts()["honeypot shortage"] == [person.me()["annotator_id"]]


def told(got):
    """(kind, item or alert) of the messages that came."""
    messages = [json.loads(body) for _, body in got]
    return {(one["type"], one["data"].get("item_id") or one["data"]["kind"]) for one in messages}


def test_deadlines_and_alerts_are_told_of_while_nobody_looks(serve, receiver, monkeypatch):
    monkeypatch.setattr(crowd, "LOOK_SECONDS", 0.2)
    url, got = receiver
    server = serve(queue=NO_CHECKS, webhooks=(url,), webhook_secret=SECRET)
    server.lead.publish([work(1)], deadline=datetime.fromtimestamp(server.now + 60, UTC))
    server.now += 61
    while told(got) != {("item.done", work(1).item_id), ("alert", "label shortage")}:
        time.sleep(0.05)
        server.now += 1


def test_a_program_that_is_done_because_nobody_is_left_for_it_is_told_of(serve, receiver):
    url, got = receiver
    queue = NO_CHECKS.model_copy(update={"labels_least": 2, "labels_most": 3})
    server = serve(queue=queue, webhooks=(url,), webhook_secret=SECRET)
    server.publish([work(1)])
    a, b = server.person("a"), server.person("b")
    review(a)
    review(b, -1)
    server.settled()
    assert server.lead.status([work(1).item_id]) == {work(1).item_id: "done"}
    wait_for(1, got)
    assert told(got) == {("item.done", work(1).item_id)}
