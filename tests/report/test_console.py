"""What a person sees in the terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from crlhf_ray.report.console import Display, round_line

ROW = {
    "round": 3,
    "reward": {"mean": 0.6123},
    "train_pass_rate": 0.25,
    "learner": {"kl": 0.01},
    "aggregation": {"consensus_accuracy": 0.94},
    "seconds": {"learn": 12.0, "sync": 0.5},
    "alerts": ["annotator collapse: [ann-03] swings"],
}


def play(terminal: bool) -> str:
    out = io.StringIO()
    with Display(Console(file=out, force_terminal=terminal, width=100)) as display:
        with display.phase("generate", total=32):
            display.advance(32)
        display.round_done(ROW)
        display.final_table({"Held-out pass@1": "10.0% → 20.0%", "Report": "runs/[x]/report.html"})
    return out.getvalue()


def test_a_round_is_one_line_with_what_matters():
    line = round_line(ROW)
    assert line == "round 4  reward 0.612  passed 25.0%  KL 0.0100  consensus 94.0%  12.5 s"
    assert round_line({"round": 0}, 6) == "round 1 of 6"


def test_without_a_terminal_there_are_plain_lines_only():
    text = play(terminal=False)
    assert "\x1b" not in text
    assert text.splitlines()[:3] == [
        "  generate (32) took 0 s",
        round_line(ROW),
        "  alert: annotator collapse: [ann-03] swings",
    ]


def test_an_alert_that_goes_on_is_printed_once():
    out = io.StringIO()
    with Display(Console(file=out, width=100)) as display:
        for _ in range(3):
            display.round_done(ROW)
    assert out.getvalue().count("annotator collapse") == 1


@pytest.mark.parametrize("terminal", [True, False])
def test_the_closing_table_shows_text_as_it_is(terminal):
    text = play(terminal)
    assert "10.0% → 20.0%" in text
    assert "runs/[x]/report.html" in text


def test_progress_without_a_phase_or_after_an_error_does_no_harm():
    with Display(Console(file=io.StringIO(), force_terminal=True)) as display:
        display.advance(3)
        with pytest.raises(KeyError), display.phase("learn"):
            raise KeyError
        with display.phase("sync", total=2):
            display.advance()


def shown(play) -> str:
    out = io.StringIO()
    with Display(Console(file=out, width=200), rounds=10, every=3) as display:
        play(display)
    return out.getvalue()


def test_a_round_says_how_many_there_are_and_how_long_they_will_take():
    row = ROW | {"seconds": {"learn": 60.0, "start": 500.0, "evaluate round 3": 30.0}}
    # Six rounds of a minute, and evaluations after rounds 6, 9 and 10.
    assert "round 4 of 10  " in (text := shown(lambda display: display.round_done(row)))
    assert "about 7 min 30 s left" in text


def test_a_score_is_shown_when_it_is_measured_with_the_gain_since_the_first():
    rates = [{f"p{n}": 0.1 for n in range(40)}, {f"p{n}": 0.3 for n in range(40)}]
    rows = [
        {"round": number, "pass_at_1": rate["p0"], "low": 0.05, "high": 0.35, "per_problem": rate}
        for number, rate in zip((0, 3), rates, strict=True)
    ]
    assert "before the first round: 10.0%  [5.0%, 35.0%]\n" in shown(lambda display: display.measured(rows[:1]))
    text = shown(lambda display: display.measured(rows))
    assert "held-out pass@1 after round 3: 30.0%" in text
    assert "since the beginning +20.0 points" in text


def test_a_phase_that_fails_says_so_where_there_is_no_terminal():
    def play(display: Display) -> None:
        with pytest.raises(KeyError), display.phase("learn"):
            raise KeyError

    assert shown(play) == "  learn stopped after 0 s\n"
