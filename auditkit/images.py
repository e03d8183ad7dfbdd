"""Data sets whose rows are image files: a table that names them, their hashes, and decoding that trusts no file."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from auditkit._image_checks import describe_missing_pixels
from auditkit._tables import hash_file, hashing, read_table, refuse_file
from auditkit._typing import VectorLike
from auditkit._validation import to_numpy
from auditkit.datasets import AttributeSpec, FileRows, assemble
from auditkit.errors import InputError, SchemaError
from auditkit.table_roles import TableRoles, describe_missing

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

FORMATS = {
    ".bmp": "BMP",
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
"""File suffix → the format that the bytes must be in; every other decoder stays shut."""

MODES = ("1", "CMYK", "L", "LA", "P", "PA", "RGB", "RGBA", "YCbCr")
"""Kinds of pixel that turn into 8-bit RGB without being clipped."""

MAX_PIXELS = 89_478_485
"""Largest width × height that is decoded, 256 MiB of RGB: Pillow's own limit, as an error instead of a warning."""

LARGEST_LIMIT = 2 * MAX_PIXELS
"""Where Pillow refuses on its own."""

HASHING_THREADS = 4


class CorruptImageError(InputError):
    """A file that cannot be read as the image that its name promises."""


@dataclass(frozen=True, eq=False)
class ImageManifest(FileRows):
    """A data set whose rows are image files.

    Attributes:
        data: Labels and attributes of every image, n rows.
        paths: The image files, n of them, all inside the manifest's folder.
        keys: The paths as the manifest writes them.
    """

    paths: tuple[Path, ...]
    keys: tuple[str, ...]

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """SHA-256 of the bytes of every image, taken once."""
        return image_hashes(self.paths)

    def hash_some(self, rows: Sequence[int]) -> tuple[str, ...]:
        """SHA-256 of the bytes of some of the images; of none anew where those of all are known."""
        if "hashes" in vars(self):
            return tuple(self.hashes[row] for row in rows)
        return image_hashes([self.paths[row] for row in rows])

    def with_hashes(self, hashes: tuple[str, ...]) -> ImageManifest:
        """The same images, whose hashes somebody took."""
        known = ImageManifest(self.data, self.paths, self.keys)
        vars(known)["hashes"] = hashes
        return known

    def take(self, rows: VectorLike) -> ImageManifest:
        """Some of the images (indices or a boolean mask)."""
        chosen = np.arange(self.n_rows)[to_numpy(rows)]
        paths, keys = (tuple(values[i] for i in chosen) for values in (self.paths, self.keys))
        return ImageManifest(self.data.take(rows), paths, keys)

    def hash_images(self) -> str:
        """SHA-256 over the names and bytes of all images, in order; taken once."""
        return self._content_hash

    @cached_property
    def _content_hash(self) -> str:
        digest = hashlib.sha256()
        for key, content in zip(self.keys, self.hashes, strict=True):
            digest.update(f"{key}\0{content}\n".encode())
        return digest.hexdigest()


def image_hashes(images: ImageManifest | Sequence[str | Path]) -> tuple[str, ...]:
    """SHA-256 of the bytes of every image: equal hashes are one image under several names.

    Args:
        images: A manifest, or the files.

    Returns:
        One hash per image, in order.

    Raises:
        InputError: A file cannot be read.
    """
    if isinstance(images, ImageManifest):
        return images.hashes
    with ThreadPoolExecutor(HASHING_THREADS, thread_name_prefix="auditkit-hash") as pool:
        return tuple(pool.map(hash_file, images, chunksize=16))


def read_manifest(
    path: str | Path,
    *,
    attributes: Sequence[AttributeSpec] | AttributeSpec,
    image_column: str = "path",
    label: str | None = None,
    positive_label: Hashable | None = None,
    strata: Sequence[AttributeSpec] | AttributeSpec = (),
    exclude: Sequence[str] = (),
    folder: str | Path | None = None,
    name: str | None = None,
    max_gib: float | None = None,
    **columns: Any,
) -> ImageManifest:
    """Read a table that names one image per row.

    Args:
        path: A table, as in ``load_table``.
        attributes: Protected attributes, as in ``load_table``.
        image_column: Column of image paths, relative to ``folder``.
        label: Column of outcomes.
        positive_label: Value of ``label`` that becomes 1.0.
        strata: Legitimate conditions, as in ``load_table``.
        exclude: Columns to leave out; they must be there. The model reads the images alone, in any case.
        folder: Where the images are; the manifest's own folder by default. Absolute paths, ``..`` and links that lead
            out of it are refused.
        name: What reports call the data; the file's stem by default.
        max_gib: Largest decoded size that the manifest may declare, as in ``load_table``.
        columns: ``weight``, ``decision``, ``cluster`` and ``keep``, as in ``load_table``.

    Raises:
        SchemaError: A column is missing.
        InputError: Images are missing or lie outside the folder.
    """
    source = Path(path)
    roles = TableRoles.parse(attributes, strata, label, positive_label, score=None, features=(), exclude=exclude)
    refuse_file(source)
    with hashing([source]) as digest:
        frame = read_table(source, max_gib=max_gib)
        if image_column not in frame.columns:
            raise SchemaError(describe_missing("image_column", image_column, [str(name) for name in frame.columns]))
        table = assemble(frame, replace(roles, **columns), origin=(name or source.stem, digest(), str(path)))
    data = replace(table, features=None)
    keys = _keys(cast("pd.Series", frame[image_column]), image_column)
    return ImageManifest(data, _resolve(keys, source.parent if folder is None else Path(folder)), keys)


def decode_image(path: Path, content: bytes, *, max_pixels: int = MAX_PIXELS) -> Image:
    """The pixels of one image file, decoded whole.

    Args:
        path: The file's name, whose suffix says which format the bytes must be in.
        content: Its bytes.
        max_pixels: Largest width × height; the header is asked before anything is decoded.

    Returns:
        The image in 8-bit RGB.

    Raises:
        CorruptImageError: Another format, or none; too many pixels; cut short; several frames; pixels of more than
            8 bits. The message names the file.
    """
    from PIL import Image, ImageFile

    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise InputError("PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set, which fills missing pixels in; set it to False")
    expected = _expected_format(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is the stricter one
            image = Image.open(BytesIO(content), formats=sorted(set(FORMATS.values())))
        with image:
            _check_header(image, path, expected, max_pixels)
            size = image.size
            image.load()
            if image.size != size:
                raise _corrupt(path, f"its header says {_shown(size)}, its pixels are {_shown(image.size)}")
            if lacking := describe_missing_pixels(image, content):
                raise _corrupt(path, lacking)
            return image.convert("RGB")
    except CorruptImageError:
        raise
    except Image.DecompressionBombError as error:
        raise _corrupt(path, f"its header promises far more pixels than the limit of {max_pixels:,}") from error
    except Image.UnidentifiedImageError as error:
        raise _corrupt(path, f"its {len(content):,} bytes are no image of a kind that is read") from error
    except Exception as error:  # decoders raise whatever damaged bytes lead them to
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise _corrupt(path, reason) from error


def _check_header(image: Image, path: Path, expected: str, max_pixels: int) -> None:
    """What can be told before a pixel is decoded."""
    found = "JPEG" if image.format == "MPO" else image.format  # a JPEG with further pictures behind the first
    if found != expected:
        raise _corrupt(path, f"its name says {expected}, its bytes are {found}")
    width, height = image.size
    if width * height > max_pixels:
        raise _corrupt(path, f"its header promises {_shown(image.size)} pixels, more than the limit of {max_pixels:,}")
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames != 1:
        raise _corrupt(path, f"it holds {frames} frames; save the one that is meant")
    if image.mode not in MODES:
        raise _corrupt(path, f"its pixels are of mode {image.mode!r}, not 8 bits per channel; convert it first")


def _expected_format(path: Path) -> str:
    expected = FORMATS.get(path.suffix.lower())
    if expected is None:
        raise _corrupt(path, f"the suffix {path.suffix!r} is not among {', '.join(FORMATS)}")
    return expected


def _corrupt(path: Path, reason: str) -> CorruptImageError:
    return CorruptImageError(f"image {str(path)!r} cannot be read: {reason}; replace it or drop its row")


def _shown(size: tuple[int, int]) -> str:
    return f"{size[0]} × {size[1]}"


def _keys(values: pd.Series, name: str) -> tuple[str, ...]:
    missing = np.flatnonzero(values.isna().to_numpy())
    if missing.size:
        raise InputError(f"image_column {name!r} has {missing.size} empty paths (first at row {missing[0]})")
    return tuple(str(value) for value in values)


def _resolve(keys: Sequence[str], folder: Path) -> tuple[Path, ...]:
    root = folder.resolve()
    paths = [_resolved(root, key) for key in keys]
    pairs = list(zip(keys, paths, strict=True))
    outside = [key for key, path in pairs if _climbs(key) or path is None or not path.is_relative_to(root)]
    if outside:
        raise InputError(
            f"manifest: {len(outside)} paths lead out of its folder ({_first(outside)}); move the images in, and write "
            "their paths relative to the folder, without .."
        )
    missing = [key for key, path in pairs if path is None or not path.is_file()]
    if missing:
        raise InputError(f"manifest: {len(missing)} of {len(keys)} images are missing ({_first(missing)})")
    return tuple(path for path in paths if path is not None)


def _resolved(root: Path, key: str) -> Path | None:
    try:
        return (root / key).resolve()
    except (OSError, RuntimeError, ValueError):  # links in a circle, bytes that no name may hold
        return None


def _climbs(key: str) -> bool:
    """Whether a path is absolute or climbs, on any system: a manifest may have been written on another one."""
    windows = PureWindowsPath(key)
    return bool(windows.drive or windows.root) or ".." in windows.parts or ".." in PurePosixPath(key).parts


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
