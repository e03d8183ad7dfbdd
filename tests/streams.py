"""One stream of batches that every test of a store applies, and what must be left when all of it was applied once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import auditkit as ak
from auditkit.state_store import verify_ledger

CRITERIA = [ak.ECP("g", tolerance=0.02), ak.EER("g", tolerance=0.1)]
BATCHES = 400


def batch_of(number: int) -> tuple[np.ndarray, dict[str, list[str]], np.ndarray]:
    rng = np.random.default_rng(number)
    n = int(rng.integers(1, 4))
    return rng.random(n), {"g": rng.choice(["p", "q"], n).tolist()}, rng.integers(0, 2, n).astype(float)


def open_stream(place: str | Path | None) -> ak.OnlineEnforcer:
    return ak.OnlineEnforcer(CRITERIA, store=place, bounds=(0.0, 1.0))


def apply_batch(stream: ak.OnlineEnforcer, number: int) -> np.ndarray:
    scores, groups, labels = batch_of(number)
    released = stream.step(scores, groups, batch_id=str(number)).scores
    if number % 2 == 0:
        stream.observe(labels, batch_id=str(number))
    return released


def apply_all(stream: ak.OnlineEnforcer) -> None:
    for number in range(BATCHES):
        apply_batch(stream, number)


def uninterrupted() -> tuple[list[list[float]], str]:
    stream = open_stream(None)
    answers = [apply_batch(stream, number).tolist() for number in range(BATCHES)]
    return answers, json.dumps(stream.state.to_dict())


def assert_verified(place: str | Path) -> None:
    assert [check for check in verify_ledger(place) if not check.passed] == []


def check_against_uninterrupted(place: Path) -> None:
    answers, state = uninterrupted()
    stream = open_stream(place)
    for number in range(BATCHES):
        assert apply_batch(stream, number).tolist() == answers[number]
    assert json.dumps(stream.state.to_dict()) == state
    stream.close()
    assert_verified(place)
