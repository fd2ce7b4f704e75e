"""CRC-64/XZ as the service computes it: of buffers, incrementally, and of joined pieces.

Threading: pure functions over immutable tables; safe from any thread.  `fastcrc` releases the GIL
while it runs over a buffer.

The service sends the CRC of a body in x-oss-hash-crc64ecma as an unsigned decimal (documentation,
"Check data transmission integrity by using CRC-64").  The CRC of a file that went up in parts is
combined from the parts' CRCs: appending n zero bytes to a message is a linear map over GF(2)^64, and
its matrix depends only on n.  Parts nearly all have one length, so the matrix is kept by length, as
eight tables of 256 words: building one takes milliseconds, applying it microseconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final, TypeAlias

import fastcrc.crc64

_crc_xz = fastcrc.crc64.xz

_POLYNOMIAL: Final = 0xC96C5795D7870F42
"""ECMA-182, bit-reversed."""

Buffer: TypeAlias = bytes | bytearray | memoryview
_Matrix: TypeAlias = list[int]
_Tables: TypeAlias = tuple[tuple[int, ...], ...]


def crc64(buffers: Iterable[Buffer], initial: int = 0) -> int:
    """CRC-64/XZ of the buffers' bytes in order, going on from *initial* (0 at the start)."""
    value = initial
    for buffer in buffers:
        value = _crc_xz(buffer, value)
    return value


class Crc64:
    """A CRC that grows with its data.  For one thread at a time."""

    __slots__ = ("value",)

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def update(self, data: Buffer) -> None:
        """Append the bytes of *data*."""
        self.value = _crc_xz(data, self.value)


def _times(matrix: _Matrix, vector: int) -> int:
    result = 0
    index = 0
    while vector:
        if vector & 1:
            result ^= matrix[index]
        vector >>= 1
        index += 1
    return result


def _product(left: _Matrix, right: _Matrix) -> _Matrix:
    return [_times(left, column) for column in right]


@lru_cache(maxsize=64)
def _power_of_two(exponent: int) -> _Matrix:
    """The operator that appends 2**exponent zero bytes."""
    if exponent == 0:
        matrix: _Matrix = [_POLYNOMIAL] + [1 << bit for bit in range(63)]
        for _ in range(3):  # one bit, squared three times: eight bits
            matrix = _product(matrix, matrix)
        return matrix
    half = _power_of_two(exponent - 1)
    return _product(half, half)


@lru_cache(maxsize=256)
def _operator(length: int) -> _Tables:
    """The operator that appends *length* zero bytes, as a table for each byte of the vector."""
    matrix: _Matrix | None = None
    exponent = 0
    rest = length
    while rest:
        if rest & 1:
            step = _power_of_two(exponent)
            matrix = step if matrix is None else _product(step, matrix)
        rest >>= 1
        exponent += 1
    assert matrix is not None
    tables = []
    for byte in range(8):
        columns = matrix[byte * 8 : byte * 8 + 8]
        table = [0]
        for column in columns:  # doubling: the upper half is the lower half with one more bit set
            table += [entry ^ column for entry in table]
        tables.append(tuple(table))
    return tuple(tables)


def combine(first: int, second: int, second_length: int) -> int:
    """The CRC of A followed by B, from the CRC of A, the CRC of B and the count of B's bytes."""
    if second_length == 0:
        return first
    t0, t1, t2, t3, t4, t5, t6, t7 = _operator(second_length)
    return (
        t0[first & 0xFF]
        ^ t1[first >> 8 & 0xFF]
        ^ t2[first >> 16 & 0xFF]
        ^ t3[first >> 24 & 0xFF]
        ^ t4[first >> 32 & 0xFF]
        ^ t5[first >> 40 & 0xFF]
        ^ t6[first >> 48 & 0xFF]
        ^ t7[first >> 56]
        ^ second
    )
