"""Look into a zip archive before anything unpacks it: how much comes out, and whether its names are what they seem."""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath

from auditkit.errors import InputError, UntrustedFileError

MAX_RATIO = 200
FREE_BYTES = 64 * 2**20


def check_archive(path: Path, *, what: str) -> None:
    """Refuse an archive that unpacks to far more than it weighs, or whose names repeat or lead out of it.

    Args:
        path: A zip archive.
        what: What messages call it.

    Raises:
        UntrustedFileError: It unpacks to more than ``MAX_RATIO`` times its size (small archives: ``FREE_BYTES``), or a
            name is absolute, climbs out, or occurs twice.
        InputError: It is no zip archive, or a damaged one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise InputError(f"{what} {str(path)!r} is damaged or no archive ({error})") from error
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > max(FREE_BYTES, MAX_RATIO * path.stat().st_size):
        raise UntrustedFileError(
            f"{what} {path.name!r} of {path.stat().st_size:,} bytes would unpack to {unpacked:,}; nothing honest is "
            "that much compressed: ask for it in another form"
        )
    check_names([entry.filename for entry in entries], path=path, what=what)


def check_names(names: list[str], *, path: Path, what: str) -> None:
    """Refuse names that lead out of an archive or that it holds twice.

    Raises:
        UntrustedFileError: A name does.
    """
    outside = [name for name in names if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts]
    if outside:
        raise UntrustedFileError(f"{what} {path.name!r} holds the name {outside[0]!r}, which leads out of it")
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise UntrustedFileError(f"{what} {path.name!r} holds {repeated!r} twice, so that two readers may disagree")
