"""The benchmark of the guarantee measures what it says: known gaps, known losses, and refusals apart."""

from __future__ import annotations

import numpy as np
import pytest
from rich.console import Console

import auditkit as ak
from auditkit.constraints import measure_gaps
from benchmarks import guarantee


@pytest.fixture(scope="module")
def setting() -> guarantee.Setting:
    population = guarantee.synthetic("two groups", [0.5, 0.5], [0.3, 0.5], [0.0, 0.1])
    return guarantee.Setting(population, "ECP", (ak.ECP("g", tolerance=0.06),), 1000)


def test_gap_and_loss_are_those_of_the_population(setting: guarantee.Setting) -> None:
    people = setting.population
    wanted = measure_gaps(people.scores, people.groups, setting.criteria)["ECP(g)"]
    assert setting.gap(people.scores) == pytest.approx(wanted, abs=1e-12)
    assert guarantee.errors(people, (people.scores > 0.5).astype(float)) == pytest.approx(
        np.mean((people.scores > 0.5) != people.labels)
    )


def test_a_promise_is_broken_seldom_and_a_missing_margin_often(setting: guarantee.Setting) -> None:
    console = Console(quiet=True)
    kept = guarantee.measure(setting, guarantee.guaranteed, 40, console)
    bare = guarantee.measure(setting, guarantee.without_margin, 40, console)
    assert kept["broken"] <= 0.15
    assert 0.25 <= bare["broken"] <= 0.75
    assert kept["loss"] > bare["loss"]
    small = guarantee.Setting(setting.population, "ECP", setting.criteria, 50)
    refused = guarantee.measure(small, guarantee.guaranteed, 3, console)
    assert (refused["deployed"], refused["refused"]) == (0, 3)
    assert np.isnan(refused["broken"])


def test_every_method_runs(setting: guarantee.Setting) -> None:
    rng = np.random.default_rng(0)
    for run in guarantee.SCORE_METHODS.values():
        gap, loss = run(setting, rng)
        assert 0 <= gap < 0.1
        assert 0 < loss < 0.3
    rates = guarantee.Setting(setting.population, "selection rate", (ak.ECP("g", tolerance=0.1),), 3000)
    for run in guarantee.DECISION_METHODS.values():
        gap, loss = run(rates, rng)
        assert 0 <= gap < 0.2
        assert 0 < loss < 0.5
