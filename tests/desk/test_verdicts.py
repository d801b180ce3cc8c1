"""What people disagree on is listed for an expert, whose verdict counts as known truth."""

import csv
import io
from functools import partial

import pytest

from crlhf_ray.aggregation.actor import Aggregator
from crlhf_ray.feedback.desk.client import ServerError
from crlhf_ray.feedback.desk.desk import Desk
from crlhf_ray.feedback.desk.queue import QueueSettings
from crlhf_ray.feedback.desk.store import verdicts
from tests.desk.conftest import PASSWORD, honeypot, work

PLAIN = QueueSettings(qualification=0, labels_least=2, labels_most=2, honeypots_least=0, honeypots_most=0)


@pytest.fixture
def server(serve, database):
    server = serve(queue=PLAIN, database=database)
    server.publish([work(1, ("x = 1", "y = 2"), (0, 1)), work(2, ("z = 3",), (0,))], honeypots=1)
    for name, last in (("ann", 1), ("bob", -1)):
        person = server.person(name)
        while (task := person.next()) is not None:
            person.mark(task.lease_id, {line: last if line == 1 else 1 for line in task.to_review})
            person.submit(task.lease_id)
    server.settled()
    return server


def disputed(server):
    return [
        (row["item_id"], row["line"], {vote["name"]: vote["label"] for vote in row["votes"]})
        for row in server.lead._call("GET", "/disagreements")
    ]


def decide(server, line, truth, item=work(1).item_id):  # noqa: B008
    return server.lead._call("POST", f"/items/{item}/verdict", {"line": line, "truth": truth})


def test_lines_that_people_disagree_on_are_listed_and_others_are_not(server):
    assert disputed(server) == [(work(1).item_id, 1, {"ann": 1, "bob": -1})]
    assert server.lead._call("GET", "/disagreements?round=7") == []


def test_what_is_decided_or_was_thought_better_of_takes_no_page(server, monkeypatch):
    monkeypatch.setattr(verdicts, "PAGE", 1)
    server.publish([work(n, ("v = 4",), (0,)) for n in (3, 4)])
    for name, labels in (("ann", (1,)), ("bob", (1, -1))):  # of 3; bob changes his mind about 4
        person = server.lead.log_in(name, PASSWORD)
        while (task := person.next()) is not None:
            for label in labels if task.item_id == work(3).item_id else reversed(labels):
                person.mark(task.lease_id, {0: label})
            person.submit(task.lease_id)
    assert disputed(server) == [(work(3).item_id, 0, {"ann": 1, "bob": -1})]
    decide(server, 0, 1, work(3).item_id)
    assert disputed(server) == [(work(1).item_id, 1, {"ann": 1, "bob": -1})]


def test_a_verdict_is_known_truth_in_consensus_reliability_and_exports_also_after_a_restart(server):
    before = {row["annotator_id"]: row for row in server.desk.crowd.engine.reliability().to_pylist()}
    decide(server, 1, -1)
    decide(server, 1, -1)  # said again, as after an answer that was lost
    assert disputed(server) == []
    assert server.desk.crowd.posteriors([work(1).item_id])[work(1).item_id][1] == 0
    after = {row["annotator_id"]: row for row in server.desk.crowd.engine.reliability().to_pylist()}
    ann, bob = (person["annotator_id"] for person in server.lead._call("GET", "/stats")["annotators"])
    changes = {who: after[who]["specificity"] - before[who]["specificity"] for who in (ann, bob)}
    assert min(changes.values()) < 0 < max(changes.values())  # ann let it pass
    out = io.BytesIO()
    server.lead.export(out)
    rows = csv.DictReader(io.StringIO(out.getvalue().decode()))
    assert {row["truth"] for row in rows if row["text"] == "y = 2"} == {"-1"}
    log = [(row["action"], row["subject"]) for row in server.lead._call("GET", "/audit")]
    assert log.count(("verdict", f"{work(1).item_id}, line 2: wrong")) == 1
    server.close()
    fresh = Desk(server.desk.settings, partial(Aggregator, settings=None))
    assert fresh.crowd.posteriors([work(1).item_id])[work(1).item_id][1] == 0
    fresh.close()


def test_a_verdict_is_final_and_only_about_work(server):
    decide(server, 1, -1)
    with pytest.raises(ServerError, match="a verdict is final"):
        decide(server, 1, 1)
    with pytest.raises(ServerError, match="is not asked about"):
        decide(server, 7, 1)
    trap, _ = honeypot(0)
    with pytest.raises(ServerError, match="no program"):
        decide(server, 1, 1, trap.item_id)
    with pytest.raises(ServerError, match="403"):
        server.person("cid")._call("POST", f"/items/{work(1).item_id}/verdict", {"line": 1, "truth": 1})
