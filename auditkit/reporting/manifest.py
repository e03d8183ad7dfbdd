"""The manifest of a run's folder: the SHA-256 of every file, and an optional Ed25519 signature of that list.

    manifest.json = {"schema", "files": {path: sha256}}        manifest.sig = Ed25519(key, bytes of manifest.json)

Whoever changes a byte of a file must change the manifest as well, and whoever changes the manifest breaks its
signature. A report that is written again replaces its own entries only: what was listed of other files stays, so that
writing a report never covers up a change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from auditkit.checks import Check
from auditkit.errors import InputError, SchemaError

SCHEMA = "auditkit.manifest/1"
MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"


def list_files(folder: Path) -> dict[str, Path]:
    """Every file of a folder by its path within it, without the manifest and its signature.

    Raises:
        InputError: One of them is a link, whose content lies elsewhere.
    """
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if not path.is_dir()}
    links = [name for name, path in found.items() if path.is_symlink()]
    if links:
        raise InputError(f"folder: {links[0]!r} is a link, which a manifest cannot vouch for; put the file there")
    return {name: path for name, path in found.items() if name not in (MANIFEST, SIGNATURE)}


def read_manifest_files(folder: Path) -> dict[str, str] | None:
    """What the manifest lists; None without a manifest.

    Raises:
        SchemaError: It is not a manifest.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        files = content["files"]
        if content["schema"] != SCHEMA or not all(isinstance(digest, str) for digest in files.values()):
            raise SchemaError(f"{MANIFEST} has schema {content['schema']!r}; this release reads {SCHEMA!r}")
    except (AttributeError, KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SchemaError(f"{MANIFEST} is no list of files ({error})") from error
    return files


def build_manifest(folder: Path, written: Mapping[str, bytes], *, added: tuple[str, ...] = ()) -> bytes:
    """The manifest of a folder once some files of a report are written into it.

    Args:
        folder: The folder of the run.
        written: Path → content of what is about to be written.
        added: Paths of files that may have been put there since, such as the figures of a stream.

    Returns:
        The content of manifest.json. Without an earlier one it lists every file that lies there.
    """
    listed = read_manifest_files(folder)
    there = list_files(folder)
    if listed is None:
        listed = {name: _hash(path.read_bytes()) for name, path in there.items()}
    new = {name: _hash(there[name].read_bytes()) for name in added if name in there and name not in listed}
    files = {**listed, **new, **{name: _hash(content) for name, content in written.items()}}
    content = {"schema": SCHEMA, "files": dict(sorted(files.items()))}
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def check_manifest(folder: Path) -> Iterator[Check]:
    """One check for every file that is changed, missing or added, and one for the manifest as a whole."""
    listed = read_manifest_files(folder)
    if listed is None:
        yield Check(MANIFEST, False, "missing: nothing vouches for the bytes of the report")
        return
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if not path.is_dir()}
    wrong = 0
    for name in sorted({*listed, *found} - {MANIFEST, SIGNATURE}):
        detail = _difference(listed.get(name), found.get(name))
        if detail:
            wrong += 1
            yield Check(f"{MANIFEST}: {name}", False, detail)
    amount = f"{len(listed)} files"
    yield Check(MANIFEST, not wrong, f"{wrong} of {amount} differ" if wrong else f"{amount}, every byte as listed")


def _difference(digest: str | None, path: Path | None) -> str:
    if path is None:
        return "missing"
    if path.is_symlink():
        return "is a link; its content lies elsewhere and was not read"
    if digest is None:
        return "was added: the manifest does not list it"
    return "" if _hash(path.read_bytes()) == digest else "differs from its hash in the manifest"


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
