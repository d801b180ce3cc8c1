"""The simulation of an elastic pool with people at work."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

PATH = Path(__file__).resolve().parents[2] / "benchmarks/elastic.py"
SPEC = importlib.util.spec_from_file_location("elastic_benchmark", PATH)
elastic = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = elastic  # where dataclasses look for their module
SPEC.loader.exec_module(elastic)
WORLD = elastic.World(people=4, groups=4, programs=4, at_once=4, tick=30.0)


def day(pool, staleness):
    days = elastic.Days(WORLD, pool, staleness, np.array([120.0]), np.random.default_rng(0))
    return days, days.run(1)


@pytest.mark.parametrize("staleness", [0, 1])
def test_with_people_as_the_bottleneck_a_pool_that_goes_to_none_does_the_same_work_in_half_the_hours(staleness):
    _, fixed = day(1, staleness)
    _, elastic_pool = day(elastic.POOLS["0 to 4"], staleness)
    assert elastic_pool["programs"] >= 0.9 * fixed["programs"] > 0
    assert elastic_pool["replica-hours per 1,000"] < fixed["replica-hours per 1,000"] / 2


def test_every_program_that_was_begun_is_learnt_from_or_under_way():
    days, found = day(2, 1)
    assert days.begun * WORLD.programs == found["programs"] + len(days.drawn) * WORLD.programs
    assert sorted(days.drawn) == days.buffer.open()
