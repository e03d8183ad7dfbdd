"""Whether an image file holds the pixels that its header promises, where the decoders fill missing ones in silently."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column, first row and their steps in the seven passes of an interlaced PNG."""

STEP = 1 << 20
JPEG_END = b"\xff\xd9"
JPEG_FILL = 128
"""What libjpeg puts where the data of a block are missing."""

JUNK = bytes(range(1, 65))


def describe_missing_pixels(image: Image, content: bytes) -> str:
    """What the file lacks of the pixels in its header; empty when it lacks none.

    Args:
        image: The file, decoded.
        content: Its bytes.
    """
    if image.format == "PNG":
        return _check_png(content)
    if image.format == "JPEG":
        return _check_jpeg(image, content)
    return ""


def _check_png(content: bytes) -> str:
    """Count the bytes that the compressed stream gives; Pillow leaves rows black that it does not reach."""
    width, height, depth, color, _, _, interlaced = struct.unpack(">IIBBBBB", content[16:29])
    bits = depth * PNG_CHANNELS.get(color, 1)
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
    expected = sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0 and rows > 0)
    found = _inflated_size(content, expected)
    if found == expected:
        return ""
    return f"its header promises {expected:,} bytes of pixels, it holds {'more' if found > expected else f'{found:,}'}"


def _inflated_size(content: bytes, enough: int) -> int:
    stream, found = zlib.decompressobj(), 0
    for chunk in _png_data(content):
        pending = chunk
        while pending and found <= enough and not stream.eof:
            found += len(stream.decompress(pending, STEP))
            pending = stream.unconsumed_tail
    return found


def _png_data(content: bytes) -> Iterator[bytes]:
    place = 8
    while place + 12 <= len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        if content[place + 4 : place + 8] == b"IDAT":
            yield content[place + 8 : place + 8 + length]
        place += 12 + length


def _check_jpeg(image: Image, content: bytes) -> str:
    """Where the last pixels look filled in, see whether bytes behind the data would have changed them."""
    pixels = np.asarray(image)
    if not (pixels[-8:, -8:] == JPEG_FILL).all():
        return ""
    from PIL import Image as Images

    end = content.rfind(JPEG_END)
    with Images.open(BytesIO(content[:end] + JUNK + content[end:]), formats=["JPEG"]) as longer:
        same = np.array_equal(np.asarray(longer), pixels)
    return "" if same else f"it ends before the {image.size[0]} × {image.size[1]} pixels of its header do"
