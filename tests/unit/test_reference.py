"""Every setting is documented, and editors know it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from crlhf_ray.cli.reference import ROOTS, page, schema, settings_in
from crlhf_ray.settings import Settings

ROOT = Path(__file__).parents[2]
TRAIN = Draft202012Validator(schema("train"))


def test_the_page_of_settings_is_that_of_the_classes():
    assert (ROOT / "docs/settings.md").read_text() == page(), "crlhf schema --markdown > docs/settings.md"


def classes(kind: type[Settings]) -> Iterator[type[Settings]]:
    yield kind
    for field in kind.model_fields.values():
        for inner in settings_in(field.annotation):
            yield from classes(inner)


@pytest.mark.parametrize("command", ROOTS)
def test_every_setting_says_what_it_means(command):
    unsaid = [
        f"{kind.__name__}.{name}"
        for kind in classes(ROOTS[command])
        for name, field in kind.model_fields.items()
        if not field.description and name != "kind" and not settings_in(field.annotation)
    ]
    assert unsaid == []


@pytest.mark.parametrize("command", ROOTS)
def test_the_schema_of_a_command_is_one(command):
    Draft202012Validator.check_schema(schema(command))


@pytest.mark.parametrize("file", sorted((ROOT / "jobs").glob("*.yaml")), ids=lambda path: path.name)
def test_editors_accept_the_files_that_come_with_the_project(file):
    assert [error.message for error in TRAIN.iter_errors(yaml.safe_load(file.read_text()))] == []


@pytest.mark.parametrize(
    "entry",
    [
        {"kind": "checks", "tool": "python"},
        {"kind": "llm", "model": "m"},
        {"kind": "tests", "specificity": 0.8},
        {"kind": "my_parts:Strict", "settings": {"limit": 3}},
    ],
)
def test_editors_know_each_kind_of_annotator_apart(entry):
    assert TRAIN.is_valid({"feedback": {"annotators": [entry]}})
    assert not TRAIN.is_valid({"feedback": {"annotators": [{**entry, "toool": "ruff"}]}})


@pytest.mark.parametrize("wrong", [{"learner": {"lrr": 1}}, {"learner": {"lr": 0}}, {"reward": {"source": "luck"}}])
def test_editors_show_a_wrong_name_and_a_wrong_value(wrong):
    assert not TRAIN.is_valid(wrong)
