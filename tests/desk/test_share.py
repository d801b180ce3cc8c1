"""The server, where nine lines in ten are correct: reviewers are known for what they are, and lines become sure."""

import numpy as np
import pytest

from crlhf_ray.aggregation.actor import Aggregator
from crlhf_ray.aggregation.marks import Item
from crlhf_ray.feedback.desk.desk import Desk
from crlhf_ray.feedback.desk.security import create_account
from crlhf_ray.feedback.desk.settings import WebSettings
from crlhf_ray.feedback.desk.store.models import Lease, Mark, Submission
from tests.aggregation.tables import HONEST, reviewed_programs

NAMES = (*"abcd", "spammer")


def item(name, lines):
    return Item(name, "p", f"# {name}\n", tuple(f"    {name} = {n}" for n in range(lines)), tuple(range(lines)))


def test_reviewers_are_known_where_most_lines_are_correct(tmp_path):
    truth, marks, known = reviewed_programs(np.random.default_rng(5), 0.9)
    desk = Desk(WebSettings(dir=tmp_path), Aggregator, clock=lambda: 0.0)
    items = [item(name, len(z)) for name, z in truth.items()]
    desk.publish(items, {name: truth[name].tolist() for name in known}, round=0, deadline=None, who="lead")
    honest, lease = set(), 0
    with desk.database.write() as session:  # what the routes store, at once
        for who, name in enumerate(NAMES):
            account = create_account(session, name, "long enough", "annotator", checks=0, now=0.0)
            honest |= {account.annotator_id} if name != "spammer" else set()
            for item_id in truth:
                lease += 1
                own = {"item_id": item_id, "account_id": account.id}
                session.add(Lease(id=lease, **own, qualification=False, issued_at=0, expires_at=1, state="submitted"))
                for n, label in enumerate(marks[item_id][:, who].tolist()):
                    session.add(
                        Mark(event_id=f"{lease}-{n}", lease_id=lease, line=n, label=label, rest=False, created_at=0)
                    )
                session.add(Submission(lease_id=lease, **own, confidence=3, labels=3, milliseconds=1, created_at=0))
    desk.crowd.learn()
    posterior = desk.crowd.posteriors([name for name in truth if name not in known])
    rates = desk.crowd.engine.reliability().to_pylist()
    _, sure = desk.crowd.engine.agreement(0.95)
    desk.close()
    right = [(p >= 0.5) == (truth[name][n] > 0) for name, lines in posterior.items() for n, p in lines.items()]
    majority = [np.sign(marks[name][n].sum()) == truth[name][n] for name, lines in posterior.items() for n in lines]
    specificity = [row["specificity"] for row in rates if row["annotator_id"] in honest]
    assert len(right) == 150
    assert np.mean(right) >= np.mean(majority) - 0.01
    assert np.mean(specificity) == pytest.approx(HONEST.mean(), abs=0.05)
    assert sure > 100
