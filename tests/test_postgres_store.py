"""The same promises with a real PostgreSQL server: several workers, killed workers and servers, a full disk."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

import auditkit as ak
from auditkit.errors import InputError, StoreError
from auditkit.state_store import open_store
from tests.streams import (
    BATCHES,
    apply_all,
    apply_batch,
    assert_verified,
    check_against_uninterrupted,
    open_stream,
    uninterrupted,
)

POSTGRES = next(
    (found for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin")) if (found := folder / "initdb").exists()),
    None,
)


@dataclass
class Server:
    """A server of our own, on a socket in a folder of its own."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://auditkit@/postgres?host={self.folder}"

    def command(self, program: str, *arguments: str | Path) -> list[str | Path]:
        assert POSTGRES is not None
        # the server refuses to run as root
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
        return [*user, POSTGRES.parent / program, *arguments]

    def create(self) -> None:
        if os.getuid() == 0:
            shutil.chown(self.folder, "postgres")
        command = self.command("initdb", "-D", self.folder / "data", "-U", "auditkit", "-A", "trust")
        subprocess.run(command, check=True, timeout=120, cwd="/", capture_output=True)

    def start(self) -> None:
        command = self.command("postgres", "-D", self.folder / "data", "-k", self.folder, "-c", "listen_addresses=")
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        ready = self.command("pg_isready", "-q", "-h", self.folder, "-U", "auditkit", "-d", "postgres")
        for _ in range(600):
            if subprocess.run(ready, check=False, cwd="/").returncode == 0:
                return
            assert self.process.poll() is None, (self.folder / "server.log").read_text()[-2000:]
            time.sleep(0.1)
        pytest.fail("the server did not start")

    def kill(self) -> None:
        """SIGKILL to the server and to every process of it."""
        assert self.process is not None
        main = self.process.pid
        children = [int(word) for word in Path(f"/proc/{main}/task/{main}/children").read_text().split()]
        for process in [main, *children]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()
        while any(map(_is_running, children)):
            time.sleep(0.01)

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)


def _is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A real server, started for the tests."""
    pytest.importorskip("sqlalchemy", reason="pip install 'auditkit[postgres]'")
    if POSTGRES is None:
        pytest.skip("no PostgreSQL; apt-get install postgresql")
    # the server's user must reach the folder, which pytest's folders forbid, and a socket's path is short
    made = Server(Path(tempfile.mkdtemp(prefix="auditkit-")))
    made.create()
    made.start()
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(made.folder, ignore_errors=True)


@pytest.fixture
def postgres_store(server: Server) -> str:
    """An empty store."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(server.url)
    with engine.begin() as connection:
        for table in ("stream", "ledger", "pending"):
            connection.execute(sqlalchemy.text(f"DROP TABLE IF EXISTS {table}"))
    engine.dispose()
    return server.url


def test_postgres_equals_the_uninterrupted_stream_with_two_workers(postgres_store: str) -> None:
    answers, state = uninterrupted()
    workers = [open_stream(postgres_store) for _ in range(2)]
    for number in range(BATCHES):
        assert apply_batch(workers[number % 2], number).tolist() == answers[number]
    assert json.dumps(workers[0].state.to_dict()) == state
    for worker in workers:
        worker.close()
    assert_verified(postgres_store)
    with pytest.raises(InputError, match="with other criteria"):
        ak.OnlineEnforcer([ak.ECP("g", tolerance=0.5)], store=postgres_store)


def test_postgres_workers_at_the_same_time_apply_every_batch_once(postgres_store: str) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with open_stream(postgres_store) as stream:
                for number in range(100):
                    apply_batch(stream, number)
        except BaseException as error:
            failures.append(error)

    threads = [Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert_verified(postgres_store)
    with open_stream(postgres_store) as stream:
        assert stream.state.batches == 100


def test_a_server_that_is_not_there_is_a_store_error() -> None:
    pytest.importorskip("sqlalchemy")
    with pytest.raises(StoreError, match="the database refused"):
        open_stream("postgresql+psycopg://nobody@127.0.0.1:1/none")
    with pytest.raises(StoreError, match="must name a PostgreSQL server"):
        open_store("sqlite:///x.db")


def last_step(place: str) -> int:
    """The number of the last step in the ledger, by a connection of its own."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(place)
    with engine.connect() as connection:
        found = connection.execute(sqlalchemy.text("SELECT count(*) FROM ledger WHERE kind = 'step'")).scalar_one()
    engine.dispose()
    return found


def apply_from(place: str, first: int, broken: list[str]) -> None:
    """One batch after the other until the store fails."""
    try:
        with open_stream(place) as stream:
            for number in range(first, BATCHES):
                apply_batch(stream, number)
    except StoreError as error:
        broken.append(str(error))


@pytest.mark.slow
def test_a_server_that_is_killed_loses_and_repeats_nothing(server: Server, postgres_store: str) -> None:
    rng = np.random.default_rng(0)
    open_stream(postgres_store).close()
    broken: list[str] = []
    for _ in range(6):
        worker = Thread(target=apply_from, args=(postgres_store, max(0, last_step(postgres_store) - 3), broken))
        worker.start()
        time.sleep(float(rng.uniform(0.05, 0.4)))
        server.kill()
        worker.join(60)
        assert not worker.is_alive()
        server.start()
        assert_verified(postgres_store)
    assert broken
    assert all("sending the batch again under the same id" in reason for reason in broken)
    check_against_uninterrupted(postgres_store)


@pytest.mark.slow
def test_workers_that_are_killed_lose_and_repeat_nothing(postgres_store: str) -> None:
    rng = np.random.default_rng(1)
    open_stream(postgres_store).close()
    for _ in range(20):
        first = max(0, last_step(postgres_store) - 3)
        child = os.fork()
        if child == 0:
            try:
                apply_from(postgres_store, first, [])
            finally:
                os._exit(0)
        time.sleep(float(rng.uniform(0.02, 0.3)))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert last_step(postgres_store) > 0
    assert_verified(postgres_store)
    check_against_uninterrupted(postgres_store)


def fill(ballast: Path) -> None:
    """Write until the disk is full."""
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as out:
        while True:
            out.write(bytes(65536))


@pytest.mark.slow
def test_a_full_disk_of_the_server_loses_nothing() -> None:
    pytest.importorskip("sqlalchemy", reason="pip install 'auditkit[postgres]'")
    if POSTGRES is None:
        pytest.skip("no PostgreSQL; apt-get install postgresql")
    full = Server(Path(tempfile.mkdtemp(prefix="auditkit-")))
    mount = ["mount", "-t", "tmpfs", "-o", "size=120m", "none", str(full.folder)]
    if os.getuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        full.folder.rmdir()
        pytest.skip("no small disk: this user cannot mount one")
    try:
        full.create()
        full.start()
        open_stream(full.url).close()
        with open_stream(full.url) as stream:
            apply_batch(stream, 0)
            ballast = full.folder / "ballast"
            fill(ballast)
            with pytest.raises(StoreError, match="under the same id"):
                apply_all(stream)
        ballast.unlink()
        full.kill()
        full.start()
        assert 0 < last_step(full.url) < BATCHES
        assert_verified(full.url)
        check_against_uninterrupted(full.url)
        full.stop()
    finally:
        subprocess.run(["umount", "-l", str(full.folder)], check=True)
        full.folder.rmdir()
