"""Studies: one command, which goes on where it was; one JSON file; one page that holds all it shows."""

import json
import os

import numpy as np
import pytest
from typer.testing import CliRunner

from crlhf_ray.cli import app
from crlhf_ray.errors import ConfigError, DataError
from crlhf_ray.studies.command import STUDIES, study_named
from crlhf_ray.studies.rewards import auc
from crlhf_ray.studies.study import Study, interval, run_study


def small(measured, **other):
    def measure(arm, place, seed):
        measured.append((arm, place, seed))
        return {"value": place + seed + len(arm)}

    fields = {"metrics": {"value": "a value"}, "arms": ("<b>a</b>", "b"), "places": (1, 2), "limits": ("all",)}
    return Study("small", "Is it <so>?", "place", measure=measure, **{**fields, **other})


def test_an_interrupted_study_measures_only_what_is_missing(tmp_path):
    measured = []
    study = small(measured)

    def stop(done, of):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(study, tmp_path, 2, stop)
    run_study(study, tmp_path, 2)
    assert len(measured) == len(set(measured)) == 8
    run_study(study, tmp_path, 3)
    assert len(measured) == len(set(measured)) == 12


def test_the_file_holds_every_cell_and_its_summary(tmp_path):
    run_study(small([]), tmp_path, 2)
    found = json.loads((tmp_path / "small.json").read_text())
    assert len(found["cells"]) == 8
    row = next(row for row in found["summary"] if (row["arm"], row["place"]) == ("b", 2.0))
    assert row["seeds"] == 2
    assert row["value"]["mean"] == 3.5


def test_the_page_escapes_runs_nothing_and_fetches_nothing(tmp_path):
    page = run_study(small([]), tmp_path, 2).read_text()
    assert "Is it &lt;so&gt;?" in page
    assert "<b>a</b>" not in page
    assert "<svg" in page
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert page.index("<head>") < page.index('<meta name="color-scheme" content="light dark">') < page.index("</head>")


def test_a_file_of_other_metrics_is_refused_and_kept(tmp_path):
    run_study(small([]), tmp_path, 1)
    before = (tmp_path / "small.json").read_text()
    with pytest.raises(DataError, match="as it is now"):
        run_study(small([], metrics={"other": "another"}), tmp_path, 1)
    assert (tmp_path / "small.json").read_text() == before


def test_intervals_are_of_the_mean_or_of_the_bootstrap():
    assert interval([1.0]) == {"mean": 1.0, "low": None, "high": None}
    found = interval([1.0, 2.0, 3.0, float("nan")])
    assert found["mean"] == 2.0
    assert found["low"] == pytest.approx(2.0 - 4.3027 / np.sqrt(3), abs=1e-3)
    assert interval(list(range(101)), bootstrap=True) == {"mean": 50.0, "low": 2.5, "high": 97.5}


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_each_study_measures_the_same_for_the_same_seed(name):
    if name == "experience" and "CRLHF_DATA" not in os.environ:
        pytest.skip("needs CRLHF_DATA for faultloc")
    study = STUDIES[name]
    for arm in study.arms[:2]:
        found = study.measure(arm, study.places[1], 3)
        assert set(found) == set(study.metrics)
        assert all(np.isfinite(value) for value in found.values())
        assert study.measure(arm, study.places[1], 3) == found


def test_auc_counts_pairs_and_halves_ties():
    assert auc(np.array([1.0, 0.5]), np.array([0.5, 0.0])) == (2 + 1.5) / 4


def test_padding_pays_under_the_mean_and_hardly_under_right():
    measure = STUDIES["padding"].measure
    gain = {form: measure(form, 18, 0)["wrong"] - measure(form, 0, 0)["wrong"] for form in ("mean", "right")}
    assert gain["mean"] > 0.08 > gain["right"]


def test_observed_errors_lie_between_the_bounds():
    measure = STUDIES["bounds"].measure
    observed = measure("observed in 20,000 draws", 7, 0)["error"]
    assert measure("Bhattacharyya, lower", 7, 0)["error"] < observed < measure("Bhattacharyya, upper", 7, 0)["error"]
    assert observed == pytest.approx(measure("exact", 7, 0)["error"], abs=0.01)


def test_more_honeypots_bring_estimates_nearer_to_the_truth():
    measure = STUDIES["calibration"].measure
    errors = [
        np.mean(
            [measure(arm, lines, seed)["specificity_error"] for arm in STUDIES["calibration"].arms for seed in (0, 1)]
        )
        for lines in (5, 160)
    ]
    assert errors[1] < errors[0] / 1.5


def test_the_command_names_the_studies_that_there_are(tmp_path):
    with pytest.raises(ConfigError, match="padding"):
        study_named("no_such")
    result = CliRunner().invoke(app, ["study", "file_level", "--seeds", "2", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert {file.name for file in tmp_path.iterdir()} == {"file_level.json", "file_level.html"}
