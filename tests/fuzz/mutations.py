"""How input is spoiled, and cut into pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

BYTES = (b"\0", b"\r", b"\n", b"\r\n", b" ", b"\t", b"\x1b[31m", b"\x7f", b"\x9b", b"\xc2\x9b", b"\xff", b"%", b"\"")

# Where a piece ends: at these places of the input, modulo its length; or everywhere.
cuts = st.one_of(st.just(()), st.just((-1,)), st.lists(st.integers(1, 4000), max_size=6).map(tuple))


@st.composite
def spoiled(draw: st.DrawFn, originals: SearchStrategy[bytes], spoilers: Sequence[bytes] = BYTES, most: int = 4,
            ) -> bytes:
    """An original with up to so many changes."""
    data = draw(originals)
    for _ in range(draw(st.integers(0, most))):
        at = draw(st.integers(0, len(data)))
        end = min(at + draw(st.integers(1, 9)), len(data))
        match draw(st.integers(0, 4)):
            case 0:
                at = draw(st.sampled_from((at, data.rfind(b"\n", 0, at) + 1)))  # a line by itself, as often as not
                data = data[:at] + draw(st.sampled_from(spoilers)) + data[at:]
            case 1:
                data = data[:at] + data[end:]
            case 2:
                data = data[:at] + draw(st.binary(min_size=1, max_size=4)) + data[end:]
            case 3:
                data = data[:end] + data[at:]
            case 4:
                data = data[:at]
    return data


def pieces(data: bytes, cuts: Iterable[int]) -> Iterator[bytes]:
    """The input as it is sent: see ``cuts``. Nothing is one empty piece."""
    places = range(len(data)) if -1 in cuts else sorted({cut % len(data) for cut in cuts} if data else ())
    return (data[start:end] for start, end in pairwise([0, *(place for place in places if place), len(data)]))
