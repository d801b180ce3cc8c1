"""Somebody is forgotten: their words go, their marks stay."""

import pytest

from crlhf_ray.feedback.desk.backup import back_up
from crlhf_ray.feedback.desk.client import ServerError
from crlhf_ray.feedback.desk.queue import QueueSettings
from tests.desk.conftest import PASSWORD, review, work
from tests.desk.test_backup import _lines

PLAIN = QueueSettings(qualification=0, labels_least=1, honeypots_least=0, honeypots_most=0)


def test_of_an_erased_person_marks_and_the_audit_logs_lines_stay_and_nothing_else(serve, tmp_path):
    server = serve(queue=PLAIN)
    server.publish([work(n) for n in range(3)])
    person = server.person("Ann Mayer")
    server.lead.log_in("Ann Mayer", PASSWORD)
    task = person.next()
    person._call("POST", f"/leases/{task.lease_id}/comments", {"line": 0, "text": "as I told Bob"})
    review(person)
    person._call("POST", f"/leases/{person.next().lease_id}/release", {"reason": "I am ill"})
    name = person.me()["annotator_id"]
    server.lead._call("POST", f"/annotators/{name}/password")
    marks, log = server.lead.annotations(0)[0], len(server.lead._call("GET", "/audit"))
    with pytest.raises(ServerError):
        server.lead.log_in("ann mayer", "not the password")
    server.lead.invite("annotator")
    log += 2
    server.lead._call("POST", f"/annotators/{name}/erase")
    assert server.lead.annotations(0)[0].equals(marks)
    assert len(server.lead._call("GET", "/audit")) == log + 1
    back_up(server.desk.database, tmp_path / "all")
    everything = "".join(_lines(tmp_path / "all"))
    for word in ("Mayer", "mayer", "told Bob", "am ill", "127.0.0.1"):
        assert word not in everything
    for call in (person.me, lambda: server.lead.log_in("Ann Mayer", PASSWORD)):
        with pytest.raises(ServerError, match="401"):
            call()
    with pytest.raises(ServerError, match="invite the person again"):
        server.lead._call("POST", f"/annotators/{name}/reinstate")
    with pytest.raises(ServerError, match="invite the person again"):
        server.lead._call("POST", f"/annotators/{name}/password")


def test_only_admins_erase(serve):
    server = serve()
    name = server.person("ann").me()["annotator_id"]
    with pytest.raises(ServerError, match="needs the role admin"):
        server.person("boss", "lead")._call("POST", f"/annotators/{name}/erase")
