"""What a researcher imports from the package's root, and the page that documents it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import crlhf_ray

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
EXAMPLES = re.findall(r"^## ([^\n]+)|^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def examples():
    section, counts = "", {}
    for heading, code in EXAMPLES:
        section = heading or section
        if code:
            counts[section] = counts.get(section, 0) + 1
            marks = [pytest.mark.engine, pytest.mark.timeout(600)] if "train(config)" in code else []
            yield pytest.param(code, id=f"{section} {counts[section]}", marks=marks)


@pytest.mark.parametrize("code", examples())
def test_the_examples_of_the_page_run(code, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PAGE.parents[1])},
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("name", crlhf_ray.__all__)
def test_every_public_name_can_be_imported(name):
    assert getattr(crlhf_ray, name) is not None


def test_importing_the_package_imports_nothing_else():
    code = "import sys, crlhf_ray; print([name for name in ('torch', 'ray', 'pandas', 'vllm') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_name_that_is_not_public_is_said_to_be_missing():
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        crlhf_ray.trian  # noqa: B018
