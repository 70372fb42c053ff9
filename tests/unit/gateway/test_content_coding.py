"""Content codings: any pieces, several members, early ends, bombs in parts."""

import gzip
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.gateway.http.content_coding import STEP, SUPPORTED, CodingError, Decoder, coding_of


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


ENCODERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "several members": ("gzip", lambda data: gzip.compress(data[:5]) + gzip.compress(data[5:])),
    "deflate": ("deflate", zlib.compress),
    "deflate without a header": ("deflate", raw_deflate),
}


def decoded(coding: str, pieces: list[bytes]) -> bytes:
    decoder = Decoder(coding)
    parts = [part for piece in pieces for part in decoder.feed(piece)]
    decoder.finish()
    assert all(0 < len(part) <= STEP for part in parts)
    return b"".join(parts)


@pytest.mark.parametrize("name", ENCODERS)
@given(data=st.binary(max_size=200), size=st.integers(2, 50))
def test_a_body_is_decoded_whatever_its_pieces(name: str, data: bytes, size: int) -> None:
    coding, encode = ENCODERS[name]
    coded = encode(data)
    assert decoded(coding, [coded[at : at + size] for at in range(0, len(coded), size)]) == data


@pytest.mark.parametrize("coded", [b"nonsense", gzip.compress(b"hello", mtime=0)[:-3]], ids=["nonsense", "cut"])
def test_a_body_that_is_broken_or_ends_early_is_an_error(coded: bytes) -> None:
    with pytest.raises(CodingError):
        decoded("gzip", [coded])


def test_a_bomb_comes_in_parts() -> None:
    parts = Decoder("gzip").feed(gzip.compress(bytes(50 * STEP)))
    assert len(next(parts)) == STEP


def test_names_of_codings() -> None:
    assert (coding_of(b""), coding_of(b"identity"), coding_of(b" GZIP "), coding_of(b"x-gzip")) == (
        "",
        "",
        "gzip",
        "gzip",
    )
    assert coding_of(b"br") is coding_of(b"gzip, gzip") is None
    assert {"gzip", "deflate"} <= set(SUPPORTED)
