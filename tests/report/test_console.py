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
    assert line == "round 3  reward 0.612  passed 25.0%  KL 0.0100  consensus 94.0%  12.5 s"
    assert round_line({"round": 0}) == "round 0"


def test_without_a_terminal_there_are_plain_lines_only():
    text = play(terminal=False)
    assert "\x1b" not in text
    assert text.splitlines()[:3] == [
        "  generate (32)",
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
