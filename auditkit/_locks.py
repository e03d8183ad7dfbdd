"""A lock between processes, held by the system: it is free the moment the process that held it is gone."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


POLL_SECONDS = 0.1

_held: set[int] = set()


def _forget() -> None:
    """In a forked child: a lock stays until its last descriptor is closed, and a child may outlive its parent."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@contextmanager
def hold_lock(path: Path, *, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a lock while the block runs, waiting for whoever has it.

    Args:
        path: The lock's file; made when missing.
        on_wait: Called once when another process has it.
    """
    waited = False
    while (descriptor := _acquire(path)) is None:
        if not waited and on_wait is not None:
            on_wait()
        waited = True
        time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        _release(descriptor)


@contextmanager
def try_lock(path: Path, *, discard: bool = False) -> Iterator[bool]:
    """Hold a lock while the block runs, if no other process has it.

    Args:
        path: The lock's file; made when missing.
        discard: Whether its file goes as well, after the block.

    Yields:
        Whether it is held.
    """
    descriptor = _acquire(path)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            if discard:
                path.unlink(missing_ok=True)
            _release(descriptor)


def _acquire(path: Path) -> int | None:
    """A descriptor that holds the lock; None while another process does."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        if not _try_lock(descriptor):
            os.close(descriptor)
            return None
        if _is_current(descriptor, path):
            _held.add(descriptor)
            return descriptor
        os.close(descriptor)  # its file was removed meanwhile: whoever comes next would lock another one


def _release(descriptor: int) -> None:
    _held.discard(descriptor)
    os.close(descriptor)


def _is_current(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    held = os.fstat(descriptor)
    return (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino)
