"""Bodies in gzip, whole, in bits, and hostile."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord_ai.wire.gzip_body import PIECE_BYTES, Gunzip, GzipError, is_gzip
from supervisord_ai.wire.heads import Headers


def unpacked(*packed: bytes) -> bytes:
    body = Gunzip()
    found = b"".join(piece for data in packed for piece in body.feed(data))
    body.end()
    return found


@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=4), st.integers(1, 50))
def test_members_in_any_cuts_are_one_body(members: list[bytes], step: int) -> None:
    packed = b"".join(map(gzip.compress, members))
    assert unpacked(packed) == b"".join(members)
    assert unpacked(*(packed[at : at + step] for at in range(0, len(packed), step))) == b"".join(members)


@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_a_bomb_comes_in_pieces_and_whoever_stops_has_paid_for_no_more(step: int) -> None:
    packed = gzip.compress(bytes(20_000_000))
    sizes = []
    body = Gunzip()
    for at in range(0, len(packed), step):
        sizes += [len(piece) for piece in body.feed(packed[at : at + step])]
    body.end()
    assert sum(sizes) == 20_000_000
    assert max(sizes) <= PIECE_BYTES
    first = next(Gunzip().feed(packed))
    assert len(first) == PIECE_BYTES


@given(st.binary(max_size=300))
def test_no_gzip_is_an_error_and_nothing_else(data: bytes) -> None:
    with pytest.raises(GzipError):
        unpacked(data)


@given(st.integers(0, 60))
def test_a_body_that_ends_early_is_an_error(length: int) -> None:
    packed = gzip.compress(b"some words that do not repeat: 0123456789 abcdefgh")
    with pytest.raises(GzipError, match="unexpected end"):
        unpacked(packed[: min(length, len(packed) - 1)])


def test_junk_behind_the_end_is_an_error() -> None:
    with pytest.raises(GzipError, match="invalid"):
        unpacked(gzip.compress(b"a") + b"junk")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["gzip"], True),
        ([" GZip "], True),
        (["x-gzip"], True),
        ([], False),
        (["identity"], False),
        (["zstd"], False),
        (["gzip, gzip"], False),
        (["gzip", "gzip"], False),
    ],
)
def test_only_a_body_in_gzip_alone_is_ours_to_unpack(values: list[str], expected: bool) -> None:
    assert is_gzip(Headers([("Content-Encoding", value) for value in values])) is expected
