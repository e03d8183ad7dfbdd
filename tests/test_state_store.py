"""Durability: what is answered is kept, once, whatever happens to process, disk, file or clock."""

from __future__ import annotations

import json
import os
import resource
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import auditkit as ak
from auditkit.errors import AuditkitError, InputError, StoreError
from auditkit.state_store import base, verify_ledger
from auditkit.state_store.sqlite_store import SqliteStore
from tests.run_folders import Run
from tests.streams import (
    BATCHES,
    apply_all,
    apply_batch,
    assert_verified,
    batch_of,
    check_against_uninterrupted,
    open_stream,
)


def work_until_killed(place: Path, first: int, ready: int | None = None) -> None:
    """A process of its own: one batch after the other, from the first that is not known to be done."""
    stream = open_stream(place)
    if ready is not None:
        os.write(ready, b".")
    for number in range(first, BATCHES):
        apply_batch(stream, number)
    stream.close()


def last_step(place: Path) -> int:
    """The number of the last step in the ledger, read from outside."""
    with sqlite3.connect(place) as connection:
        found = connection.execute("SELECT count(*) FROM ledger WHERE kind = 'step'").fetchone()[0]
    connection.close()
    return found


def kill_at_random(place: Path, first: int, rng: np.random.Generator) -> bool:
    """Run the work in a child and kill it at a random moment; whether it was killed before it was done.

    Mostly while it applies batches, sometimes while it opens the store.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work_until_killed(place, first, writing)
        finally:
            os._exit(0)
    os.close(writing)
    if rng.random() < 0.9:
        os.read(reading, 1)
    time.sleep(float(rng.uniform(0.0, 0.03)))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(reading)
    return os.WIFSIGNALED(status)


def crash_through(place: Path, least: int) -> int:
    """Kill the work again and again until it is done; how often it was killed."""
    rng = np.random.default_rng(0)
    apply_batch(open_stream(None), 0)  # imports what a step needs, which no child could do before it is killed
    open_stream(place).close()
    kills = 0
    while True:
        first = max(0, last_step(place) - 3)  # repeat what may or may not have been applied, as a client would
        if not kill_at_random(place, first, rng):
            return kills
        kills += 1
        if kills % 20 == 0:
            assert_verified(place)
        if last_step(place) >= BATCHES and kills >= least:
            return kills


def test_kill_at_random_points_loses_and_repeats_nothing(tmp_path: Path) -> None:
    crash_through(tmp_path / "state.db", least=10)
    check_against_uninterrupted(tmp_path / "state.db")


@pytest.mark.slow
def test_two_hundred_kills_lose_and_repeat_nothing(tmp_path: Path) -> None:
    kills = 0
    for attempt in range(100):
        place = tmp_path / f"{attempt}.db"
        kills += crash_through(place, least=10)
        check_against_uninterrupted(place)
        if kills >= 200:
            break
    print(f"killed {kills} times")
    assert kills >= 200


def test_a_repeated_id_returns_the_stored_answer_and_refuses_other_content(tmp_path: Path) -> None:
    with open_stream(tmp_path / "state.db") as stream:
        first = stream.step([0.2, 0.7], {"g": ["p", "q"]}, batch_id="1")
        apply_batch(stream, 2)
        before = json.dumps(stream.state.to_dict())
        again = stream.step([0.2, 0.7], {"g": ["p", "q"]}, batch_id="1")
        assert again.replayed
        np.testing.assert_array_equal(again.scores, first.scores)
        for scores, groups in (([0.2, 0.8], ["p", "q"]), ([0.2, 0.7], ["q", "p"])):
            with pytest.raises(InputError, match="used before for another batch"):
                stream.step(scores, {"g": groups}, batch_id="1")
        assert json.dumps(stream.state.to_dict()) == before


def test_many_requests_share_a_commit_and_a_refused_one_stops_none(tmp_path: Path) -> None:
    with open_stream(tmp_path / "state.db") as stream:
        requests = [stream.make_step([0.1 * k], {"g": ["p"]}, batch_id=str(k)) for k in range(5)]
        requests.insert(2, stream.make_step([0.9], {"g": ["p"]}, batch_id="0"))
        results = stream.apply(requests)
        assert isinstance(results[2], AuditkitError)
        assert stream.state.batches == 5
    assert_verified(tmp_path / "state.db")


def test_a_hundred_requests_in_one_transaction_are_those_of_a_hundred(tmp_path: Path) -> None:
    """Entries are written and looked up many at once; ids that repeat, also within the transaction, are answered."""
    batches = [batch_of(number)[:2] for number in range(150)]
    with open_stream(tmp_path / "one.db") as one, open_stream(tmp_path / "many.db") as many:
        expected = [one.step(*batch, batch_id=str(number)).scores for number, batch in enumerate(batches)]
        many.step(*batches[0], batch_id="0")
        order = [*range(150), 0, 149, 70]
        results = many.apply([many.make_step(*batches[number], batch_id=str(number)) for number in order])
        assert [r.replayed for r in results] == [True] + [False] * 149 + [True] * 3  # type: ignore[union-attr]
        for number, result in zip(order, results, strict=True):
            np.testing.assert_array_equal(np.asarray(result), expected[number])
        assert json.dumps(many.state.to_dict()) == json.dumps(one.state.to_dict())
    assert_verified(tmp_path / "many.db")


def test_what_the_caller_does_to_an_answer_is_not_remembered() -> None:
    stream = open_stream(None)
    first = stream.step([0.2, 0.7], {"g": ["p", "q"]}, batch_id="1")
    expected = first.scores.copy()
    first.scores[:] = 0.0
    np.testing.assert_array_equal(stream.step([0.2, 0.7], {"g": ["p", "q"]}, batch_id="1").scores, expected)


def test_a_full_disk_refuses_and_the_stream_goes_on_when_there_is_room(tmp_path: Path) -> None:
    place = tmp_path / "state.db"
    stream = open_stream(place)
    apply_batch(stream, 0)
    before = json.dumps(stream.state.to_dict())
    child = os.fork()
    if child == 0:  # a limit of the process, which cannot be taken back
        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, 120_000))
            other = open_stream(place)
            for number in range(1, BATCHES):
                apply_batch(other, number)
        except StoreError:
            code = 0 if json.dumps(other.state.to_dict()) else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    done = last_step(place)
    assert 0 < done < BATCHES
    assert_verified(place)
    for number in range(BATCHES):
        apply_batch(stream, number)
    assert json.dumps(stream.state.to_dict()) != before
    stream.close()
    check_against_uninterrupted(place)


def test_a_full_database_names_the_remedy(tmp_path: Path) -> None:
    stream = open_stream(tmp_path / "state.db")
    store: Any = stream.store
    store.connection.execute("PRAGMA max_page_count = 20")
    with pytest.raises(StoreError, match=r"the disk is full; make room .* nothing of this request was applied"):
        apply_all(stream)
    store.connection.execute("PRAGMA max_page_count = 100000")
    stream.close()
    check_against_uninterrupted(tmp_path / "state.db")


def test_a_locked_file_is_waited_for_and_then_refused(tmp_path: Path) -> None:
    place = tmp_path / "state.db"
    stream = open_stream(place)
    other = sqlite3.connect(place, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store: Any = stream.store
    store.connection.execute("PRAGMA busy_timeout = 50")
    with pytest.raises(StoreError, match="another process held it"):
        apply_batch(stream, 0)
    other.execute("ROLLBACK")
    other.close()
    apply_batch(stream, 0)
    assert stream.state.batches == 1
    stream.close()


def test_a_damaged_file_is_refused_with_a_reason(tmp_path: Path, run: Run) -> None:
    place = tmp_path / "state.db"
    place.write_bytes(b"this is not a database, whatever its name says" * 50)
    with pytest.raises(StoreError, match="no SQLite database"):
        open_stream(place)
    code, _, said = run("verify", place)
    assert code == 2
    assert "no SQLite database" in said
    with pytest.raises(StoreError, match="its folder exists"):
        open_stream(tmp_path / "missing" / "state.db")


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("UPDATE ledger SET entry = replace(entry, '\"rows\":', '\"rows\": ') WHERE sequence = 5", "was changed after"),
        ("UPDATE ledger SET answer = '[0.5]' WHERE sequence = 5", "was changed after"),
        ("DELETE FROM ledger WHERE sequence = 5", "entry 5 is missing"),
        ("DELETE FROM ledger WHERE sequence = (SELECT max(sequence) FROM ledger)", "entries are missing"),
        ("UPDATE stream SET state = replace(state, '\"rows\":', '\"rows\":1')", "does not follow from the ledger"),
    ],
)
def test_verify_finds_what_was_tampered_with(tmp_path: Path, run: Run, statement: str, complaint: str) -> None:
    place = tmp_path / "state.db"
    with open_stream(place) as stream:
        for number in range(20):
            apply_batch(stream, number)
    assert_verified(place)
    with sqlite3.connect(place) as connection:
        connection.execute(statement)
    connection.close()
    code, out, _ = run("verify", place)
    assert code == 1
    assert complaint in " ".join(out.split())


def test_damaged_pages_are_found(tmp_path: Path) -> None:
    place = tmp_path / "state.db"
    with open_stream(place) as stream:
        for number in range(60):
            apply_batch(stream, number)
    content = bytearray(place.read_bytes())
    content[3 * 4096 : 6 * 4096] = os.urandom(3 * 4096)
    place.write_bytes(content)
    try:
        passed = all(check.passed for check in verify_ledger(place))
    except AuditkitError:
        passed = False
    assert not passed


def test_a_clock_that_goes_back_does_not_turn_the_ledger_around(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "state.db"
    real = base.datetime

    class Earlier:
        @staticmethod
        def now(zone: Any) -> Any:
            return real(1999, 1, 1, tzinfo=zone)

    with open_stream(place) as stream:
        apply_batch(stream, 0)
        monkeypatch.setattr(base, "datetime", Earlier)
        for number in range(1, BATCHES):
            apply_batch(stream, number)
    check_against_uninterrupted(place)


def test_two_workers_on_one_file_apply_every_batch_once(tmp_path: Path) -> None:
    place = tmp_path / "state.db"
    open_stream(place).close()
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                work_until_killed(place, 0)  # both apply all batches, in the same order: one of them is always late
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    assert_verified(place)
    with sqlite3.connect(place) as connection:
        counts = dict(connection.execute("SELECT kind, count(*) FROM ledger GROUP BY kind"))
    connection.close()
    assert counts == {"step": BATCHES, "observe": BATCHES // 2}


def test_a_store_keeps_to_what_it_was_started_with(tmp_path: Path) -> None:
    open_stream(tmp_path / "state.db").close()
    with pytest.raises(InputError, match="with other criteria, bounds"):
        ak.OnlineEnforcer([ak.ECP("g", tolerance=0.5)], store=tmp_path / "state.db")


def test_verifying_changes_nothing(tmp_path: Path) -> None:
    place = tmp_path / "state.db"
    with open_stream(place) as stream:
        apply_batch(stream, 0)
    before = place.read_bytes()
    assert_verified(place)
    assert place.read_bytes() == before
    with pytest.raises(StoreError, match="there is no store"):
        SqliteStore(tmp_path / "none.db", read_only=True)
