"""What was marked is never lost: reloads, lost connections, ended sessions, a killed server."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time

import httpx
import pytest
from playwright.sync_api import expect

from benchmarks.postgres import free_port
from crlhf_ray.feedback.desk.client import AnnotationClient
from crlhf_ray.feedback.desk.queue import QueueSettings
from tests.browser.conftest import PLAIN, line, marks, saved, submitted, watched
from tests.desk.conftest import PASSWORD, work

LINES = tuple(f"    x{n} = {n}" for n in range(40))
LONG = work(7, LINES, tuple(range(40)))


@pytest.fixture
def server(serve):
    server = serve(queue=PLAIN)
    server.publish([LONG])
    return server


def test_every_mark_is_saved_at_once_and_shown_so(server, enter):
    page = enter(server, "ann")
    page.keyboard.press("0")
    saved(page)
    assert marks(server) == [(0, -1, False)]
    page.reload()
    expect(line(page, 0).locator(".state")).to_have_text("wrong")


def test_nothing_is_called_saved_before_the_page_has_looked_at_what_it_keeps(server, enter):
    page = enter(server, "ann")
    page.route("**/work.js", lambda route: route.abort())
    page.reload()
    expect(page.locator("#saved")).to_have_text("")
    page.problems.clear()


def test_undo_goes_on_where_it_was_after_a_reload(server, enter):
    page = enter(server, "ann")
    for key in ("0", "1"):
        page.keyboard.press(key)
    saved(page)
    page.reload()
    for key in ("u", "u"):
        page.keyboard.press(key)
    saved(page)
    assert marks(server)[2:] == [(1, None, False), (0, None, False)]
    page.keyboard.press("u")
    expect(page.locator("#live")).to_have_text("Nothing to undo")


def test_marks_without_a_connection_are_kept_through_a_closed_page_and_sent_later(server, enter):
    page = enter(server, "ann")
    context = page.context
    context.set_offline(True)
    page.keyboard.press("0")
    page.keyboard.press("1")
    expect(page.locator("#saved")).to_have_text("✗ 2 kept here, not sent yet")
    for key in ("a", "Enter", "3"):
        page.keyboard.press(key)
    expect(page.locator("#note")).to_contain_text("kept in this browser")
    page.problems.clear()
    page.close()
    context.set_offline(False)
    again = watched(context)
    again.goto("/work")
    expect(line(again, 0).locator(".state")).to_have_text("wrong")
    saved(again)
    assert marks(server)[:3] == [(0, -1, False), (1, 1, False), (2, 1, True)]
    assert again.problems == []


def test_a_connection_that_comes_back_is_used_without_a_reload(server, enter):
    page = enter(server, "ann")
    page.route("**/marks", lambda route: route.abort())
    page.keyboard.press("0")
    expect(page.locator("#saved")).to_contain_text("not sent yet")
    page.unroute("**/marks")
    saved(page)
    assert marks(server) == [(0, -1, False)]
    page.problems.clear()


def lose_first_answer(page, url):
    """The server gets the first request, and the browser no answer to it. Returns where that answer is put."""
    lost = []

    def swallow(route):
        if not lost:
            lost.append(route.fetch())
            return route.abort()
        return route.continue_()

    page.route(url, swallow)
    return lost


def test_an_answer_that_is_lost_on_its_way_back_doubles_nothing(server, enter):
    page = enter(server, "ann")
    lost = lose_first_answer(page, "**/marks")
    page.keyboard.press("0")
    saved(page)
    assert lost
    assert marks(server) == [(0, -1, False)]
    page.problems.clear()


def test_the_answers_of_the_qualification_round_are_shown_though_they_were_lost_on_their_way_at_first(serve, enter):
    server = serve(queue=QueueSettings(qualification=1))
    server.publish(honeypots=1)
    page = enter(server, "ann")
    lost = lose_first_answer(page, "**/submit")
    for key in ("a", "Enter", "3"):
        page.keyboard.press(key)
    expect(page.locator("#note")).to_contain_text("submit again when it is back")
    for key in ("Enter", "3"):
        page.keyboard.press(key)
    expect(page.locator("#feedback-text")).to_contain_text("You have 1 of 2 lines")
    assert lost
    assert len(submitted(server)) == 2  # lines, of one program
    page.problems.clear()


SIGN_IN = {"content_type": "text/html", "body": "<!doctype html><title>Sign in to the Wi-Fi</title>"}
#: What comes of something between the browser and the server, which never got the request.
NOT_THE_SERVERS = {
    "a Wi-Fi's sign-in page": SIGN_IN,
    "a proxy's page": SIGN_IN | {"status": 404},
    "nothing": {"status": 204},
    "JSON of something else": {"json": {"status": "ok"}},
    "an error of something else": {"json": {"message": "forbidden"}, "status": 403},
}


@pytest.mark.parametrize("answer", NOT_THE_SERVERS.values(), ids=NOT_THE_SERVERS)
def test_only_what_the_server_acknowledges_counts_as_saved(server, enter, answer):
    page = enter(server, "ann")
    page.route("**/marks", lambda route: route.fulfill(**answer))
    page.keyboard.press("0")
    expect(page.locator("#saved")).to_have_text("✗ 1 kept here, not sent yet")
    page.reload()
    expect(page.locator("#saved")).to_have_text("✗ 1 kept here, not sent yet")
    expect(page.locator("#note")).to_be_hidden()
    page.unroute("**/marks")
    saved(page)
    assert marks(server) == [(0, -1, False)]
    page.problems.clear()


@pytest.mark.parametrize("answer", NOT_THE_SERVERS.values(), ids=NOT_THE_SERVERS)
def test_comments_and_submissions_that_the_server_does_not_acknowledge_can_be_sent_again(server, enter, answer):
    page = enter(server, "ann")
    page.keyboard.press("a")
    saved(page)
    page.route(re.compile("/(comments|submit)$"), lambda route: route.fulfill(**answer))
    page.keyboard.press("m")
    page.keyboard.type("off by one")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#note")).to_contain_text("The comment is not saved: The server cannot be reached.")
    expect(page.locator("#comment")).to_have_value("off by one")
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    page.keyboard.press("3")
    expect(page.locator("#note")).to_contain_text("The server cannot be reached: submit again when it is back.")
    assert submitted(server) == []
    page.unroute(re.compile("/(comments|submit)$"))
    page.keyboard.press("Enter")
    page.keyboard.press("3")
    expect(page.locator("#progress")).to_contain_text("1 reviewed")
    page.problems.clear()


def test_a_session_that_ends_in_the_middle_loses_nothing(server, enter):
    page = enter(server, "ann")
    page.keyboard.press("0")
    saved(page)
    me = page.evaluate("first.me.annotator_id")
    for action in ("suspend", "reinstate"):
        server.lead._call("POST", f"/annotators/{me}/{action}")
    page.keyboard.press("i")
    expect(page.locator("#note")).to_contain_text("Your session is over. Your marks are kept in this browser")
    page.keyboard.press("1")
    page.get_by_role("link", name="Log in again").click()
    page.wait_for_url("**/login")
    page.get_by_label("Name").fill("ann")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url("**/work")
    saved(page)
    assert marks(server) == [(0, -1, False), (1, 0, False), (2, 1, False)]
    page.problems.clear()


def test_logging_in_anew_in_another_tab_loses_nothing_in_this_one(server, enter):
    page = enter(server, "ann")
    other = watched(page.context)
    other.goto("/login")
    other.get_by_label("Name").fill("ann")
    other.get_by_label("Password").fill(PASSWORD)
    other.keyboard.press("Enter")
    other.wait_for_url("**/work")
    other.close()
    page.bring_to_front()
    page.keyboard.press("0")
    page.get_by_role("link", name="Log in again").click()
    saved(page)
    assert marks(server) == [(0, -1, False)]
    page.problems.clear()


def test_another_person_at_the_same_browser_does_not_lose_what_the_first_one_kept(server, enter):
    page = enter(server, "ann")
    page.route("**/marks", lambda route: route.abort())
    page.keyboard.press("0")
    expect(page.locator("#saved")).to_contain_text("not sent yet")
    page.unroute("**/marks")
    page.goto(f"/invite/{server.lead.invite()}")
    for name in ("bob", "ann"):
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_url("**/work")
        saved(page)
        assert len(marks(server)) == (name == "ann")
        page.get_by_role("button", name="Log out").click()
    page.problems.clear()


class Process:
    """``crlhf serve`` as users start it, always on the same port and folder."""

    def __init__(self, directory):
        self.directory, self.port = directory, free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self):
        command = [sys.executable, "-m", "crlhf_ray.cli", "serve", "--port", str(self.port)]
        changes = [
            f"dir={self.directory}",
            "queue.qualification=0",
            "queue.honeypots_least=0",
            "queue.honeypots_most=0",
        ]
        self.process = subprocess.Popen([*command, *(part for change in changes for part in ("--set", change))])
        while True:
            try:
                if httpx.get(f"{self.url}/healthz").is_success:
                    break
            except httpx.TransportError:
                assert self.process.poll() is None, "the server ended"
                time.sleep(0.1)
        self.lead = AnnotationClient.from_file(self.url, self.directory / "token")

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stored(self):
        """The event ids on the disk."""
        with sqlite3.connect(self.directory / "store.db") as database:
            return {row[0] for row in database.execute("SELECT event_id FROM mark")}


@pytest.fixture
def process(tmp_path):
    process = Process(tmp_path / "desk")
    process.start()
    yield process
    process.kill()


def test_a_killed_server_loses_nothing_that_it_acknowledged_and_gets_the_rest_later(process, enter):
    process.lead.publish([LONG])
    page = enter(process, "ann")
    acknowledged = set()

    def read(response):
        if response.url.endswith("/marks") and response.ok:
            acknowledged.update(response.json()["saved"])

    page.on("response", read)
    for number in range(40):
        page.keyboard.press("0" if number % 3 else "1")
        if number == 10:
            saved(page)
        if number == 25:
            process.kill()
    expect(page.locator("#saved")).to_contain_text("not sent yet")
    assert len(acknowledged) >= 11
    assert acknowledged <= process.stored()
    process.start()
    saved(page)
    page.reload()
    expect(page.locator(".row.wrong")).to_have_count(26)
    expect(page.locator(".row.correct")).to_have_count(14)
    assert len(process.stored()) == 40  # nothing twice
    page.keyboard.press("Enter")
    page.keyboard.press("2")
    expect(page.locator("#progress")).to_contain_text("1 reviewed")
    table, _ = process.lead.annotations(0)
    assert [row["label"] for row in table.to_pylist()] == [-1 if n % 3 else 1 for n in range(40)]
    page.problems.clear()
