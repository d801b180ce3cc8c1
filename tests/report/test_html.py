"""The report: one file, complete, safe to open, and made from whatever a run has left."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from example_run import write_example_run

from crlhf_ray.errors import DataError
from crlhf_ray.report.html import choose_samples, write_report
from crlhf_ray.visible import visible


class Page(HTMLParser):
    """Tags with their attributes, and all text outside of style elements."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return write_report(write_example_run(tmp_path_factory.mktemp("run"), rounds=20)).read_text()


def test_it_shows_every_part_of_a_whole_run(full):
    text = Page(full).text
    for part in (
        "Held-out pass@1", "Gain", "Alerts", "score stagnation", "rounds 4, 5", "Reward", "KL to the reference",
        "KL coefficient", "ann-08 · spammer", "Consensus", "Rollout against learner", "Time", "strings/count_vowels",
        "Resolved settings", "estimator: two_coin",
    ):  # fmt: skip
        assert part in text, part
    assert full.count("<svg") == 8


def test_nothing_is_fetched_and_nothing_runs(full):
    page = Page(full)
    assert not {"script", "link", "img", "iframe", "object", "embed", "form", "base"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "xlink:href", "src"):
                assert value.startswith("#"), (tag, value)
    assert not re.findall(r"url\((?!#)|@import", full)
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


def test_every_colour_of_a_plot_follows_the_theme(full):
    assert not re.findall(r"(?:fill|stroke): #00f", full)
    assert "prefers-color-scheme: dark" in full


def test_a_lines_state_is_told_by_text_and_number_and_not_by_colour_alone(full):
    text = Page(full).text
    assert re.search(r"0\.2\d ✗ wrong ✗ wrong if letter in vowels", text)
    assert re.search(r"0\.\d\d ✓ correct ✗ wrong ≠ total \+= 1", text)


def test_hostile_text_is_shown_and_not_interpreted(tmp_path):
    attack = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>"
    write_example_run(tmp_path, rounds=1)
    row = {
        "round": 1,
        "sample_id": attack,
        "problem_id": attack,
        "prompt": attack,
        "lines": [{"text": attack + "\u202e\x00", "p_correct": 0.5, "truth": None, "to_review": True}],
    }
    (tmp_path / "samples.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"round": 0, "alerts": [attack], "seconds": {attack: 1}}) + "\n")
    (tmp_path / "settings.json").write_text(json.dumps({"model": {"name": attack}}))
    page = Page(write_report(tmp_path).read_text())
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert attack in page.text
    assert r"\u202e\x00" in page.text


def test_alerts_of_one_kind_are_one_line_as_last_said(tmp_path):
    rows = [{"round": number, "alerts": [f"spammers: {number + 1} of them"]} for number in range(3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "settings.json").write_text("{}")
    text = Page(write_report(tmp_path).read_text()).text
    assert text.count("spammers") == 1
    assert re.search(r"spammers: 3 of them rounds 0, 1, 2", text)


def test_characters_that_hide_or_reorder_code_are_shown_as_escapes():
    assert visible("a\u202eb\u200b\ud800\tc\n") == "a\\u202eb\\u200b\\ud800\tc\n"
    assert visible("größe = '日本'") == "größe = '日本'"


def test_a_name_with_dollar_signs_is_no_formula(tmp_path):
    import pyarrow as pa

    from crlhf_ray.report.metrics import MetricsLog

    write_example_run(tmp_path, rounds=1)
    with MetricsLog(tmp_path) as log:
        log.append_reliability(pa.table({"annotator_id": [r"$\frac{$"], "round": [1], "sensitivity": [0.5]}))
    assert r"$\frac{$" in write_report(tmp_path).read_text()


def test_a_run_interrupted_after_its_first_round_gives_a_report(tmp_path):
    text = Page(write_report(write_example_run(tmp_path, rounds=1)).read_text()).text
    assert "measured once" in text
    assert "of 40 planned" in text


def test_a_run_that_only_has_settings_says_that_no_round_is_finished(tmp_path):
    (tmp_path / "settings.json").write_text("{}")
    assert "No round has been finished yet" in write_report(tmp_path).read_text()


@pytest.mark.parametrize(
    "missing", ["settings.json", "metrics.jsonl", "evaluations.jsonl", "reliability.parquet", "samples.jsonl"]
)
def test_any_one_missing_file_leaves_the_rest_of_the_report(tmp_path, missing):
    write_example_run(tmp_path, rounds=1)
    (tmp_path / missing).unlink()
    assert "</html>" in write_report(tmp_path).read_text()


def test_a_round_with_nothing_but_its_number_is_enough(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"round": 0}\n')
    assert "Rounds" in write_report(tmp_path).read_text()


def test_a_folder_that_is_no_run_is_refused_with_what_was_expected(tmp_path):
    with pytest.raises(DataError, match="not a run folder"):
        write_report(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        write_report(tmp_path / "absent")


def test_writing_it_again_gives_the_same_file(tmp_path):
    write_example_run(tmp_path, rounds=1)
    first = write_report(tmp_path).read_bytes()
    assert write_report(tmp_path).read_bytes() == first


def test_the_samples_shown_are_of_the_latest_round_and_differ_in_problem_and_score():
    rows = [
        {"round": number, "sample_id": f"{number}-{i}", "problem_id": f"p{i % 4}", "reward": i / 10}
        for number in (0, 1)
        for i in range(8)
    ]
    chosen = choose_samples(rows)
    assert {row["round"] for row in chosen} == {1}
    assert len({row["problem_id"] for row in chosen}) == 3
    assert chosen[0]["reward"] == 0.7
    assert chosen[1]["reward"] == 0.0


def test_fewer_samples_than_three_are_all_shown():
    rows = [{"round": 0, "sample_id": str(i), "problem_id": "p", "reward": None} for i in range(2)]
    assert len(choose_samples(rows)) == 2
