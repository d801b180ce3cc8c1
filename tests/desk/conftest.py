"""A real server on a real socket, on SQLite and on PostgreSQL. PostgreSQL's tests skip where it is not installed."""

import os
import re
from functools import partial

import httpx
import pytest

from benchmarks.postgres import new_database, own_server, tools
from crlhf_ray.aggregation.actor import Aggregator
from crlhf_ray.aggregation.marks import Item
from crlhf_ray.feedback.desk.client import AnnotationClient
from crlhf_ray.feedback.desk.desk import Desk
from crlhf_ray.feedback.desk.serve import BackgroundServer
from crlhf_ray.feedback.desk.settings import WebSettings

PROMPT = "# {number}\ndef double(x):\n"
PASSWORD = "long enough"


def work(number, lines=("    y = x + x", "", "    # so", "    return y"), to_review=(0, 3)):
    """A program with a text of its own."""
    return Item(f"i-{number:016x}", "starter/double", PROMPT.format(number=number), tuple(lines), tuple(to_review))


def honeypot(number):
    """An item whose last line is wrong, and its truth."""
    item = work(0x9000 + number, ("    y = x * 2", "    return x"), (0, 1))
    return item, {item.item_id: [1, -1]}


def absent(program):
    """Skip what needs a program that is not installed; fail where nothing may be skipped, as in CI."""
    reason = f"{program} is not installed: apt-get install {program}"
    if os.environ.get("CRLHF_SKIPS") == "forbidden":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def postgres():
    """SQLAlchemy URL of a PostgreSQL server of our own, without the database's name."""
    programs = tools() or absent("postgresql")
    with own_server(programs) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request):
    """A database URL; None for SQLite in the server's folder."""
    return None if request.param == "sqlite" else new_database(request.getfixturevalue("postgres"))


class Server(BackgroundServer):
    """A running server. clock moves only when told to."""

    def __init__(self, settings, aggregation=None):
        self.now = 1_800_000_000.0
        super().__init__(Desk(settings, partial(Aggregator, settings=aggregation), clock=lambda: self.now))
        self.lead = AnnotationClient.from_file(self.url, self.token_file)

    def person(self, name, role="annotator"):
        """A client in the name of a new account."""
        return self.lead.join(self.lead.invite(role), name, PASSWORD)

    def browser(self, name, role="annotator"):
        """A browser's session of a new account: cookies, and the CSRF header set."""
        client = httpx.Client(base_url=self.url, follow_redirects=True)
        form = {"name": name, "password": PASSWORD}
        page = client.post(f"/invite/{self.lead.invite(role)}", data=form).raise_for_status().text
        client.headers["X-CSRF-Token"] = re.search('csrf-token" content="([^"]+)"', page).group(1)
        return client

    def publish(self, items=(), honeypots=0):
        """Put programs and so many honeypots into the queue."""
        made = [honeypot(n) for n in range(honeypots)]
        gold = {name: truth for _, one in made for name, truth in one.items()}
        self.lead.publish([*items, *(item for item, _ in made)], gold=gold, round=0)
        return gold

    def settled(self):
        """Wait until what was submitted has been learnt from."""
        self.desk.crowd.learn()

    def close(self):
        self.lead.close()
        super().close()


@pytest.fixture
def serve(tmp_path):
    """``serve(aggregation, **settings)`` starts a server."""
    running = []

    def start(aggregation=None, **settings):
        running.append(Server(WebSettings(dir=tmp_path / f"desk{len(running)}", **settings), aggregation))
        return running[-1]

    yield start
    for server in running:
        server.close()


def review(person, label=1, confidence=2):
    """Review the next program, every line alike; returns its id, or None when nothing is to do."""
    task = person.next()
    if task is None:
        return None
    person.mark(task.lease_id, dict.fromkeys(task.to_review, label), 1000)
    person.submit(task.lease_id, confidence)
    return task.item_id
