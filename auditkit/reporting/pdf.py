"""`render_pdf`: the report as PDF, set by WeasyPrint (the extra ``pdf``) from the page without scripts.

Figures are vector graphics; nothing is fetched, neither from the network nor from the disk.
"""

from __future__ import annotations

from typing import Any, NoReturn

from auditkit._extras import import_extra
from auditkit.errors import MissingExtraError
from auditkit.reporting.document import ReportDocument
from auditkit.reporting.html import render_html


def render_pdf(document: ReportDocument) -> bytes:
    """The report as one PDF with bookmarks, tagged for screen readers.

    Args:
        document: What it states.

    Returns:
        The file.

    Raises:
        MissingExtraError: WeasyPrint, or the Pango library that it needs, is not installed.
    """
    weasyprint = import_weasyprint()
    page = render_html(document, static=True)
    return weasyprint.HTML(string=page, url_fetcher=_refuse).write_pdf(pdf_tags=True)


def import_weasyprint() -> Any:
    """WeasyPrint, without what its import changes for the whole process.

    It lets Pillow fill in what truncated images lack, for pictures of web pages. A report holds none, and images that
    are audited afterwards must not be filled in.

    Raises:
        MissingExtraError: WeasyPrint, or the Pango library that it needs, is not installed.
    """
    from PIL import ImageFile

    kept = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        return import_extra("weasyprint")
    except OSError as error:  # the package is there, and Pango, which no wheel brings, is not
        raise MissingExtraError(
            "weasyprint needs the library Pango and did not find it; install it (Debian: apt install "
            "libpango-1.0-0 libpangoft2-1.0-0; macOS: brew install pango), or print report.html from a browser"
        ) from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = kept


def _refuse(url: str, *_arguments: Any, **_options: Any) -> NoReturn:
    """The page holds all that it shows."""
    raise ValueError(f"a report fetches nothing; refused {url[:80]!r}")
