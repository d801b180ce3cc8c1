"""A lead brings programs in, in any language, and takes reviews out; what was exported can be imported."""

import csv
import io
import json

import httpx
import pytest
from typer.testing import CliRunner

from crlhf_ray.aggregation.marks import Item
from crlhf_ray.cli import app
from crlhf_ray.errors import ConfigError, DataError
from crlhf_ray.feedback.desk.bring import read_file
from crlhf_ray.feedback.desk.client import ServerError
from crlhf_ray.feedback.desk.highlight import code_lines, highlighted
from crlhf_ray.feedback.desk.queue import QueueSettings
from tests.desk.conftest import review

PLAIN = QueueSettings(qualification=0, labels_least=1, honeypots_least=0, honeypots_most=0)
JS = "// adds\nfunction add(a, b) {\n\n  return a + b; /* so\n  it is */\n}\n"
DIFF = """\
diff --git a/add.go b/add.go
--- a/add.go
+++ b/add.go
@@ -1,3 +1,6 @@ package add
 package add
+// Add adds.
-func add() {}
+func Add(a, b int) int {
+\treturn a - b
+}
 
"""


def rows(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def bring(server, text, name="programs.jsonl", **more):
    return server.lead.import_files([{"name": name, "text": text}], **more)


@pytest.mark.parametrize(
    "language, text, lines",
    [
        ("javascript", JS, (1, 3, 5)),
        ("python", "x = 1  # so\n# only a comment\n\n'''doc\n\nmore'''\n", (0, 3, 5)),
        ("c", "#include <a.h>\n/* a\n b */ int x;\n", (0, 2)),
        ("rust", "// doc\nfn f() {}\n", (1,)),
        ("sql", "-- so\nselect 1;\n", (1,)),
        ("html", "<!-- so -->\n<p>text</p>\n", (1,)),
        ("haskell", "-- | doc\nf x = {- why -} x\n", (1,)),
    ],
)
def test_a_languages_own_lexer_says_which_lines_carry_code(language, text, lines):
    assert code_lines(text, language) == lines


@pytest.mark.parametrize("language", ["javascript", "c", "rust", "sql", "html", "haskell", "diff", "bash", "yaml"])
def test_highlighting_keeps_every_line_of_every_language(language):
    text = "a <b>\n\n  'it\u202e\n\tx = \"&\n"
    prompt, lines = highlighted("it's <b>", text, language)
    assert prompt == ("it&#x27;s &lt;b&gt;",)
    assert len(lines) == len(text.split("\n"))
    assert "<b>" not in "".join(lines)


def test_a_honeypot_of_a_training_problem_looks_like_trainings_own_programs(serve):
    server = serve()
    prompt, text = 'def double(x):\n    """Twice x."""', "\n    return x + x"
    bring(
        server, rows({"program": text, "prompt": prompt, "problem": "p", "language": "python", "wrong_lines": "none"})
    )
    server.lead.publish([Item("i-1", "p", prompt, ("", "    return 2 * x"), (1,))])
    person = server.person("ann")
    shown = []
    for _ in range(2):
        task = person._call("POST", "/next", {})
        shown.append((task["prompt"], task["language"], [(one["number"], one["to_review"]) for one in task["lines"]]))
        person.mark(task["lease_id"], {1: 1})
        person.submit(task["lease_id"])
    assert shown[0] == shown[1]


def test_an_unknown_language_is_refused_with_one_like_it():
    with pytest.raises(ConfigError, match=r"no language 'pyhton': did you mean 'python'"):
        code_lines("x", "pyhton")


def test_programs_come_in_with_all_that_their_lead_says_and_reviewers_see_no_name(serve):
    server = serve(queue=PLAIN)
    program = {
        "id": "task-1", "prompt": "Add two numbers.", "program": JS, "language": "javascript", "round": 4,
        "priority": 2, "deadline": "2099-01-01T00:00:00Z",
    }  # fmt: skip
    assert bring(server, rows(program)) == {
        "programs": 1, "changed": 0, "known": 0, "honeypots": 0, "reviews": 0
    }  # fmt: skip
    task = server.person("ann")._call("POST", "/next", {})
    assert [line["number"] for line in task["lines"] if line["to_review"]] == [1, 3, 5]
    assert (task["prompt"]["text"], task["language"]) == ("Add two numbers.", "javascript")
    assert "task-1" not in json.dumps(task)
    (listed,) = server.lead._call("GET", "/items?round=4")
    assert (listed["name"], listed["item_id"]) == ("task-1", task["item_id"])


def test_importing_again_changes_nothing_and_a_new_text_replaces_one_that_nobody_had(serve):
    server = serve(queue=PLAIN)
    first = {"id": "a", "program": "x = 1\n", "language": "python"}
    assert bring(server, rows(first))["programs"] == 1
    assert bring(server, rows(first))["known"] == 1
    assert bring(server, rows(first | {"program": "x = 2\n"}))["changed"] == 1
    review(server.person("ann"))
    with pytest.raises(ServerError, match="program 'a' was given to somebody already"):
        bring(server, rows(first | {"program": "x = 3\n"}))
    assert [row["text"] for row in exported(server)] == ["x = 2"]


def test_what_has_priority_comes_first(serve):
    server = serve(queue=PLAIN)
    bring(server, rows(*({"id": f"p{n}", "program": f"x = {n}", "language": "python"} for n in range(3))))
    server.now += 3600
    bring(server, rows({"id": "now", "program": "y = 1", "language": "python", "priority": 1}))
    person = server.person("ann")
    review(person)
    assert {row["id"] for row in exported(server)} == {"now"}


def test_a_honeypot_of_ones_own_teaches_who_is_right(serve):
    server = serve(queue=PLAIN.model_copy(update={"honeypots_least": 1.0, "honeypots_most": 1.0}))
    trap = {"id": "t", "program": "a = 1\nb = 2\n", "language": "python", "wrong_lines": [2]}
    counts = bring(server, rows(trap, {"program": "c = 1", "language": "python"}))
    assert (counts["programs"], counts["honeypots"]) == (2, 1)
    with pytest.raises(ServerError, match="honeypot 't' has taught what is right"):
        bring(server, rows(trap | {"wrong_lines": [1]}))
    review(server.person("ann"))
    server.settled()
    assert [(row["text"], row["truth"]) for row in exported(server)] == [("a = 1", "1"), ("b = 2", "-1")]


def test_csv_says_the_same():
    header, first = "program,language,id,wrong_lines,priority", '"a = 1\nb = 2",python,t,2,'
    text = f"{header}\n{first}\nc = 3,python,u,none,1.5\nd = 4,python,,,\n"
    programs, _ = read_file("p.csv", text)
    assert [(p.name, p.truth, p.priority) for p in programs] == [("t", (1, -1), 0), ("u", (1,), 1.5), (None, None, 0)]


def test_a_diff_asks_about_added_lines_of_code_and_shows_the_others(serve):
    (program,), _ = read_file("change.patch", DIFF)
    assert program.prompt == "A change to add.go: is each added line (+) right?"
    assert [program.lines[n] for n in program.asked] == ["+func Add(a, b int) int {", "+\treturn a - b", "+}"]
    assert "-func add() {}" in program.lines


WRONG = [
    ("p.jsonl", rows({"program": "x", "langauge": "python"}), "p.jsonl, row 1, field 'langauge': .*did you mean 'lang"),
    ("p.jsonl", rows({"program": "x"}), "p.jsonl, row 1, field 'language': name the program's language"),
    ("p.jsonl", "\n{\n", "p.jsonl, row 2: this is not JSON"),
    ("p.jsonl", rows({"program": "# x\n", "language": "python"}), "field 'program': no line of it carries code"),
    (
        "p.jsonl",
        rows({"program": "x", "language": "python", "wrong_lines": [2]}),
        "line 2 carries no code; lines count",
    ),
    ("p.jsonl", rows({"program": "x", "language": "python", "deadline": "2026-01-01"}), "row 1, field 'deadline'"),
    ("p.csv", "program,language\nx,python,1\n", "row 2: it has more fields than the header"),
    ("p.csv", "program,language,round\nx,python,one\n", "row 2, field 'round': 'one'"),
    ("p.jsonl", "", "there are no rows in it"),
    ("p.diff", "--- a\n+++ b\n@@ -1 +1 @@\n", "this is not a unified diff"),
    ("p.diff", "hello\n", "no file of this diff has an added line"),
    ("notes.unheardof", "x = 1", "its language is not known by its name"),
    ("r.jsonl", rows({"task": "a:0", "worker": "w", "label": 1, "time": 1}), "field 'task': 'a:0': write ITEM:LINE"),
]


@pytest.mark.parametrize("name, text, problem", WRONG)
def test_what_cannot_be_read_is_refused_by_file_row_field_and_remedy(name, text, problem):
    with pytest.raises(DataError, match=problem):
        read_file(name, text)


def test_of_a_file_with_a_fault_nothing_comes_in(serve):
    server = serve(queue=PLAIN)
    with pytest.raises(ServerError, match="row 2, field 'language': there is no language 'pi'"):
        bring(server, rows({"program": "x", "language": "python"}, {"program": "y", "language": "pi"}))
    assert server.lead._call("GET", "/items") == []


def exported(server, **filters):
    out = io.BytesIO()
    server.lead.export(out, **filters)
    return list(csv.DictReader(io.StringIO(out.getvalue().decode())))


@pytest.fixture
def reviewed(serve):
    """A server with two programs, reviewed by two people."""
    server = serve(queue=PLAIN.model_copy(update={"labels_least": 2}))
    bring(
        server, rows(*({"id": f"t{n}", "program": f"=x({n})\ny = 1", "language": "python", "round": n} for n in (0, 1)))
    )
    for name in ("ann", "bob"):
        person = server.person(name)
        task = person.next()
        person._call("POST", f"/leases/{task.lease_id}/comments", {"line": 0, "text": "=SUM(A1)"})
        review(person, 1 if name == "ann" else -1)
        review(person)
    server.settled()
    return server


def test_an_export_has_text_comments_posterior_and_filters(reviewed):
    everything = exported(reviewed, names=True)
    assert len(everything) == 8
    assert {row["worker"] for row in everything} == {"ann", "bob"}
    assert {row["task"].split(":")[1] for row in everything} == {"1", "2"}
    assert {row["text"] for row in everything} == {"'=x(0)", "'=x(1)", "y = 1"}  # no formula for a spreadsheet
    assert {row["comment"] for row in everything if row["comment"]} == {"'=SUM(A1)"}
    assert all(0 < float(row["p_correct"]) < 1 for row in everything)
    assert {row["id"] for row in exported(reviewed, round=1)} == {"t1"}
    assert {row["worker"] for row in exported(reviewed, person="bob", names=True)} == {"bob"}
    assert {row["worker"] for row in exported(reviewed)}.isdisjoint({"ann", "bob"})


def test_the_consensus_has_one_row_a_line(reviewed):
    found = exported(reviewed, kind="consensus", state="open")
    assert {(row["id"], row["reviews"]) for row in found} == {("t0", "2"), ("t1", "2")}
    assert len(found) == 4


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_an_export_is_imported_at_another_server_and_counts_once(reviewed, serve, format):
    out = io.BytesIO()
    reviewed.lead.export(out, format=format)
    other = serve(queue=PLAIN.model_copy(update={"labels_least": 2}))
    text, name = out.getvalue().decode(), f"reviews.{format}"
    with pytest.raises(ServerError, match="import the programs before their reviews"):
        bring(other, text, name)
    bring(other, rows(*({"id": f"t{n}", "program": f"=x({n})\ny = 1", "language": "python"} for n in (0, 1))))
    assert bring(other, text, name)["reviews"] == 4
    assert bring(other, text, name)["known"] == 4
    other.settled()
    columns = ("id", "worker", "label", "weight", "time", "event_id", "milliseconds")
    assert [[row[c] for c in columns] for row in exported(other)] == [
        [row[c] for c in columns] for row in exported(reviewed)
    ]


def test_a_retired_program_is_given_to_nobody_and_leaves_who_had_it(serve):
    server = serve(queue=PLAIN)
    bring(server, rows(*({"id": f"t{n}", "program": f"x = {n}", "language": "python"} for n in (0, 1))))
    person = server.person("ann")
    held = person.next()
    (name,) = [row["name"] for row in server.lead._call("GET", "/items") if row["item_id"] == held.item_id]
    assert server.lead.retire([name]) == [held.item_id]
    assert person.next().item_id != held.item_id
    with pytest.raises(ServerError, match="there is no program 'none'; none was retired"):
        server.lead.retire(["none"])


def test_reviewers_neither_import_nor_export_nor_retire(serve):
    server = serve()
    person = server.person("ann")
    for method, path, body in (
        ("POST", "/import", {"files": [{"name": "a.py", "text": "x"}]}),
        ("GET", "/export", None),
        ("POST", "/items/retire", {"ids": ["a"]}),
    ):
        with pytest.raises(ServerError, match="403"):
            person._call(method, path, body)


def test_the_command_line_imports_folders_exports_and_retires(serve, tmp_path):
    server = serve(queue=PLAIN)
    at = ["--url", server.url, "--token-file", str(server.token_file)]
    folder = tmp_path / "code"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.rs").write_text("fn main() {}\n")
    (folder / "b.py").write_text("x = 1\n")
    (folder / "photo.unheardof").write_bytes(b"\xff\x00")
    run = CliRunner()
    done = run.invoke(app, ["review", "import", str(folder), *at], catch_exceptions=False)
    assert "2 new programs" in " ".join(done.output.split())
    review(server.person("ann"))
    out = tmp_path / "reviews.jsonl"
    assert run.invoke(app, ["review", "export", str(out), *at], catch_exceptions=False).exit_code == 0
    (row,) = map(json.loads, out.read_text().splitlines())
    assert row["task"].endswith(":1")
    item = row["task"].split(":")[0]
    assert "1 programs are retired" in run.invoke(app, ["review", "retire", item, *at], catch_exceptions=False).output
    with pytest.raises(DataError, match=r"ends in .csv, .jsonl or .parquet"):
        run.invoke(app, ["review", "export", "reviews.txt", *at], catch_exceptions=False)


def test_an_import_without_a_token_is_refused(serve):
    assert httpx.post(f"{serve().url}/api/v1/import", json={}).status_code == 401
