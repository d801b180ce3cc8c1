"""Machine annotators: what they are shown, what their marks are, and what they may not do."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from crlhf_ray.aggregation.marks import ANNOTATION_SCHEMA, Item
from crlhf_ray.config import load_config
from crlhf_ray.errors import ConfigError, DataError
from crlhf_ray.feedback.annotators.base import Annotator, Review
from crlhf_ray.feedback.annotators.machines import Machines
from crlhf_ray.feedback.annotators.memory import normalised
from crlhf_ray.feedback.annotators.settings import ChecksSettings, MemorySettings, OwnSettings
from crlhf_ray.feedback.honeypots import Honeypot, HoneypotPool

NOW = datetime(2025, 1, 1, tzinfo=UTC)
PROMPT = 'def f(x):\n    """Answer x + 1."""'


def item(name, *lines, problem="p", language="python"):
    lines = ("", *lines)
    return Item(name, problem, PROMPT, lines, tuple(range(1, len(lines))), language)


RIGHT = item("i-right", "    y = x + 1", "    return y")
UNKNOWN = item("i-unknown", "    y = x + 1", "    return z")
UNUSED = item("i-unused", "    y = x + 1", "    return x + 1")
BROKEN = item("i-broken", "    y = x +", "    return y", "    return z")
NO_HONEYPOTS = HoneypotPool([])


def marks(settings, *items, pool=NO_HONEYPOTS, honeypots=0):
    table, _ = Machines([settings], 1).collect(items, pool, honeypots, NOW)
    found = {}
    for row in table.to_pylist():
        found.setdefault((row["annotator_id"], row["item_id"]), {})[row["line"]] = row["label"]
    return found


def said(rows, source="human"):
    return pa.Table.from_pylist(
        [
            {
                "event_id": f"e{n}",
                "item_id": item_id,
                "line": line,
                "annotator_id": who,
                "label": label,
                "confidence": None,
                "milliseconds": None,
                "created_at": NOW,
                "source": source,
            }
            for n, (item_id, line, who, label) in enumerate(rows)
        ],
        schema=ANNOTATION_SCHEMA,
    )


# -- static checks ---------------------------------------------------------------------------------------------------


def test_each_group_of_ruffs_rules_is_an_annotator_that_marks_the_lines_it_finds_wrong():
    found = marks(ChecksSettings(rules=("F8", "F", "B")), RIGHT, UNKNOWN, UNUSED)
    assert found["ruff:F8", "i-right"] == {1: 1, 2: 1}
    assert found["ruff:F8", "i-unknown"] == {1: -1, 2: -1}  # y is never used, z is not defined
    assert found["ruff:F", "i-unknown"] == {1: 1, 2: 1}  # those findings are F8's
    assert found["ruff:F8", "i-unused"] == {1: -1, 2: 1}


def test_the_compiler_marks_the_line_that_it_stops_at_and_none_after_it():
    found = marks(ChecksSettings(tool="python"), RIGHT, BROKEN)
    assert found == {("python", "i-right"): {1: 1, 2: 1}, ("python", "i-broken"): {1: -1}}


def test_ruff_abstains_from_what_does_not_compile():
    assert ("ruff:F", "i-broken") not in marks(ChecksSettings(rules=("F",)), BROKEN, RIGHT)


def test_mypy_marks_lines_with_errors_of_types_and_one_program_that_it_cannot_read_keeps_no_other_from_it():
    wrong = item("i-type", "    y: int = 1", "    return y + 'a'")
    found = marks(ChecksSettings(tool="mypy"), wrong, BROKEN, RIGHT)
    assert found == {("mypy", "i-type"): {1: 1, 2: -1}, ("mypy", "i-right"): {1: 1, 2: 1}}


def test_any_linter_is_run_by_its_command(tmp_path):
    grep = ChecksSettings(tool="command", command=("grep", "-n", "return z", "{file}"), pattern=r"(?m)^(?P<line>\d+):")
    assert marks(grep, UNKNOWN)["grep", "i-unknown"] == {1: 1, 2: -1}


def test_a_program_is_an_argument_of_no_shell_and_cannot_stop_the_tool(tmp_path):
    hostile = item("i-shell", f"    '$(touch {tmp_path}/owned)'; `touch {tmp_path}/owned`", "    return z")
    deep = item("i-deep", "    return " + "(" * 50_000 + ")" * 50_000)
    nulls = item("i-null", "    return '\0'")
    cat = ChecksSettings(tool="command", command=("cat", "{file}"))
    for settings in (cat, ChecksSettings(rules=("F",)), ChecksSettings(tool="python")):
        found = marks(settings, hostile, deep, nulls, RIGHT)
        assert any(key[1] == "i-right" for key in found)
    assert not (tmp_path / "owned").exists()


def test_a_tool_that_does_not_end_is_ended_and_abstains():
    assert marks(ChecksSettings(tool="command", command=("tail", "-f", "{file}"), seconds=0.2), RIGHT) == {}


def test_a_tool_does_not_see_the_environment_of_the_run(monkeypatch, tmp_path):
    monkeypatch.setenv("JUDGE_KEY", "sk-planted")
    spy = ChecksSettings(tool="command", command=("sh", "-c", f"env > {tmp_path}/env; : {{file}}"))
    marks(spy, RIGHT)
    assert "sk-planted" not in (tmp_path / "env").read_text()


def test_a_tool_abstains_from_languages_that_it_does_not_read():
    assert marks(ChecksSettings(languages=("python",)), item("i-cvx", "    return z", language="cvxpy")) == {}


def test_a_tool_that_is_not_installed_is_refused_at_the_start():
    with pytest.raises(ConfigError, match="'no-such-linter' is not installed"):
        Machines([ChecksSettings(tool="command", command=("no-such-linter", "{file}"))], 1)


# -- memory ----------------------------------------------------------------------------------------------------------


def remembering(*tables, rounds=None, **settings):
    memory = Machines([MemorySettings(**settings)], 1)
    for number, table in enumerate(tables):
        memory.observe([RIGHT, UNKNOWN], table, rounds[number] if rounds else number)
    return memory


def recalled(memory, *items):
    table, _ = memory.collect(items, NO_HONEYPOTS, 0, NOW)
    return {(row["item_id"], row["line"]): row["label"] for row in table.to_pylist()}


def test_memory_says_of_a_line_what_people_said_of_the_same_text_in_the_same_problem():
    memory = remembering(said([("i-unknown", 2, "ann", -1), ("i-unknown", 2, "bob", -1), ("i-right", 1, "ann", 1)]))
    again = item("i-new", "    return  z  # surely")
    assert recalled(memory, again, item("i-other", "    return z", problem="q")) == {("i-new", 1): -1}


def test_one_person_counts_once_on_a_line_however_many_programs_hold_it():
    memory = remembering(said([("i-right", 1, "ann", 1), ("i-unknown", 1, "ann", 1)]))
    assert recalled(memory, item("i-new", "    y = x + 1")) == {}


def test_memory_never_takes_machines_for_people_nor_itself():
    rows = [("i-right", 1, "memory", 1), ("i-right", 1, "other", 1)]
    for source in ("memory", "llm", "check", "tests"):
        assert recalled(remembering(said(rows, source)), item("i-new", "    y = x + 1")) == {}


def test_memory_fades():
    table = said([("i-right", 1, "ann", 1), ("i-right", 1, "bob", 1)])
    new = item("i-new", "    y = x + 1")
    assert recalled(remembering(table, half_life=4.0), new) == {("i-new", 1): 1}
    faded = remembering(table, said([]), rounds=[0, 3], half_life=4.0)
    assert recalled(faded, new) == {}


def test_memory_goes_on_from_its_state():
    memory = remembering(said([("i-right", 1, "ann", 1), ("i-right", 1, "bob", 1)]))
    again = Machines([MemorySettings()], 1)
    again.restore(json.loads(json.dumps(memory.state())))
    new = item("i-new", "    y = x + 1")
    assert recalled(again, new) == recalled(memory, new) == {("i-new", 1): 1}
    assert again.state() == memory.state()


@pytest.mark.parametrize("line", ["return  x+1", "return x + 1  # one more", "  return x +1"])
def test_lines_are_the_same_by_their_tokens(line):
    assert normalised(line) == "return x + 1"


# -- all of them -----------------------------------------------------------------------------------------------------


class Counting(Annotator):
    """Marks every line correct and counts what it was shown."""

    def __init__(self, name="counting", seconds=0.0, cost=0.0, source="check"):
        self.annotator_id, self.source, self.seconds, self.cost = name, source, seconds, cost
        self.shown = []

    def review(self, items):
        self.shown.append(list(items))
        return [Review(dict.fromkeys(i.to_review, 1), seconds=self.seconds, cost=self.cost) for i in items]


class Wrong(Counting):
    def review(self, items):
        return [Review({99: 1}) for _ in items]


def own(kind="Counting", **settings):
    budget = settings.pop("budget", {})
    return OwnSettings(kind=f"{__name__}:{kind}", settings=settings, budget=budget)


def honeypots(count=6):
    made = [Honeypot(item(f"i-honey{n}", "    y = x + 1", "    return y"), (1, 1, -1)) for n in range(count)]
    return HoneypotPool(made)


def test_honeypots_are_mixed_in_and_none_is_shown_twice():
    machines, pool = Machines([own()], 1), honeypots()
    work = [item(f"i-{n}", "    return x") for n in range(20)]
    for _ in range(4):
        table, shown = machines.collect(work, pool, 2, NOW)
    (annotator,) = machines.annotators
    seen = [[i.item_id for i in batch if "honey" in i.item_id] for batch in annotator.shown]
    assert [len(ids) for ids in seen] == [2, 2, 2, 0]
    assert len({i for ids in seen for i in ids}) == 6
    places = [n for batch in annotator.shown[:3] for n, i in enumerate(batch) if "honey" in i.item_id]
    assert min(places) < 10 < max(places)
    assert shown == []
    assert table.num_rows == 20


def test_a_run_without_machines_uses_up_no_honeypot():
    pool = honeypots()
    table, shown = Machines([], 1).collect([RIGHT], pool, 3, NOW)
    assert (table.num_rows, shown, pool.remaining("machines")) == (0, [], 6)


def test_nothing_that_an_annotator_is_shown_tells_truth_or_a_honeypot():
    machines = Machines([own()], 1)
    machines.collect([RIGHT], honeypots(), 3, NOW)
    shown = machines.annotators[0].shown[0]
    assert {type(i) for i in shown} == {Item}
    assert set(Item.__dataclass_fields__) == {"item_id", "problem_id", "prompt", "lines", "to_review", "language"}


def test_the_same_review_is_the_same_event_and_another_one_is_a_correction():
    first, _ = Machines([own()], 1).collect([RIGHT], NO_HONEYPOTS, 0, NOW)
    again, _ = Machines([own()], 1).collect([RIGHT], NO_HONEYPOTS, 0, NOW + timedelta(hours=1))
    assert first["event_id"].equals(again["event_id"])
    assert len(set(first["event_id"].to_pylist())) == first.num_rows


@pytest.mark.parametrize("budget, limit", [({"marks": 4}, 2), ({"minutes": 3}, 3), ({"money": 1}, 2)])
def test_an_annotator_whose_budget_is_used_up_abstains_and_an_alert_says_so(budget, limit):
    machines = Machines([own(budget=budget, seconds=60.0, cost=0.5)], 1)
    rounds = [machines.collect([RIGHT], NO_HONEYPOTS, 0, NOW)[0].num_rows for _ in range(5)]
    assert rounds == [2] * limit + [0] * (5 - limit)
    assert "counting abstained" in str(machines.alerts()[0])


def test_what_was_spent_is_remembered_over_a_resume():
    machines = Machines([own(budget={"marks": 2})], 1)
    machines.collect([RIGHT], NO_HONEYPOTS, 0, NOW)
    again = Machines([own(budget={"marks": 2})], 1)
    again.restore(json.loads(json.dumps(machines.state())))
    assert again.collect([RIGHT], NO_HONEYPOTS, 0, NOW)[0].num_rows == 0


def test_a_review_that_does_not_fit_its_program_names_the_annotator():
    with pytest.raises(DataError, match="counting marked line 99 of i-right"):
        Machines([own("Wrong")], 1).collect([RIGHT], NO_HONEYPOTS, 0, NOW)


@pytest.mark.parametrize(
    "parts, message",
    [
        ([own(), own()], "two of the name 'counting'"),
        ([own(source="judge")], "has the source 'judge'; use one of human, llm"),
        ([own(name="")], "has no annotator_id"),
    ],
)
def test_annotators_that_marks_could_not_tell_apart_are_refused(parts, message):
    with pytest.raises(ConfigError, match=message):
        Machines(parts, 1)


def test_they_are_named_in_the_settings_of_a_run():
    config = load_config(
        changes=[
            "feedback.annotators=[{kind: checks, rules: [F]}, {kind: checks, tool: mypy, budget: {minutes: 5}}, "
            f"{{kind: memory, half_life: 3}}, {{kind: '{__name__}:Counting', settings: {{name: mine}}}}]"
        ]
    )
    names = [annotator.annotator_id for annotator in Machines(config.feedback.annotators, 1).annotators]
    assert names == ["ruff:F", "mypy", "memory", "mine"]
    assert load_config().model_validate(json.loads(config.model_dump_json())) == config


@pytest.mark.parametrize(
    "entry, message",
    [
        ("{kind: chekcs}", "'chekcs' is not known: did you mean checks?"),
        ("{kind: checks, ruls: [F]}", r"unknown setting .*ruls; did you mean .*rules\?"),
        ("{kind: checks, rules: ['--fix']}", "a prefix of ruff's rules"),
        ("{kind: checks, tool: mypy, rules: [F]}", "has no effect with tool=mypy"),
        ("{kind: checks, tool: command, command: [lint]}", "no argument with {file}"),
        ("{kind: checks, tool: command, command: [lint, '{file}'], pattern: x}", "has no group"),
        (f"{{kind: '{__name__}:NOW'}}", "is not an annotator: it has no method review"),
        (f"{{kind: '{__name__}:Counting', settings: {{nam: x}}}}", "do not fit .*'nam'"),
    ],
)
def test_what_cannot_be_an_annotator_is_refused_by_name(entry, message):
    with pytest.raises(ConfigError, match=message):
        load_config(changes=[f"feedback.annotators=[{entry}]"])


def test_honeypots_find_out_an_annotator_that_marks_everything_correct(tmp_path):
    """It weighs next to nothing, whatever it says of the work."""
    from crlhf_ray.aggregation.actor import Aggregator
    from crlhf_ray.feedback.log import AnnotationLog

    pool, machines = honeypots(40), Machines([own()], 1)
    table, shown = machines.collect([RIGHT], pool, 40, NOW)
    aggregator = Aggregator(tmp_path, None, AnnotationLog(tmp_path / "marks"))
    aggregator.add_gold(pool.gold(shown))
    aggregator.ingest(table)
    evidence = np.abs(aggregator.consensus(["i-right"])["evidence"].to_numpy())
    assert evidence.max() < 0.2
    aggregator.close()
