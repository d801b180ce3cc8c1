"""Whoever uses all that a reviewer sees, over a whole shift, does not learn which programs are honeypots."""

import ast
import random
from collections import Counter
from functools import lru_cache

import numpy as np
import pytest
import sqlalchemy as sa
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from crlhf_ray.feedback.desk.queue import QueueSettings
from crlhf_ray.feedback.desk.security import create_account
from crlhf_ray.feedback.desk.store import programs, work
from crlhf_ray.feedback.desk.store.database import Database
from crlhf_ray.feedback.desk.store.models import Lease
from crlhf_ray.feedback.honeypots import make_item, opaque_id
from crlhf_ray.feedback.mutations import mutations
from crlhf_ray.problems.load import load_problems

PEOPLE, ROUNDS, PROBLEMS_A_ROUND, SAMPLES, HONEYPOTS = 6, 3, 8, 5, 5
PROBLEMS = [problem for problem in load_problems("starter") if problem.split == "train"][:24]
SETTINGS = QueueSettings(qualification=0, labels_least=PEOPLE, labels_most=PEOPLE)
SHARE = 0.4


def as_the_policy_writes(prompt, completion):
    """The program, its results named before they are returned, its layout that of a machine."""
    tree = ast.parse(prompt + completion)

    class Named(ast.NodeTransformer):
        def visit_Return(self, node):
            if node.value is None or isinstance(node.value, ast.Name):
                return node
            named = ast.Assign([ast.Name("result", ast.Store())], node.value)
            return [named, ast.Return(ast.Name("result", ast.Load()))]

    body = ast.fix_missing_locations(Named().visit(tree)).body[-1].body
    body = body[1:] if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant) else body
    begin = "\n" if completion.startswith("\n") else ""
    return begin + "\n".join("    " + line for part in body for line in ast.unparse(part).split("\n"))


faults = lru_cache(mutations)


def some_program(problem, draw, number, policy=True):
    """A sample of the problem, two of three with a fault."""
    text = draw.choice(problem.references)
    text = as_the_policy_writes(problem.prompt, text) if policy else text
    if draw.random() < 2 / 3 and (found := faults(problem.prompt, text)):
        text = draw.choice(found).completion
    return make_item(problem, text, opaque_id(3, number))


@pytest.fixture
def shift(tmp_path, monkeypatch):
    """``shift(policy)``: for each person, what they were handed in order, as (item, honeypot or not).

    policy: whether honeypots are made of the policy's own samples, as work is, or of references.
    """
    database = Database(f"sqlite:///{tmp_path / 'store.db'}")

    def worked(policy, rounds=ROUNDS):
        draw = random.Random(7)
        monkeypatch.setattr(programs, "DRAW", random.Random(8))
        honeypots = [some_program(p, draw, f"h{p.problem_id}{n}", policy) for p in PROBLEMS for n in range(HONEYPOTS)]
        known = {item.item_id: item for item in honeypots}
        gold = {item.item_id: [1] * len(item.lines) for item in honeypots}
        seen = {}
        with database.write() as session:
            programs.publish(session, honeypots, SETTINGS, now=0, gold=gold)
            people = [
                create_account(session, f"person {n}", "long enough", "annotator", checks=0, now=0)
                for n in range(PEOPLE)
            ]
            for number in range(rounds):
                asked = draw.sample(PROBLEMS, PROBLEMS_A_ROUND)
                items = [some_program(p, draw, f"{number} {p.problem_id} {n}") for p in asked for n in range(SAMPLES)]
                known |= {item.item_id: item for item in items}
                programs.publish(session, items, SETTINGS, now=1000 * number, round=number)
                busy = list(people)
                while busy:
                    person = draw.choice(busy)
                    task = work.hand_out(
                        session, person, SETTINGS, now=1000 * number, honeypot_share=SHARE, draw=draw.random()
                    )
                    if task is None:
                        busy.remove(person)
                        continue
                    shown = seen.setdefault((person.id, number), [])
                    shown.append((known[task.program.item_id], task.program.honeypot))
                    session.execute(sa.update(Lease).where(Lease.id == task.lease.id).values(state="submitted"))
                    session.expire(task.lease)
        return seen

    yield worked
    database.close()


def features(shown):
    """What a reviewer sees of each program of their shift: its place, its problem and how often that came, its size,
    its style."""
    times, rows, before = Counter(), [], None
    for place, (item, _) in enumerate(shown):
        code = "\n".join(item.lines)
        size = [len(code), len(item.lines), len(item.to_review), len(code) / max(len(item.lines), 1)]
        style = [code.count(mark) for mark in ("result", "return", "#", '"', "'", "(", "[", ":", "=", " ", "if", "for")]
        problem = [times[item.problem_id], times[item.problem_id] == 0, item.problem_id == before, len(times)]
        rows.append([place, place / len(shown), *problem, *size, *style])
        times[item.problem_id] += 1
        before = item.problem_id
    return np.array(rows, float)


def guessed(seen):
    """AUC of a guesser that was told the truth of all programs of other problems: it cannot know a text again."""
    x = np.concatenate([features(shown) for shown in seen.values()])
    y = np.array([trap for shown in seen.values() for _, trap in shown])
    problem = [item.problem_id for shown in seen.values() for item, _ in shown]
    guesser = HistGradientBoostingClassifier(max_iter=20, max_leaf_nodes=4, random_state=0)
    p = cross_val_predict(guesser, x, y, groups=problem, cv=GroupKFold(4), method="predict_proba")[:, 1]
    return roc_auc_score(y, p)


def test_a_guesser_does_no_better_than_chance(shift):
    assert 0.45 <= guessed(shift(policy=True)) <= 0.55


def test_the_same_guesser_finds_honeypots_that_are_written_in_another_style(shift):
    assert guessed(shift(policy=False, rounds=1)) >= 0.9
