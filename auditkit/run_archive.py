"""A run folder on its way between machines: packed as a zip, and taken in again only when it proves to be a run.

What comes in is data from strangers: names and sizes are checked before a byte is written, every hash and every finding
after, and nothing in it is run: no model is loaded, no page of it is shown as it came.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from auditkit.errors import InputError
from auditkit.reporting.manifest import MANIFEST, SIGNATURE, list_files
from auditkit.reporting.reading import load_document, read_part
from auditkit.reporting.verification import verify_run

MAX_FILES = 200
MAX_BYTES = 256 * 2**20
"""What a run folder may hold, unpacked; runs hold sums, reports and a head, which are far smaller."""

_MAX_NAME, _MAX_DEPTH = 200, 6
_CHUNK = 2**20
_ADVICE = "choose the zip of a run's folder, as the command line wrote it"


def pack_run(folder: str | Path) -> bytes:
    """Every file of a run folder in one zip.

    Args:
        folder: The folder of a run.

    Returns:
        The zip; the files lie at its root.

    Raises:
        InputError: There is a link among them.
    """
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in _list_all(Path(folder)).items():
            archive.write(path, name)
    return held.getvalue()


def unpack_run(content: bytes, into: str | Path) -> Path:
    """Take in a zipped run folder: bounded, confined, and verified before it appears.

    Args:
        content: The zip.
        into: The folder to make; it must not exist.

    Returns:
        The folder.

    Raises:
        InputError: It is no zip of a run: a name leads elsewhere, it holds too much, a hash or a finding differs.
        SchemaError: A file in it is not of the version that this release reads.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except zipfile.BadZipFile as error:
        raise InputError(f"this is no zip ({error}); {_ADVICE}") from error
    with archive:
        members = _members(archive)
        return _take_in(Path(into), lambda draft: _extract(archive, members, draft))


def copy_run(source: str | Path, into: str | Path) -> Path:
    """Copy a run folder, within the same bounds and after the same checks as `unpack_run`.

    Args:
        source: The folder of a run.
        into: The folder to make; it must not exist.

    Returns:
        The copy.

    Raises:
        InputError: It holds a link or too much, or a hash or a finding differs.
        SchemaError: A file in it is not of the version that this release reads.
    """
    files = _list_all(Path(source))
    _check_amount(len(files), sum(path.lstat().st_size for path in files.values()))

    def copy(draft: Path) -> None:
        for name, path in files.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, draft / name, follow_symlinks=False)

    return _take_in(Path(into), copy)


def _list_all(folder: Path) -> dict[str, Path]:
    """Every file by its path within the folder, the manifest and its signature among them."""
    beside = (folder / name for name in (MANIFEST, SIGNATURE))
    return {**list_files(folder), **{path.name: path for path in beside if path.is_file()}}


def _take_in(target: Path, fill: Callable[[Path], None]) -> Path:
    """Fill a draft, verify it, and only then give it its name."""
    if target.exists():
        raise InputError(f"into: {target.name!r} is there already; name a new folder")
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    draft.mkdir(parents=True)
    try:
        fill(draft)
        _check_run(draft)
        draft.replace(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _check_run(folder: Path) -> None:
    try:
        if read_part(folder / "run.json", None) is None:
            raise InputError(f"there is no run.json in it; {_ADVICE}")
        wrong = [check for check in verify_run(folder) if not check.passed]
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise InputError(f"this run does not verify: {wrong[0].name} {wrong[0].detail}{more}")
        load_document(folder)
    except RecursionError as error:
        raise InputError("a JSON file in it is nested too deeply to be one of a run") from error


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The files of a zip by their path in the run folder; one folder that holds all of them is taken off.

    Raises:
        InputError: A name could lead out of the folder, comes twice, or belongs to no plain file.
    """
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        if entry.is_dir():
            continue
        _check_entry(entry)
        if entry.filename.casefold() in (name.casefold() for name in found):
            raise InputError(f"the zip holds {entry.filename!r} twice; {_ADVICE}")
        found[entry.filename] = entry
        _check_amount(len(found), sum(one.file_size for one in found.values()))
    tops = {name.partition("/")[0] for name in found}
    if "run.json" not in found and len(tops) == 1:
        return {name.partition("/")[2] or name: entry for name, entry in found.items()}
    return found


def _check_entry(entry: zipfile.ZipInfo) -> None:
    name = entry.filename
    parts = PurePosixPath(name).parts
    plain = name.isprintable() and not any(mark in name for mark in ("\\", ":"))
    if not plain or name.startswith("/") or name != "/".join(parts) or ".." in parts or "." in parts:
        raise InputError(f"the zip holds the name {name[:_MAX_NAME]!r}, which is no path within a folder; {_ADVICE}")
    if len(name) > _MAX_NAME or len(parts) > _MAX_DEPTH:
        raise InputError(f"the zip holds a name of {len(name)} characters in {len(parts)} parts; {_ADVICE}")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise InputError(f"{name!r} in the zip is a link or a device, not a plain file; {_ADVICE}")
    if entry.flag_bits & 0x1:
        raise InputError(f"{name!r} in the zip is encrypted; {_ADVICE}")


def _check_amount(files: int, size: int) -> None:
    if files > MAX_FILES:
        raise InputError(f"a run folder may hold {MAX_FILES} files; this one holds more")
    if size > MAX_BYTES:
        raise InputError(f"a run folder may hold {MAX_BYTES // 2**20} MB; this one holds more")


def _extract(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], folder: Path) -> None:
    """Write the files, counting what comes out: the sizes that a zip states may be wrong."""
    left = MAX_BYTES
    for name, entry in members.items():
        target = folder / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as packed, target.open("xb") as out:
                while chunk := packed.read(_CHUNK):
                    left -= len(chunk)
                    if left < 0:
                        _check_amount(len(members), MAX_BYTES + 1)
                    out.write(chunk)
        except (OSError, EOFError, NotImplementedError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{name!r} cannot be unpacked ({error}); {_ADVICE}") from error
