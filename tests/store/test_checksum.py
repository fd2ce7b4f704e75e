"""CRC-64: the documented vectors, and combining against computing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossfs.store.checksum import Crc64, combine, crc64


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"", 0),
        (b"a", 3675645893302102789),
        (b"123456789", 11051210869376104954),
        (b"hello world", 5981764153023615706),
    ],
)
def test_vectors(data: bytes, value: int) -> None:
    assert crc64([data]) == value
    assert crc64([data[:3], memoryview(data)[3:]]) == value
    crc = Crc64()
    crc.update(data[:1])
    crc.update(bytearray(data[1:]))
    assert crc.value == value


def test_the_combined_vector() -> None:
    assert combine(6748440630437108969, 10278880121275185425, 4) == 11051210869376104954


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_combining_is_computing(first: bytes, second: bytes) -> None:
    assert combine(crc64([first]), crc64([second]), len(second)) == crc64([first, second])


def test_combining_large_pieces() -> None:
    first, second = b"x" * 1_000_003, b"y" * 10_485_760
    assert combine(crc64([first]), crc64([second]), len(second)) == crc64([first, second])
    # 2 GiB of zeros, by doubling and by one step.
    zeros = crc64([bytes(1 << 20)])
    for exponent in range(20, 31):
        zeros = combine(zeros, zeros, 1 << exponent)
    assert zeros == combine(crc64([bytes(1 << 20)]), crc64([bytes(1 << 20)] * 2047), 2047 << 20)
