"""`write_report`: every file of a report into the folder of its run, with the manifest that vouches for all of it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from auditkit.errors import InputError, MissingExtraError
from auditkit.progress import NullProgress, Progress
from auditkit.reporting.document import ReportDocument
from auditkit.reporting.html import render_html, render_public_html
from auditkit.reporting.manifest import MANIFEST, SIGNATURE, build_manifest
from auditkit.reporting.reading import FRONTIER, STREAM_FIGURES, load_document

REPORT = "report.html"
DOCUMENT = "report.json"
PUBLIC = ("public.json", "public.html")


@dataclass(frozen=True)
class ReportRequest:
    """What of a report is written beside report.json and report.html.

    Attributes:
        templates: Names of the regulatory templates to fill in; empty takes those of the audit file.
        formats: Further formats: "pdf", "md", "card".
        against: Folder of an earlier run, to state what changed.
        public: Whether to write the public summary.
        sign: PEM file of the Ed25519 key that signs the manifest.
    """

    templates: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    against: str | Path | None = None
    public: bool = False
    sign: str | Path | None = None


def write_report(folder: str | Path, request: ReportRequest | None = None, *, progress: Progress | None = None) -> Path:
    """Write a report into a run's folder, from the numbers that lie there.

    Every file appears whole or not at all, the manifest last. A form that an earlier call wrote is written anew, so
    that no two files of a report differ in what they state.

    Args:
        folder: The folder of a run.
        request: What else to write.
        progress: Where to report how many of the forms are done; nothing is written before all are.

    Returns:
        The HTML page.

    Raises:
        InputError: The folder, run.json or audit.json is missing, the folder cannot be written, a format or template is
            unknown, or the report of a signed folder would change without being signed again.
        SchemaError: A file is not what this release reads.
        MissingExtraError: A format, or signing, needs a package that is not installed.
    """
    place, asked = Path(folder), request or ReportRequest()
    document = load_document(place, templates=asked.templates)
    wanted = _with_earlier(place, asked)
    if wanted.against is not None:
        from auditkit.reporting.changes import compare_runs

        document = replace(document, changes=compare_runs(load_document(wanted.against), document))
    try:
        files = render_files(document, wanted, progress=progress)
    except MissingExtraError as error:
        if wanted.formats == asked.formats:
            raise
        again = ", ".join(WRITERS[form][0] for form in wanted.formats if form not in asked.formats)
        raise MissingExtraError(f"{error} (written again, as an earlier report left it here: {again})") from error
    manifest = build_manifest(place, files, added=(STREAM_FIGURES, FRONTIER))
    signature = _sign(place, manifest, wanted.sign)
    _write_whole(place, {**files, MANIFEST: manifest, **signature})
    return place / REPORT


def _with_earlier(folder: Path, request: ReportRequest) -> ReportRequest:
    """The request with the forms that lie in the folder already."""
    there = [form for form, (name, _) in WRITERS.items() if (folder / name).is_file()]
    formats = tuple(dict.fromkeys((*request.formats, *there)))
    return replace(request, formats=formats, public=request.public or (folder / PUBLIC[0]).is_file())


def render_files(
    document: ReportDocument, request: ReportRequest, *, progress: Progress | None = None
) -> dict[str, bytes]:
    """Every file of a report by its name.

    Args:
        document: What it states.
        request: Which files.
        progress: Where to report.

    Raises:
        InputError: An unknown format.
        MissingExtraError: A format needs a package that is not installed.
    """
    unknown = [form for form in request.formats if form not in WRITERS]
    if unknown:
        raise InputError(f"--write must be one of {', '.join(WRITERS)}; got {unknown[0]!r}")
    content = json.dumps(document.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
    renderers = {REPORT: _render_page, **dict(WRITERS[form] for form in request.formats)}
    files = {DOCUMENT: f"{content}\n".encode()}
    with (progress or NullProgress()).stage("writing the report", len(renderers) + request.public) as advance:
        for name, render in renderers.items():
            files[name] = render(document)
            advance()
        if request.public:
            files |= _render_public(document)
            advance()
    return files


def _render_page(document: ReportDocument) -> bytes:
    return render_html(document).encode()


def _render_public(document: ReportDocument) -> dict[str, bytes]:
    from auditkit.reporting.public import render_public_json, summarize_publicly

    summary = summarize_publicly(document)
    contents = (render_public_json(summary), render_public_html(summary))
    return {name: content.encode() for name, content in zip(PUBLIC, contents, strict=True)}


def _render_markdown(document: ReportDocument) -> bytes:
    from auditkit.reporting.markdown import render_whole_markdown

    return render_whole_markdown(document).encode()


def _render_card(document: ReportDocument) -> bytes:
    from auditkit.reporting.model_card import render_model_card

    return render_model_card(document).encode()


def _render_pdf(document: ReportDocument) -> bytes:
    from auditkit.reporting.pdf import render_pdf

    return render_pdf(document)


WRITERS: dict[str, tuple[str, Callable[[ReportDocument], bytes]]] = {
    "pdf": ("report.pdf", _render_pdf),
    "md": ("report.md", _render_markdown),
    "card": ("model_card.md", _render_card),
}
"""Name of a format → its file, and how to render it."""


def _sign(folder: Path, manifest: bytes, key: str | Path | None) -> dict[str, bytes]:
    """The signature to write: none where the folder is unsigned, or where its signature still holds."""
    if key is not None:
        from auditkit.reporting.signing import load_private_key, sign_manifest

        return {SIGNATURE: sign_manifest(manifest, load_private_key(key))}
    current = folder / MANIFEST
    if (folder / SIGNATURE).exists() and (not current.is_file() or current.read_bytes() != manifest):
        raise InputError(
            f"folder: {folder.name!r} is signed and its report would change, which breaks the signature; sign it "
            "again with --sign KEY, or work on a copy without manifest.sig"
        )
    return {}


def _write_whole(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files under temporary names, then move all of them into place in their order."""
    drafts: list[tuple[Path, Path]] = []
    try:
        for name, content in files.items():
            drafts.append((_draft(folder, content), folder / name))
        for draft, target in drafts:
            draft.replace(target)
    finally:
        for draft, _ in drafts:
            draft.unlink(missing_ok=True)


def _draft(folder: Path, content: bytes) -> Path:
    try:
        handle, name = tempfile.mkstemp(dir=folder, prefix=".report-")
    except OSError as error:
        raise InputError(
            f"folder: {folder.name!r} cannot be written to ({error.strerror}); copy it elsewhere"
        ) from error
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        path.chmod(0o644)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path
