"""Ed25519 signatures of a run's manifest, by `cryptography` (the extra ``sign``).

A key is made by ``openssl genpkey -algorithm ed25519 -out key.pem``, and its public half, which is given to whoever
verifies, by ``openssl pkey -in key.pem -pubout -out public.pem``.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from auditkit._extras import import_extra
from auditkit.checks import Check
from auditkit.errors import InputError, SchemaError
from auditkit.reporting.manifest import MANIFEST, SIGNATURE

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SCHEMA = "auditkit.signature/1"
_ED25519 = "cryptography.hazmat.primitives.asymmetric.ed25519"
_SERIALIZATION = "cryptography.hazmat.primitives.serialization"


def load_private_key(path: str | Path) -> Ed25519PrivateKey:
    """The key that signs.

    Args:
        path: A PEM file of an Ed25519 private key without a password.

    Raises:
        InputError: The file is missing or holds something else.
        MissingExtraError: cryptography is not installed.
    """
    serialization, ed25519 = import_extra(_SERIALIZATION), import_extra(_ED25519)
    content = _read(path, "--sign")
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (TypeError, ValueError) as error:
        raise InputError(f"--sign: {Path(path).name!r} holds no PEM private key without a password") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise InputError(f"--sign: {Path(path).name!r} holds a {type(key).__name__}; an Ed25519 key is needed")
    return key


def load_public_key(path: str | Path) -> Ed25519PublicKey:
    """The key that verifies.

    Args:
        path: A PEM file of an Ed25519 public key.

    Raises:
        InputError: The file is missing or holds something else.
        MissingExtraError: cryptography is not installed.
    """
    return _public_key(_read(path, "--public-key"), f"--public-key: {Path(path).name!r}")


def sign_manifest(manifest: bytes, key: Ed25519PrivateKey) -> bytes:
    """The content of manifest.sig: the signature, and the public key it belongs to.

    Args:
        manifest: The content of manifest.json.
        key: The private key.
    """
    serialization = import_extra(_SERIALIZATION)
    pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )  # fmt: skip
    content = {
        "schema": SCHEMA,
        "algorithm": "Ed25519",
        "public_key": pem.decode(),
        "signature": base64.b64encode(key.sign(manifest)).decode(),
    }
    return (json.dumps(content, indent=1) + "\n").encode()


def check_signature(folder: Path, public_key: str | Path | None) -> Check | None:
    """Whether the manifest of a folder is signed, and by whom.

    Args:
        folder: The folder of the run.
        public_key: The key of whoever should have signed; None says only whether the signature fits the key it names.

    Returns:
        The check; None for a folder that is not signed when no key was given.

    Raises:
        InputError: The key file is missing or wrong.
        MissingExtraError: cryptography is not installed.
    """
    path = folder / SIGNATURE
    if not path.is_file():
        return None if public_key is None else Check(SIGNATURE, False, "missing: the folder is not signed")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise SchemaError(f"{SIGNATURE} has schema {content['schema']!r}; this release reads {SCHEMA!r}")
        stated, signature = content["public_key"].encode(), base64.b64decode(content["signature"], validate=True)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return Check(SIGNATURE, False, f"is no signature ({error})")
    try:
        key = _public_key(stated, SIGNATURE) if public_key is None else load_public_key(public_key)
    except InputError as error:
        if public_key is not None:
            raise
        return Check(SIGNATURE, False, str(error))
    return _check(folder, key, signature, trusted=public_key is not None)


def _check(folder: Path, key: Ed25519PublicKey, signature: bytes, *, trusted: bool) -> Check:
    invalid = import_extra("cryptography.exceptions").InvalidSignature
    manifest = folder / MANIFEST
    try:
        key.verify(signature, manifest.read_bytes() if manifest.is_file() else b"")
    except invalid:
        of_whom = "of that key" if trusted else "of the key it names"
        return Check(SIGNATURE, False, f"is not {of_whom} over this manifest")
    name = _fingerprint(key)
    if trusted:
        return Check(SIGNATURE, True, f"of the given key (SHA-256 {name}) over this manifest")
    return Check(SIGNATURE, True, f"of the key SHA-256 {name}, whose owner was not checked; pass --public-key")


def _fingerprint(key: Ed25519PublicKey) -> str:
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def _public_key(content: bytes, what: str) -> Ed25519PublicKey:
    serialization, ed25519 = import_extra(_SERIALIZATION), import_extra(_ED25519)
    try:
        key = serialization.load_pem_public_key(content)
    except ValueError as error:
        raise InputError(f"{what} holds no PEM public key") from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise InputError(f"{what} holds a {type(key).__name__}; an Ed25519 key is needed")
    return key


def _read(path: str | Path, option: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{option}: {str(path)!r} cannot be read ({error.strerror})") from error
