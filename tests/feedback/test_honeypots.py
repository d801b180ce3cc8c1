"""Honeypots: proven by the sandbox, told from other work by nobody, never shown twice to one annotator."""

import dataclasses
import json
from collections import Counter

import pytest

from crlhf_ray.aggregation.marks import GOLD_SCHEMA
from crlhf_ray.errors import DataError
from crlhf_ray.feedback.honeypots import HoneypotPool, build_honeypots, make_item, opaque_id
from crlhf_ray.feedback.truth import line_truth
from crlhf_ray.problems.load import load_problems
from crlhf_ray.sandbox.sandbox import Sandbox


@pytest.fixture(scope="module")
def problems():
    return load_problems("starter", "train")[:6]


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def honeypots(problems, sandbox):
    return build_honeypots(problems, sandbox, seed=1, per_problem=4)


def completion(honeypot):
    return "\n".join(honeypot.item.lines)


def test_each_problem_gets_its_share_intact_and_mutated(problems, honeypots):
    assert Counter(h.item.problem_id for h in honeypots) == {p.problem_id: 4 for p in problems}
    assert Counter(h.operator is None for h in honeypots) == {True: 6, False: 18}


def test_the_sandbox_confirms_every_honeypot(problems, sandbox, honeypots):
    by_id = {p.problem_id: p for p in problems}
    verdicts = sandbox.check([(by_id[h.item.problem_id], completion(h)) for h in honeypots])
    for honeypot, verdict in zip(honeypots, verdicts, strict=True):
        assert verdict.passed == (honeypot.operator is None)
        assert honeypot.truth.count(-1) == (honeypot.operator is not None)


def test_the_wrong_line_is_one_that_carries_code(honeypots):
    assert all(h.truth.index(-1) in h.item.to_review for h in honeypots if h.operator)


def test_a_honeypot_looks_like_any_other_item(problems, honeypots):
    by_id = {p.problem_id: p for p in problems}
    for honeypot in honeypots:
        other = make_item(by_id[honeypot.item.problem_id], completion(honeypot), opaque_id(1, "sample-7"))
        assert dataclasses.replace(other, item_id=honeypot.item.item_id) == honeypot.item
        assert len(other.item_id) == len(honeypot.item.item_id)
        assert honeypot.item.problem_id not in honeypot.item.item_id
    assert len({h.item.item_id for h in honeypots}) == len(honeypots)


def test_building_again_gives_the_same_and_another_seed_another_set(problems, sandbox, honeypots):
    assert build_honeypots(problems, sandbox, seed=1, per_problem=4) == honeypots
    assert build_honeypots(problems, sandbox, seed=2, per_problem=4) != honeypots


def test_a_cached_set_needs_no_sandbox(problems, sandbox, honeypots, tmp_path):
    build_honeypots(problems, sandbox, seed=1, per_problem=4, cache=tmp_path)
    assert build_honeypots(problems, None, seed=1, per_problem=4, cache=tmp_path) == honeypots


def test_held_out_problems_are_refused(sandbox):
    heldout = load_problems("starter", "heldout")[:1]
    with pytest.raises(DataError, match="held out"):
        build_honeypots(heldout, sandbox, seed=0)


def test_a_reference_that_fails_is_refused_by_name(problems, sandbox):
    broken = dataclasses.replace(problems[0], references=("\n    return None",))
    with pytest.raises(DataError, match=f"{problems[0].problem_id}.*does not pass"):
        build_honeypots([broken], sandbox, seed=0)


def test_passing_samples_become_honeypots_too(problems, sandbox):
    extra = {problems[0].problem_id: [problems[0].references[0].replace("return", "return  ", 1)]}
    made = build_honeypots(problems[:1], sandbox, seed=0, per_problem=30, completions=extra)
    assert any("return   " in completion(h) for h in made)


def test_the_truth_rule_finds_the_mutated_line(problems, sandbox, honeypots):
    """The simulated annotators' idea of truth agrees with what is known by construction, on single faults."""
    by_id = {p.problem_id: p for p in problems}
    mutated = [h for h in honeypots if h.operator]
    verdicts = sandbox.check([(by_id[h.item.problem_id], completion(h)) for h in mutated])
    found = [
        tuple(line_truth(by_id[h.item.problem_id], h.item.lines, verdict, ())) == h.truth
        for h, verdict in zip(mutated, verdicts, strict=True)
    ]
    assert sum(found) >= 0.8 * len(found)


def test_nobody_sees_a_honeypot_twice_and_the_end_is_told(honeypots):
    pool = HoneypotPool(honeypots)
    seen = [h.item.item_id for _ in range(8) for h in pool.next_for("ann", 4)]
    assert len(seen) == len(set(seen)) == len(honeypots)
    assert pool.remaining("ann") == 0
    assert pool.next_for("ann", 1) == []
    assert pool.remaining("bob") == len(honeypots)


def test_honeypots_rotate_and_problems_too(honeypots):
    pool = HoneypotPool(honeypots)
    shown = Counter(h.item.item_id for i in range(8) for h in pool.next_for(f"annotator-{i}", 6))
    assert max(shown.values()) - min(shown.values()) <= 1
    assert len({h.item.problem_id for h in pool.next_for("ann", 6)}) == 6


def test_a_restored_pool_goes_on_where_the_other_stopped(honeypots):
    pool, again = HoneypotPool(honeypots, seed=3), HoneypotPool(honeypots, seed=3)
    for annotator in ("ann", "bob"):
        pool.next_for(annotator, 5)
    again.restore(json.loads(json.dumps(pool.state())))
    assert again.next_for("ann", 5) == pool.next_for("ann", 5)
    assert again.state() == pool.state()


def test_gold_holds_the_truth_of_the_lines_to_review_only(honeypots):
    pool = HoneypotPool(honeypots)
    some = honeypots[:2]
    gold = pool.gold(some)
    assert gold.schema.equals(GOLD_SCHEMA)
    expected = [
        {"item_id": h.item.item_id, "line": line, "truth": h.truth[line]} for h in some for line in h.item.to_review
    ]
    assert gold.to_pylist() == expected
    assert pool.gold().num_rows == sum(len(h.item.to_review) for h in honeypots)
    with pytest.raises(KeyError):
        pool.gold(["sample-of-somebody"])


def test_where_the_end_is_asked_about_some_honeypots_lack_their_last_line(problems, sandbox):
    made = build_honeypots(problems, sandbox, seed=1, per_problem=12, end=True)
    assert all(len(h.item.lines) in h.item.to_review and len(h.truth) == len(h.item.lines) + 1 for h in made)
    short = [h for h in made if h.truth[-1] == -1]
    assert {h.operator for h in short} == {"the last line is missing"}
    assert all(h.truth.count(-1) == 1 for h in short)
