"""The page of ``crlhf aggregate``."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from crlhf_ray.cli import app

HOSTILE = "<script>alert(1)</script>\u202e"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three good workers and a guesser with a hostile name; thirty of sixty tasks have known truth."""
    folder, rng = tmp_path_factory.mktemp("votes"), np.random.default_rng(0)
    truth = rng.integers(0, 2, 60)
    skill = {"ann": 0.95, "bob": 0.9, "cid": 0.9, HOSTILE: 0.5}
    rows = [(f"t{t}", w, z if rng.random() < p else 1 - z) for t, z in enumerate(truth) for w, p in skill.items()]
    pd.DataFrame(rows, columns=["task", "worker", "label"]).to_csv(folder / "labels.csv", index=False)
    pd.DataFrame({"task": [f"t{t}" for t in range(30)], "label": truth[:30]}).to_csv(folder / "gold.csv", index=False)
    return folder


def page_of(folder, *options):
    out = folder / "-".join(["out", *(option.strip("-").replace("/", "_")[-9:] for option in options)])
    found = CliRunner().invoke(app, ["aggregate", str(folder / "labels.csv"), "--out", str(out), *options])
    assert found.exit_code == 0, found.output
    return (out / "report.html").read_text()


def test_the_page_tells_what_a_person_decides_on(folder):
    page = page_of(folder, "--gold", str(folder / "gold.csv"))
    for part in ("Right on honeypots", "Calibration on honeypots", "Krippendorff", "Ask about these again first"):
        assert part in page
    assert re.search(r"<td>ann</td><td>60</td><td>trust</td>", page)
    assert "not calibrated" not in page


def test_names_are_escaped_and_nothing_is_fetched(folder):
    page = page_of(folder, "--gold", str(folder / "gold.csv"))
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "\u202e" not in page
    assert "default-src 'none'" in page
    assert not re.search(r'(src|href)="(?!#)', page)


def test_without_honeypots_the_page_says_that_nothing_is_calibrated(folder):
    page = page_of(folder)
    assert "not calibrated" in page
    assert "Right on honeypots" not in page


def test_a_majority_has_a_page_without_advice(folder):
    assert "to drop" not in page_of(folder, "--estimator", "majority").split("<h2>Workers</h2>")[0]
