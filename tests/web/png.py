"""Small PNGs of pages: 256 colours do for text on plain ground, and take a third of what a browser writes."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOURS = 256


def reduced(png: bytes) -> bytes:
    """The same picture (8 bits a channel, no alpha, not interlaced) in its 256 most frequent colours; what has another
    gets the nearest of these."""
    width, height, lines = _read(png)
    pixels = [bytes(line[at:at + 3]) for line in lines for at in range(0, 3 * width, 3)]
    counted = Counter(pixels)
    palette = [colour for colour, _ in counted.most_common(COLOURS)]
    numbers = {colour: _nearest(colour, palette) for colour in counted}
    rows = (bytes(map(numbers.__getitem__, pixels[at:at + width])) for at in range(0, width * height, width))
    return b"".join((SIGNATURE, _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
                     _chunk(b"PLTE", b"".join(palette)),
                     _chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows), 9)), _chunk(b"IEND", b"")))


def _nearest(colour: bytes, palette: Sequence[bytes]) -> int:
    return min(range(len(palette)), key=lambda number: sum(
        (one - other) ** 2 for one, other in zip(colour, palette[number], strict=True)))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    assert png.startswith(SIGNATURE)
    at = len(SIGNATURE)
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at:at + 8])
        yield kind, png[at + 8:at + 8 + length]
        at += 12 + length


def _read(png: bytes) -> tuple[int, int, list[bytearray]]:
    """Width, height, and lines of bytes, three a pixel."""
    chunks = list(_chunks(png))
    width, height, *kind = struct.unpack(">IIBBBBB", chunks[0][1])
    assert kind == [8, 2, 0, 0, 0], "expected RGB with 8 bits a channel"
    packed = zlib.decompress(b"".join(content for name, content in chunks if name == b"IDAT"))
    lines, above = [], bytearray(3 * width)
    for at in range(0, len(packed), 3 * width + 1):
        above = _unfiltered(packed[at], packed[at + 1:at + 1 + 3 * width], above)
        lines.append(above)
    return width, height, lines


def _unfiltered(method: int, line: bytes, above: bytearray) -> bytearray:
    """A line of bytes before it was filtered for compression (PNG, section 9)."""
    plain = bytearray(line)
    for at, byte in enumerate(line):
        left, corner = (plain[at - 3], above[at - 3]) if at >= 3 else (0, 0)
        guesses = (0, left, above[at], (left + above[at]) // 2, _paeth(left, above[at], corner))
        plain[at] = (byte + guesses[method]) & 255
    return plain


def _paeth(left: int, above: int, corner: int) -> int:
    """Which of the three is nearest to left + above - corner."""
    wanted = left + above - corner
    return min((left, above, corner), key=lambda value: abs(wanted - value))
