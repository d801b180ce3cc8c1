"""Who may do what, and what never leaves the server."""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import mode

import httpx
import numpy as np
import pytest
import sqlalchemy as sa
from fastapi.routing import APIRoute

from crlhf_ray.feedback.desk.app import HEADERS, create_app
from crlhf_ray.feedback.desk.client import AnnotationClient, ServerError
from crlhf_ray.feedback.desk.queue import QueueSettings
from crlhf_ray.feedback.desk.security import Needs
from crlhf_ray.feedback.desk.store.models import ROLES, Account
from tests.desk.conftest import PASSWORD, honeypot, review, work

HOSTILE = '    return "</code><script>alert(1)</script><img src=x onerror=alert(1)>"  # {{ 7*7 }}'
PUBLIC = {"/login", "/invite/{token}", "/password/{token}", "/healthz", "/api/v1/join", "/api/v1/token"}
#: Calls of each person whose answers are timed.
MANY = 100
VALUES = {"lease_id": "1", "item_id": "i-1", "annotator_id": "p-1", "action": "suspend", "token": "x"}


@pytest.fixture
def server(serve):
    return serve(queue=QueueSettings(qualification=1))


def routes(server):
    return [route for route in create_app(server.desk).routes if isinstance(route, APIRoute)]


def needed(route):
    """The role that a route's dependencies ask for."""
    found = [d.call.role for d in route.dependant.dependencies if isinstance(d.call, Needs)]
    return found[0] if found else None


def test_every_route_is_public_on_purpose_or_names_a_role(server):
    for route in routes(server):
        assert (route.path in PUBLIC) == (needed(route) is None), route.path


def test_every_route_turns_away_whoever_lacks_its_role(server):
    sessions = {role: server.browser(role, role) for role in ROLES}
    with httpx.Client(base_url=server.url) as stranger:
        for route in routes(server):
            role = needed(route)
            if role is None:
                continue
            path = re.sub(r"{(\w+)}", lambda match: VALUES[match.group(1)], route.path)
            for method in route.methods:
                answer = stranger.request(method, path)
                assert answer.status_code == (401 if path.startswith("/api/") else 303), (method, path)
                for lesser in ROLES[: ROLES.index(role)]:
                    assert sessions[lesser].request(method, path).status_code == 403, (method, path, lesser)


def test_a_change_without_the_csrf_token_is_refused(server):
    session = server.browser("ann")
    del session.headers["X-CSRF-Token"]
    assert session.post("/api/v1/next").status_code == 403
    assert session.post("/logout", data={"csrf_token": "made up"}).status_code == 403


def test_the_csrf_token_of_another_session_is_refused(server):
    a, b = server.browser("a"), server.browser("b")
    a.headers["X-CSRF-Token"] = b.headers["X-CSRF-Token"]
    assert a.post("/api/v1/next").status_code == 403


def test_every_answer_carries_the_headers_that_keep_hostile_text_harmless(server):
    for path in ("/login", "/static/work.js", "/api/v1/me", "/nowhere"):
        answer = httpx.get(server.url + path)
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS


def test_pages_have_no_inline_script_or_style(server):
    session = server.browser("ann", "lead")
    server.publish([work(1)])
    for path in ("/login", "/work", "/lead", "/lead/programs", "/lead/people", f"/lead/programs/{work(1).item_id}"):
        page = session.get(path).text
        for script in re.findall(r"<script[^>]*>", page):
            assert "src=" in script or 'type="application/json"' in script
        assert "<style" not in page
        assert not re.search(r"\s(on\w+|style)=", re.sub(r"<script.*?</script>", "", page, flags=re.S))


def test_generated_code_is_escaped_everywhere(server):
    hostile = work(1, (HOSTILE,), (0,))
    server.publish([hostile], honeypots=1)
    lead = server.browser("boss", "lead")
    client = server.person("b")
    review(client)
    task = client._call("POST", "/next", {})
    assert task["item_id"] == hostile.item_id
    drill = lead.get(f"/api/v1/items/{hostile.item_id}").json()
    for html in (task["lines"][0]["html"], drill["lines"][0]["html"]):
        assert "<script" not in html
        assert "<img" not in html
    assert "<script>alert" not in lead.get("/work").text


def test_honeypots_and_other_work_look_alike(serve):
    server = serve(queue=QueueSettings(qualification=0, honeypots_least=1, honeypots_most=1))
    trap, gold = honeypot(1)
    plain = work(2, trap.lines, trap.to_review)
    server.lead.publish([trap], gold=gold, round=0)
    server.lead.publish([plain], round=0)
    person, seen = server.person("ann"), {}
    while (answer := person._http.post("/next", json={})).status_code == 200:
        task = answer.json()
        person.mark(task["lease_id"], {line["number"]: 1 for line in task["lines"] if line["to_review"]})
        submitted = person._http.post(f"/leases/{task['lease_id']}/submit", json={"confidence": 2})
        seen[task["item_id"]] = task, answer.headers.keys(), submitted.headers.keys(), submitted.json()["feedback"]
    (task, *rest), (other, *other_rest) = seen[plain.item_id], seen[trap.item_id]
    different = {"lease_id", "item_id", "progress", "prompt"}  # which number, which name, how many were done
    assert {k: v for k, v in task.items() if k not in different} == {
        k: v for k, v in other.items() if k not in different
    }
    assert list(task) == list(other)
    assert list(task["prompt"]) == list(other["prompt"])
    assert rest == other_rest
    assert rest[-1] is None
    for item_id in seen:
        assert re.fullmatch(r"i-[0-9a-f]{16}", item_id)


@pytest.fixture
def long_work(serve):
    """A server with many programs of the same length and as many honeypots, half of each one's work; nothing else."""
    server = serve(
        queue=QueueSettings(qualification=0, honeypots_least=0.5, honeypots_most=0.5, skips_a_day=10_000),
        requests_a_minute=100_000,
    )
    lines = tuple(f"    value_{n} = [x for x in range({n}) if x % 2 == 0]" for n in range(40))
    items = [work(n, (f"    # {n:03}", *lines), range(1, 41)) for n in range(2 * MANY)]
    server.lead.publish(items, gold={item.item_id: [1] * 41 for item in items[MANY:]})
    server.traps = {item.item_id for item in items[MANY:]}
    return server


def asked(server, person, calls):
    """Whether it was a honeypot, how long /next took and how many statements it ran, of each of so many calls."""
    statements = []
    sa.event.listen(server.desk.database.engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
    for _ in range(calls):
        server.now += 1  # as on a real day, it is looked for what is over in each call
        statements.clear()
        begun = time.perf_counter()
        answer = person._http.post("/next", json={})
        took = time.perf_counter() - begun
        ran = len(statements)
        task = answer.json()
        person.release(task["lease_id"])
        yield task["item_id"] in server.traps, took, ran


def test_how_long_an_answer_takes_does_not_tell_a_honeypot(long_work):
    """By the second annotator, whatever is kept of programs that were shown before is there."""
    first, second = long_work.person("ann"), long_work.person("bob")
    for _ in asked(long_work, first, MANY):
        pass
    trap, took, _ = zip(*asked(long_work, second, MANY), strict=True)
    trap, rank = np.array(trap), np.argsort(np.argsort(took))
    n, m = trap.sum(), (~trap).sum()
    faster = 1 - (rank[trap].sum() - n * (n - 1) / 2) / (n * m)
    assert min(n, m) > MANY // 4
    assert 0.35 < faster < 0.65


def test_the_same_is_asked_of_the_database_for_a_honeypot_as_for_other_work(long_work):
    ran = [(trap, count) for trap, _, count in asked(long_work, long_work.person("ann"), 40)]
    # now and then something else runs: the account is read anew, or the server looks round by itself
    assert mode(count for trap, count in ran if trap) == mode(count for trap, count in ran if not trap)


def test_gold_never_leaves_the_server_outside_the_qualification_round(server):
    server.publish([work(n) for n in range(3)], honeypots=4)
    person, lead = server.person("ann"), server.browser("boss", "lead")
    review(person)
    texts = []
    while (answer := person._http.post("/next", json={})).status_code == 200:
        texts.append(answer.text)
        task = answer.json()
        person.mark(task["lease_id"], {line["number"]: 1 for line in task["lines"] if line["to_review"]})
        texts.append(person._http.post(f"/leases/{task['lease_id']}/submit", json={"confidence": 2}).text)
    texts += [person._http.get(path).text for path in ("/me", "/me/keys")]
    texts += [lead.get(f"/api/v1{path}").text for path in ("/items?honeypots=true", "/stats", "/annotations")]
    for text in texts:
        assert '"gold"' not in text
        assert '"truth"' not in text


def test_the_qualification_round_tells_the_answers_afterwards(server):
    server.publish(honeypots=1)
    person = server.person("ann")
    task = person.next()
    person.mark(task.lease_id, {0: 1, 1: 1})
    answer = person._call("POST", f"/leases/{task.lease_id}/submit", {"confidence": 1})
    assert answer["feedback"] == [{"line": 0, "truth": 1, "label": 1}, {"line": 1, "truth": -1, "label": 1}]
    assert person.me()["qualification"] == {"right": 1, "lines": 2, "left": 0}


def test_who_cannot_practise_for_want_of_honeypots_works_without_as_soon_as_there_is_work(server):
    server.publish([work(1)])
    person = server.person("ann")
    assert person.next().item_id == work(1).item_id
    assert person.me()["qualification"]["left"] == 0
    log = server.lead._call("GET", "/audit")
    assert (log[0]["action"], log[0]["subject"].split(":")[0]) == ("end qualification", "ann")


def test_who_comes_before_the_honeypots_waits_for_them(server):
    person = server.person("ann")
    assert person.next() is None
    server.publish([work(1)], honeypots=1)
    assert person.next().item_id == honeypot(0)[0].item_id


def test_an_invite_makes_one_account(server):
    invite = server.lead.invite()
    server.lead.join(invite, "ann", PASSWORD)
    with pytest.raises(ServerError, match="used already"):
        server.lead.join(invite, "bob", PASSWORD)


def test_an_invite_expires(serve):
    server = serve(invite_hours=1e-7)
    invite = server.lead.invite()
    time.sleep(1.5)  # signatures count whole seconds
    with pytest.raises(ServerError, match="too old"):
        server.lead.join(invite, "ann", PASSWORD)


def test_a_forged_invite_is_refused(server):
    with pytest.raises(ServerError, match="not valid"):
        server.lead.join(server.lead.invite()[:-2] + "xx", "ann", PASSWORD)


def test_nobody_invites_to_more_rights_than_their_own(server):
    lead = server.browser("boss", "lead")
    assert lead.post("/api/v1/invites", json={"role": "admin"}).status_code == 403


def test_short_passwords_and_taken_names_are_refused(server):
    with pytest.raises(ServerError, match="at least 10"):
        server.lead.join(server.lead.invite(), "ann", "short")
    server.person("ann")
    with pytest.raises(ServerError, match="taken"):
        server.person("ann")


def test_who_forgot_the_password_gets_a_link_that_works_once_and_ends_their_sessions(server):
    person = server.person("ann")
    path = server.lead._call("POST", f"/annotators/{person.me()['annotator_id']}/password")["path"]
    with httpx.Client(base_url=server.url, follow_redirects=True) as session:
        assert "at least 10" in session.post(path, data={"password": "short"}).text
        assert session.post(path, data={"password": "quite another one"}).url.path == "/work"
        assert "was used" in session.post(path, data={"password": "a third password"}).text
    with pytest.raises(ServerError, match="log in first"):
        person.me()
    assert server.lead.log_in("ann", "quite another one").me()["name"] == "ann"


def test_nobody_takes_over_an_account_with_as_many_rights(server):
    lead, admin = server.browser("boss", "lead"), server.browser("chief", "admin")
    for name in (server.lead.me()["annotator_id"], admin.get("/api/v1/me").json()["annotator_id"]):
        assert lead.post(f"/api/v1/annotators/{name}/password").status_code == 403


def test_one_invite_used_by_many_at_once_makes_one_account(serve, database):
    server = serve(database=database, logins_a_minute=100)
    invite = server.lead.invite()

    def join(number):
        try:
            return server.lead.join(invite, f"p{number}", PASSWORD)
        except ServerError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(join, range(8)))
    assert sum(isinstance(one, AnnotationClient) for one in made) == 1


def test_who_is_suspended_is_out_at_once_until_reinstated(server):
    person = server.person("ann")
    name = person.me()["annotator_id"]
    server.lead._call("POST", f"/annotators/{name}/suspend")
    with pytest.raises(ServerError, match="log in first"):
        person.me()
    with pytest.raises(ServerError, match="do not fit"):
        server.lead.log_in("ann", PASSWORD)
    server.lead._call("POST", f"/annotators/{name}/reinstate")
    assert server.lead.log_in("ann", PASSWORD).me()["name"] == "ann"


def test_who_must_qualify_again_gets_answers_again(server):
    server.publish([work(1)], honeypots=3)
    person = server.person("ann")
    review(person)
    server.lead._call("POST", f"/annotators/{person.me()['annotator_id']}/requalify")
    person.next()
    assert person.me()["qualification"]["left"] == 1


def test_a_retired_honeypot_is_shown_to_nobody(server):
    server.publish(honeypots=1)
    (name,) = [row["item_id"] for row in server.lead._call("GET", "/items?honeypots=true")]
    server.lead.retire([name])
    assert server.person("ann").next() is None


def test_log_ins_are_limited(serve):
    server = serve(logins_a_minute=3)
    stranger = AnnotationClient(server.url)
    for _ in range(3):
        with pytest.raises(ServerError, match="do not fit"):
            stranger.log_in("ann", "wrong password")
    with pytest.raises(ServerError, match="too many requests"):
        stranger.log_in("ann", "wrong password")


def test_sessions_expire(serve):
    server = serve(session_seconds=1)
    session = server.browser("ann")
    time.sleep(2.2)
    assert session.get("/api/v1/me").status_code == 401


def test_what_people_with_rights_do_is_audited(server):
    server.publish([work(1)])
    name = server.person("ann").me()["annotator_id"]
    server.lead._call("POST", f"/annotators/{name}/suspend")
    log = [(row["who"], row["action"], row["subject"]) for row in server.lead._call("GET", "/audit")]
    assert log[0] == ("training", "suspend", "ann")
    assert ("training", "invite", "annotator") in log


def test_passwords_are_kept_as_argon2(server):
    server.person("ann")
    with server.desk.database.read() as session:
        hashes = session.scalars(sa.select(Account.password_hash)).all()
    assert all(one.startswith("$argon2id$") for one in hashes)


def test_keys_can_be_changed_and_switched_off_but_not_shared(server):
    person = server.person("ann")
    table = person._call("PUT", "/me/keys", {"keys": {"rest": ["x"], "comment": []}})
    assert {row["action"]: row["keys"] for row in table}["rest"] == ["x"]
    assert {row["action"]: row["keys"] for row in person._call("GET", "/me/keys")}["comment"] == []
    with pytest.raises(ServerError, match="given to both"):
        person._call("PUT", "/me/keys", {"keys": {"rest": ["j"]}})
    with pytest.raises(ServerError, match="no action 'fly'"):
        person._call("PUT", "/me/keys", {"keys": {"fly": ["j"]}})


def test_bad_items_name_the_field(server):
    bad = {"item_id": "i-1", "problem_id": "p", "prompt": "", "lines": ["x"], "to_review": [4]}
    with pytest.raises(ServerError, match=r"items\[0\].to_review: there are 1 lines, so no 4"):
        server.lead._call("POST", "/items", {"items": [bad]})
    with pytest.raises(ServerError, match=r"items\[0\].gold"):
        server.lead._call("POST", "/items", {"items": [bad | {"to_review": [0], "gold": [1, 1]}]})
    answer = server.lead._http.post("/items", json={"items": [bad | {"to_review": ["x"]}]})
    assert "to_review" in json.dumps(answer.json())
